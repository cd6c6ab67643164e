# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Reading datagrams off the host's UDP sockets, many at a time.

Theory of operation. One ``recvmmsg`` takes up to 64 datagrams. Each has two places: a slot of
``stride`` bytes in the *arena*, and a spill area for what is longer. The stride of a socket follows
the size of what it receives: a stream of equal datagrams then lies in the arena without gaps, and
is one *run*, which can go to a guest as one superframe without being touched. With ``UDP_GRO`` the
kernel itself may hand over such a run as one long message.

``PlainReader`` does the same by the standard library alone: for machines whose structures look
different (it is also what the tests compare with).

What is read lies in the reader's memory until the next read.
"""

from __future__ import annotations

import mmap
import socket
import sys
from array import array
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from vmwire.netdev import mmsg
from vmwire.netdev.mmsg import (
    CONTROL_HEADER,
    CONTROL_LENGTH_WORD,
    LENGTH_WORD,
    MMSGHDR,
    SOL_UDP,
    UDP_GRO,
    WORDS,
)
from vmwire.wire.frame import View

IP_PKTINFO = 8

MAX_SEGMENTS = 64
"""Datagrams of one run at most: what older kernels take in one superframe."""
MAX_RUN = 65507
"""Bytes of a run: what fits into one IPv4 packet."""

MESSAGES = 64
"""Datagrams taken by one call."""
HEADERS = 42
"""Ethernet, IPv4 and UDP headers: room for them is kept in front of the first datagram."""
FRONT = 64
ARENA = 512 << 10
SPILL = 64 << 10
FIRST_STRIDE = 2048
LARGEST = 65535
STEADY = 8
"""So many equal datagrams in one call are a stream that is worth an own stride."""

CONTROL = 64
NAME = 16

MAX_LAYOUTS = 64


class Run(NamedTuple):
    """Datagrams of one size from one peer; the last may be shorter."""

    port: int
    peer: bytes
    local: bytes
    """The address of the host that they came to, if that was asked for."""
    size: int
    payload: View
    framed: View | None
    """The payload with ``HEADERS`` bytes to be filled in front of it, where there is room."""


class Reader(Protocol):
    """Something that takes datagrams off sockets."""

    def read(self, sock: socket.socket, stride: int) -> tuple[Sequence[Run], int]:
        """Read what is there, up to a bound; return it and the stride for the next time.

        Raises ``OSError`` for the socket's own errors.
        """


def reader() -> Reader:
    """Return the best reader for this machine."""
    return BatchReader() if mmsg.POSSIBLE else PlainReader()


def ask_for_runs(sock: socket.socket) -> None:
    """Let the kernel put equal datagrams together (Linux 5.0); they come singly elsewhere."""
    try:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    except OSError:
        pass


def ask_for_local_address(sock: socket.socket) -> None:
    """Have each datagram tell which address of the host it came to."""
    sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


class BatchReader:
    """Reads by ``recvmmsg`` through ctypes."""

    def __init__(self) -> None:
        self._recvmmsg = mmsg.receiver()
        memory = mmap.mmap(-1, FRONT + ARENA + MESSAGES * SPILL)
        self._memory = memoryview(memory)
        self._base = mmsg.address(memory)
        self._names = bytearray(MESSAGES * NAME)
        self._controls = bytearray(MESSAGES * CONTROL)
        self._vectors = bytearray(MESSAGES * 32)
        self._headers = bytearray(self._make_headers())
        self._headers_at = mmsg.address(self._headers)
        self._clean = bytes(self._headers)
        self._words = memoryview(self._headers).cast("I")
        self._layouts: dict[int, bytes] = {}
        self._stride = 0

    def _make_headers(self) -> bytes:
        names, vectors, controls = map(mmsg.address, (self._names, self._vectors, self._controls))
        return b"".join(
            MMSGHDR.pack(
                names + i * NAME, NAME, vectors + i * 32, 2, controls + i * CONTROL, CONTROL, 0, 0
            )
            for i in range(MESSAGES)
        )

    def read(self, sock: socket.socket, stride: int) -> tuple[Sequence[Run], int]:
        """See ``Reader``."""
        if stride != self._stride:
            self._lay_out(stride)
        limit = min(MESSAGES, ARENA // stride)
        count = self._recvmmsg(sock, self._headers_at, limit)
        if not count:
            return (), stride
        words = self._words
        lengths = words[LENGTH_WORD : WORDS * count : WORDS].tolist()
        controls = words[CONTROL_LENGTH_WORD : WORDS * count : WORDS].tolist()
        runs = self._whole_run(stride, lengths, controls) or self._runs(stride, lengths, controls)
        used = count * MMSGHDR.size
        self._headers[:used] = self._clean[:used]
        return runs, _next_stride(stride, lengths)

    def _lay_out(self, stride: int) -> None:
        """Put the slots ``stride`` bytes apart."""
        layout = self._layouts.get(stride)
        if layout is None:
            arena, spill = self._base + FRONT, self._base + FRONT + ARENA
            numbers = array("Q")
            for i in range(min(MESSAGES, ARENA // stride)):
                numbers.extend((arena + i * stride, stride, spill + i * SPILL, SPILL))
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[stride] = numbers.tobytes()
        self._vectors[: len(layout)] = layout
        self._stride = stride

    def _whole_run(
        self, stride: int, lengths: list[int], controls: list[int]
    ) -> Sequence[Run] | None:
        """All that was read as one run, if it is one; found without a loop."""
        count = len(lengths)
        size = lengths[0]
        names = self._names
        if count > 1 and (size != stride or lengths.count(size) != count):
            return None
        if size > stride or names[: count * NAME] != names[:NAME] * count:
            return None
        local, segment = b"", 0
        if any(controls):
            if controls.count(controls[0]) != count:
                return None
            if self._controls[: count * CONTROL] != self._controls[:CONTROL] * count:
                return None
            local, segment = self._parse_control(0, controls[0])
            if segment and count > 1:
                return None
        total = size * count
        framed = self._memory[FRONT - HEADERS : FRONT + total]
        port, peer = _name(names, 0)
        return (Run(port, peer, local, segment or size, framed[HEADERS:], framed),)

    def _runs(self, stride: int, lengths: list[int], controls: list[int]) -> list[Run]:
        """What was read, neighbours that are alike put together."""
        runs: list[Run] = []
        start = FRONT
        alike: tuple[object, ...] | None = None
        for i, length in enumerate(lengths):
            port, peer = _name(self._names, i)
            local, segment = self._parse_control(i, controls[i])
            at = FRONT + i * stride
            mark = (port, peer, local) if length == stride and not segment else None
            if mark is not None and mark == alike:
                payload = self._memory[start : at + length]
                runs[-1] = Run(port, peer, local, length, payload, None)
                continue
            alike, start = mark, at
            payload = self._memory[at : at + length]
            if length > stride:
                payload = self._with_spill(i, stride, length)
            runs.append(Run(port, peer, local, segment or length, payload, None))
        return runs

    def _with_spill(self, index: int, stride: int, length: int) -> View:
        at, spill = FRONT + index * stride, FRONT + ARENA + index * SPILL
        memory = self._memory
        rest = memory[spill : spill + length - stride]
        return memoryview(b"".join((memory[at : at + stride], rest)))

    def _parse_control(self, index: int, length: int) -> tuple[bytes, int]:
        """Return (local address, segment size) out of a message's control data."""
        local, segment = b"", 0
        at = index * CONTROL
        end = at + min(length, CONTROL)
        controls = self._controls
        while at + CONTROL_HEADER.size <= end:
            size, level, kind = CONTROL_HEADER.unpack_from(controls, at)
            data = controls[at + CONTROL_HEADER.size : at + size]
            local, segment = _control(level, kind, data, local, segment)
            at += max(CONTROL_HEADER.size, size + 7 & ~7)
        return local, segment


