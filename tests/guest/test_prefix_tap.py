# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Prefix mode with the host's taps and bridges, and with hubs: typed as for QEMU alone.

Each VM runs in a network namespace of its own, in which a bridge is the host.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.daemon.conftest import runtime
from tests.daemon.instance import eventually
from tests.guest import provision
from tests.guest.machine import Machine

__all__ = ["runtime"]

pytestmark = [pytest.mark.guest, pytest.mark.netns]

HOST = "10.9.0.1"
BRIDGE = f"ip link add br0 type bridge; ip addr add {HOST}/24 dev br0; ip link set br0 up"
DRIVERS = {"e1000": "vmwire.modules=e1000", "virtio-net-pci": ""}


@pytest.fixture
def newest(prefix: list[str]) -> str:
    try:
        provision.root_of(provision.GUEST)
        return provision.qemu_newest()
    except provision.ProvisionError as error:
        pytest.skip(str(error))


def with_a_bridge(prefix: list[str]) -> list[str]:
    """What starts a command where there is a bridge and nothing else."""
    return ["unshare", "-rn", "sh", "-c", f'{BRIDGE}; exec "$@"', "sh", *prefix]


def scripts(folder: Path) -> str:
    """The options of two scripts that put a tap on the bridge, and note when they were run."""
    for name, move in (("up", "master br0 up"), ("down", "nomaster")):
        path = folder / name
        path.write_text(f"#!/bin/sh\nip link set $1 {move} && echo {name} $1 >> {folder}/log\n")
        path.chmod(0o755)
    return f"script={folder}/up,downscript={folder}/down"


def reaches_the_host(guest: Machine) -> None:
    guest.check("ip addr add 10.9.0.2/24 dev eth0 && ip link set eth0 up")
    guest.check(f"until ping -c 1 -W 1 {HOST}; do :; done", 20)
    assert "10 packets received" in guest.check(f"ping -c 10 -i 0.1 -s 1400 {HOST}")


@pytest.mark.parametrize("card", DRIVERS)
def test_scripts_put_the_tap_on_a_bridge_and_take_it_off(
    card: str, newest: str, prefix: list[str], runtime: str, tmp_path: Path
) -> None:
    words = ["-netdev", f"tap,id=tap1,{scripts(tmp_path)}"]
    words += ["-device", f"{card},netdev=tap1,mac=52:54:00:11:22:33"]
    with Machine(newest, words, prefix=with_a_bridge(prefix), kernel_words=DRIVERS[card]) as guest:
        assert guest.check("cat /sys/class/net/eth0/address") == "52:54:00:11:22:33"
        reaches_the_host(guest)
        assert (tmp_path / "log").read_text() == "up tap0\n"
    eventually(lambda: (tmp_path / "log").read_text() == "up tap0\ndown tap0\n")


@pytest.mark.long
@pytest.mark.parametrize("netdev", ["bridge,id=b,br=br0", "tap,id=b,script=no,ifname=mine"])
def test_an_administrator_needs_no_scripts(
    netdev: str, newest: str, prefix: list[str], runtime: str
) -> None:
    if not prefix:
        pytest.skip("this is about the prefix")
    start = with_a_bridge(["sh", "-c", 'ip tuntap add mine mode tap; ip link set mine master br0 '
                           'up; exec "$@"', "sh", *prefix])  # fmt: skip
    words = ["-netdev", netdev, "-device", "virtio-net-pci,netdev=b"]
    with Machine(newest, words, prefix=start) as guest:
        reaches_the_host(guest)


@pytest.mark.long
def test_a_killed_vm_leaves_no_tap(
    newest: str, prefix: list[str], runtime: str, tmp_path: Path
) -> None:
    words = ["-netdev", f"tap,id=t,{scripts(tmp_path)}", "-device", "virtio-net-pci,netdev=t"]
    with Machine(newest, words, prefix=with_a_bridge(prefix)) as guest:
        assert guest.process is not None
        guest.process.kill()
        guest.process.wait()
        if prefix:  # QEMU by itself leaves that to the user
            eventually(lambda: (tmp_path / "log").read_text() == "up tap0\ndown tap0\n")


def test_cards_on_a_hub_share_a_network(newest: str, prefix: list[str], runtime: str) -> None:
    line = (
        "-netdev user,id=u -netdev hubport,id=h0,hubid=3,netdev=u "
        "-netdev hubport,id=h1,hubid=3 -device virtio-net-pci,netdev=h1 "
        "-netdev hubport,id=h2,hubid=3 -device e1000,netdev=h2"
    )
    both = "vmwire.modules=virtio_pci,virtio_net,e1000"
    with Machine(newest, shlex.split(line), prefix=prefix, kernel_words=both) as guest:
        if prefix:
            assert "vhost-user" in guest.qmp.hmp("info network")
            assert "hub 3" not in guest.qmp.hmp("info network")
        assert guest.lease("eth0")["ip"] != guest.lease("eth1")["ip"]
