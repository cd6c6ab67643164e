# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Segments are checked against definitions written here, not against the code's own sums."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.wire.packets import (
    V4,
    ethernet,
    ipv4,
    superframe_tcp4,
    superframe_tcp6,
    superframe_udp4,
    tcp,
    transport_checks,
    udp,
    unfinished,
)

from vmwire.wire.frame import (
    F_NEEDS_CSUM,
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    GSO_UDP_L4,
    Frame,
    Offload,
)
from vmwire.wire.offload import FINISHED, finish, weigh

PAYLOAD = bytes(number * 7 & 0xFF for number in range(3500))
NEEDS_TCP = Offload(F_NEEDS_CSUM, checksum_start=34, checksum_offset=16)


def payload_of(frame: bytes, header: int) -> bytes:
    return frame[header:]


def test_unfinished_checksum_is_filled_in() -> None:
    data = ethernet(0x0800, ipv4(6, unfinished(tcp(0x18, b"hello"), V4, 6)))
    (done,) = finish(Frame.of(data, NEEDS_TCP))
    assert transport_checks(done.tobytes())
    assert done.offload is FINISHED
    assert data != done.tobytes()


def test_udp_checksum_of_zero_is_spelt_ffff() -> None:
    """Zero would say that there is none (RFC 768)."""
    for word in range(0x10000):
        segment = unfinished(udp(struct.pack("!H", word)), V4, 17)
        if sum(struct.unpack(f"!{len(segment) // 2}H", segment)) % 0xFFFF == 0:
            break
    data = ethernet(0x0800, ipv4(17, segment))
    (done,) = finish(Frame.of(data, Offload(F_NEEDS_CSUM, checksum_start=34, checksum_offset=6)))
    assert done.tobytes()[40:42] == b"\xff\xff"


@pytest.mark.parametrize("vlan", [False, True])
@pytest.mark.parametrize("options", [b"", b"\x01\x01\x08\x0a" + bytes(8)])
def test_tcp_superframe_is_cut_into_right_segments(vlan: bool, options: bytes) -> None:
    frame = superframe_tcp4(PAYLOAD, 1448, vlan=vlan, options=options)
    parts = [part.tobytes() for part in finish(frame)]
    header = 54 + 4 * vlan + len(options)
    assert all(map(transport_checks, parts))
    assert [len(part) - header for part in parts] == [1448, 1448, 604]
    assert b"".join(part[header:] for part in parts) == PAYLOAD
    network, transport = 14 + 4 * vlan, 34 + 4 * vlan
    ids = [struct.unpack_from("!H", part, network + 4)[0] for part in parts]
    assert ids == [0x1234, 0x1235, 0x1236]
    sequences = [struct.unpack_from("!I", part, transport + 4)[0] for part in parts]
    assert sequences == [1000, 2448, 3896]


def test_sequence_numbers_wrap() -> None:
    parts = [part.tobytes() for part in finish(superframe_tcp4(PAYLOAD, 2000, sequence=0xFFFFFFF0))]
    assert struct.unpack_from("!I", parts[1], 38)[0] == 2000 - 16


def test_flags_stand_where_a_card_puts_them() -> None:
    """FIN and PSH on the last segment, CWR on the first; the rest on all."""
    frame = superframe_tcp4(PAYLOAD, 1448, flags=0x01 | 0x08 | 0x10 | 0x80, gso=GSO_TCPV4 | GSO_ECN)
    assert [part.tobytes()[47] for part in finish(frame)] == [0x90, 0x10, 0x19]


def test_ipv6_superframe_is_cut_into_right_segments() -> None:
    parts = [part.tobytes() for part in finish(superframe_tcp6(PAYLOAD, 1428))]
    assert all(map(transport_checks, parts))
    assert b"".join(part[74:] for part in parts) == PAYLOAD


def test_udp_superframe_is_cut_into_datagrams() -> None:
    parts = [part.tobytes() for part in finish(superframe_udp4(PAYLOAD, 1000))]
    assert all(map(transport_checks, parts))
    assert [part[42:] for part in parts] == [
        PAYLOAD[:1000], PAYLOAD[1000:2000], PAYLOAD[2000:3000], PAYLOAD[3000:],
    ]  # fmt: skip


