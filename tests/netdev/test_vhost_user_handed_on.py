# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A card's rings handed on to the back end of ``-netdev vhost-user``, with none of us between.

The machine is the bench's driver, the back end a card of ours in a loop of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.attach.vhost_user.served import Served

from vmwire.bench.vhost_user import NetDriver, RingFds
from vmwire.bus.virtio.vhost_user import Request
from vmwire.network import Network


class Line:
    """A driver, its card, the netdev behind it, and the back end that is reached by that."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.options = options
        (folder / "far").mkdir()
        self.far = Served(folder / "far", **options)
        self.net = Network()
        self.net.start()
        queues = options.get("queues", 1)
        path = str(folder / "far" / "n0.sock")
        self.net.add_chardev("socket", id="c", path=path, reconnect_ms=20)
        self.net.add_netdev("vhost-user", id="v", chardev="c", queues=queues)
        card = {"mq": True, "queues": queues} if queues > 1 else {}
        self.net.add_nic("virtio-net-pci", id="n", netdev="v", socket=str(folder / "near"), **card)
        self.until(lambda: self.far.nic.stats()["connected"])
        self.wait(lambda: self.netdev()["connected"])
        self.driver = NetDriver(str(folder / "near"), pairs=queues)

    def netdev(self) -> dict[str, Any]:
        stats: dict[str, Any] = self.net.stats()["netdevs"]["v"]
        return stats

    def card(self) -> dict[str, Any]:
        stats: dict[str, Any] = self.net.stats()["devices"]["n"]
        return stats

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, str((self.netdev(), self.card(), self.far.stats()))
            time.sleep(0.002)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something in the far loop."""
        self.wait(lambda: self.far.loop.call(condition))

    def handed_on(self) -> None:
        self.wait(lambda: self.netdev()["rings"] == "handed on")
        self.until(lambda: self.far.end.port.carrier)

    def restart(self) -> None:
        """Let the back end go in the middle of whatever is under way, and another one come."""
        self.far.close()
        self.wait(lambda: not self.netdev()["connected"])
        self.far = Served(self.folder / "far", **self.options)

    def close(self) -> None:
        self.driver.close()
        self.net.close()
        self.far.close()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    it = Line(tmp_path)
    yield it
    it.close()


def numbered(first: int, count: int) -> list[bytes]:
    return [number.to_bytes(4, "big") * 20 for number in range(first, first + count)]


def there_and_back(line: Line, first: int = 0, count: int = 300) -> None:
    """Frames go both ways, through more than a whole ring."""
    line.far.loop.call(line.far.end.got.clear)
    frames = numbered(first, count)
    for frame in frames:
        line.driver.send(frame)
    line.until(lambda: line.far.end.data[-1:] == frames[-1:])
    assert line.far.end.data == frames
    got: list[bytes] = []
    for frame in frames:
        deadline = time.monotonic() + 20
        while not line.far.deliver(frame):
            assert time.monotonic() < deadline
            got += [each for each, _ in line.driver.receive(0.01)]
    deadline = time.monotonic() + 20
    while len(got) < count and time.monotonic() < deadline:
        got += [each for each, _ in line.driver.receive(0.1)]
    assert got == frames


def test_frames_pass_us_by(line: Line) -> None:
    line.handed_on()
    there_and_back(line)
    assert line.netdev()["frames"] == line.card()["tx_frames"] == line.card()["rx_frames"] == 0
    assert line.far.stats()["tx_frames"] == 300
    assert line.far.stats()["memory_bytes"] == line.driver.arena.size


def test_two_pairs_are_handed_on(tmp_path: Path) -> None:
    line = Line(tmp_path, mq=True, queues=2)
    try:
        line.handed_on()
        for pair in range(2):
            line.driver.send(numbered(pair, 1)[0], pair=pair)
        line.until(lambda: len(line.far.end.got) == 2)
        assert line.far.stats()["queues"] == dict.fromkeys(range(4), "on")
    finally:
        line.close()


def test_a_restarted_back_end_goes_on_where_the_rings_are(line: Line) -> None:
    line.handed_on()
    for number in range(4):
        there_and_back(line, 1000 * number)
        line.restart()
        line.handed_on()
    there_and_back(line, 9000)
    assert line.netdev()["connections"] == 5
    assert line.far.stats()["faults"] == 0


def test_a_capture_brings_the_rings_home_and_gives_them_back_after(
    line: Line, tmp_path: Path
) -> None:
    line.handed_on()
    there_and_back(line)
    capture = line.net.capture("v", str(tmp_path / "p.pcap"))
    line.wait(lambda: line.netdev()["rings"] == "own")
    line.until(lambda: line.far.end.port.carrier)
    there_and_back(line, 1000)
    assert line.card()["tx_frames"] == 300
    line.net.remove(capture)
    line.handed_on()
    there_and_back(line, 2000)
    assert line.card()["tx_frames"] == 300


def test_a_pulled_cable_brings_the_rings_home(line: Line) -> None:
    line.handed_on()
    line.net.set_link("v", False)
    line.wait(lambda: line.netdev()["rings"] != "handed on")
    line.net.set_link("v", True)
    line.handed_on()
    there_and_back(line)


def test_a_machine_that_goes_leaves_a_back_end_for_others(line: Line, tmp_path: Path) -> None:
    line.handed_on()
    line.driver.close()
    line.wait(lambda: line.netdev()["rings"] == "own")
    line.driver = NetDriver(str(tmp_path / "near"))
    line.handed_on()
    there_and_back(line)
    assert line.netdev()["connections"] == 1


def test_a_back_end_that_doesnt_say_where_the_rings_are_is_not_waited_for_long(
    line: Line, tmp_path: Path
) -> None:
    line.handed_on()
    line.far.die()  # it is connected, and never answers again
    start = time.monotonic()
    line.net.capture("v", str(tmp_path / "p.pcap"))
    line.wait(lambda: not line.netdev()["connected"])
    assert time.monotonic() - start < 10
    line.far.run()


def test_other_wake_up_descriptors_reach_the_back_end(line: Line) -> None:
    line.handed_on()
    there_and_back(line)
    old = line.driver.fds[0]
    line.driver.fds[0] = fresh = RingFds(old.kick, os.eventfd(0, os.EFD_NONBLOCK), old.error)
    os.close(old.call)
    line.driver.front.set_fd(Request.SET_VRING_CALL, 0, fresh.call)
    line.driver.front.barrier()
    there_and_back(line, 1000)
    assert line.netdev()["rings"] == "handed on"
