# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Many datagrams by one system call: recvmmsg(2) and sendmmsg(2), called in the C library.

Their structures are laid out by hand, as 64-bit little-endian Linux has them (``POSSIBLE``).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import sys
from collections.abc import Callable
from struct import Struct, calcsize

POSSIBLE = sys.byteorder == "little" and calcsize("P") == 8 and sys.platform == "linux"
"""Whether this machine's structures are those that are known here."""

SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104

MMSGHDR = Struct("=QI4xQQQQI4xI4x")
"""struct mmsghdr: name and its length, vectors and their number, control and its length, flags,
bytes received."""
assert MMSGHDR.size == 64
WORDS = MMSGHDR.size // 4
CONTROL_LENGTH_WORD = 10
LENGTH_WORD = 14
CONTROL_HEADER = Struct("=QII")
"""struct cmsghdr: length, level, type."""

Call = Callable[[socket.socket, int, int], int]


def _bound(name: str, *more: object) -> Call:
    """The C library's ``name(fd, headers, count, flags)``: how many datagrams went or came, 0 when
    none can now (an exception would cost a microsecond); raises ``OSError``."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    arguments = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]
    function.argtypes = (*arguments, *(ctypes.c_void_p for _ in more))
    get_errno, dont_wait = ctypes.get_errno, socket.MSG_DONTWAIT

    def call(sock: socket.socket, headers: int, count: int) -> int:
        done: int = function(sock.fileno(), headers, count, dont_wait, *more)
        if done >= 0:
            return done
        number = get_errno()
        if number in (errno.EAGAIN, errno.EINTR):
            return 0
        raise OSError(number, os.strerror(number))

    return call


def receiver() -> Call:
    """recvmmsg(socket, address of headers, count)."""
    return _bound("recvmmsg", None)


def sender() -> Call:
    """sendmmsg(socket, address of headers, count)."""
    return _bound("sendmmsg")


def address(buffer: bytearray | mmap.mmap) -> int:
    """Return where a buffer lies. Whoever asks keeps the buffer, at its size."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
