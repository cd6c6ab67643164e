# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Datagrams many at a time: read by one call, and sent by one.

Theory of operation. *Reading* (``Intake``): one ``recvmmsg`` fills up to ``MESSAGES`` slots. With
UDP the kernel may put equal datagrams that came together into one message, and says how long each
is (``UDP_GRO``); they are told apart here. *Sending*: over UDP, frames of one length that follow
each other go to the kernel as one piece, which it cuts (``UDP_SEGMENT``, ``Segments``): it passes
the network stack once. That works for what fits the path's MTU; longer ones, frames that differ,
and those over IP itself go by ``sendmmsg`` (``Messages``), which copies them but saves calls.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from itertools import islice
from struct import Struct
from typing import Protocol

from vmwire.netdev import mmsg
from vmwire.wire.frame import Frame, View

MESSAGES = 64
SLOT_BYTES = 0x11000
CONTROL_BYTES = 32
ASK_FOR_MORE = 8
"""Reads of one datagram before more are asked for: that costs more than it brings while they come
one by one."""
PIECES = (mmsg.SOL_UDP, mmsg.UDP_GRO)

MOST_SEGMENTS = 64
"""What older kernels take in one piece."""
MOST_PARTS = 1000
"""Vectors of one call (the kernel takes 1024)."""
PIECE_BYTES = 65507
ARENA_BYTES = 256 << 10
SEGMENT = Struct("=H")
NOT_IN_PIECES = (errno.EINVAL, errno.EMSGSIZE, errno.EIO)
"""What the kernel says of pieces whose datagrams exceed the MTU, or of devices that can't."""


class Headers(Protocol):
    """What goes in front of frames."""

    length: int

    def ahead(self, count: int) -> Sequence[bytes]:
        """Return the headers of the next frames."""

    def passed(self, count: int) -> None:
        """So many of them were sent."""


class _NoHeaders:
    """Frames as they are."""

    length = 0

    def ahead(self, count: int) -> Sequence[bytes]:
        return [b""] * count

    def passed(self, count: int) -> None:
        """There is nothing to count."""


NO_HEADERS = _NoHeaders()


