# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A vhost-user socket cut into messages with their descriptors, without ever blocking.

The kernel hands over descriptors with the first byte that they were sent with, so a header is read
by itself, and what comes with it belongs to its message. The body's size is checked before a byte
of it is read. Descriptors are closed with the message unless somebody takes them out of it.
"""

from __future__ import annotations

import array
import os
import socket
from dataclasses import dataclass, field

from vmwire.bus.protocol import ProtocolError
from vmwire.bus.virtio.vhost_user import (
    HEADER,
    MAX_FDS,
    Header,
    pack_message,
)

_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


@dataclass(slots=True)
class Message:
    """One message that came in. ``fds`` are ours until ``close``."""

    header: Header
    payload: bytes = b""
    fds: list[int] = field(default_factory=list)

    def take_fd(self) -> int:
        """Keep the first descriptor beyond the message."""
        return self.fds.pop(0)

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        while self.fds:
            os.close(self.fds.pop())


class Channel:
    """One connection. ``receive`` raises ``ProtocolError``, and ``OSError`` when it is broken."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self._data = bytearray()
        self._fds: list[int] = []
        self._header: Header | None = None

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.connection.fileno()

    @property
    def busy(self) -> bool:
        """Whether a part of a message has come."""
        return bool(self._data or self._fds or self._header is not None)

    def receive(self) -> Message | None:
        """Return the next message; None: not all of it is there yet. EOFError: there is no more."""
        if self._header is None:
            if not self._fill(HEADER.size):
                return None
            self._header = Header.unpack(self._data)
            self._data.clear()
        header = self._header
        if header.size and not self._fill(header.size):
            return None
        message = Message(header, bytes(self._data), self._fds)
        self._data.clear()
        self._fds, self._header = [], None
        return message

    def _fill(self, size: int) -> bool:
        """Read until ``size`` bytes are there; False if the rest hasn't come yet."""
        while len(self._data) < size:
            try:
                data, ancillary, flags, _ = self.connection.recvmsg(
                    size - len(self._data), _ANCILLARY, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return False
            self._keep_fds(ancillary)
            if flags & socket.MSG_CTRUNC or len(self._fds) > MAX_FDS:
                raise ProtocolError(f"more than {MAX_FDS} descriptors")
            if not data:
                raise EOFError
            self._data += data
        return True

    def _keep_fds(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self._fds += fds

    def send(self, request: int, payload: bytes, flags: int) -> None:
        """Send a message whole. A front end that doesn't read its answers is a broken one."""
        data = pack_message(request, payload, flags)
        if self.connection.send(data, socket.MSG_NOSIGNAL) != len(data):
            raise ProtocolError("a front end that doesn't read its answers")

    def close(self) -> None:
        """Close the socket and what came with an unfinished message."""
        Message(Header(0, 0, 0), fds=self._fds).close()
        self.connection.close()
