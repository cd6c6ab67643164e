# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The control socket beside a running guest: cables, and cards that come and go."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import runtime
from tests.daemon.instance import eventually, stats_of, users_of
from tests.guest import provision
from tests.guest.intel import loads_driver
from tests.guest.machine import Machine
from tests.guest.peer import HostPeer
from vmwire.daemon import control, rundir
from vmwire.daemon.control import CommandError

__all__ = ["runtime"]

pytestmark = pytest.mark.guest

NETWORK = ["-netdev", "user,id=u", "-device", "e1000,id=n0,netdev=u,addr=5"]

Ask = Callable[..., dict[str, Any]]


class Beside:
    """A guest, and the folder of its network."""

    def __init__(self, guest: Machine, folder: Path) -> None:
        self.guest = guest
        self.folder = folder

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        return control.ask(str(self.folder / rundir.CONTROL), command, arguments=arguments)

    def carrier(self, up: bool) -> None:
        """Wait until the guest's driver has seen it."""
        path = "/sys/class/net/eth0/carrier"
        eventually(lambda: self.guest.run(f"cat {path}").output.strip() == "01"[up], timeout_s=20)


@pytest.fixture
def beside(prefix: list[str], runtime: str) -> Iterator[Beside]:
    if not prefix:
        pytest.skip("this is about the prefix")
    try:
        provision.root_of(provision.GUEST)
        qemu = provision.qemu_newest()
    except provision.ProvisionError as error:
        pytest.skip(str(error))
    words = loads_driver("e1000")
    with Machine(qemu, NETWORK, prefix=prefix, kernel_words=words) as guest:
        (folder,) = (each for each in (Path(runtime) / "vmwire").iterdir() if each.is_dir())
        yield Beside(guest, folder)


def test_cable_is_pulled_while_the_guest_runs_and_stays_so_after_a_crash(
    beside: Beside, host: HostPeer
) -> None:
    guest = beside.guest
    guest.lease()
    for name in ("n0", "u"):
        beside.ask("set_link", name=name, up=False)
        beside.carrier(False)
        assert "NO-CARRIER" in guest.check("ip link show eth0")
        beside.ask("set_link", name=name, up=True)
        beside.carrier(True)
    beside.ask("set_link", name="n0", up=False)
    beside.carrier(False)
    processes = users_of(str(beside.folder / "lock"))
    os.kill(next(pid for pid, comm in processes.items() if comm == "vmwire-worker"), signal.SIGKILL)
    stats_of(str(beside.folder), restarts=1)
    beside.carrier(False)
    beside.ask("set_link", name="n0", up=True)
    beside.carrier(True)
    guest.check(f"timeout 5 wget -qO /dev/null http://10.0.2.2:{host.http_port}/100000")


@pytest.mark.long
def test_card_is_plugged_into_the_running_guest_and_out_again(
    beside: Beside, host: HostPeer
) -> None:
    guest = beside.guest
    beside.ask("netdev_add", type="user", id="u1", net="10.9.0.0/24")
    beside.ask("device_add", driver="e1000", id="n1", netdev="u1")
    path = beside.ask("stats")["devices"]["n1"]["socket"]
    socket = {"type": "unix", "path": path}
    guest.qmp(
        "device_add",
        arguments={"driver": "vfio-user-pci", "id": "x", "addr": "7", "socket": socket},
    )
    eventually(lambda: guest.run("cat /sys/class/net/eth1/address").status == 0, timeout_s=20)
    assert guest.check("cat /sys/class/net/eth1/address") == "52:54:00:12:34:57"
    assert guest.lease("eth1")["ip"] == "10.9.0.15"
    guest.check(f"timeout 5 wget -qO /dev/null http://10.9.0.2:{host.http_port}/100000")

    with pytest.raises(CommandError, match="in use by a machine"):
        beside.ask("device_del", id="n1")
    guest.qmp("device_del", arguments={"id": "x"})
    eventually(lambda: guest.run("test -e /sys/class/net/eth1").status != 0, timeout_s=20)
    eventually(lambda: not beside.ask("stats")["devices"]["n1"]["connected"])
    beside.ask("device_del", id="n1")
    beside.ask("netdev_del", id="u1")
    assert not os.path.exists(path)
    assert list(beside.ask("stats")["devices"]) == ["n0"]


def records(beside: Beside) -> int:
    """What the dump has seen so far."""
    return int(beside.ask("stats")["filters"]["d"]["records"])


def test_filters_come_change_and_go_while_the_guest_talks(
    beside: Beside, host: HostPeer, tmp_path: Path
) -> None:
    guest, path = beside.guest, tmp_path / "d.pcap"
    guest.lease()
    dump = {"qom-type": "filter-dump", "id": "d", "netdev": "u", "file": str(path)}
    beside.ask("object-add", **dump)
    fetch = f"timeout 20 wget -qO /dev/null http://10.0.2.2:{host.http_port}/100000"
    guest.check(fetch)
    eventually(lambda: path.stat().st_size > 24)  # it is written once a second or so
    beside.ask("qom-set", path="/objects/d", property="status", value="off")
    seen = records(beside)
    assert seen > 10
    guest.check(fetch)
    assert records(beside) == seen
    buffer = {"qom-type": "filter-buffer", "id": "b", "netdev": "u", "interval": 200_000}
    beside.ask("object-add", **buffer)
    slow = guest.check("ping -c 3 10.0.2.2")
    assert float(slow.rpartition("=")[2].split("/")[1]) > 50  # 100 ms each way on the average
    processes = users_of(str(beside.folder / "lock"))
    os.kill(next(pid for pid, comm in processes.items() if comm == "vmwire-worker"), signal.SIGKILL)
    assert list(stats_of(str(beside.folder), restarts=1)["filters"]) == ["d", "b"]
    beside.ask("object-del", id="b")
    beside.ask("qom-set", path="/objects/d", property="status", value="on")
    guest.check(fetch)
    assert records(beside) > 10
    eventually(lambda: (tmp_path / "d.restart1.pcap").stat().st_size > 24)
