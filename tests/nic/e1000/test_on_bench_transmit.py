# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Transmission, as chapter 3.3 to 3.5 of the manual has it."""

from __future__ import annotations

import struct

import pytest

from tests.nic.e1000.card import MAC, Card, Driver, frame_from, unsummed, with_headers
from tests.wire.packets import slow_sum, transport_checks
from vmwire.bench import e1000_spec as spec
from vmwire.bench.e1000 import Context

# --- legacy descriptors


def test_a_frame_goes_out_as_it_is(card: Card, driver: Driver) -> None:
    frame = frame_from(1514)
    index = driver.send(frame)
    assert card.take() == [frame]
    assert driver.tx_done(index)
    assert driver.tx_head == driver.tx_tail == 1


@pytest.mark.parametrize("pieces", [[14], [1, 1, 1], [60, 0, 0], [0, 20], [700, 700]])
def test_a_frame_of_several_descriptors_is_one_frame(
    card: Card, driver: Driver, pieces: list[int]
) -> None:
    frame = frame_from(1500)
    driver.send(frame, pieces=pieces)
    assert card.take() == [frame]


def test_a_frame_whose_end_comes_later_is_sent_then(card: Card, driver: Driver) -> None:
    frame = frame_from(200)
    address = driver.tx_buffer(frame)
    driver.put(spec.TX_LEGACY.pack(address, 50, 0, spec.TX_RS, 0, 0, 0))
    driver.kick()
    assert card.take() == []
    driver.put(spec.TX_LEGACY.pack(address + 50, 150, 0, spec.TX_EOP | spec.TX_RS, 0, 0, 0))
    driver.kick()
    assert card.take() == [frame]


def test_short_frames_are_padded_with_zeros_where_the_driver_asks(
    card: Card, driver: Driver
) -> None:
    driver.send(frame_from(20))
    assert card.take() == [frame_from(20).ljust(60, b"\0")]
    driver.write(spec.TCTL, spec.TCTL_EN)
    driver.send(frame_from(20))
    assert card.take() == [frame_from(20)]


def test_only_descriptors_that_ask_for_it_are_written_back(card: Card, driver: Driver) -> None:
    quiet = driver.send(frame_from(), command=spec.TX_IFCS)
    loud = driver.send(frame_from())
    assert (driver.tx_done(quiet), driver.tx_done(loud)) == (False, True)
    assert len(card.take()) == 2


def test_many_turns_of_the_ring(card: Card, driver: Driver) -> None:
    for number in range(3 * driver.ring + 5):
        driver.send(frame_from(60 + number, seed=number))
        assert card.take() == [frame_from(60 + number, seed=number)]


def test_a_ring_full_at_once_goes_out_in_order(card: Card, driver: Driver) -> None:
    for start in range(3):
        for number in range(driver.ring - 1):
            driver.send(frame_from(64, seed=start + number), kick=False)
        driver.kick()
        assert card.take() == [frame_from(64, seed=start + n) for n in range(driver.ring - 1)]


def test_a_ring_of_the_largest_size_is_emptied(card: Card) -> None:
    driver = card.start(ring=4096)
    for number in range(4095):
        driver.send(frame_from(60, seed=number), kick=False)
    driver.kick()
    assert len(card.take()) == 4095
    assert driver.tx_head == 4095


def test_nothing_is_sent_while_transmission_is_off(card: Card, driver: Driver) -> None:
    driver.write(spec.TCTL, spec.TCTL_PSP)
    driver.send(frame_from())
    assert card.take() == []
    driver.write(spec.TCTL, spec.TCTL_PSP | spec.TCTL_EN)
    assert card.take() == [frame_from()]


def test_a_full_wire_holds_the_ring_until_there_is_room(card: Card, driver: Driver) -> None:
    card.nic.wire.set_full(True)
    index = [driver.send(frame_from(seed=number)) for number in range(3)][-1]
    assert driver.tx_head == 0
    assert not driver.tx_done(index)
    card.nic.wire.set_full(False)
    assert card.take() == [frame_from(seed=number) for number in range(3)]
    assert driver.tx_head == 3
    assert driver.tx_done(index)


def test_frames_are_lost_quietly_on_a_pulled_cable(card: Card, driver: Driver) -> None:
    card.nic.wire.set_link(False)
    driver.send(frame_from())
    card.nic.wire.set_link(True)
    card.pc.clock_step(5_000_000_000)
    driver.send(frame_from(seed=1))
    assert card.take()[-1] == frame_from(seed=1)


def test_a_legacy_descriptor_inserts_a_checksum(card: Card, driver: Driver) -> None:
    """CSS to the packet's end, put at CSO (3.3.3)."""
    frame, start, offset = unsummed(4, 17, b"some datagram")
    driver.send(frame, checksum=(start, offset), pieces=[40])
    (sent,) = card.take()
    assert transport_checks(sent[:24] + header_sum(sent[14:34]) + sent[26 : len(frame)])


def header_sum(header: bytes) -> bytes:
    """What a legacy descriptor leaves undone: the IPv4 header's own checksum."""
    return struct.pack("!H", slow_sum(header) ^ 0xFFFF)


