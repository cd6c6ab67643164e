# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the receiver takes for headers, and what it doesn't."""

from __future__ import annotations

import random

import pytest

from tests.nic.e1000.card import packet
from vmwire.nic.e1000e.headers import IPV4, IPV6, TCP, UDP, Headers, is_acknowledgement, parse


@pytest.mark.parametrize("vlan", [False, True])
@pytest.mark.parametrize(
    ("version", "protocol", "transport", "end"),
    [(4, 6, 34, 54), (4, 17, 34, 42), (6, 6, 54, 74), (6, 17, 54, 62)],
)
def test_headers_of_a_packet(
    version: int, protocol: int, transport: int, end: int, vlan: bool
) -> None:
    found = parse(packet(version, protocol, b"x" * 40, vlan=vlan))
    more = 4 if vlan else 0
    assert found == Headers(version, 14 + more, transport + more, protocol, end + more)


def changed(version: int, protocol: int, *changes: tuple[int, int]) -> bytes:
    data = bytearray(packet(version, protocol, b"x" * 40))
    for at, value in changes:
        data[at] = value
    return bytes(data)


def test_fragments_end_with_their_ip_header() -> None:
    found = parse(changed(4, 17, (20, 0x20)))
    assert (found.fragment, found.protocol, found.end) == (True, 0, 34)
    found = parse(changed(6, 17, (20, 44)))
    assert (found.fragment, found.protocol, found.end) == (True, 0, 54)


def test_extension_headers_are_followed_where_they_may() -> None:
    data = changed(6, 17, (20, 60), (54, TCP), (55, 0))  # eight bytes of options, then TCP
    data = data[:62] + packet(6, 6, b"y" * 40)[54:]
    length = len(data) - 54
    data = data[:18] + length.to_bytes(2, "big") + data[20:]
    assert parse(data) == Headers(IPV6, 14, 62, TCP, 82, extended=True)
    assert parse(data, extensions=False).protocol == 0


@pytest.mark.parametrize(
    "data",
    [
        changed(4, 6, (14, 0x44)),  # header shorter than it can be
        changed(4, 6, (14, 0x65)),  # another version
        changed(4, 6, (16, 0xFF)),  # longer than the frame
        changed(6, 6, (18, 0xFF)),
        packet(4, 6, b"")[:30],
        bytes(60),
    ],
)
def test_nonsense_is_no_ip(data: bytes) -> None:
    assert parse(data) == Headers()


@pytest.mark.parametrize("offset", [0x00, 0x40, 0xF0])
def test_tcp_whose_header_length_lies_is_none(offset: int) -> None:
    data = bytearray(packet(4, 6, b"x" * 39))
    data[46] = offset
    assert parse(bytes(data)).protocol == 0


def test_extension_headers_that_lie_end_the_search() -> None:
    for kind in (0, 43, 60):
        found = parse(changed(6, 6, (20, kind), (54, kind), (55, 255)))
        assert found.protocol == 0
        assert found.end <= len(packet(6, 6, b"x" * 40))


def test_no_bytes_at_all_make_it_stumble() -> None:
    chance = random.Random(1)
    for _ in range(3000):
        data = bytearray(chance.randbytes(chance.randrange(18, 90)))
        data[12:14] = chance.choice((b"\x08\x00", b"\x86\xdd", b"\x81\x00"))
        data[14] = chance.choice((0x45, 0x4F, 0x60))
        found = parse(bytes(data))
        assert found.end <= len(data)
        if found.protocol:
            assert found.protocol in (TCP, UDP) and found.version in (IPV4, IPV6)


@pytest.mark.parametrize(
    ("payload", "flags", "with_data", "is_one"),
    [
        (b"", 0x10, False, True),
        (b"", 0x10, True, True),
        (b"data", 0x10, False, False),
        (b"data", 0x10, True, True),
        (b"", 0x12, True, False),
        (b"", 0x11, True, False),
    ],
)
def test_acknowledgements(payload: bytes, flags: int, with_data: bool, is_one: bool) -> None:
    data = bytearray(packet(4, 6, payload))
    data[47] = flags
    assert is_acknowledgement(bytes(data), parse(bytes(data)), with_data) is is_one


def test_datagrams_acknowledge_nothing() -> None:
    data = packet(4, 17, b"")
    assert not is_acknowledgement(data, parse(data), True)
