# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The vhost-user protocol's messages as bytes (QEMU docs/interop/vhost-user.rst).

A message is a header of 12 bytes (request, flags, payload size) and a payload. Numbers are in the
host's byte order; rings need a little-endian host anyway. The front end (the machine) asks, the
back end (we) answers; descriptors travel beside the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from vmwire.bus.protocol import ProtocolError

HEADER = Struct("<III")
assert HEADER.size == 12

VERSION = 1
VERSION_MASK = 3
F_REPLY = 4
F_NEED_REPLY = 8

MAX_PAYLOAD = 4096
"""Far above the longest message that we serve (a memory table of 8 regions is 264 bytes)."""
MAX_FDS = 8

PROTOCOL_F_MQ = 1 << 0
PROTOCOL_F_LOG_SHMFD = 1 << 1
PROTOCOL_F_RARP = 1 << 2
PROTOCOL_F_REPLY_ACK = 1 << 3
PROTOCOL_F_NET_MTU = 1 << 4
PROTOCOL_F_CONFIGURE_MEM_SLOTS = 1 << 15

VRING_INDEX_MASK = 0xFF
VRING_NO_FD = 0x100
VRING_F_LOG = 1


class Request(IntEnum):
    """What a front end can ask."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38


U64 = Struct("<Q")
VRING_STATE = Struct("<II")  # ring index, number
_VRING_ADDRESS = Struct("<IIQQQQ")  # index, flags, descriptors, used, available, log
_TABLE_HEADER = Struct("<II")  # number of regions, padding
_REGION = Struct("<QQQQ")  # guest address, size, front end's address, offset in the file
_ONE_REGION = Struct("<QQQQQ")  # padding, then a region
_LOG = Struct("<QQ")  # size, offset
assert _VRING_ADDRESS.size == 40 and _REGION.size == 32


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """A piece of guest memory as the front end describes it."""

    guest_address: int
    size: int
    user_address: int
    offset: int

    def pack(self) -> bytes:
        """Return the payload of ADD_MEM_REG and REM_MEM_REG."""
        return _ONE_REGION.pack(0, self.guest_address, self.size, self.user_address, self.offset)

    @staticmethod
    def unpack(payload: bytes) -> RegionInfo:
        """Read that payload."""
        return RegionInfo(*_ONE_REGION.unpack(payload)[1:])


def pack_regions(regions: list[RegionInfo]) -> bytes:
    """Return the payload of SET_MEM_TABLE."""
    return _TABLE_HEADER.pack(len(regions), 0) + b"".join(
        _REGION.pack(region.guest_address, region.size, region.user_address, region.offset)
        for region in regions
    )


def unpack_regions(payload: bytes) -> list[RegionInfo]:
    """Read that payload. Raises ``ProtocolError`` if its count and its size disagree."""
    if len(payload) < _TABLE_HEADER.size:
        raise ProtocolError("a memory table without a header")
    count, _ = _TABLE_HEADER.unpack_from(payload)
    table = payload[_TABLE_HEADER.size :]
    # QEMU sends exactly its regions, others always the room for eight of them
    if count > MAX_FDS or len(table) < count * _REGION.size:
        raise ProtocolError(f"{count} regions in {len(table)} bytes of memory table")
    return [RegionInfo(*_REGION.unpack_from(table, index * _REGION.size)) for index in range(count)]


@dataclass(frozen=True, slots=True)
class RingAddresses:
    """Where a ring lies, in the front end's addresses; ``log`` is a guest address."""

    index: int
    flags: int
    descriptors: int
    used: int
    available: int
    log: int

    def pack(self) -> bytes:
        """Return the payload of SET_VRING_ADDR."""
        return _VRING_ADDRESS.pack(
            self.index, self.flags, self.descriptors, self.used, self.available, self.log
        )

    @staticmethod
    def unpack(payload: bytes) -> RingAddresses:
        """Read that payload."""
        return RingAddresses(*_VRING_ADDRESS.unpack(payload))


@dataclass(frozen=True, slots=True)
class LogInfo:
    """The dirty log's place in its file."""

    size: int
    offset: int

    def pack(self) -> bytes:
        """Return the payload of SET_LOG_BASE."""
        return _LOG.pack(self.size, self.offset)

    @staticmethod
    def unpack(payload: bytes) -> LogInfo:
        """Read that payload."""
        return LogInfo(*_LOG.unpack(payload))


@dataclass(frozen=True, slots=True)
class Header:
    """The first twelve bytes of a message."""

    request: int
    flags: int
    size: int

    @staticmethod
    def unpack(data: bytes | bytearray) -> Header:
        """Read a header. Raises ``ProtocolError`` for one that no body can be read after."""
        header = Header(*HEADER.unpack_from(data))
        if header.flags & VERSION_MASK != VERSION:
            raise ProtocolError(f"version {header.flags & VERSION_MASK} of the protocol")
        if header.size > MAX_PAYLOAD:
            raise ProtocolError(f"a payload of {header.size} bytes")
        return header

    @property
    def needs_reply(self) -> bool:
        """Whether an acknowledgement is wanted (where REPLY_ACK was negotiated)."""
        return bool(self.flags & F_NEED_REPLY)


def pack_message(request: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """Return a whole message."""
    return HEADER.pack(request, VERSION | flags, len(payload)) + payload


def request_name(request: int) -> str:
    """Name a request, also one that nobody knows."""
    try:
        return Request(request).name
    except ValueError:
        return f"request {request}"