# --- VLAN


@pytest.mark.parametrize("extended", [False, True])
def test_a_tag_is_inserted_behind_the_addresses(card: Card, driver: Driver, extended: bool) -> None:
    driver.write(spec.CTRL, driver.read(spec.CTRL) | spec.CTRL_VME)
    frame = frame_from(100)
    if extended:
        driver.send_extended(frame, vlan=0x6123)
    else:
        driver.send(frame, vlan=0x6123)
    assert card.take() == [frame[:12] + b"\x81\x00\x61\x23" + frame[12:]]


def test_the_tags_ethertype_is_vets(card: Card, driver: Driver) -> None:
    driver.write(spec.CTRL, driver.read(spec.CTRL) | spec.CTRL_VME)
    driver.write(spec.VET, 0x88A8)
    driver.send(frame_from(100), vlan=5)
    assert card.take()[0][12:16] == b"\x88\xa8\x00\x05"


def test_without_vlan_mode_no_tag_is_inserted(card: Card, driver: Driver) -> None:
    driver.send(frame_from(100), vlan=5)
    assert card.take() == [frame_from(100)]


# --- data descriptors: checksums


def tcp_context(version: int, start: int, offset: int, **more: int | bool) -> Context:
    ip = {"ip_start": 14, "ip_offset": 24, "ip_end": 33} if version == 4 else {"ip_start": 14}
    return Context(**ip, start=start, offset=offset, ipv4=version == 4, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("pieces", [[], [54], [10, 30, 100]])
@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("whole", [False, True])
def test_checksums_are_filled_in(
    card: Card, driver: Driver, version: int, protocol: int, pieces: list[int], whole: bool
) -> None:
    card.nic.wire.accept_superframes(whole)
    frame, start, offset = unsummed(version, protocol, bytes(range(200)))
    options = spec.POPTS_TXSM | (spec.POPTS_IXSM if version == 4 else 0)
    context = tcp_context(version, start, offset, tcp=protocol == 6)
    driver.send_extended(frame, context, options=options, pieces=pieces)
    (sent,) = card.nic.wire.received
    if whole:
        assert sent.offload.needs_checksum
        assert sent.offload.checksum_start == start
        assert slow_sum(sent.tobytes()[14:34]) == 0xFFFF or version == 6
    else:
        assert transport_checks(sent.tobytes())


def test_a_context_holds_for_the_packets_behind_it(card: Card, driver: Driver) -> None:
    frame, start, offset = unsummed(4, 6, b"again and again")
    context = tcp_context(4, start, offset)
    driver.send_extended(frame, context, options=spec.POPTS_TXSM | spec.POPTS_IXSM)
    driver.send_extended(frame, options=spec.POPTS_TXSM | spec.POPTS_IXSM)
    assert [transport_checks(sent) for sent in card.take()] == [True, True]


def test_without_options_nothing_is_touched(card: Card, driver: Driver) -> None:
    frame, start, offset = unsummed(4, 6, b"leave it alone")
    driver.send_extended(frame, tcp_context(4, start, offset))
    assert card.take() == [frame.ljust(60, b"\0")]


def test_only_the_ip_checksum_is_filled_in_when_only_that_is_asked(
    card: Card, driver: Driver
) -> None:
    frame, start, offset = unsummed(4, 6, b"half")
    driver.send_extended(frame, tcp_context(4, start, offset), options=spec.POPTS_IXSM)
    (sent,) = card.take()
    assert slow_sum(sent[14:34]) == 0xFFFF
    assert sent[34 : len(frame)] == frame[34:]


def test_a_sum_over_a_part_ends_where_tucse_says(card: Card, driver: Driver) -> None:
    frame = bytearray(frame_from(100))
    frame[40:42] = b"\0\0"
    driver.send_extended(
        bytes(frame), Context(start=20, offset=40, end=59), options=spec.POPTS_TXSM
    )
    (sent,) = card.take()
    assert slow_sum(sent[20:60]) == 0xFFFF
    assert sent[60:] == bytes(frame[60:])


# --- segmentation


def tso(version: int, payload: int, mss: int) -> tuple[bytes, Context]:
    start = 34 if version == 4 else 54
    frame = with_headers(version, bytes(at * 11 & 0xFF for at in range(payload)))
    context = tcp_context(
        version, start, start + 16, segment=True, payload=payload, header=start + 20, mss=mss
    )
    return frame, context


OPTIONS = {4: spec.POPTS_TXSM | spec.POPTS_IXSM, 6: spec.POPTS_TXSM}


@pytest.mark.parametrize("payload", [1, 1448, 1449, 10_000, 65_000])
@pytest.mark.parametrize("version", [4, 6])
def test_tso_makes_segments_that_check(
    card: Card, driver: Driver, version: int, payload: int
) -> None:
    frame, context = tso(version, payload, 1448)
    header = context.header
    cuts = [header, *[4096] * (payload // 4096)]
    driver.send_extended(frame, context, options=OPTIONS[version], pieces=cuts)
    sent = card.take()
    assert [len(one) - header for one in sent[:-1]] == [1448] * (len(sent) - 1)
    segments = [one[: header + payload] for one in sent]
    if len(sent) > 1 or header + payload >= 60:
        assert all(transport_checks(one) for one in segments)
    assert b"".join(one[header:] for one in segments) == frame[header:]
    sequences = [struct.unpack_from("!I", one, header - 16)[0] for one in sent]
    assert sequences == [1000 + 1448 * number for number in range(len(sent))]
    flags = [one[header - 7] for one in sent]
    assert flags == [0x10] * (len(sent) - 1) + [0x18]
    if version == 4:
        ids = [struct.unpack_from("!H", one, 18)[0] for one in sent]
        assert ids == [0x1234 + number for number in range(len(sent))]


@pytest.mark.parametrize("version", [4, 6])
def test_a_superframe_stays_whole_where_the_wire_takes_it(
    card: Card, driver: Driver, version: int
) -> None:
    card.nic.wire.accept_superframes()
    frame, context = tso(version, 20_000, 1448)
    driver.send_extended(
        frame, context, options=OPTIONS[version], pieces=[context.header, 8000, 8000]
    )
    (sent,) = card.nic.wire.received
    assert sent.length == len(frame)
    assert sent.offload.segment_size == 1448
    assert sent.offload.checksum_start == context.start


def test_headers_and_data_in_one_descriptor_are_segmented_too(card: Card, driver: Driver) -> None:
    frame, context = tso(4, 5000, 1000)
    driver.send_extended(frame, context, options=OPTIONS[4])
    sent = card.take()
    assert len(sent) == 5
    assert all(map(transport_checks, sent))


def test_segments_are_tagged_each(card: Card, driver: Driver) -> None:
    driver.write(spec.CTRL, driver.read(spec.CTRL) | spec.CTRL_VME)
    frame, context = tso(4, 3000, 1000)
    driver.send_extended(frame, context, options=OPTIONS[4], vlan=7)
    sent = card.take()
    assert [one[12:16] for one in sent] == [b"\x81\x00\x00\x07"] * 3
    assert all(map(transport_checks, sent))


def test_one_superframe_after_the_other_with_a_plain_packet_between(
    card: Card, driver: Driver
) -> None:
    frame, context = tso(4, 2500, 1000)
    driver.send_extended(frame, context, options=OPTIONS[4], kick=False)
    driver.send_extended(frame_from(100), kick=False)
    driver.send(frame_from(101), kick=False)
    driver.send_extended(frame, context, options=OPTIONS[4])
    sent = card.take()
    assert [len(one) for one in sent] == [1054, 1054, 554, 100, 101, 1054, 1054, 554]


# --- what the driver hears of it


def test_interrupts_of_transmission(card: Card, driver: Driver) -> None:
    driver.read(spec.ICR)
    driver.send(frame_from())
    assert driver.read(spec.ICR) & (spec.ICR_TXDW | spec.ICR_TXQE) == 3
    driver.send(frame_from(), command=spec.TX_IFCS)
    assert driver.read(spec.ICR) & (spec.ICR_TXDW | spec.ICR_TXQE) == spec.ICR_TXQE


def test_delayed_transmit_interrupts_come_after_tidv(card: Card, driver: Driver) -> None:
    """IDE: 1.024 µs units, started anew by each such descriptor, cut short by TADV."""
    driver.write(spec.TIDV, 100)
    driver.write(spec.IMS, spec.ICR_TXDW)
    driver.read(spec.ICR)
    command = spec.TX_RS | spec.TX_IFCS | spec.TX_IDE
    driver.send(frame_from(), command=command)
    card.pc.clock_step(102_399)
    assert not card.nic.irq_level
    card.pc.clock_step(1)
    assert card.nic.irq_level


def test_the_absolute_delay_ends_a_delay_that_is_always_renewed(card: Card, driver: Driver) -> None:
    driver.write(spec.TIDV, 100)
    driver.write(spec.TADV, 250)
    driver.write(spec.IMS, spec.ICR_TXDW)
    driver.read(spec.ICR)
    command = spec.TX_RS | spec.TX_IFCS | spec.TX_IDE
    for _ in range(5):
        assert not card.nic.irq_level
        driver.send(frame_from(), command=command)
        card.pc.clock_step(50 * 1024 - 1)
    assert not card.nic.irq_level
    card.pc.clock_step(5)
    assert card.nic.irq_level


def test_a_low_ring_is_reported_when_the_threshold_is_crossed(card: Card, driver: Driver) -> None:
    """TXDCTL.LWTHRESH, in units of eight descriptors (13.4.44)."""
    driver.write(spec.TXDCTL, 2 << 25)
    driver.read(spec.ICR)
    for _ in range(20):
        driver.send(frame_from(), kick=False)
    driver.kick()
    assert driver.read(spec.ICR) & spec.ICR_TXD_LOW


def test_a_frame_has_the_cards_address_as_its_driver_wrote_it(card: Card, driver: Driver) -> None:
    assert driver.mac == MAC
    driver.send(frame_from())
    assert card.take()[0][6:12] == MAC
