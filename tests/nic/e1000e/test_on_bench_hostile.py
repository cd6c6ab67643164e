# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Bad input to what only the 82574L has; its elders' bad input is in ``tests.nic.e1000``.

Each scenario ends with the same question: does the card still work for a driver that behaves?
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.nic.e1000.card import MAC, frame_from, frame_to, packet
from tests.nic.e1000.fuzz import limited
from tests.nic.e1000e.card import STRIP, Card82574
from tests.nic.e1000e.test_on_bench_rss import EVERY_TYPE, KEY, SUITE, of_flow
from vmwire.bench import e1000_spec
from vmwire.bench import e1000e_spec as spec
from vmwire.bench.e1000e import SPLIT, E1000eDriver

LONG = STRIP | e1000_spec.RCTL_LPE


@pytest.fixture(autouse=True)
def still_works(card: Card82574) -> Iterator[None]:
    """No scenario takes long, and a new driver finds a working card afterwards."""
    with limited():
        yield
    driver = card.start()
    card.take()
    driver.send(frame_from(99))
    driver.second.send(frame_from(98))
    assert card.take() == [frame_from(99), frame_from(98)]
    card.nic.wire.send(frame_to(MAC, 99))
    assert [one.data for one in driver.receive()] == [frame_to(MAC, 99)]


# --- packet split


@pytest.mark.parametrize("sizes", [0, 0x0000_0002, 0x0004_0000, 0xFFFF_FFFF, 0x3F3F_3F7F, 0x100])
def test_split_sizes_without_sense(card: Card82574, sizes: int) -> None:
    driver = card.start(layout=SPLIT, receive=LONG)
    driver.write(spec.PSRCTL, sizes)
    card.nic.wire.send([packet(4, 6, bytes(3000)), frame_to(MAC, 3000), frame_to(MAC)] * 10)


def test_split_buffers_in_the_cards_own_window_reach_no_register(card: Card82574) -> None:
    driver = card.start(layout=SPLIT)
    before = driver.read(e1000_spec.RCTL)
    targets = [driver.base + at for at in (e1000_spec.TDT, e1000_spec.CTRL, e1000_spec.RCTL, 0)]
    for index in range(driver.ring):
        card.pc.write(driver.rx_ring + 32 * index, spec.RX_SPLIT_READ.pack(*targets))
    card.nic.wire.send([packet(4, 17, b"\xff" * 1000)] * 5)
    assert driver.read(e1000_spec.RCTL) == before


def test_split_buffers_nowhere_and_in_the_ring_itself(card: Card82574) -> None:
    driver = card.start(layout=SPLIT)
    for index in range(driver.ring):
        some = [0, (1 << 64) - 8, driver.rx_ring, 1 << 40]
        buffers = some[index % 4 :] + some[: index % 4]
        card.pc.write(driver.rx_ring + 32 * index, spec.RX_SPLIT_READ.pack(*buffers))
    card.nic.wire.send([packet(6, 6, bytes(1300))] * 30)


def test_a_ring_whose_length_holds_half_a_split_descriptor(card: Card82574) -> None:
    driver = card.start(layout=SPLIT)
    driver.write(e1000_spec.RDLEN, 128 * 3)
    driver.write(e1000_spec.RDT, 23)
    card.nic.wire.send([packet(4, 6, bytes(200))] * 50)


def test_the_layout_changes_in_the_middle_of_the_ring(card: Card82574) -> None:
    driver = card.start()
    card.nic.wire.send([frame_to(MAC)] * 3)
    for extended, split in ((0, 0), (1, 1), (0, 1), (1, 0)):
        driver.write(spec.RFCTL, extended * spec.RFCTL_EXTENDED)
        driver.write(e1000_spec.RCTL, e1000_spec.RCTL_EN | LONG | split * spec.RCTL_SPLIT)
        card.nic.wire.send([packet(4, 6, bytes(200))] * 3)


@pytest.mark.parametrize("cut", range(14, 80, 3))
def test_headers_that_end_before_their_end_are_not_split_beyond_it(
    card: Card82574, cut: int
) -> None:
    driver = card.start(layout=SPLIT)
    driver.start_rss(KEY, [1, 0] * 64, EVERY_TYPE)
    for frame in (packet(4, 6, bytes(40)), packet(6, 17, bytes(40), vlan=True), of_flow(SUITE[5])):
        card.nic.wire.send(frame[:cut])
    for got in driver.receive() + driver.second.receive():
        assert len(got.data) >= 60


def test_header_lengths_that_lie(card: Card82574) -> None:
    driver = card.start(layout=SPLIT)
    driver.start_rss(KEY, [0] * 128, EVERY_TYPE)
    for at, value in ((14, 0x4F), (14, 0x40), (14, 0xF5), (46, 0xF0), (46, 0), (16, 0xFF)):
        frame = bytearray(packet(4, 6, bytes(20)))
        frame[at] = value
        card.nic.wire.send(bytes(frame))
    for kind in (0, 43, 44, 51, 60, 135):
        frame = bytearray(packet(6, 6, bytes([kind, 255]) * 300))
        frame[20] = kind
        card.nic.wire.send(bytes(frame))
    assert len(driver.receive()) == 12