class Intake:
    """Reads a socket's datagrams. What is read lies in the slots until the next read."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._receive = mmsg.receiver()
        if sock.type == socket.SOCK_DGRAM:
            _ask_for_pieces(sock)
        arena = bytearray(MESSAGES * SLOT_BYTES)
        whole = memoryview(arena)
        self._slots = [whole[i * SLOT_BYTES : (i + 1) * SLOT_BYTES] for i in range(MESSAGES)]
        self._controls = bytearray(MESSAGES * CONTROL_BYTES)
        base, controls = mmsg.address(arena), mmsg.address(self._controls)
        self._vectors = _Vectors()
        for i in range(MESSAGES):
            self._vectors.set(i, base + i * SLOT_BYTES, SLOT_BYTES)
        self._headers = _headers(self._vectors, controls)
        self._headers_at = mmsg.address(self._headers)
        self._clean = bytes(self._headers)
        self._words = memoryview(self._headers).cast("I")
        self._in_bursts = True
        self._reads = 0

    def read(self) -> tuple[list[View], bool]:
        """Return what came, and whether there may be more; raises ``OSError``."""
        self._reads += 1
        if self._in_bursts or not self._reads % ASK_FOR_MORE:
            found, more = self._read_many()
        else:
            found, more = self._read_one(), False
        self._in_bursts = len(found) > 1
        return found, more

    def _read_one(self) -> list[View]:
        slot = self._slots[0]
        try:
            length, controls, _, _ = self._socket.recvmsg_into((slot,), CONTROL_BYTES)
        except BlockingIOError:
            return []
        size = 0
        for level, kind, data in controls:
            if (level, kind) == PIECES:
                size = int.from_bytes(data, "little")
        return _apart(slot[:length], size)

    def _read_many(self) -> tuple[list[View], bool]:
        count = self._receive(self._socket, self._headers_at, MESSAGES)
        if not count:
            return [], False
        words, end = self._words, mmsg.WORDS * count
        lengths = words[mmsg.LENGTH_WORD : end : mmsg.WORDS].tolist()
        told = words[mmsg.CONTROL_LENGTH_WORD : end : mmsg.WORDS].tolist()
        if any(told):
            found = self._cut(lengths, told)
        else:
            found = [slot[:length] for slot, length in zip(self._slots, lengths, strict=False)]
        used = count * mmsg.MMSGHDR.size
        self._headers[:used] = self._clean[:used]
        return found, count == MESSAGES

    def _cut(self, lengths: list[int], told: list[int]) -> list[View]:
        """Tell apart what the kernel put together."""
        found: list[View] = []
        for i, (slot, length) in enumerate(zip(self._slots, lengths, strict=False)):
            found += _apart(slot[:length], self._segment(i) if told[i] else 0)
        return found

    def _segment(self, index: int) -> int:
        """The size of the datagrams in a message; 0 if it is a single one."""
        at = index * CONTROL_BYTES
        _, level, kind = mmsg.CONTROL_HEADER.unpack_from(self._controls, at)
        if (level, kind) != PIECES:
            return 0
        at += mmsg.CONTROL_HEADER.size
        return int.from_bytes(self._controls[at : at + 4], "little")


def _apart(message: View, size: int) -> list[View]:
    """The datagrams of ``size`` bytes in a message; 0 if it is one datagram."""
    length = len(message)
    if not 0 < size < length:
        return [message]
    return [message[at : at + size] for at in range(0, length, size)]


class Messages:
    """Sends frames by ``sendmmsg``, each behind a header."""

    def __init__(self, sock: socket.socket, headers: Headers) -> None:
        self._socket = sock
        self._before = headers
        self._send = mmsg.sender()
        self._arena = bytearray(ARENA_BYTES)
        self._view = memoryview(self._arena)
        self._base = mmsg.address(self._arena)
        self._vectors = _Vectors()
        self._headers = _headers(self._vectors)
        self._headers_at = mmsg.address(self._headers)

    def send(self, frames: Sequence[Frame], start: int) -> int:
        """Send plain frames from ``start`` on, as many as go at once; return how many went.

        Raises ``OSError`` about the first.
        """
        view, base, put = self._view, self._base, self._vectors.set
        at = count = 0
        batch = frames[start : start + MESSAGES]
        for frame, header in zip(batch, self._before.ahead(len(batch)), strict=True):
            end = at + len(header) + frame.length
            if end > ARENA_BYTES or not frame.offload.plain:
                break
            view[at:end] = b"".join((header, *frame.views))
            put(count, base + at, end - at)
            at = end
            count += 1
        sent = self._send_once_more(count)
        if not sent:
            raise BlockingIOError(errno.EAGAIN, "the queue is full")
        self._before.passed(sent)
        return sent

    def _send_once_more(self, count: int) -> int:
        try:
            return self._send(self._socket, self._headers_at, count)
        except ConnectionRefusedError:  # said of an earlier one: the peer may be there by now
            return self._send(self._socket, self._headers_at, count)


class Segments:
    """Sends frames over a connected UDP socket in pieces that the kernel cuts."""

    def __init__(self, sock: socket.socket, headers: Headers) -> None:
        self._sendmsg = sock.sendmsg
        self._before = headers
        self._others = Messages(sock, headers)
        self._too_long = PIECE_BYTES // 2
        """Datagrams of this length and above don't go in pieces."""

    def send(self, frames: Sequence[Frame], start: int) -> int:
        """As ``Messages.send``."""
        size = frames[start].length + self._before.length
        count = self._alike(frames, start, size) if size < self._too_long else 1
        if count == 1:
            return self._others.send(frames, start)
        parts: list[bytes | View] = []
        batch = frames[start : start + count]
        for frame, header in zip(batch, self._before.ahead(count), strict=True):
            parts.append(header)
            parts += frame.views
        try:
            self._send_once_more(parts, SEGMENT.pack(size))
        except OSError as error:
            if error.errno not in NOT_IN_PIECES:
                raise
            self._too_long = size
            return self._others.send(frames, start)
        self._before.passed(count)
        return count

    def _send_once_more(self, parts: list[bytes | View], size: bytes) -> None:
        control = ((mmsg.SOL_UDP, mmsg.UDP_SEGMENT, size),)
        try:
            self._sendmsg(parts, control)
        except ConnectionRefusedError:  # as above
            self._sendmsg(parts, control)

    def _alike(self, frames: Sequence[Frame], start: int, size: int) -> int:
        """How many frames from ``start`` on make one piece: all as long as the first, but for the
        last, which may be shorter."""
        first = frames[start].length
        count = parts = 0
        most = min(MOST_SEGMENTS, PIECE_BYTES // size)
        for frame in islice(frames, start, start + most):
            parts += 1 + len(frame.views)
            if frame.length > first or not frame.offload.plain or parts > MOST_PARTS:
                break
            count += 1
            if frame.length < first:
                break
        return max(1, count)


class _Vectors:
    """struct iovec for each message."""

    def __init__(self) -> None:
        self._memory = bytearray(MESSAGES * 16)
        self._words = memoryview(self._memory).cast("Q")
        self.address = mmsg.address(self._memory)

    def set(self, index: int, address: int, length: int) -> None:
        self._words[2 * index] = address
        self._words[2 * index + 1] = length


def _headers(vectors: _Vectors, controls: int = 0) -> bytearray:
    """struct mmsghdr for each message, with a vector each, and room for control data if wanted."""
    size = CONTROL_BYTES if controls else 0
    return bytearray().join(
        mmsg.MMSGHDR.pack(0, 0, vectors.address + i * 16, 1, controls + i * size, size, 0, 0)
        for i in range(MESSAGES)
    )


def _ask_for_pieces(sock: socket.socket) -> None:
    """Let the kernel put equal datagrams together, where it can."""
    try:
        sock.setsockopt(mmsg.SOL_UDP, mmsg.UDP_GRO, 1)
    except OSError:
        pass
