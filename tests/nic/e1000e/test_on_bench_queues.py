# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Two transmit queues, and a card that is saved and restored in the middle of everything."""

from __future__ import annotations

import pytest

from tests.nic.e1000.card import MAC, frame_from, frame_to
from tests.nic.e1000.test_on_bench_transmit import OPTIONS, tso
from tests.nic.e1000e.card import Card82574, card_on_bench
from tests.nic.e1000e.test_on_bench_rss import EVERY_TYPE, KEY, SUITE, of_flow
from tests.wire.packets import transport_checks
from vmwire.bench import e1000_spec
from vmwire.bench import e1000e_spec as spec
from vmwire.bench.e1000e import E1000eDriver


def test_both_queues_send(card: Card82574, driver: E1000eDriver) -> None:
    for turn in range(3 * driver.ring):
        one = driver.send(frame_from(60, seed=turn))
        other = driver.second.send(frame_from(61, seed=turn))
        assert card.take() == [frame_from(60, seed=turn), frame_from(61, seed=turn)]
        assert driver.tx_done(one) and driver.second.tx_done(other)


def test_each_queue_has_its_own_packet_and_its_own_context(
    card: Card82574, driver: E1000eDriver
) -> None:
    frame, context = tso(4, 3000, 1400)
    other, other_context = tso(6, 2000, 500)
    driver.put(context.pack())
    driver.second.put(other_context.pack())
    driver.kick()
    driver.second.kick()
    driver.send_extended(frame, options=OPTIONS[4], segment=True)
    driver.second.send_extended(other, options=OPTIONS[6], segment=True)
    sent = card.take()
    assert [len(each) for each in sent] == [1454, 1454, 254, *[574] * 4]
    assert all(map(transport_checks, sent))


def test_half_a_packet_in_one_queue_does_not_hold_the_other(
    card: Card82574, driver: E1000eDriver
) -> None:
    half = frame_from(200)
    address = driver.tx_buffer(half)
    driver.put(e1000_spec.TX_LEGACY.pack(address, 50, 0, e1000_spec.TX_RS, 0, 0, 0))
    driver.kick()
    driver.second.send(frame_from(99))
    assert card.take() == [frame_from(99)]
    driver.put(e1000_spec.TX_LEGACY.pack(
        address + 50, 150, 0, e1000_spec.TX_EOP | e1000_spec.TX_RS, 0, 0, 0
    ))  # fmt: skip
    driver.kick()
    assert card.take() == [half]


def test_a_full_wire_holds_both_queues(card: Card82574, driver: E1000eDriver) -> None:
    card.nic.wire.set_full(True)
    driver.send(frame_from(60))
    driver.second.send(frame_from(61))
    assert driver.tx_head == driver.second.tx_head == 0
    card.nic.wire.set_full(False)
    assert sorted(card.take(), key=len) == [frame_from(60), frame_from(61)]
    assert driver.tx_head == driver.second.tx_head == 1


def test_without_a_virtio_header_no_superframe_leaves_the_card() -> None:
    with card_on_bench(disable_vnet_hdr=1) as card:
        driver = card.start()
        card.nic.wire.accept_superframes()
        frame, context = tso(4, 20_000, 1448)
        driver.send_extended(frame, context, options=OPTIONS[4], pieces=[54, 8000, 8000])
        sent = card.nic.wire.received
        assert len(sent) == 14
        assert not any(each.offload.gso_type or each.offload.needs_checksum for each in sent)
        assert all(transport_checks(each.tobytes()) for each in sent)


# --- saved and restored


def test_a_restored_card_goes_on_in_both_queues(card: Card82574, driver: E1000eDriver) -> None:
    driver.start_rss(KEY, [1] * 128, EVERY_TYPE)
    driver.enable_msix()
    driver.write(spec.EIAC, 0x1F00000)
    driver.write(e1000_spec.IMS, 0x1F00000)
    half = frame_from(200)
    address = driver.second.tx_buffer(half)
    driver.second.put(e1000_spec.TX_LEGACY.pack(address, 50, 0, e1000_spec.TX_RS, 0, 0, 0))
    driver.second.kick()
    card.nic.wire.send(of_flow(SUITE[0]))
    registers = {at: driver.read(at) for at in (*range(0x2800, 0x2A00, 4), spec.IVAR, spec.MRQC)}
    card.vectors()
    card.pc.reload(card.nic)
    driver.pci.config_write(4, 7, 2)
    assert {at: driver.read(at) for at in registers} == registers
    assert card.vectors() == []
    driver.second.put(e1000_spec.TX_LEGACY.pack(
        address + 50, 150, 0, e1000_spec.TX_EOP | e1000_spec.TX_RS, 0, 0, 0
    ))  # fmt: skip
    driver.second.kick()
    assert card.take() == [half]
    assert card.vectors() == [3]
    card.nic.wire.send(of_flow(SUITE[1]))
    assert card.vectors() == [1]
    assert [each.data for each in driver.second.receive()] == [of_flow(SUITE[0]), of_flow(SUITE[1])]


def test_a_restored_card_keeps_its_throttle(card: Card82574, driver: E1000eDriver) -> None:
    driver.enable_msix()
    driver.write(spec.EIAC, spec.ICR_RXQ0)
    driver.write(e1000_spec.IMS, spec.ICR_RXQ0)
    driver.write(spec.EITR, 40_000)
    card.nic.wire.send(frame_to(MAC))
    card.nic.wire.send(frame_to(MAC))
    assert card.vectors() == [0]
    card.pc.reload(card.nic)
    card.pc.clock_step(20_000_000)
    assert card.vectors() == [0]


@pytest.mark.parametrize("kept", [True, False])
def test_a_saved_state_has_the_clocks_adjustment_where_asked(kept: bool) -> None:
    with card_on_bench(migrate_timadj=kept) as card:
        card.driver.write(spec.TIMADJL, 0x1234)
        card.pc.reload(card.nic)
        assert card.driver.read(spec.TIMADJL) == (0x1234 if kept else 0)
