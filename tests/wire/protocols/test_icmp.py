# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmwire.wire.protocols import icmp, ipv4
from vmwire.wire.protocols.errors import ParseError

GUEST, OUTSIDE = bytes([10, 0, 2, 15]), bytes([192, 0, 2, 77])
ALPHABET = b"abcdefghabcdefghabcdefghabcdefgh"


def payload_of(frame: bytes) -> bytes:
    packet = frame[14:]
    return bytes(ipv4.Header.parse(packet).payload(packet))


def test_recorded_echo_reply_both_ways(frames: dict[str, bytes]) -> None:
    payload = payload_of(frames["echo reply"])
    message = icmp.Message.parse(payload)
    assert message == icmp.Message(icmp.ECHO_REPLY, 0, bytes.fromhex("11220001"), ALPHABET)
    assert (message.ident, message.sequence) == (0x1122, 1)
    assert message.emit() == payload


def test_echo_reply_returns_what_was_asked(frames: dict[str, bytes]) -> None:
    request = icmp.Message(icmp.ECHO_REQUEST, 0, bytes.fromhex("11220001"), ALPHABET)
    assert icmp.echo_reply(request).emit() == payload_of(frames["echo reply"])


def test_recorded_port_unreachable_both_ways(frames: dict[str, bytes]) -> None:
    payload = payload_of(frames["port unreachable"])
    quoted = payload[8:]
    assert ipv4.Header.parse(quoted).dst == bytes([10, 0, 2, 2])
    assert icmp.unreachable(icmp.PORT_UNREACHABLE, quoted).emit() == payload


def test_recorded_time_exceeded_both_ways(frames: dict[str, bytes]) -> None:
    payload = payload_of(frames["time exceeded"])
    assert icmp.time_exceeded(icmp.TTL_EXCEEDED, payload[8:]).emit() == payload


def test_fragmentation_needed_names_the_mtu() -> None:
    message = icmp.unreachable(icmp.FRAGMENTATION_NEEDED, bytes(2000), mtu=1400)
    assert message.emit()[4:8] == bytes.fromhex("00000578")
    assert len(message.emit()) + ipv4.HEADER.size == 576


def test_odd_data_is_summed_right() -> None:
    message = icmp.Message(icmp.ECHO_REQUEST, 0, bytes(4), b"xyz")
    assert icmp.Message.parse(message.emit()) == message


def test_wrong_checksum_and_short_message_are_refused(frames: dict[str, bytes]) -> None:
    payload = bytearray(payload_of(frames["echo reply"]))
    with pytest.raises(ParseError):
        icmp.Message.parse(payload[:7])
    payload[-1] ^= 1
    with pytest.raises(ParseError):
        icmp.Message.parse(payload)


def test_errors_are_reported_about_ordinary_packets_only() -> None:
    def may(proto: int = 17, payload: bytes = b"\0", **changed: object) -> bool:
        fields = {"src": GUEST, "dst": OUTSIDE, "fragment": 0} | changed
        return icmp.may_report(ipv4.Header(proto=proto, payload_length=8, **fields), payload)

    assert may()
    assert may(1, bytes([icmp.ECHO_REQUEST]))
    assert may(fragment=ipv4.MORE_FRAGMENTS)
    assert not may(1, bytes([icmp.TIME_EXCEEDED]))
    assert not may(1, b"")
    assert not may(fragment=1)
    assert not may(dst=ipv4.BROADCAST)
    assert not may(dst=bytes([224, 0, 0, 1]))
    assert not may(src=bytes(4))
    assert not may(src=ipv4.BROADCAST)


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        icmp.Message.parse(data)
    except ParseError:
        return
