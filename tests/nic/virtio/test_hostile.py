# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a driver may not do: the card breaks, says so, and is whole again after a reset."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.nic.virtio.card import MAC, MODERN, OTHER, Card, frame
from vmwire.bench.virtio_mmio import Mmio
from vmwire.bench.virtio_net import DRIVER_OK
from vmwire.bench.virtio_pci import LegacyPci, ModernPci
from vmwire.bus.virtio.device import NEEDS_RESET
from vmwire.bus.virtio.driver import DriverRing
from vmwire.bus.virtio.split import F_INDIRECT, F_NEXT, F_WRITE

Plug = Callable[..., Card]
NOWHERE = 1 << 50
RX, TX, CONTROL = 0, 1, 2


@pytest.fixture(params=["modern", "legacy", "mmio-2"])
def transport(request: pytest.FixtureRequest) -> str:
    """What a ring says is judged behind the transport: one of each kind will do."""
    return str(request.param)


def offer(card: Card, index: int, head: int) -> None:
    """Make a head available, whatever it is, and kick."""
    ring = card.driver.rings[index]
    ring.offer(head)
    ring.publish()
    card.driver.transport.kick(index)


def describe(ring: DriverRing, *chain: tuple[int, int, int, int]) -> None:
    for place, (address, length, flags, following) in enumerate(chain):
        ring.describe(place, address, length, flags, following)


def broken(card: Card) -> bool:
    return bool(card.driver.transport.status() & NEEDS_RESET)


HOSTILE_CHAINS = {
    "no memory": [(NOWHERE, 100, 0, 0)],
    "end of addresses": [((1 << 64) - 8, 100, 0, 0)],
    "itself": [(0x1000, 100, F_NEXT, 0)],
    "a circle": [(0x1000, 10, F_NEXT, 1), (0x1000, 10, F_NEXT, 0)],
    "next outside": [(0x1000, 10, F_NEXT, 5000)],
    "an empty table": [(0x1000, 0, F_INDIRECT, 0)],
    "half an entry": [(0x1000, 24, F_INDIRECT, 0)],
    "a table nowhere": [(NOWHERE, 64, F_INDIRECT, 0)],
    "a table without end": [(0x1000, 0xFFFFFFF0, F_INDIRECT, 0)],
    "a table that goes on": [(0x1000, 16, F_INDIRECT | F_NEXT, 1)],
}


@pytest.mark.parametrize("index", [TX, CONTROL])
@pytest.mark.parametrize("name", HOSTILE_CHAINS)
def test_chains_that_can_not_be_followed_break_the_card(card: Card, index: int, name: str) -> None:
    describe(card.driver.rings[index], *HOSTILE_CHAINS[name])
    offer(card, index, 0)
    assert broken(card)
    card.driver.start()
    assert not broken(card)
    assert card.gets(frame()) == [frame()]


@pytest.mark.parametrize("index", [RX, TX, CONTROL])
def test_a_head_outside_of_the_ring_breaks_the_card(card: Card, index: int) -> None:
    if index == RX:
        for _ in range(256):
            card.wire.send(frame())
        card.driver.rings[RX].used()
    offer(card, index, 0xFFFF)
    card.wire.send(frame())
    assert broken(card)


@pytest.mark.parametrize("index", [RX, TX, CONTROL])
def test_an_index_that_jumps_breaks_the_card(card: Card, index: int) -> None:
    ring = card.driver.rings[index]
    ring.next = (ring.next + 1000) & 0xFFFF
    ring.publish()
    card.driver.transport.kick(index)
    for _ in range(300):
        card.wire.send(frame())
    assert broken(card)


@pytest.mark.parametrize("transport", MODERN, indirect=True)
def test_a_broken_card_tells_its_driver(card: Card) -> None:
    card.driver.transport.interrupt_status()
    before = card.interrupts()
    offer(card, TX, 0xFFFF)
    assert card.interrupts() > before


def test_the_wrong_direction_breaks_the_card(card: Card) -> None:
    describe(card.driver.rings[TX], (0x1000, 100, F_WRITE, 0))
    offer(card, TX, 0)
    assert broken(card)


