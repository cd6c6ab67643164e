# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmwire.wire.protocols import ethernet
from vmwire.wire.protocols.errors import ParseError

PLAIN = bytes.fromhex("52540012345652550a0002020800")
TAGGED = bytes.fromhex("52540012345652550a0002028100a0050800")


def test_plain_header_both_ways() -> None:
    header = ethernet.Header.parse(memoryview(PLAIN + b"payload"))
    assert header.dst == bytes.fromhex("525400123456")
    assert header.src == bytes.fromhex("52550a000202")
    assert (header.ethertype, header.tag, header.length) == (ethernet.ETHERTYPE_IPV4, None, 14)
    assert header.emit() == PLAIN


def test_tagged_header_both_ways() -> None:
    header = ethernet.Header.parse(TAGGED)
    assert header.tag is not None
    assert (header.tag.vlan, header.tag.tci >> 13) == (5, 5)
    assert (header.ethertype, header.length) == (ethernet.ETHERTYPE_IPV4, 18)
    assert header.emit() == TAGGED


def test_service_tag_keeps_its_protocol_and_the_inner_tag() -> None:
    frame = bytes.fromhex("52540012345652550a00020288a800078100000508000000")
    header = ethernet.Header.parse(frame)
    assert header.tag == ethernet.Tag(7, ethernet.ETHERTYPE_SERVICE_VLAN)
    assert header.ethertype == ethernet.ETHERTYPE_VLAN
    assert header.emit() == frame[:18]


@pytest.mark.parametrize("frame", [b"", PLAIN[:13], TAGGED[:17]])
def test_short_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(ParseError):
        ethernet.Header.parse(frame)


def test_kinds_of_addresses() -> None:
    station, group = bytes.fromhex("525400123456"), bytes.fromhex("01005e000001")
    assert ethernet.is_station(station) and not ethernet.is_multicast(station)
    assert ethernet.is_multicast(group) and ethernet.is_multicast(ethernet.BROADCAST)
    assert not ethernet.is_station(group) and not ethernet.is_station(bytes(6))
    assert ethernet.format_mac(memoryview(station)) == "52:54:00:12:34:56"


def test_short_frames_are_padded_with_zeros() -> None:
    assert ethernet.padded(PLAIN) == PLAIN + bytes(46)
    assert ethernet.padded(bytes(61)) == bytes(61)


@given(st.binary(max_size=64))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        header = ethernet.Header.parse(data)
    except ParseError:
        return
    assert header.emit() == data[: header.length]
