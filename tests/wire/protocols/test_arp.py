# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmwire.wire.protocols import arp
from vmwire.wire.protocols.errors import ParseError

GUEST_MAC = bytes.fromhex("525400123456")
GATEWAY_MAC = bytes.fromhex("52550a000202")
GUEST, GATEWAY = bytes([10, 0, 2, 15]), bytes([10, 0, 2, 2])


def test_recorded_reply_both_ways(frames: dict[str, bytes]) -> None:
    payload = frames["arp reply"][14:]
    packet = arp.Packet.parse(memoryview(payload))
    assert packet == arp.Packet(arp.REPLY, GATEWAY_MAC, GATEWAY, GUEST_MAC, GUEST)
    assert packet.emit() == payload[:28]


def test_recorded_request_both_ways(frames: dict[str, bytes]) -> None:
    payload = frames["arp request"][14:]
    packet = arp.Packet.parse(payload)
    assert packet == arp.Packet(arp.REQUEST, GATEWAY_MAC, GATEWAY, arp.NO_MAC, GUEST)
    assert packet.emit() == payload[:28]


@pytest.mark.parametrize("at", [1, 2, 4, 5])
def test_other_hardware_protocol_or_sizes_are_refused(frames: dict[str, bytes], at: int) -> None:
    payload = bytearray(frames["arp request"][14:])
    payload[at] ^= 0x10
    with pytest.raises(ParseError):
        arp.Packet.parse(payload)


def test_message_one_byte_short_is_refused(frames: dict[str, bytes]) -> None:
    with pytest.raises(ParseError):
        arp.Packet.parse(frames["arp request"][14 : 14 + 27])


@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_parse_or_are_refused(data: bytes, ethernet: bool) -> None:
    data = bytes.fromhex("000108000604") + data if ethernet else data
    try:
        packet = arp.Packet.parse(data)
    except ParseError:
        return
    assert packet.emit() == data[:28]
