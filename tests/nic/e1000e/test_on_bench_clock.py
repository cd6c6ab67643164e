# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The 82574L's clock and the frames that it stamps (data sheet, 7.9)."""

from __future__ import annotations

import pytest

from tests.nic.e1000.card import MAC, frame_from, frame_to
from tests.nic.e1000e.card import Card82574
from vmwire.bench import e1000_spec
from vmwire.bench import e1000e_spec as spec
from vmwire.bench.e1000e import E1000eDriver

SHIFT = 18
NANOSECONDS = 40 << SHIFT
"""An increment with which SYSTIM counts nanoseconds, shifted, at one tick of 40 ns."""
PTP = 0x88F7


@pytest.fixture
def clock(driver: E1000eDriver) -> E1000eDriver:
    driver.start_clock(NANOSECONDS)
    return driver


def test_the_clock_runs_at_the_speed_that_is_set(card: Card82574, clock: E1000eDriver) -> None:
    before = clock.clock()
    card.pc.clock_step(1_000_000)
    assert clock.clock() - before == 1_000_000 << SHIFT
    clock.write(spec.TIMINCA, 2 << 24 | NANOSECONDS)
    before = clock.clock()
    card.pc.clock_step(1_000_000)
    assert clock.clock() - before == 500_000 << SHIFT


def test_a_clock_without_increment_stands(card: Card82574, driver: E1000eDriver) -> None:
    driver.write(spec.TIMINCA, 0)
    before = driver.clock()
    card.pc.clock_step(1_000_000)
    assert driver.clock() == before


def test_the_clock_can_be_set(card: Card82574, clock: E1000eDriver) -> None:
    clock.write(spec.SYSTIML, 0xFFFF_FFFF)
    clock.write(spec.SYSTIMH, 0x12)
    card.pc.clock_step(40)
    assert clock.clock() == 0x12_FFFF_FFFF + NANOSECONDS


def test_a_received_frame_is_stamped_and_said_to_be(card: Card82574, clock: E1000eDriver) -> None:
    clock.write(spec.TSYNCRXCTL, spec.SYNC_ENABLED | spec.SYNC_RX_ALL)
    assert clock.rx_stamp() is None
    card.pc.clock_step(5_000)
    card.nic.wire.send(frame_to(MAC))
    card.pc.clock_step(5_000)
    (got,) = clock.receive()
    assert got.status & spec.RX_TIME_STAMP
    stamp = clock.rx_stamp()
    assert stamp is not None
    assert 4_900 << SHIFT <= stamp <= 5_100 << SHIFT
    assert clock.rx_stamp() is None


def test_a_stamp_is_held_until_it_is_read(card: Card82574, clock: E1000eDriver) -> None:
    clock.write(spec.TSYNCRXCTL, spec.SYNC_ENABLED | spec.SYNC_RX_ALL)
    card.nic.wire.send(frame_to(MAC))
    card.pc.clock_step(1_000_000)
    card.nic.wire.send(frame_to(MAC))
    first, second = clock.receive()
    assert first.status & spec.RX_TIME_STAMP
    assert not second.status & spec.RX_TIME_STAMP
    stamp = clock.rx_stamp()
    assert stamp is not None and stamp < 1_000_000 << SHIFT


def test_only_ptp_is_stamped_where_only_that_is_asked_for(
    card: Card82574, clock: E1000eDriver
) -> None:
    clock.write(spec.RXMTRL, PTP)
    clock.write(spec.TSYNCRXCTL, spec.SYNC_ENABLED | spec.SYNC_RX_L2_V2)
    card.nic.wire.send(frame_to(MAC))
    assert clock.rx_stamp() is None
    sync = frame_to(MAC, kind=PTP)
    card.nic.wire.send(sync[:14] + b"\x00\x02" + sync[16:])
    assert clock.rx_stamp() is not None


def test_a_sent_frame_is_stamped_if_it_asks(card: Card82574, clock: E1000eDriver) -> None:
    clock.write(spec.TSYNCTXCTL, spec.SYNC_ENABLED)
    clock.send_extended(frame_from())
    assert clock.tx_stamp() is None
    card.pc.clock_step(7_000)
    send_stamped(clock)
    stamp = clock.tx_stamp()
    assert stamp is not None
    assert stamp >= 7_000 << SHIFT
    assert clock.tx_stamp() is None
    assert len(card.take()) == 2


def test_nothing_is_stamped_while_that_is_off(card: Card82574, clock: E1000eDriver) -> None:
    send_stamped(clock)
    card.nic.wire.send(frame_to(MAC))
    assert clock.tx_stamp() is clock.rx_stamp() is None


def test_the_clock_goes_on_in_a_restored_card(card: Card82574, clock: E1000eDriver) -> None:
    card.pc.clock_step(1_000_000)
    before = clock.clock()
    card.pc.reload(card.nic)
    clock.pci.config_write(4, 7, 2)
    card.pc.clock_step(1_000_000)
    assert clock.clock() - before == 1_000_000 << SHIFT


def send_stamped(driver: E1000eDriver) -> None:
    frame = frame_from()
    command = e1000_spec.TX_EOP | e1000_spec.TX_IFCS | e1000_spec.TX_RS | e1000_spec.TX_DEXT
    word = len(frame) | e1000_spec.TX_DATA_TYPE | command << 24
    driver.put(e1000_spec.TX_DATA.pack(driver.tx_buffer(frame), word, spec.TX_TIME_STAMP, 0, 0))
    driver.kick()
