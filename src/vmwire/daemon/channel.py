# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What keeper and worker say to each other: JSON objects with descriptors, one a packet.

A ``SOCK_SEQPACKET`` pair keeps messages apart, carries descriptors, and ends when the other side
dies, which is how each hears of the other's death. Both ends are ours, so a message that makes no
sense is a bug and raises.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]

MAX_BYTES = 180_000
"""A packet must fit into the socket's buffer, 208 KiB unless the host says otherwise."""
MAX_FDS = 16


class Channel:
    """One end. ``receive`` gives None once the other end is gone; ``send`` then says False."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    @classmethod
    def adopt(cls, fd: int) -> Channel:
        return cls(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=fd))

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> bool:
        data = json.dumps(message).encode()
        if self._socket.fileno() < 0:  # it was closed since the other end has gone
            return False
        try:
            socket.send_fds(self._socket, [data], fds)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self) -> tuple[Message, list[int]] | None:
        """Wait for a message."""
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, MAX_BYTES, MAX_FDS)
        except ConnectionResetError:
            return None
        for fd in fds:
            os.set_inheritable(fd, False)
        return (json.loads(data), fds) if data else None

    def readable(self) -> bool:
        """Whether ``receive`` would return at once."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def set_timeout(self, seconds: float) -> None:
        """How long ``send`` may wait for room: TimeoutError."""
        self._socket.settimeout(seconds)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


def pair() -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), Channel(theirs)
