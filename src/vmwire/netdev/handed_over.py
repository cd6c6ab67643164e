# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A stream that goes on in the next process: its socket, and the frame that is under way.

Put into the fd store when this process stands still for its successor (``engine.host.HandsOver``),
and only then: after a crash nobody knows where in a frame a stream is, and it is ended.
"""

from __future__ import annotations

import os
import socket

from vmwire.engine.host import FdStore


class HandedOver:
    """One netdev's two entries in the store."""

    def __init__(self, store: FdStore, name: str) -> None:
        self._store = store
        self._connection = f"{name} connection"
        self._begun = f"{name} begun"
        self.is_down = False

    def put_down(self, sock: socket.socket, begun: bytes) -> None:
        """Keep a connection, and the bytes of a frame that hasn't come whole."""
        memory = os.memfd_create("vmwire-begun-frame")
        try:
            os.write(memory, begun)
            self._store.keep(self._begun, memory)
        finally:
            os.close(memory)
        self._store.keep(self._connection, sock.fileno())
        self.is_down = True

    def take_up(self) -> tuple[socket.socket, bytes] | None:
        """What the process before has put down for us, if it has."""
        fd = self._store.take(self._connection)
        memory = self._store.take(self._begun)
        if fd is None or memory is None:
            return None
        begun = os.pread(memory, os.fstat(memory).st_size, 0)
        os.close(memory)
        sock = socket.socket(fileno=fd)
        self.is_down = True
        if self._store.on_trial:
            return sock, begun
        sock.close()  # it crashed since
        self.let_go()
        return None

    def let_go(self) -> None:
        """The connection has ended, or goes on here after all."""
        if self.is_down:
            self.is_down = False
            self._store.drop(self._connection)
            self._store.drop(self._begun)
