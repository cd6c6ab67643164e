# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Cards of a network, seated in a bench machine."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from vmwire.attach.bench import BenchCards
from vmwire.bench.e1000 import E1000Driver
from vmwire.bench.machine import Bench
from vmwire.bench.pci import PciDevice
from vmwire.errors import ConfigError
from vmwire.network import Network

STATUS = 8
STATUS_LU = 2
MAC = "52:54:00:12:34:56"
FRAME = bytes.fromhex("525400123456 525500020202 0800") + bytes(46)


class Bed:
    """A bench, a network in it, and the far end of its wire."""

    def __init__(self, far: socket.socket, fd: int) -> None:
        self.pc = Bench(16 << 20)
        self.cards = BenchCards(self.pc)
        self.net = Network(cards=self.cards)
        self.far = far
        self.net.add_netdev("socket", id="n", fd=str(fd))

    def turn(self) -> None:
        while self.net.loop.turn(0):
            pass

    def plug(self, driver: str = "e1000", **properties: object) -> E1000Driver:
        self.net.add_nic(driver, id="c", netdev="n", addr="4", mac=MAC, **properties)
        return E1000Driver(self.pc, 4).start()

    def send(self, *frames: bytes) -> None:
        self.far.sendall(b"".join(struct.pack("!I", len(frame)) + frame for frame in frames))
        self.turn()

    def take(self) -> bytes:
        [length] = struct.unpack("!I", self.far.recv(4, socket.MSG_WAITALL))
        return self.far.recv(length, socket.MSG_WAITALL)


def frames(driver: E1000Driver) -> list[bytes]:
    """What came, without the checksum that the card leaves on."""
    return [each.data[:-4] for each in driver.receive()]


@pytest.fixture
def bed() -> Iterator[Bed]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    with ours:
        bed = Bed(ours, theirs.detach())
        yield bed
        bed.net.close()
        bed.pc.close()


def test_frames_go_both_ways(bed: Bed) -> None:
    driver = bed.plug()
    driver.send(FRAME)
    assert bed.take() == FRAME
    bed.send(FRAME, FRAME[:-1] + b"!")
    assert frames(driver) == [FRAME, FRAME[:-1] + b"!"]


def test_what_a_card_has_no_buffer_for_waits_on_the_wire(bed: Bed) -> None:
    driver = bed.plug()
    sent = [FRAME[:-4] + number.to_bytes(4, "big") for number in range(400)]
    bed.send(*sent)
    got: list[bytes] = []
    while len(got) < len(sent):
        received = frames(driver)
        assert received, f"stuck after {len(got)}"
        got += received
        bed.turn()
    assert got == sent


def test_a_paused_machine_takes_and_sends_nothing_until_it_goes_on(bed: Bed) -> None:
    driver = bed.plug()
    bed.cards.set_running(False)
    bed.send(FRAME)
    assert driver.receive() == []
    bed.cards.set_running(True)
    bed.turn()
    assert len(driver.receive()) == 1


def test_a_card_that_comes_while_the_machine_is_paused_waits_too(bed: Bed) -> None:
    bed.cards.set_running(False)
    driver = bed.plug()
    bed.send(FRAME)
    assert driver.receive() == []
    bed.cards.set_running(True)
    bed.turn()
    assert len(driver.receive()) == 1


def test_a_pulled_cable_is_seen_by_the_driver(bed: Bed) -> None:
    driver = bed.plug()
    assert driver.read(STATUS) & STATUS_LU
    bed.net.set_link("c", False, kind="device")
    assert not driver.read(STATUS) & STATUS_LU


def test_a_removed_card_leaves_its_slot(bed: Bed) -> None:
    bed.plug()
    bed.net.remove("c")
    assert PciDevice(bed.pc, 4).ids == (0xFFFF, 0xFFFF)
    bed.plug()


def test_what_cannot_be_seated_leaves_nothing(bed: Bed) -> None:
    bed.plug()
    with pytest.raises(ConfigError, match="not available"):
        bed.net.add_nic("e1000", id="d", addr="4")
    assert set(bed.net.devices) == set(bed.pc.cards) == {"c"}
    bed.net.add_nic("e1000", id="d", addr="5")


def test_what_sits_on_no_bus_is_made_as_everywhere(bed: Bed) -> None:
    bed.net.add_nic("null", id="z", netdev="n")
    assert bed.pc.cards == {}
    bed.send(FRAME)
    assert bed.net.stats()["devices"]["z"]["received"] == 1
