# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Extended and packet-split receive descriptors (data sheet, 7.1.4 and 7.1.5)."""

from __future__ import annotations

import struct

import pytest

from tests.nic.e1000.card import MAC, finished, frame_to, packet
from tests.nic.e1000e.card import STRIP, Card82574
from tests.wire.packets import (
    V4,
    ethernet,
    ipv4,
    slow_sum,
    superframe_tcp4,
    tcp,
    transport_checks,
)
from vmwire.bench import e1000_spec
from vmwire.bench import e1000e_spec as spec
from vmwire.bench.e1000e import SPLIT, E1000eDriver, ReceivedExtended
from vmwire.wire.frame import Frame

CHECKED = e1000_spec.RX_IPCS | e1000_spec.RX_TCPCS
LONG = STRIP | e1000_spec.RCTL_LPE


def one(driver: E1000eDriver) -> ReceivedExtended:
    (got,) = driver.receive()
    assert isinstance(got, ReceivedExtended)
    return got


# --- extended


def test_an_extended_descriptor_has_status_errors_length_and_tag(
    card: Card82574, driver: E1000eDriver
) -> None:
    driver.write(e1000_spec.CTRL, driver.read(e1000_spec.CTRL) | e1000_spec.CTRL_VME)
    frame = packet(4, 6, bytes(100), vlan=True)
    card.nic.wire.send(frame)
    got = one(driver)
    assert got.data == frame[:12] + frame[16:]
    assert got.vlan == 7
    assert got.status & (CHECKED | 3) == CHECKED | 3
    assert got.errors == 0


def test_a_wrong_checksum_is_an_error_in_the_upper_bits(
    card: Card82574, driver: E1000eDriver
) -> None:
    frame = bytearray(packet(4, 6, bytes(100)))
    frame[-1] ^= 1
    card.nic.wire.send(bytes(frame))
    assert one(driver).errors == e1000_spec.RXE_TCPE


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [6, 17])
def test_a_udp_checksum_is_told_from_a_tcp_one(
    card: Card82574, driver: E1000eDriver, version: int, protocol: int
) -> None:
    card.nic.wire.send(packet(version, protocol, bytes(100)))
    status = one(driver).status
    assert bool(status & spec.RX_UDPCS) == (protocol == 17)
    assert status & e1000_spec.RX_TCPCS


def test_the_packet_checksum_is_there_where_no_hash_is(
    card: Card82574, driver: E1000eDriver
) -> None:
    driver.write(e1000_spec.RXCSUM, 14)
    frame = frame_to(MAC, 101)
    card.nic.wire.send(frame)
    found = one(driver).checksum
    total = slow_sum(frame[14:])
    swapped = total >> 8 | (total & 0xFF) << 8
    assert found in (total, swapped, total ^ 0xFFFF, swapped ^ 0xFFFF)


def test_an_acknowledgement_is_marked(card: Card82574, driver: E1000eDriver) -> None:
    acknowledgement = ipv4(6, finished(tcp(0x10, b""), V4, 6))
    card.nic.wire.send(MAC + ethernet(0x0800, acknowledgement)[6:])
    assert one(driver).status & spec.RX_ACK
    card.nic.wire.send(packet(4, 17, bytes(30)))
    assert not one(driver).status & spec.RX_ACK


def test_a_frame_of_several_extended_descriptors_is_one_frame(card: Card82574) -> None:
    driver = card.start(buffer_size=256)
    frame = frame_to(MAC, 1000)
    card.nic.wire.send([frame, frame])
    got = driver.receive()
    assert [(each.data, each.descriptors) for each in got] == [(frame, 4)] * 2


def test_writing_back_leaves_nothing_of_the_address(card: Card82574, driver: E1000eDriver) -> None:
    card.nic.wire.send(frame_to(MAC))
    mrq, second = struct.unpack("<II", card.pc.read(driver.rx_ring, 8))
    assert (mrq, second >> 16 or second & 0xFFFF) == (0, second >> 16)


# --- split


def split_driver(card: Card82574, *sizes: int, **about: int) -> E1000eDriver:
    return card.start(layout=SPLIT, split=sizes or (256, 2048, 2048, 2048), receive=LONG, **about)


HEADERS = {(4, 6): 54, (6, 6): 74, (4, 17): 42, (6, 17): 62}


@pytest.mark.parametrize(("version", "protocol"), HEADERS)
def test_headers_are_split_from_what_they_carry(
    card: Card82574, version: int, protocol: int
) -> None:
    driver = split_driver(card)
    frame = packet(version, protocol, bytes(range(200)))
    card.nic.wire.send(frame)
    got = one(driver)
    length = HEADERS[version, protocol]
    assert got.data == frame
    assert got.is_split
    assert (got.header, got.header_length) == (frame[:length], length)


def test_what_has_no_such_header_is_not_split(card: Card82574) -> None:
    driver = split_driver(card)
    card.nic.wire.send(frame_to(MAC, 600))
    got = one(driver)
    assert (got.data, got.is_split) == (frame_to(MAC, 600), False)


@pytest.mark.parametrize("length", [300, 2000, 2400, 5000])
def test_data_fills_one_buffer_after_the_other(card: Card82574, length: int) -> None:
    driver = split_driver(card, 128, 1024, 2048, 4096)
    frame = packet(4, 17, bytes(at & 0xFF for at in range(length)))
    card.nic.wire.send(frame)
    got = one(driver)
    assert (got.data, got.descriptors) == (frame, 1)


def test_a_frame_that_needs_several_split_descriptors_is_one_frame(card: Card82574) -> None:
    driver = split_driver(card, 128, 1024)
    frame = packet(4, 17, bytes(at & 0xFF for at in range(5000)))
    card.nic.wire.send([frame, frame])
    got = driver.receive()
    assert [each.data for each in got] == [frame, frame]
    assert {each.descriptors for each in got} <= {5, 6}


def test_a_ring_of_split_descriptors_goes_round(card: Card82574) -> None:
    driver = split_driver(card, 128, 2048, ring=8)
    for turn in range(10):
        batch = [packet(4, 6, bytes([turn]) * (100 + n)) for n in range(5)]
        assert card.nic.wire.send(batch) == 5
        assert [each.data for each in driver.receive()] == batch


@pytest.mark.parametrize("layout", ["extended", "split"])
def test_a_superframe_arrives_as_frames_that_check(card: Card82574, layout: str) -> None:
    driver = card.start(layout=layout, ring=64)
    payload = bytes(at & 0xFF for at in range(20_000))
    frame = superframe_tcp4(payload, 1400)
    assert card.nic.wire.send(Frame.of(MAC + frame.tobytes()[6:], frame.offload)) == 1
    got = driver.receive()
    assert b"".join(each.data[54:] for each in got) == payload
    assert all(transport_checks(each.data) for each in got)
    assert {each.status & CHECKED for each in got} == {CHECKED}
