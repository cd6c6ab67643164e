# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A VM's rings and memory handed on to DPDK: testpmd answers its ARP and its pings (``icmpecho``).

The card is vmwire's over vhost-user, and so is the back end behind it; no frame passes through us.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.guest import provision
from tests.guest.machine import Machine
from tests.peers.dpdk import testpmd
from vmwire.network import Network

pytestmark = [pytest.mark.guest, pytest.mark.peer]

MEMORY = (
    *("-m", "256", "-object", "memory-backend-memfd,id=mem,size=256M,share=on"),
    *("-machine", "memory-backend=mem"),
)
VMWIRE = str(Path(__file__).parents[2] / "vmwire")
ECHO = "--forward-mode=icmpecho"


def vm(path: str) -> Machine:
    network = [
        *("-chardev", f"socket,id=c,path={path},reconnect-ms=100"),
        *("-netdev", "vhost-user,id=n,chardev=c"),
        *("-device", "virtio-net-pci,netdev=n,mac=52:54:00:00:00:0a"),
    ]
    try:
        return Machine(provision.qemu_newest(), network, memory=MEMORY)
    except provision.ProvisionError as error:
        pytest.skip(str(error))


def wait(condition: Callable[[], object], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def test_a_vms_rings_are_served_by_dpdk_and_by_the_next_one_when_it_is_killed(
    tmp_path: Path,
) -> None:
    dpdk, card = tmp_path / "dpdk", tmp_path / "card"
    device = f"net_vhost0,iface={dpdk},client=1"
    with Network() as net, ExitStack() as stack:
        net.add_chardev("socket", id="c", path=str(dpdk), server=True)
        net.add_netdev("vhost-user", id="v", chardev="c")
        net.add_nic("virtio-net-pci", netdev="v", socket=str(card))

        def stats() -> dict[str, Any]:
            return dict(net.stats()["netdevs"]["v"])

        def is_answered(guest: Machine) -> None:
            wait(lambda: stats()["rings"] == "handed on", stats)
            wait(lambda: guest.run("ping -c 1 -W 1 10.5.0.2").status == 0, stats)
            assert " 0% packet loss" in guest.check("ping -c 20 -i 0.05 -W 30 10.5.0.2")
            assert stats()["frames"] == 0

        with testpmd(tmp_path, device, ECHO):
            wait(lambda: stats()["connected"], stats)  # QEMU asks for DPDK's features, through us
            guest = stack.enter_context(vm(str(card)))
            guest.check("ip addr add 10.5.0.1/24 dev eth0; ip link set eth0 up")
            is_answered(guest)
            guest.run("ping -i 0.05 10.5.0.2 > /tmp/log 2>&1 &")
        with testpmd(tmp_path, device, ECHO):
            is_answered(guest)
        assert stats()["connections"] == 2 and stats()["faults"] == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("netdev", "card"),
    [
        ("-chardev socket,id=c,path={path} -netdev vhost-user,id=n,chardev=c,vhostforce", "e1000"),
        ("-netdev type=vhost-user,id=n,file={path}", "virtio-net-pci"),
    ],
    ids=["a card of Intel's", "the oldest spelling"],
)
def test_what_qemu_itself_refuses_is_served_in_front_of_it(
    tmp_path: Path, netdev: str, card: str
) -> None:
    path = tmp_path / "dpdk"
    with testpmd(tmp_path, f"net_vhost0,iface={path}", ECHO):
        wait(path.exists, lambda: "testpmd doesn't listen")
        words = [*netdev.format(path=path).split(), "-device", f"{card},netdev=n"]
        modules = "vmwire.modules=e1000" if card == "e1000" else ""
        with Machine(
            provision.qemu_newest(), words, prefix=[VMWIRE], kernel_words=modules
        ) as guest:
            guest.check("ip addr add 10.5.0.1/24 dev eth0; ip link set eth0 up")
            wait(lambda: guest.run("ping -c 1 -W 1 10.5.0.2").status == 0, lambda: "no answer")
            assert " 0% packet loss" in guest.check("ping -c 20 -i 0.05 -W 30 10.5.0.2")
