# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The codec against literal bytes, partly as QEMU was heard to send them."""

from __future__ import annotations

import pytest

from vmwire.bus.protocol import ProtocolError
from vmwire.bus.virtio.vhost_user import (
    F_NEED_REPLY,
    F_REPLY,
    Header,
    LogInfo,
    RegionInfo,
    Request,
    RingAddresses,
    pack_message,
    pack_regions,
    request_name,
    unpack_regions,
)

LOW = RegionInfo(0, 0xC0000, 0x7F0000000000, 0)
HIGH = RegionInfo(0x100000000, 0x40000000, 0x7F00C0000000, 0xC0000000)


def test_a_message_is_a_header_and_a_payload() -> None:
    assert pack_message(Request.GET_FEATURES) == bytes.fromhex("01000000 01000000 00000000")
    assert pack_message(Request.SET_VRING_NUM, b"12345678", F_NEED_REPLY) == bytes.fromhex(
        "08000000 09000000 08000000 3132333435363738"
    )
    assert pack_message(Request.GET_FEATURES, b"", F_REPLY)[4] == 5


def test_a_header_is_read_back() -> None:
    header = Header.unpack(bytes.fromhex("0d000000 09000000 08000000"))
    assert header == Header(Request.SET_VRING_CALL, 9, 8)
    assert header.needs_reply
    assert not Header.unpack(bytes.fromhex("0d000000 01000000 08000000")).needs_reply


@pytest.mark.parametrize(
    "data",
    [
        "01000000 00000000 00000000",
        "01000000 02000000 00000000",
        "01000000 01000000 01100000",
        "01000000 01000000 ffffffff",
    ],
)
def test_a_header_that_nothing_can_follow_is_refused(data: str) -> None:
    with pytest.raises(ProtocolError):
        Header.unpack(bytes.fromhex(data))


def test_a_memory_table_is_its_regions() -> None:
    table = pack_regions([LOW, HIGH])
    assert table == bytes.fromhex(
        "02000000 00000000"
        "0000000000000000 00000c0000000000 00000000007f0000 0000000000000000"
        "0000000001000000 0000004000000000 000000c0007f0000 000000c000000000"
    )
    assert unpack_regions(table) == [LOW, HIGH]
    assert unpack_regions(table + bytes(6 * 32)) == [LOW, HIGH]
    assert unpack_regions(bytes(8)) == []


@pytest.mark.parametrize(
    "table",
    [b"", bytes(7), b"\1" + bytes(38), b"\x09" + bytes(7 + 9 * 32), b"\xff" * 8 + bytes(32)],
)
def test_a_memory_table_that_counts_wrong_is_refused(table: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack_regions(table)


def test_a_single_region_is_padded() -> None:
    assert LOW.pack() == bytes(8) + pack_regions([LOW])[8:]
    assert RegionInfo.unpack(HIGH.pack()) == HIGH


def test_ring_addresses_and_logs_are_read_back() -> None:
    ring = RingAddresses(1, 1, 0x10, 0x20, 0x30, 0x40)
    assert ring.pack() == bytes.fromhex(
        "01000000 01000000 1000000000000000 2000000000000000 3000000000000000 4000000000000000"
    )
    assert RingAddresses.unpack(ring.pack()) == ring
    assert LogInfo.unpack(LogInfo(64, 4096).pack()) == LogInfo(64, 4096)


def test_requests_have_names_known_or_not() -> None:
    assert request_name(1) == "GET_FEATURES"
    assert request_name(99) == "request 99"
