# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A vfio-user socket cut into messages with their descriptors, without blocking.

Theory of operation. The kernel hands descriptors over with the first byte that they were sent with,
and ends a read behind the data that they came with. So what a read brought belongs to the *last*
message that begins in it, as long as no message that may carry descriptors fits in front of another
one. That is what ``HEAD`` is for: a message is begun with a read of at most 36 bytes, which is all
of a register access, and less than any message with descriptors and the start of another.

A size is judged before the body is read. What is too short counts as a bare header; of what is too
long only the header is returned, and its body is passed over, so that the next message is found.

We may ask, too (``ask``): that waits for the reply, for a limited time. What the peer sends
meanwhile is set aside, up to a limit. But a peer that waits for an answer of ours may not be able
to give its own before (QEMU holds its big lock in both): then ``on_urgent`` is called to serve what
is set aside. So a card's registers may be accessed while it waits for memory, as hardware's may,
and it may come to ask again within that.
"""

from __future__ import annotations

import array
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable

from vmwire.bus.pci.vfio_user import (
    F_ERROR,
    F_NO_REPLY,
    HEADER,
    MAX_FDS,
    MAX_MESSAGE,
    TYPE_REPLY,
    WRITE_MESSAGE,
    Command,
    Header,
    pack_message,
)
from vmwire.bus.protocol import ProtocolError

HEAD = WRITE_MESSAGE.size
"""Bytes that are asked for when a message begins."""
SET_ASIDE = 1024
"""Messages, and bytes in each of them on average, that may wait while we wait for a reply."""
MOST_QUESTIONS = 4
"""Questions that are open at once, each asked while an earlier one waits."""
REPLY_S = 1.0
SEND_S = 1.0
"""How long a peer may take to answer, or to read what we answer."""

_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
_SIZE = HEADER.size


class NoReply(Exception):
    """A question of ours that has no good answer."""


class Channel:
    """One connection. Every method raises ``OSError`` when it is broken, ``EOFError`` at its end.

    ``fds`` are those of the message that ``receive`` returned last: whoever wants one takes it out,
    the rest is closed when the next message is asked for.
    """

    def __init__(self, connection: socket.socket, data: bytes = b"") -> None:
        connection.setblocking(False)
        self.connection = connection
        self.fds: list[int] = []
        self.data = data
        """Bytes that are read but not yet returned."""
        self.drained = False
        """Whether the last read found less than there was room for: then the socket was empty."""
        self._recvmsg = connection.recvmsg
        self._coming: list[int] = []  # descriptors of the message at _coming_at in the data
        self._coming_at = 0
        self._skip = 0
        self._aside: deque[tuple[bytes, list[int]]] = deque()
        self._aside_size = 0
        self._next_id = 0
        self._asked: dict[int, bytes | None] = {}
        self.on_urgent: Callable[[], None] | None = None
        self.overdue = False
        """Whether a question's answer is still to come that we no longer wait for."""

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.connection.fileno()

    # Receiving

    @property
    def waiting(self) -> bool:
        """Whether there may be a message that the socket doesn't tell of."""
        return bool(self._aside) or len(self.data) >= _SIZE

    def receive(self) -> bytes | None:
        """Return the next message; None: it isn't (all) there yet."""
        if not (self.data or self.fds or self._aside or self._skip or self._coming):
            message = self._read(HEAD)
            if message is None:
                return None
            if len(message) == int.from_bytes(message[4:8], "little") and not self._coming:
                return message  # as nearly all: a register access
            self.data = message
            if self._coming:
                self._place()
        if self.fds:
            self.close_fds()
        if self._aside:
            message, self.fds = self._aside.popleft()
            self._aside_size -= len(message)
            return message
        return self._next()

    def _next(self) -> bytes | None:
        if self._skip and not self._pass_over():
            return None
        data = self.data
        while True:
            have = len(data)
            size = _SIZE
            if have >= size:
                size = int.from_bytes(data[4:8], "little")
                if size > MAX_MESSAGE:
                    return self._begin_to_skip(size)
                size = max(size, _SIZE)
                if have >= size:
                    break
                more = self._read(size - have)
            else:
                more = self._read(HEAD - have)
            if more is None:
                self.data = data
                return None
            data = self.data = data + more if have else more
            if self._coming:
                self._place()
        self.data = data[size:]
        if self._coming:
            self._hand_over(size)
        return data if have == size else data[:size]

    def _read(self, size: int) -> bytes | None:
        try:
            data, ancillary, flags, _ = self._recvmsg(size, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return None
        if ancillary or flags & socket.MSG_CTRUNC:
            self._keep_fds(ancillary, flags)
        if not data:
            raise EOFError
        self.drained = len(data) < size
        return data

    def _keep_fds(self, ancillary: list[tuple[int, int, bytes]], flags: int) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self._coming += fds
        self._coming_at = -1
        if flags & socket.MSG_CTRUNC or len(self._coming) > MAX_FDS:
            raise ProtocolError(f"more than {MAX_FDS} descriptors")

    def _place(self) -> None:
        """Find the last message that begins in the data: it has the descriptors that just came."""
        if self._coming_at >= 0:
            return
        data, start = self.data, 0
        while len(data) - start >= _SIZE:
            size = max(int.from_bytes(data[start + 4 : start + 8], "little"), _SIZE)
            if start + size >= len(data):
                break
            start += size
        self._coming_at = start

    def _hand_over(self, size: int) -> None:
        """A message of ``size`` bytes is complete: are the descriptors its own?"""
        if self._coming_at < size:
            self.fds, self._coming = self._coming, []
        else:
            self._coming_at -= size

    def _begin_to_skip(self, size: int) -> bytes:
        header = self.data[:_SIZE]
        self._skip = size - len(self.data)
        self.data = b""
        self._hand_over(size)
        return header

    def _pass_over(self) -> bool:
        """Read what is to be passed over, a piece at a time; whether that is done."""
        data = self._read(min(self._skip, 1 << 16))
        if data is not None:
            self._skip -= len(data)
        self.fds, self._coming = [*self.fds, *self._coming], []
        self.close_fds()
        return self._skip == 0

    def close_fds(self) -> None:
        """Close the descriptors that nobody took."""
        while self.fds:
            os.close(self.fds.pop())

    # Sending

    def send(self, data: bytes) -> None:
        """Send a message whole. A peer that doesn't read its answers is a broken one."""
        try:
            sent = self.connection.send(data, socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent != len(data):
            self._send_rest(memoryview(data)[sent:])

    def _send_rest(self, data: memoryview) -> None:
        deadline = time.monotonic() + SEND_S
        while data:
            if not self._wait(select.POLLOUT, deadline):
                raise ProtocolError("a peer that doesn't read its answers")
            try:
                data = data[self.connection.send(data, socket.MSG_NOSIGNAL) :]
            except (BlockingIOError, InterruptedError):
                continue

    def _wait(self, events: int, deadline: float) -> bool:
        """Wait for the socket; False: not before the deadline."""
        poll = select.poll()
        poll.register(self.connection, events)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))

    # Asking

    def ask(self, command: int, payload: bytes) -> bytes:
        """Send a question and return its reply's payload. Raises ``NoReply``."""
        if self.overdue or len(self._asked) >= MOST_QUESTIONS:
            raise NoReply("still none to earlier questions")
        message_id = self._next_id
        self._next_id = (message_id + 1) & 0xFFFF
        self._asked[message_id] = None
        try:
            self.send(pack_message(message_id, command, payload))
            reply = self._wait_for(message_id, time.monotonic() + REPLY_S)
        finally:
            del self._asked[message_id]
        header = Header.unpack(reply)
        if header.flags & F_ERROR:
            raise NoReply(os.strerror(header.error))
        return reply[_SIZE:]

    def _wait_for(self, message_id: int, deadline: float) -> bytes:
        while (reply := self._asked[message_id]) is None:
            message = self._next()
            if message is not None:
                self._sort(message)
            elif not self._wait(select.POLLIN, deadline):
                self.overdue = True
                raise NoReply(f"none in {REPLY_S:g} s")
        return reply

    def _sort(self, message: bytes) -> None:
        """A message has come while we wait for a reply."""
        header = Header.unpack(message)
        if header.type == TYPE_REPLY and header.message_id in self._asked:
            self._asked[header.message_id] = message
            self.close_fds()
            return
        self._aside.append((message, self.fds))
        self._aside_size += len(message)
        self.fds = []
        if len(self._aside) > SET_ASIDE or self._aside_size > SET_ASIDE * 1024:
            raise NoReply("other messages without end instead")
        urgent = not header.flags & F_NO_REPLY and header.command != Command.DEVICE_RESET
        if urgent and self.on_urgent is not None:
            self.on_urgent()

    @property
    def set_aside(self) -> bool:
        """Whether messages wait that came during a question."""
        return bool(self._aside)

    @property
    def busy(self) -> bool:
        """Whether there is more than bytes that aren't returned yet: descriptors, or a question."""
        return bool(self.fds or self._coming or self._skip or self._aside or self._asked)

    def close(self) -> None:
        """Close the socket and all descriptors that came and weren't taken."""
        for _, fds in self._aside:
            self.fds += fds
        self._aside.clear()
        self.fds += self._coming
        self._coming = []
        self.close_fds()
        self.connection.close()
