# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Bad input: what ended, hung or corrupted other models of this chip.

Each scenario ends with the same question: does the card still work for a driver that behaves?
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.nic.e1000.card import (
    LEGACY_DESCRIPTORS,
    MAC,
    Card,
    Driver,
    frame_from,
    frame_to,
    unsummed,
)
from tests.nic.e1000.fuzz import limited
from tests.nic.e1000.test_on_bench_transmit import OPTIONS, tso
from vmwire.bench import e1000_spec as spec
from vmwire.bench.e1000 import Context
from vmwire.wire.frame import F_NEEDS_CSUM, Frame, Offload

STRIP = spec.RCTL_BAM | spec.RCTL_SECRC
RAM_END = 32 << 20


@pytest.fixture(autouse=True)
def still_works(card: Card) -> Iterator[None]:
    """No scenario takes long, and a new driver finds a working card afterwards."""
    with limited():
        yield
    card.nic.wire.set_full(False)
    card.nic.wire.set_link(True)
    driver = card.start(receive=STRIP)
    card.take()
    driver.send(frame_from(99))
    assert card.take() == [frame_from(99)]
    card.nic.wire.send(frame_to(MAC, 99))
    assert [one.data for one in driver.receive()] == [frame_to(MAC, 99)]


# --- rings that make no sense


@pytest.mark.parametrize("index", [8, 9, 63, 64, 0xFFF, 0xFFFF])
@pytest.mark.parametrize("register", [spec.TDH, spec.TDT])
def test_a_transmit_index_outside_of_the_ring(card: Card, register: int, index: int) -> None:
    driver = card.start(ring=8)
    driver.put(spec.TX_LEGACY.pack(driver.tx_buffer(frame_from()), 60, 0, spec.TX_EOP, 0, 0, 0))
    driver.write(register, index)
    driver.write(spec.TDT, 1 if register == spec.TDH else index)
    assert len(card.take()) <= 1


@pytest.mark.parametrize("index", [8, 9, 63, 64, 0xFFF, 0xFFFF])
@pytest.mark.parametrize("register", [spec.RDH, spec.RDT])
def test_a_receive_index_outside_of_the_ring(card: Card, register: int, index: int) -> None:
    driver = card.start(ring=8)
    driver.write(register, index)
    card.nic.wire.send([frame_to(MAC)] * 20)
    assert driver.read(register) == index


@pytest.mark.parametrize("base", [spec.TDBAL, spec.RDBAL])
def test_rings_of_no_length(card: Card, driver: Driver, base: int) -> None:
    driver.write(base + 8, 0)
    driver.send(frame_from())
    card.nic.wire.send(frame_to(MAC))


@pytest.mark.parametrize("address", [RAM_END, RAM_END - 16, 0xE400_0000, (1 << 64) - 64, 1 << 52])
@pytest.mark.parametrize("base", [spec.TDBAL, spec.RDBAL])
def test_rings_where_there_is_no_memory(
    card: Card, driver: Driver, base: int, address: int
) -> None:
    driver.write(base, address & 0xFFFFFFFF)
    driver.write(base + 4, address >> 32)
    driver.write(base + 16, 0)
    driver.write(base + 24, 40)
    card.nic.wire.send([frame_to(MAC)] * 5)
    assert card.take() == []


def test_a_ring_that_is_its_own_buffer(card: Card, driver: Driver) -> None:
    for index in range(driver.ring):
        at = driver.rx_ring + 16 * index
        card.pc.write(at, struct.pack("<QQ", driver.rx_ring, 0))
    card.nic.wire.send([frame_to(MAC, 1514)] * 30)
    address = driver.tx_ring
    for _ in range(40):
        driver.put(spec.TX_LEGACY.pack(address, 1024, 0, spec.TX_EOP | spec.TX_RS, 0, 0, 0))
    driver.kick()
    assert len(card.take()) == 40


# --- the card's own window as a target