class PlainReader:
    """Reads by ``recvmsg``, one datagram a call."""

    def read(self, sock: socket.socket, stride: int) -> tuple[Sequence[Run], int]:
        """See ``Reader``."""
        runs: list[Run] = []
        while len(runs) < MESSAGES // 2:
            try:
                data, ancillary, _, (host, port) = sock.recvmsg(
                    LARGEST, CONTROL, socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                break
            except OSError:
                if runs:
                    break  # it comes again
                raise
            local, segment = b"", 0
            for level, kind, value in ancillary:
                local, segment = _control(level, kind, value, local, segment)
            peer = socket.inet_aton(host)
            runs.append(Run(port, peer, local, segment or len(data), memoryview(data), None))
        return runs, stride


def _control(
    level: int, kind: int, data: bytes | bytearray, local: bytes, segment: int
) -> tuple[bytes, int]:
    """Take one piece of control data into (local address, segment size)."""
    if level == SOL_UDP and kind == UDP_GRO:
        return local, int.from_bytes(data[:4], sys.byteorder)
    if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
        return bytes(data[4:8]), segment
    return local, segment


def _name(names: bytearray, index: int) -> tuple[int, bytes]:
    at = index * NAME
    return names[at + 2] << 8 | names[at + 3], bytes(names[at + 4 : at + 8])


def _next_stride(stride: int, lengths: list[int]) -> int:
    """Follow a stream of equal datagrams; make room for what spilled."""
    longest = max(lengths)
    if len(lengths) >= STEADY and longest and lengths.count(longest) == len(lengths):
        return longest
    if longest > stride:
        return min(-(-longest // FIRST_STRIDE) * FIRST_STRIDE, SPILL)
    return stride
