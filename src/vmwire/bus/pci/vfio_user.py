# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The vfio-user protocol's messages as bytes (QEMU docs/interop/vfio-user.rst, linux/vfio.h).

A message is a header of 16 bytes (message id, command, size of it all, flags, error) and a payload.
Both sides may ask; a reply carries its request's id. Descriptors travel beside the bytes. Numbers
are in the host's byte order; a PCI bus wants little-endian ones anyway.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Any

HEADER = Struct("<HHIII")
assert HEADER.size == 16

TYPE_MASK = 0xF
TYPE_COMMAND = 0
TYPE_REPLY = 1
F_NO_REPLY = 0x10
F_ERROR = 0x20

MAX_DATA = 1 << 20
"""Bytes of data in one message, where a side doesn't say otherwise."""
MAX_MESSAGE = MAX_DATA + 4096
MAX_FDS = 16
MAX_MAPS = 1024
PAGE_SIZES = 4096


class Command(IntEnum):
    """What a message asks for."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


def command_name(number: int) -> str:
    """Return a command's name, or its number.

    >>> command_name(9), command_name(99)
    ('REGION_READ', 'command 99')
    """
    try:
        return Command(number).name
    except ValueError:
        return f"command {number}"


VERSION = Struct("<HH")  # major, minor; then JSON with a closing zero
DMA_MAP = Struct("<IIQQQ")  # argsz, flags, offset, address, size
DMA_UNMAP = Struct("<IIQQ")  # argsz, flags, address, size
DEVICE_INFO = Struct("<IIII")  # argsz, flags, regions, interrupts
REGION_INFO = Struct("<IIIIQQ")  # argsz, flags, index, capability offset, size, offset
REGION_IO_FDS = Struct("<IIII")  # argsz, flags, index, count
IRQ_INFO = Struct("<IIII")  # argsz, flags, index, count
IRQ_SET = Struct("<IIIII")  # argsz, flags, index, start, count; then data
REGION_ACCESS = Struct("<QII")  # offset, region, count; then data
DMA_ACCESS = Struct("<QQ")  # address, count; then data
FEATURE = Struct("<II")  # argsz, flags; then data
MIG_DATA = Struct("<II")  # argsz, size; then data

READ_MESSAGE = Struct("<HHIIIQII")
"""A whole REGION_READ, and all but the data of a reply to it."""
WRITE_MESSAGE = Struct("<HHIIIQIII")
"""A whole REGION_WRITE of four bytes."""
assert READ_MESSAGE.size == 32 and WRITE_MESSAGE.size == 36

DMA_READABLE, DMA_WRITABLE = 1, 2
DMA_UNMAP_ALL = 2

DEVICE_FLAGS_RESET, DEVICE_FLAGS_PCI = 1, 2
REGION_FLAG_READ, REGION_FLAG_WRITE = 1, 2
NUM_REGIONS = 9
BAR0, ROM, CONFIG, VGA = 0, 6, 7, 8

IRQ_EVENTFD, IRQ_MASKABLE, IRQ_AUTOMASKED, IRQ_NORESIZE = 1, 2, 4, 8
NUM_IRQS = 5
INTX, MSI, MSIX, ERR, REQ = range(NUM_IRQS)

DATA_NONE, DATA_BOOL, DATA_EVENTFD = 1, 2, 4
ACTION_MASK, ACTION_UNMASK, ACTION_TRIGGER = 8, 16, 32
DATA_TYPES = (DATA_NONE, DATA_BOOL, DATA_EVENTFD)
ACTIONS = (ACTION_MASK, ACTION_UNMASK, ACTION_TRIGGER)

FEATURE_MASK = 0xFFFF
FEATURE_GET, FEATURE_SET, FEATURE_PROBE = 1 << 16, 1 << 17, 1 << 18


@dataclass(frozen=True, slots=True)
class Header:
    """A message's header. ``size`` counts it, too."""

    message_id: int
    command: int
    size: int
    flags: int = TYPE_COMMAND
    error: int = 0

    @property
    def type(self) -> int:
        return self.flags & TYPE_MASK

    @staticmethod
    def unpack(data: bytes) -> Header:
        """Read the header at the front of ``data``."""
        return Header(*HEADER.unpack_from(data))


def pack_message(
    message_id: int, command: int, payload: bytes = b"", flags: int = TYPE_COMMAND, error: int = 0
) -> bytes:
    """Make a whole message.

    >>> pack_message(7, Command.DEVICE_RESET).hex()
    '07000d00100000000000000000000000'
    """
    return HEADER.pack(message_id, command, HEADER.size + len(payload), flags, error) + payload


def pack_version(major: int, minor: int, capabilities: dict[str, Any] | None) -> bytes:
    """Make the payload of a VERSION message."""
    data = b""
    if capabilities is not None:
        data = json.dumps({"capabilities": capabilities}).encode() + b"\0"
    return VERSION.pack(major, minor) + data


def unpack_version(payload: bytes) -> tuple[int, int, dict[str, Any]]:
    """Read a VERSION message: major, minor, capabilities. ValueError if it isn't one."""
    if len(payload) < VERSION.size:
        raise ValueError(f"a version of {len(payload)} bytes")
    major, minor = VERSION.unpack_from(payload)
    data = payload[VERSION.size :]
    if not data:
        return major, minor, {}
    if data[-1] != 0:
        raise ValueError("version data without a closing zero")
    try:
        said = json.loads(data.rstrip(b"\0").decode() or "{}")
    except RecursionError:
        raise ValueError("version data nested too deeply") from None
    capabilities = said.get("capabilities", {}) if isinstance(said, dict) else None
    if not isinstance(capabilities, dict):
        raise ValueError("version data that is no object")
    return major, minor, capabilities