@pytest.mark.parametrize("offset", [0, spec.TDT, spec.RDT, spec.ICS, spec.CTRL])
def test_buffers_in_the_cards_own_window_reach_no_register(
    card: Card, driver: Driver, offset: int
) -> None:
    target = driver.base + offset
    before = driver.read(spec.RCTL)
    for index in range(driver.ring):
        card.pc.write(driver.rx_ring + 16 * index, struct.pack("<QQ", target, 0))
    card.nic.wire.send([b"\xff" * 1514] * 3)
    driver.put(spec.TX_LEGACY.pack(target, 64, 0, spec.TX_EOP | spec.TX_RS, 0, 0, 0))
    driver.kick()
    assert card.take() == []
    assert driver.read(spec.RCTL) == before


def test_loopback_into_the_transmit_ring_does_not_recurse(card: Card) -> None:
    driver = card.start(receive=STRIP | spec.RCTL_UPE | spec.RCTL_LOOPBACK)
    for index in range(driver.ring):
        card.pc.write(driver.rx_ring + 16 * index, struct.pack("<QQ", driver.tx_ring, 0))
    for number in range(driver.ring - 1):
        driver.send(frame_from(1000, seed=number), kick=False)
    driver.kick()
    assert card.take() == []
    driver.write(spec.RCTL, 0)


# --- packets that add up to too much, or to nothing


@pytest.mark.parametrize("extended", [False, True])
def test_descriptors_that_add_up_past_any_packet(card: Card, extended: bool) -> None:
    driver = card.start(ring=256)
    address = driver.tx_buffer(bytes(16_288))
    for number in range(200):
        bits = spec.TX_RS | (spec.TX_EOP if number == 199 else 0)
        if extended:
            word = 16_288 | spec.TX_DATA_TYPE | (bits | spec.TX_DEXT) << 24
            driver.put(spec.TX_DATA.pack(address, word, 0, 0, 0))
        else:
            driver.put(spec.TX_LEGACY.pack(address, 16_288, 0, bits, 0, 0, 0))
    driver.kick()
    assert card.take() == []
    driver.send(frame_from(70))
    assert card.take() == [frame_from(70)]


def test_a_packet_that_never_ends_keeps_a_bounded_part(card: Card) -> None:
    driver = card.start(ring=64)
    address = driver.tx_buffer(bytes(1000))
    for _ in range(200):
        for _ in range(50):
            driver.put(spec.TX_LEGACY.pack(address, 1000, 0, spec.TX_RS, 0, 0, 0))
        driver.kick()
    state = card.nic.function.chip.save()["transmit"]
    assert len(state["head"]) <= 65_549
    driver.send(frame_from(70))
    driver.send(frame_from(71))
    assert card.take() == [frame_from(71)]


@pytest.mark.parametrize("length", [0, 1, 13])
def test_packets_shorter_than_a_header(card: Card, driver: Driver, length: int) -> None:
    driver.send(bytes(length))
    driver.send_extended(bytes(length), None, options=3)
    card.take()
    driver.send(frame_from(70))
    assert card.take() == [frame_from(70)]


def test_data_where_there_is_no_memory_is_one_lost_packet(card: Card, driver: Driver) -> None:
    for address in (RAM_END - 10, 1 << 40, (1 << 64) - 10, (1 << 64) - 1):
        driver.put(spec.TX_LEGACY.pack(address, 60, 0, spec.TX_EOP | spec.TX_RS, 0, 0, 0))
    index = driver.send(frame_from(70))
    assert card.take() == [frame_from(70)]
    assert driver.tx_done(index)


# --- offload requests without sense


