# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmwire.wire.protocols import ipv4, udp
from vmwire.wire.protocols.errors import ParseError

GUEST, RESOLVER = bytes([10, 0, 2, 15]), bytes([10, 0, 2, 3])


@pytest.fixture
def segment(frames: dict[str, bytes]) -> bytes:
    packet = frames["dns answer"][14:]
    return bytes(ipv4.Header.parse(packet).payload(packet))


def test_recorded_datagram_both_ways(segment: bytes) -> None:
    datagram = udp.Datagram.parse(memoryview(segment))
    assert (datagram.src_port, datagram.dst_port) == (53, 4200)
    assert datagram.payload == segment[8:]
    assert datagram.emit(RESOLVER, GUEST) == segment


def test_checksum_is_verified(segment: bytes) -> None:
    assert udp.checksum_ok(segment, RESOLVER, GUEST)
    assert udp.checksum_ok(segment + b"padding", RESOLVER, GUEST)
    assert not udp.checksum_ok(segment[:-1] + b"\x05", RESOLVER, GUEST)
    assert not udp.checksum_ok(segment, RESOLVER, bytes([10, 0, 2, 16]))


def test_no_checksum_is_right_for_ipv4_only(segment: bytes) -> None:
    unsummed = segment[:6] + bytes(2) + segment[8:]
    assert udp.checksum_ok(unsummed, RESOLVER, GUEST)
    assert not udp.checksum_ok(unsummed, RESOLVER * 4, GUEST * 4)


def test_checksum_of_zero_is_sent_as_all_ones() -> None:
    missing = 0xFFFF - (17 + 10 + 10)  # pseudo header: protocol, length; header: length
    emitted = udp.Datagram(0, 0, missing.to_bytes(2, "big")).emit(bytes(4), bytes(4))
    assert emitted[6:8] == b"\xff\xff"
    assert udp.checksum_ok(emitted, bytes(4), bytes(4))


def test_trailing_bytes_are_cut_off(segment: bytes) -> None:
    assert udp.Datagram.parse(segment + b"trailer").payload == segment[8:]


@pytest.mark.parametrize("length", [0, 7, 47, 0xFFFF])
def test_length_that_lies_is_refused(segment: bytes, length: int) -> None:
    with pytest.raises(ParseError):
        udp.Datagram.parse(segment[:4] + length.to_bytes(2, "big") + segment[6:])


def test_short_header_is_refused() -> None:
    with pytest.raises(ParseError):
        udp.Datagram.parse(bytes(7))


@given(st.binary(max_size=40), st.integers(0, 40))
def test_any_bytes_parse_or_are_refused(data: bytes, length: int) -> None:
    data = data[:4] + bytes([0, length]) + data[6:] if length % 2 else data
    try:
        datagram = udp.Datagram.parse(data)
    except ParseError:
        return
    udp.checksum_ok(data, GUEST, RESOLVER)
    again = udp.Datagram.parse(datagram.emit(GUEST, RESOLVER))
    assert again == datagram
