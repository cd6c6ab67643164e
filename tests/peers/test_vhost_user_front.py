# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``-netdev vhost-user`` in front of DPDK's ``net_vhost`` and of Open vSwitch with DPDK."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.dpdk import testpmd
from tests.peers.ovs import Switch
from tests.wire.boxes import End
from vmwire.network import Network
from vmwire.wire.frame import Frame

pytestmark = pytest.mark.peer

TO, OF = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
WINDOW = 64


class Front:
    """A network with such netdevs, each joined to an end of a wire, in its own thread."""

    def __init__(self) -> None:
        self.net = Network()
        self.net.start()

    def add(self, id: str, path: Path, *, server: bool = False, queues: int = 1) -> End:
        """A netdev whose chardev is a server, or a client that connects again."""
        again = {} if server else {"reconnect_ms": 100}
        self.net.add_chardev("socket", id=f"c{id}", path=str(path), server=server, **again)
        self.net.add_netdev("vhost-user", id=id, chardev=f"c{id}", queues=queues)
        end = End(id)
        self.net.loop.call(lambda: end.port.connect(self.net.netdevs[id].box.port))
        return end

    def stats(self, id: str) -> dict[str, Any]:
        stats: dict[str, Any] = self.net.stats()["netdevs"][id]
        return stats

    def wait(self, condition: Callable[[], object], what: object = "") -> None:
        """Wait until something holds, looked at in the engine's thread."""
        deadline = time.monotonic() + 30
        while not self.net.loop.call(condition):
            assert time.monotonic() < deadline, (what, self.net.stats()["netdevs"])
            time.sleep(0.002)

    def runs(self, id: str) -> None:
        """Wait until a back end serves rings of ours."""
        self.wait(lambda: self.net.netdevs[id].box.stats()["rings"] == "own", id)

    def send(self, end: End, data: bytes) -> int:
        return self.net.loop.call(lambda: end.port.send([Frame.of(data)]))


@pytest.fixture
def front() -> Iterator[Front]:
    it = Front()
    yield it
    it.net.close()


def bodies(count: int, sizes: range = range(60, 1515)) -> list[bytes]:
    rng = random.Random(1)
    return [
        b"\x88\xb5" + number.to_bytes(4, "big") + rng.randbytes(rng.choice(sizes) - 18)
        for number in range(count)
    ]


def exchange(front: Front, end: End, count: int) -> None:
    """Have frames come back whole and in order, some at a time."""
    for number, body in enumerate(bodies(count)):
        front.wait(lambda number=number: len(end.got) > number - WINDOW)  # type: ignore[misc]
        front.wait(lambda body=body: end.port.send([Frame.of(TO + OF + body)]))  # type: ignore[misc]
    front.wait(lambda: len(end.got) >= count)
    assert end.data == [OF + TO + body for body in bodies(count)]


def first_answers(front: Front, end: End) -> None:
    """Send until something comes back: a poll-mode driver looks for new rings now and then."""
    front.net.loop.call(end.got.clear)
    deadline = time.monotonic() + 30
    while not front.net.loop.call(lambda: len(end.got)):
        assert time.monotonic() < deadline, front.net.stats()
        front.send(end, TO + OF + bytes(46))
        time.sleep(0.02)
    time.sleep(0.1)  # for what is still on its way
    front.net.loop.call(end.got.clear)


@pytest.mark.parametrize("server", [False, True], ids=["we connect", "we listen"])
def test_testpmd_sends_all_frames_back(front: Front, tmp_path: Path, server: bool) -> None:
    path = tmp_path / "s"
    end = front.add("v", path, server=server)
    with testpmd(tmp_path, f"net_vhost0,iface={path},client={int(server)}") as log:
        front.runs("v")
        first_answers(front, end)
        exchange(front, end, 2000)
        stats = front.stats("v")
        assert stats["faults"] == 0 and not stats["drops"], log.read_text()
    front.wait(lambda: not end.port.carrier)


def test_testpmd_may_be_restarted_while_traffic_runs(front: Front, tmp_path: Path) -> None:
    path = tmp_path / "s"
    end = front.add("v", path)
    for number in range(2):
        with testpmd(tmp_path, f"net_vhost0,iface={path}"):
            front.runs("v")
            first_answers(front, end)
            exchange(front, end, 200)
            for _ in range(50):
                front.send(end, TO + OF + bytes(46))  # and it goes in the middle of these
        front.wait(lambda: not end.port.carrier)
        assert front.stats("v")["connections"] == number + 1


def test_two_pairs_of_queues(front: Front, tmp_path: Path) -> None:
    path = tmp_path / "s"
    end = front.add("v", path, queues=2)
    with testpmd(tmp_path, f"net_vhost0,iface={path},queues=2", "--rxq=2", "--txq=2"):
        front.runs("v")
        first_answers(front, end)
        flows = [
            TO + OF + b"\x08\x00" + bytes(12) + bytes([number % 9]) * 12 + bytes([number]) * 22
            for number in range(60)
        ]
        for flow in flows:
            front.wait(lambda flow=flow: end.port.send([Frame.of(flow)]))  # type: ignore[misc]
        front.wait(lambda: len(end.got) >= len(flows))
        assert sorted(data[12:] for data in end.data) == sorted(flow[12:] for flow in flows)


def crosses(front: Front, one: End, other: End) -> None:
    """Have frames go through the switch from one end to the other, both ways."""
    for source, target, addresses in ((one, other, TO + OF), (other, one, OF + TO)):
        deadline = time.monotonic() + 60
        front.net.loop.call(target.got.clear)
        while not front.net.loop.call(lambda: len(target.got) > 20):  # noqa: B023
            assert time.monotonic() < deadline, front.net.stats()
            front.send(source, addresses + b"\x88\xb5" + bytes(100))
            time.sleep(0.01)
        ours = [data for data in target.data if data.startswith(addresses)]
        assert len(ours) > 10 and {data[14:] for data in ours} == {bytes(100)}


@pytest.mark.long
@pytest.mark.root
def test_open_vswitch_joins_two_and_is_restarted_while_traffic_runs(
    front: Front, tmp_path: Path
) -> None:
    with Switch(tmp_path) as switch:
        switch.add_port("vu0", "dpdkvhostuser")
        one = front.add("v", tmp_path / "vu0")
        switch.add_port("vu1", "dpdkvhostuserclient", f"vhost-server-path={tmp_path}/vu1")
        other = front.add("w", tmp_path / "vu1", server=True)
        for _ in range(2):
            front.runs("v")
            front.runs("w")
            crosses(front, one, other)
            switch.restart()
        assert front.stats("v")["faults"] == front.stats("w")["faults"] == 0