CONTEXTS = [
    {"mss": 0}, {"header": 0}, {"header": 13}, {"header": 255}, {"mss": 1, "header": 54},
    {"ip_start": 200}, {"ip_start": 0, "start": 0, "offset": 0}, {"start": 255}, {"offset": 255},
    {"start": 54, "header": 20}, {"ip_offset": 255}, {"ip_end": 0xFFFF}, {"ip_end": 0},
    {"end": 1}, {"end": 0xFFFF}, {"payload": 0}, {"payload": 0xFFFFF}, {"mss": 0xFFFF},
    {"header": 0, "mss": 0}, {"tcp": False}, {"ipv4": False},
]  # fmt: skip


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("change", CONTEXTS, ids=str)
def test_a_context_without_sense(
    card: Card, driver: Driver, change: dict[str, int], whole: bool
) -> None:
    from dataclasses import replace

    card.nic.wire.accept_superframes(whole)
    frame, context = tso(4, 3000, 1400)
    driver.send_extended(frame, replace(context, **change), options=OPTIONS[4])  # type: ignore[arg-type]
    driver.send_extended(frame, options=OPTIONS[4], segment=False)
    for sent in card.nic.wire.received:
        offload = sent.offload
        assert offload.known
        assert sent.length >= offload.least_length
    card.take()
    driver.send(frame_from(70))
    assert card.take() == [frame_from(70)]


def test_segmentation_without_any_context(card: Card, driver: Driver) -> None:
    driver.send_extended(frame_from(3000), None, options=3, segment=True)
    driver.send(frame_from(70))
    assert frame_from(70) in card.take()


def test_a_header_that_lies_about_its_length(card: Card, driver: Driver) -> None:
    frame, context = tso(4, 3000, 1400)
    for at, value in ((14, 0x4F), (14, 0x40), (46, 0xF0), (46, 0x00), (12, 0xFF)):
        lie = bytearray(frame)
        lie[at] = value
        driver.send_extended(bytes(lie), context, options=OPTIONS[4])
    card.take()


def test_a_legacy_checksum_outside_of_the_packet(card: Card, driver: Driver) -> None:
    for css, cso in ((255, 255), (0, 255), (255, 0), (59, 58), (0, 0)):
        driver.send(frame_from(60), checksum=(css, cso))
    card.take()


def test_a_checksum_in_front_of_what_it_covers(card: Card, driver: Driver) -> None:
    frame, start, offset = unsummed(4, 6, bytes(100))
    driver.send_extended(frame, Context(start=offset + 8, offset=20), options=spec.POPTS_TXSM)
    driver.send_extended(frame, Context(start=start, offset=0), options=spec.POPTS_TXSM)
    card.take()


def test_a_thousand_contexts_and_nothing_else(card: Card) -> None:
    driver = card.start(ring=1024)
    for number in range(1000):
        driver.put(Context(start=number & 0xFF, segment=True).pack(spec.TX_RS))
    driver.kick()
    assert driver.tx_head == 1000
    assert card.take() == []


def test_descriptor_types_that_do_not_exist(card: Card, driver: Driver) -> None:
    for kind in range(2, 16):
        word = 60 | kind << 20 | (spec.TX_DEXT | spec.TX_EOP | spec.TX_RS) << 24
        driver.put(spec.TX_DATA.pack(driver.tx_buffer(frame_from()), word, 0, 3, 0))
    driver.kick()
    card.take()
    driver.send(frame_from(70))
    assert card.take()[-1] == frame_from(70)


# --- frames from the wire


@pytest.mark.parametrize("length", [0, 1, 5, 6, 11, 12, 13, 14, 15, 16, 17])
def test_frames_shorter_than_a_header_from_the_wire(card: Card, length: int) -> None:
    driver = card.start(receive=STRIP | spec.RCTL_UPE | spec.RCTL_MPE | spec.RCTL_VFE)
    driver.write(spec.CTRL, driver.read(spec.CTRL) | spec.CTRL_VME)
    driver.write(spec.RXCSUM, 0x3FF)
    card.nic.wire.send(frame_to(MAC, 60)[:length])
    card.nic.wire.send((MAC + MAC + b"\x81\x00\x00\x05\x08\x00\x45")[:length])
    for got in driver.receive():
        assert len(got.data) in (56, 60)


