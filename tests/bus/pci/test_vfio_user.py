# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The codec against literal bytes, partly as QEMU was heard to send them."""

from __future__ import annotations

import pytest

from vmwire.bus.pci.vfio_user import (
    DMA_MAP,
    F_ERROR,
    F_NO_REPLY,
    READ_MESSAGE,
    TYPE_REPLY,
    WRITE_MESSAGE,
    Command,
    Header,
    command_name,
    pack_message,
    pack_version,
    unpack_version,
)


def test_a_message_is_a_header_and_a_payload() -> None:
    assert pack_message(1, Command.DEVICE_RESET) == bytes.fromhex(
        "0100 0d00 10000000 00000000 00000000"
    )
    assert pack_message(0x1234, Command.VERSION, b"data", F_NO_REPLY) == bytes.fromhex(
        "3412 0100 14000000 10000000 00000000 64617461"
    )
    assert pack_message(2, 99, b"", TYPE_REPLY | F_ERROR, 22) == bytes.fromhex(
        "0200 6300 10000000 21000000 16000000"
    )


def test_a_header_is_read_back() -> None:
    header = Header.unpack(bytes.fromhex("3412 0900 20000000 21000000 16000000 ffff"))
    assert header == Header(0x1234, Command.REGION_READ, 32, TYPE_REPLY | F_ERROR, 22)
    assert header.type == TYPE_REPLY


def test_a_window_of_memory_is_these_bytes() -> None:
    assert DMA_MAP.pack(32, 3, 0, 0x100000, 0xFF00000) == bytes.fromhex(
        "20000000 03000000 0000000000000000 0000100000000000 0000f00f00000000"
    )


def test_whole_register_accesses_are_read_in_one_go() -> None:
    read = bytes.fromhex("0500 0900 20000000 00000000 00000000 c000000000000000 00000000 04000000")
    assert READ_MESSAGE.unpack(read) == (5, 9, 32, 0, 0, 0xC0, 0, 4)
    write = bytes.fromhex(
        "0600 0a00 24000000 10000000 00000000 d800000000000000 00000000 04000000 ffffffff"
    )
    assert WRITE_MESSAGE.unpack(write) == (6, 10, 36, 16, 0, 0xD8, 0, 4, 0xFFFFFFFF)


def test_a_version_is_two_numbers_and_perhaps_json() -> None:
    assert pack_version(0, 1, None) == b"\0\0\1\0"
    assert pack_version(0, 0, {"max_msg_fds": 8}) == (
        b'\0\0\0\0{"capabilities": {"max_msg_fds": 8}}\0'
    )
    assert unpack_version(b"\0\0\1\0") == (0, 1, {})
    assert unpack_version(b"\0\0\0\0\0") == (0, 0, {})
    assert unpack_version(b"\0\0\0\0{}\0") == (0, 0, {})
    assert unpack_version(b'\1\0\2\0{"capabilities":{"a":1}}\0') == (1, 2, {"a": 1})


@pytest.mark.parametrize(
    "payload", [b"", b"\0\0\0", b"\0\0\0\0{}", b"\0\0\0\0[]\0", b"\0\0\0\0{\0", b"\0\0\0\0\xff\0"]
)
def test_a_version_that_is_none_is_a_value_error(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack_version(payload)


def test_unknown_commands_have_a_name_too() -> None:
    assert command_name(2) == "DMA_MAP"
    assert command_name(14) == "command 14"