def test_a_request_without_room_for_an_answer_breaks_the_card(card: Card) -> None:
    describe(card.driver.rings[CONTROL], (0x1000, 3, 0, 0))
    offer(card, CONTROL, 0)
    assert broken(card)


def test_a_request_with_its_parts_the_wrong_way_round_breaks_the_card(card: Card) -> None:
    describe(card.driver.rings[CONTROL], (0x1000, 3, F_WRITE | F_NEXT, 1), (0x2000, 3, 0, 0))
    offer(card, CONTROL, 0)
    assert broken(card)


@pytest.mark.parametrize("length", [0, 1, 2, 0xFFFF])
def test_requests_of_any_length_are_answered(card: Card, length: int) -> None:
    parts = [(0x2000, length, 0), (0x1000, 1, F_WRITE)]
    card.driver.add_request([part for part in parts if part[1]])
    card.driver.kick(CONTROL)
    assert not broken(card)
    assert card.driver.rings[CONTROL].used()


def test_a_ringful_of_requests_is_served(card: Card) -> None:
    room = card.driver.memory.allocate(64)
    for _ in range(32):
        card.driver.add_request([(room, 3, 0), (room + 8, 1, F_WRITE)])
    card.driver.kick(CONTROL)
    assert len(card.driver.rings[CONTROL].used()) == 32


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 12, 13, 25, 66_000])
def test_frames_of_impossible_lengths_are_dropped(card: Card, length: int) -> None:
    ring = card.driver.rings[TX]
    describe(ring, (0x1000, length, 0, 0))
    offer(card, TX, 0)
    assert not broken(card)
    assert card.wire.take() == []
    assert sum(card.card.net.drops.values()) == 1


@pytest.mark.parametrize("size", [0, 1, 11])
def test_receive_buffers_too_small_for_a_header_harm_nobody(card: Card, size: int) -> None:
    ring = card.driver.rings[RX]
    for index in range(256):
        ring.describe(index, 0x1000, size, F_WRITE)
    for _ in range(3):
        card.wire.send(frame())
    assert broken(card) or not card.driver.receive()
    card.driver.start()
    assert card.gets(frame()) == [frame()]


def test_rings_over_each_other_and_the_frame_harm_nobody(card: Card) -> None:
    ring = card.driver.rings[RX]
    for index in range(256):
        ring.describe(index, ring.descriptors, 4096, F_WRITE)
    for number in range(300):
        card.wire.send(frame(MAC, bytes([number & 0xFF]) * 100))
    card.driver.start()
    assert card.gets(frame()) == [frame()]


def test_a_ring_where_no_memory_is_does_not_run(plug: Plug) -> None:
    card = plug()
    card.driver.transport.set_status(0)
    ring = DriverRing(card.driver.memory, 256, alignment=4096)
    ring.descriptors = 0xF000_0000
    ring.used_ring = NOWHERE
    card.driver.negotiate()
    for index in (RX, TX):
        card.driver.transport.set_up(index, ring)
    card.driver.transport.set_status(card.driver.transport.status() | DRIVER_OK)
    card.driver.transport.kick(TX)
    card.wire.send(frame())
    card.driver.start()
    assert card.gets(frame()) == [frame()]


@pytest.mark.parametrize("index", [3, 64, 1023, 0xFFFF])
def test_kicks_for_queues_that_are_not_there_are_lost(card: Card, index: int) -> None:
    transport = card.driver.transport
    if isinstance(transport, ModernPci):
        notify = transport.place(2)
        card.pc.writew(notify + 4 * (index & 0x3FF), index)
    else:
        transport.kick(index)
    assert card.gets(frame()) == [frame()]


@pytest.mark.parametrize("transport", MODERN, indirect=True)
def test_features_that_were_not_offered_are_refused(card: Card) -> None:
    transport = card.driver.transport
    for features in (1 << 40 | 1 << 50, 1 << 5, 0):  # unknown ones; without VERSION_1
        transport.set_status(0)
        transport.set_status(3)
        transport.choose(features)
        transport.set_status(11)
        assert not transport.status() & 8
        transport.set_status(15)
        assert not transport.status() & DRIVER_OK