@LEGACY_DESCRIPTORS
@pytest.mark.parametrize("length", [1519, 1522, 2048, 16_383, 16_384, 65_535, 65_549])
@pytest.mark.parametrize("long_packets", [0, spec.RCTL_LPE])
def test_long_frames_never_pass_a_buffers_end(card: Card, length: int, long_packets: int) -> None:
    driver = card.start(ring=8, buffer_size=256, receive=STRIP | long_packets)
    end = driver.rx_buffers + driver.ring * 256
    card.pc.memset(end, 4096, 0x5A)
    card.nic.wire.send(frame_to(MAC, length))
    assert card.pc.read(end, 4096) == b"\x5a" * 4096
    for index in range(driver.ring):
        at = driver.rx_ring + 16 * index
        assert spec.RX_DESCRIPTOR.unpack(card.pc.read(at, 16))[1] <= 256


def test_buffers_hold_no_old_bytes(card: Card, driver: Driver) -> None:
    """What pads a short frame is zeros, whatever passed before it."""
    driver.start_receive(STRIP)
    card.nic.wire.send(MAC + b"\xee" * 1500)
    card.nic.wire.send(frame_to(MAC, 20))
    assert driver.receive()[1].data == frame_to(MAC, 20).ljust(60, b"\0")
    driver.send(b"\xee" * 1500)
    driver.send(frame_from(20))
    assert card.take()[1] == frame_from(20).ljust(60, b"\0")


@pytest.mark.parametrize("offload", [
    Offload(F_NEEDS_CSUM, 0, 0, 0, 65_000, 16),
    Offload(F_NEEDS_CSUM, 1, 0, 0, 34, 16),
    Offload(F_NEEDS_CSUM, 1, 0, 1, 34, 16),
    Offload(F_NEEDS_CSUM, 4, 0, 1400, 34, 16),
    Offload(0, 1, 0, 1400, 34, 16),
    Offload(F_NEEDS_CSUM, 7, 0, 1400, 34, 16),
])  # fmt: skip
def test_offloads_from_the_wire_without_sense(card: Card, offload: Offload) -> None:
    card.start(receive=STRIP)
    card.nic.wire.send(Frame.of(frame_to(MAC, 9000), offload))


# --- at bad moments


def test_a_reset_in_the_middle_of_everything(card: Card) -> None:
    driver = card.start(receive=STRIP)
    driver.write(spec.RDTR, 1000)
    driver.write(spec.TIDV, 1000)
    driver.write(spec.ITR, 50_000)
    driver.write(spec.IMS, 0xFFFF)
    driver.send(frame_from(), command=spec.TX_RS | spec.TX_IDE)
    driver.put(spec.TX_LEGACY.pack(driver.tx_buffer(bytes(50)), 50, 0, spec.TX_RS, 0, 0, 0))
    driver.kick()
    card.nic.wire.send(frame_to(MAC))
    driver.write(spec.CTRL, spec.CTRL_RST | spec.CTRL_PHY_RST)
    assert not card.nic.irq_level
    card.pc.clock_step(3_000_000_000)
    assert not card.nic.irq_level


def test_a_bus_reset_forgets_what_was_put_off(card: Card) -> None:
    driver = card.start(receive=STRIP)
    driver.write(spec.RDTR, 1000)
    driver.write(spec.IMS, 0xFFFF)
    card.nic.wire.send(frame_to(MAC))
    card.pc.reset(card.nic)
    card.pc.clock_step(3_000_000_000)
    assert not card.nic.irq_level


def test_rings_are_moved_while_the_wire_is_full(card: Card, driver: Driver) -> None:
    card.nic.wire.set_full(True)
    for number in range(20):
        driver.send(frame_from(seed=number))
    driver.write(spec.TDBAL, 0xFFFFFFF0)
    driver.write(spec.TDLEN, 128)
    driver.write(spec.TDH, 3)
    driver.write(spec.TDT, 2)
    card.nic.wire.set_full(False)
    card.take()


def test_every_register_written_with_every_bit(card: Card, driver: Driver) -> None:
    for value in (0xFFFFFFFF, 0, 0xAAAAAAAA):
        for offset in range(0, 0x6000, 4):
            driver.write(offset, value)
    card.nic.wire.send([frame_to(MAC)] * 10)
    card.pc.clock_step(2_000_000_000)
    card.pc.reset(card.nic)
