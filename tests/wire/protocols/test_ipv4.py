# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmwire.wire.protocols import ipv4
from vmwire.wire.protocols.errors import ParseError

GUEST, GATEWAY = bytes([10, 0, 2, 15]), bytes([10, 0, 2, 2])
ROUTER_ALERT = bytes.fromhex("94040000")
WITH_OPTION = bytes.fromhex("46c00020000040000102") + bytes.fromhex(
    "41d90a00020fe000001694040000" + "1600000000000000"
)


def test_recorded_header_both_ways(frames: dict[str, bytes]) -> None:
    packet = memoryview(frames["short echo reply"])[14:]
    header = ipv4.Header.parse(packet)
    assert header == ipv4.Header(GATEWAY, GUEST, ipv4.PROTO_ICMP, 18, ttl=255, ident=0x000A)
    assert header.emit() == packet[:20]
    assert ipv4.checksum_ok(packet)


def test_padding_behind_the_packet_is_cut_off(frames: dict[str, bytes]) -> None:
    packet = frames["short echo reply"][14:]
    assert len(packet) == 46
    assert ipv4.Header.parse(packet).payload(packet) == packet[20:38]


def test_header_with_options_both_ways() -> None:
    header = ipv4.Header.parse(WITH_OPTION)
    assert (header.length, header.options, header.payload_length) == (24, ROUTER_ALERT, 8)
    assert header.payload(WITH_OPTION) == WITH_OPTION[24:]
    assert header.fragment == ipv4.DONT_FRAGMENT and not header.is_fragment
    emitted = header.emit()
    assert ipv4.checksum_ok(emitted)
    assert emitted[:10] + emitted[12:] == WITH_OPTION[:10] + WITH_OPTION[12:24]


def test_odd_options_are_padded_to_words() -> None:
    header = ipv4.Header(GUEST, GATEWAY, ipv4.PROTO_UDP, 0, options=b"\x01")
    parsed = ipv4.Header.parse(header.emit())
    assert (parsed.length, parsed.options) == (24, b"\x01\x00\x00\x00")


def test_fragment_word_is_told_apart() -> None:
    header = ipv4.Header(GUEST, GATEWAY, ipv4.PROTO_UDP, 8, fragment=0x20B9)
    assert header.is_fragment and header.offset_bytes == 1480
    assert ipv4.Header(GUEST, GATEWAY, 17, 8, fragment=0x0172).is_fragment


def test_damaged_header_is_seen(frames: dict[str, bytes]) -> None:
    packet = bytearray(frames["echo reply"][14:])
    packet[8] -= 1
    assert not ipv4.checksum_ok(packet)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param((0, 0x55), id="version 5"),
        pytest.param((0, 0x44), id="header of 16 bytes"),
        pytest.param((3, 0x13), id="total shorter than the header"),
        pytest.param((2, 0x10), id="total longer than the packet"),
    ],
)
def test_lengths_that_lie_are_refused(frames: dict[str, bytes], change: tuple[int, int]) -> None:
    packet = bytearray(frames["echo reply"][14:])
    packet[change[0]] = change[1]
    with pytest.raises(ParseError):
        ipv4.Header.parse(packet)


def test_header_longer_than_the_packet_is_refused() -> None:
    with pytest.raises(ParseError):
        ipv4.Header.parse(bytes.fromhex("4f00003c") + bytes(36))
    with pytest.raises(ParseError):
        ipv4.Header.parse(WITH_OPTION[:22], quoted=True)


def test_quoted_packet_may_be_cut_behind_its_header(frames: dict[str, bytes]) -> None:
    packet = frames["echo reply"][14:42]
    with pytest.raises(ParseError):
        ipv4.Header.parse(packet)
    assert ipv4.Header.parse(packet, quoted=True).payload_length == 40


@given(st.binary(max_size=80), st.booleans(), st.booleans())
def test_any_bytes_parse_or_are_refused(data: bytes, fix: bool, quoted: bool) -> None:
    if fix and len(data) >= 20:
        data = bytes([0x40 | data[0] & 0x0F]) + data[1:2] + bytes([0, len(data)]) + data[4:]
    try:
        header = ipv4.Header.parse(data, quoted=quoted)
    except ParseError:
        return
    emitted = header.emit()
    assert emitted[:10] + emitted[12:] == data[:10] + data[12 : header.length]
    assert quoted or len(header.payload(data)) == header.payload_length