# --- queues


@pytest.mark.parametrize("register", [
    e1000_spec.TDH, e1000_spec.TDT, e1000_spec.RDH, e1000_spec.RDT,
])  # fmt: skip
@pytest.mark.parametrize("index", [8, 64, 0xFFFF])
def test_the_second_queues_indexes_outside_of_the_ring(
    card: Card82574, register: int, index: int
) -> None:
    driver = card.start(ring=8)
    driver.start_rss(KEY, [1] * 128, EVERY_TYPE)
    driver.second.send(frame_from(), kick=False)
    driver.write(register + spec.QUEUE_STRIDE, index)
    driver.second.kick()
    card.nic.wire.send([of_flow(SUITE[0])] * 20)
    assert len(card.take()) <= 1


def test_a_second_queue_that_was_never_set_up(card: Card82574) -> None:
    driver = card.start()
    for base in (e1000_spec.RDBAL, e1000_spec.TDBAL):
        for at in (0, 4, 8, 16, 24):
            driver.write(base + spec.QUEUE_STRIDE + at, 0)
    driver.start_rss(KEY, [1] * 128, EVERY_TYPE)
    card.nic.wire.send([of_flow(SUITE[0])] * 5)
    driver.write(e1000_spec.TDT + spec.QUEUE_STRIDE, 5)
    assert card.take() == []


def test_loopback_from_one_queue_into_the_other(card: Card82574) -> None:
    driver = card.start(receive=STRIP | e1000_spec.RCTL_UPE | spec.RCTL_LOOPBACK)
    driver.start_rss(KEY, [1] * 128, EVERY_TYPE)
    for index in range(driver.ring):
        card.pc.write(driver.second.rx_ring + 16 * index, struct.pack("<QQ", driver.tx_ring, 0))
    for _ in range(driver.ring - 1):
        driver.send(of_flow(SUITE[0]), kick=False)
    driver.kick()
    assert card.take() == []


# --- interrupts


def test_every_cause_at_once_in_every_mode(card: Card82574) -> None:
    driver = card.start()
    driver.enable_msix()
    for ivar in (0, 0xFFFF_FFFF, 0x000F_FFFF, 0x7777_7777, 0x8000_0000):
        driver.write(spec.IVAR, ivar)
        for control in (0, spec.CTRL_EXT_EIAME, spec.CTRL_EXT_IAME, 0xFFFF_FFFF):
            driver.write(e1000_spec.CTRL_EXT, control & ~spec.CTRL_EXT_EE_RST)
            driver.write(spec.EIAC, 0xFFFF_FFFF)
            driver.write(spec.IAM, 0xFFFF_FFFF)
            driver.write(e1000_spec.IMS, 0xFFFF_FFFF)
            driver.write(e1000_spec.ICS, 0xFFFF_FFFF)
            driver.read(e1000_spec.ICR)
    assert set(card.vectors()) <= set(range(spec.VECTORS))


def test_throttles_of_every_length(card: Card82574) -> None:
    driver = card.start()
    driver.enable_msix()
    driver.write(e1000_spec.IMS, 0xFFFF_FFFF)
    for value in (0, 1, 0xFFFF, 0xFFFF_FFFF):
        for at in (spec.ITR, *range(spec.EITR, spec.EITR + 20, 4)):
            driver.write(at, value)
        driver.write(e1000_spec.ICS, 0xFFFF_FFFF)
        card.pc.clock_step(50_000_000)


def test_odd_accesses_to_the_message_table(card: Card82574) -> None:
    driver = card.start()
    driver.enable_msix()
    table = driver.pci.bars[3].address
    for at in (0, 1, 12, 79, 80, 0x1FFF, 0x2000, 0x2001, 0x2008, 0x3FFF):
        for size in (1, 2, 4, 8):
            card.pc.write(table + at, b"\xff" * size)
            card.pc.read(table + at, size)


# --- clock, NVM, PHY


def test_clocks_without_sense(card: Card82574) -> None:
    driver = card.start()
    driver.write(spec.TSYNCRXCTL, 0xFF)
    driver.write(spec.TSYNCTXCTL, 0xFF)
    for value in (0, 1, 0x00FF_FFFF, 0xFF00_0000, 0xFFFF_FFFF):
        driver.write(spec.TIMINCA, value)
        driver.write(spec.TIMADJH, value)
        driver.write(spec.SYSTIMH, value)
        card.pc.clock_step(5_000_000_000)
        card.nic.wire.send(frame_to(MAC))
        assert 0 <= driver.clock() < 1 << 64


def test_every_page_of_the_phy(card: Card82574) -> None:
    driver: E1000eDriver = card.start()
    for page in (*range(32), 769, 776, 800, 0x7FF, 0xFFFF):
        driver.phy_write(spec.PHY_PAGE, page)
        for register in (0, 1, 16, 17, 20, 21, 31):
            before = driver.phy_read(register)
            driver.phy_write(register, before)
    driver.phy_write(spec.PHY_PAGE, 0)