def test_superframe_without_payload_is_one_packet() -> None:
    (part,) = finish(superframe_tcp4(b"", 1448))
    assert transport_checks(part.tobytes())


def test_ipv4_options_are_carried() -> None:
    parts = finish(superframe_tcp4(PAYLOAD, 1448, ip_options=b"\x94\x04\x00\x00"))
    assert len(parts) == 3
    assert all(transport_checks(part.tobytes()) for part in parts)


GOOD = superframe_tcp4(PAYLOAD, 1448).tobytes()


@pytest.mark.parametrize(
    "offload",
    [
        Offload(F_NEEDS_CSUM, GSO_TCPV4, 0, 0, 34, 16),  # segment size 0
        Offload(F_NEEDS_CSUM, GSO_TCPV6, 0, 1448, 34, 16),  # the other IP
        Offload(F_NEEDS_CSUM, GSO_UDP_L4, 0, 1448, 34, 6),  # another transport
        Offload(F_NEEDS_CSUM, GSO_UDP, 0, 1448, 34, 6),  # a kind that nobody cuts
        Offload(0, GSO_TCPV4, 0, 1448),  # no checksum to do
        Offload(F_NEEDS_CSUM, checksum_start=len(GOOD) - 1, checksum_offset=0),  # outside
        Offload(F_NEEDS_CSUM, checksum_start=65535, checksum_offset=65535),
    ],
)
def test_offload_that_does_not_hold_gives_nothing(offload: Offload) -> None:
    assert finish(Frame.of(GOOD, offload)) == []


def test_too_many_segments_give_nothing() -> None:
    offload = Offload(F_NEEDS_CSUM, GSO_TCPV4, 54, 1, 34, 16)
    data = superframe_tcp4(bytes(60000), 1).tobytes()
    assert finish(Frame.of(data, offload)) == []


@pytest.mark.parametrize("length", [0, 1, 13, 14, 33, 34, 41, 52, 53])
def test_cut_off_headers_give_nothing(length: int) -> None:
    offload = Offload(F_NEEDS_CSUM, GSO_TCPV4, 54, 1448, 34, 16)
    assert finish(Frame.of(GOOD[:length], offload)) == []


@given(st.binary(max_size=120), st.binary(min_size=10, max_size=10))
@example(bytes(60), struct.pack("<BBHHHH", 1, 1, 0, 8, 0, 0))
def test_no_bytes_make_it_raise(data: bytes, header: bytes) -> None:
    for part in finish(Frame.of(data, Offload.unpack(header))):
        assert part.length <= max(len(data), 2)
        assert part.offload.plain


@given(
    st.sampled_from([superframe_tcp4, superframe_tcp6, superframe_udp4]),
    st.integers(1, 3000),
    st.integers(1, 900),
    st.lists(st.tuples(st.integers(12, 60), st.integers(0, 255)), max_size=3),
)
def test_damaged_headers_do_not_make_it_raise(
    make: object, length: int, size: int, damage: list[tuple[int, int]]
) -> None:
    frame: Frame = make(PAYLOAD[:length], size)
    data = bytearray(frame.tobytes())
    for at, value in damage:
        data[at % len(data)] = value
    parts = finish(Frame.of(data, frame.offload))
    assert sum(part.length for part in parts) <= 4096 * (len(data) + 60)


@pytest.mark.parametrize("length", [0, 1, 1448, 1449, 60000])
@pytest.mark.parametrize("make", [superframe_tcp4, superframe_tcp6, superframe_udp4])
def test_a_superframe_is_weighed_as_what_it_would_be_cut_to(
    make: Callable[[bytes, int], Frame], length: int
) -> None:
    frame = make(bytes(length), 1448)
    parts = finish(frame)
    assert weigh(frame) == (len(parts), sum(part.length for part in parts))


def test_what_is_no_superframe_weighs_nothing() -> None:
    assert weigh(Frame.of(bytes(60))) == (0, 0)
    frame = superframe_tcp4(bytes(3000), 1448)
    assert weigh(Frame.of(frame.tobytes()[:40], frame.offload)) == (0, 0)
