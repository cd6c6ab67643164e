# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The control socket: QMP to a running network (`vmwire.monitor`), for its owner.

It is for the owner (and root): the socket's mode keeps others out, and so does a look at who they
are, as a second lock. Clients, and what one of them can make us hold, are bounded; who doesn't read
is dropped.

Runs on the worker's main thread, on a plain selector: asyncio would cost 8 MB and 40 ms of start.
What the engine's thread has to say comes through `Calls`.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
from collections import deque
from collections.abc import Callable

from vmwire.engine.host import FdStore
from vmwire.errors import ConfigError
from vmwire.monitor.monitor import Monitor
from vmwire.monitor.session import Session

READ_BYTES = 64 * 1024
MAX_CLIENTS = 16
MAX_UNSENT = 4 * 1024 * 1024
"""Answers and events that a client doesn't read; beyond, it is dropped."""
STORE_NAME = "control"


class Calls:
    """Closures from other threads, called in the selector's."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._posted: deque[Callable[[], None]] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        selector.register(self._wake_fd, selectors.EVENT_READ, self._on_wake)

    def post(self, function: Callable[[], None]) -> None:
        """From any thread."""
        self._posted.append(function)
        os.eventfd_write(self._wake_fd, 1)

    def _on_wake(self) -> None:
        os.eventfd_read(self._wake_fd)
        for _ in range(len(self._posted)):
            self._posted.popleft()()

    def close(self) -> None:
        """Forget what is left. Nobody may post any more."""
        self._selector.unregister(self._wake_fd)
        os.close(self._wake_fd)


class ControlServer:
    """Listens at ``path``; each client has a session of ``monitor``."""

    def __init__(
        self, selector: selectors.BaseSelector, store: FdStore, path: str, monitor: Monitor
    ) -> None:
        self._selector = selector
        self.monitor = monitor
        self.clients: set[Client] = set()
        self._listener = _listen(store, path)
        selector.register(self._listener, selectors.EVENT_READ, self._on_connection)

    def close(self) -> None:
        """Send what clients can take at once, and leave them."""
        for client in list(self.clients):
            client.flush()
            client.close()
        self._selector.unregister(self._listener)
        self._listener.close()

    def _on_connection(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it left again, or we are out of descriptors
            return
        if not _is_owner(connection) or len(self.clients) >= MAX_CLIENTS:
            connection.close()
            return
        self.clients.add(Client(self, self._selector, connection))


class Client:
    """One connection. While something waits to be sent, nothing more is read."""

    def __init__(
        self, server: ControlServer, selector: selectors.BaseSelector, connection: socket.socket
    ) -> None:
        self._server = server
        self._selector = selector
        self._socket = connection
        self._unsent = bytearray()
        self._closed = False
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, self._on_ready)
        self._session = Session(server.monitor, self._write)
        self.flush()

    def close(self) -> None:
        """Leave it. Harmless when called twice."""
        if self._closed:
            return
        self._closed = True
        self._session.close()
        self._server.clients.discard(self)
        self._selector.unregister(self._socket)
        self._socket.close()

    def _write(self, line: bytes) -> None:
        """Keep a line until it can be sent; an event may come at any moment."""
        self._unsent += line
        if len(self._unsent) > MAX_UNSENT:
            self.close()
        elif not self._closed:
            self._selector.modify(self._socket, selectors.EVENT_WRITE, self._on_ready)

    def _on_ready(self) -> None:
        if self._unsent:
            self.flush()
            return
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._session.feed(data)
        self.flush()

    def flush(self) -> None:
        """Send what can be sent now."""
        if self._closed or not self._unsent:
            return
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not self._unsent:
            self._selector.modify(self._socket, selectors.EVENT_READ, self._on_ready)


def _listen(store: FdStore, path: str) -> socket.socket:
    kept = store.take(STORE_NAME)
    if kept is not None:
        listener = socket.socket(fileno=kept)
        listener.setblocking(False)
        return listener
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(MAX_CLIENTS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"Can't open the control socket '{path}': {error.strerror}") from error
    store.keep(STORE_NAME, listener.fileno())
    return listener


def _is_owner(connection: socket.socket) -> bool:
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", credentials)
    return uid in (0, os.getuid())