@pytest.mark.parametrize("transport", ["legacy", "mmio-1"], indirect=True)
def test_a_legacy_driver_that_takes_everything_blindly_gets_little(plug: Plug) -> None:
    card = plug(driver={"features": 0})
    card.driver.transport.set_status(0)
    card.driver.transport.set_status(3)
    card.driver.transport.choose(0xFFFFFFFF)
    assert card.device.features == 0


@pytest.mark.parametrize("transport", MODERN, indirect=True)
def test_a_ring_can_be_reset_and_set_up_anew(card: Card) -> None:
    transport = card.driver.transport
    assert isinstance(transport, ModernPci | Mmio)
    card.driver.send(frame(OTHER))
    transport.reset_queue(TX)
    card.driver.set_up_ring(TX)
    for _ in range(3):
        card.driver.send(frame(OTHER, b"anew"))
    assert card.wire.take() == [frame(OTHER), *[frame(OTHER, b"anew")] * 3]
    transport.reset_queue(RX)
    assert card.gets(frame()) == []
    card.driver.set_up_ring(RX)
    card.driver.fill(RX)
    assert card.gets(frame()) == [frame()]


@pytest.mark.parametrize("size", [0, 3, 100, 257, 32768])
@pytest.mark.parametrize("transport", MODERN, indirect=True)
def test_ring_sizes_that_can_not_be_are_refused(card: Card, size: int) -> None:
    transport = card.driver.transport
    card.driver.negotiate()
    if isinstance(transport, ModernPci):
        transport.write(0x16, 2, TX)
        transport.write(0x18, 2, size)
        transport.write(0x1C, 2, 1)
    else:
        assert isinstance(transport, Mmio)
        transport.write(0x30, TX)
        transport.write(0x38, size)
        transport.write(0x44, 1)
    transport.set_status(15)
    transport.kick(TX)
    assert not broken(card)
    card.driver.start()
    assert card.gets(frame()) == [frame()]


@pytest.mark.parametrize("transport", ["modern", "legacy", "modern-msix"], indirect=True)
def test_a_card_that_may_not_reach_memory_stands_still(card: Card) -> None:
    transport = card.driver.transport
    assert isinstance(transport, ModernPci | LegacyPci)
    transport.pci.config_write(4, 3, 2)  # no bus master
    card.driver.send(frame(OTHER))
    assert card.wire.take() == [] and card.gets(frame()) == []
    transport.pci.config_write(4, 7, 2)
    assert card.wire.take() == [frame(OTHER)]
    assert card.gets(frame()) == [frame()]


@pytest.mark.parametrize("transport", ["modern"], indirect=True)
def test_registers_are_reached_through_configuration_space(card: Card) -> None:
    transport = card.driver.transport
    assert isinstance(transport, ModernPci)
    window = transport.structures[5].capability
    pci = transport.pci

    def look(place: int, length: int) -> int:
        pci.config_write(window + 4, 4, 1)  # the BAR
        pci.config_write(window + 8, place)
        pci.config_write(window + 12, length)
        return pci.config_read(window + 16) & (1 << 8 * length) - 1

    assert look(0x12, 2) == 3  # num_queues
    assert look(0x2000, 4) == int.from_bytes(MAC[:4], "little")
    assert look(0x14, 1) == transport.status()
    pci.config_write(window + 16, 0)  # which resets the card
    assert transport.status() == 0
    for bar, place, length in ((6, 0, 4), (4, 1, 4), (4, 0, 3), (4, 0xFFFFFFFC, 4), (1, 0, 4)):
        pci.config_write(window + 4, bar, 1)
        pci.config_write(window + 8, place)
        pci.config_write(window + 12, length)
        pci.config_read(window + 16)
        pci.config_write(window + 16, 0xFFFFFFFF)
    card.driver.start()
    assert card.gets(frame()) == [frame()]
