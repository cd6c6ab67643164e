# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Where a netdev's connections come from: listening, connecting, or a socket that was given.

A *source* hands over one connected socket at a time and is told when that has ended:

* ``Listening`` accepts the next client then; clients that come meanwhile wait in the kernel's
  queue. The listening socket is kept in the fd store, so they also wait while a worker restarts.
* ``Connecting`` tries again after its interval, if it has one, and so it does when nobody listens
  yet. A name is resolved anew by each try, in a thread, since name servers may take their time.
* ``Given`` has had its one.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Protocol

from vmwire.engine.clock import Timer
from vmwire.engine.host import Host
from vmwire.engine.loop import READ, WRITE
from vmwire.errors import ConfigError
from vmwire.netdev import inherited
from vmwire.netdev.addresses import Place

log = logging.getLogger(__name__)

ACCEPT_AGAIN_S = 0.5
"""How long to leave the listening socket alone after accepting has failed."""

OnConnected = Callable[[socket.socket], None]


class Source(Protocol):
    """Hands over connected sockets, one at a time."""

    waiting: str
    """What it is doing while there is no connection, in a few words."""

    def open(self, host: Host, name: str, on_connected: OnConnected) -> None:
        """Begin. ``name`` is the netdev's, for the fd store and the log."""

    def again(self) -> None:
        """The connection has ended."""

    def close(self) -> None:
        """Stop. Harmless when called twice, or without ``open``."""


class Listening:
    """Accepts one client after the other; ``listen()`` makes the listening socket."""

    waiting = "listening"

    def __init__(self, listen: Callable[[], socket.socket]) -> None:
        self._listen = listen
        self._socket: socket.socket | None = None
        self._watched = False
        self._timer: Timer | None = None

    def open(self, host: Host, name: str, on_connected: OnConnected) -> None:
        self._host, self._store_name, self._on_connected = host, f"{name}.listener", on_connected
        kept = host.store.take(self._store_name)
        self._socket = self._listen() if kept is None else socket.socket(fileno=kept)
        self._socket.setblocking(False)
        if kept is None:
            host.store.keep(self._store_name, self._socket.fileno())
        self.again()

    def again(self) -> None:
        if self._socket is not None and not self._watched:
            self._watched = True
            self._host.loop.watch(self._socket.fileno(), READ, self._on_ready)

    def close(self) -> None:
        if self._socket is not None:
            self._rest()
            self._host.store.drop(self._store_name)
            _remove_file(self._socket)
            self._socket.close()
            self._socket = None
        if self._timer is not None:
            self._timer.cancel()

    def _rest(self) -> None:
        if self._socket is not None and self._watched:
            self._watched = False
            self._host.loop.unwatch(self._socket.fileno())

    def _on_ready(self, events: int) -> None:
        assert self._socket is not None
        self._rest()
        try:
            connection, _ = self._socket.accept()
        except OSError as error:  # the client has gone again, or there are no descriptors left
            log.warning("%s: accept: %s", self._store_name, error)
            self._timer = self._host.loop.call_later(ACCEPT_AGAIN_S, self.again)
            return
        self._on_connected(connection)


def _remove_file(sock: socket.socket) -> None:
    if sock.family == socket.AF_UNIX:
        path = sock.getsockname()
        if isinstance(path, str) and path:
            try:
                os.unlink(path)
            except OSError:  # removed by somebody else, or with its folder
                pass


class Connecting:
    """Connects to what ``find()`` names; tries again every ``interval_s``, or once if that is 0.

    ``find`` may block where ``slow`` is true, and raises ``ConfigError`` for a name that can't be
    resolved. ``prepare(socket)`` sets the new socket's options.
    """

    def __init__(
        self,
        find: Callable[[], Place],
        interval_s: float,
        prepare: Callable[[socket.socket], None] = lambda sock: None,
    ) -> None:
        self.waiting = "connecting"
        self._find = find
        self._interval_s = interval_s
        self._prepare = prepare
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self._said = ""
        self._closed = False

    def open(self, host: Host, name: str, on_connected: OnConnected) -> None:
        self._host, self._name, self._on_connected = host, name, on_connected
        self._begin(self._find())

    def again(self) -> None:
        if self._interval_s and not self._closed:
            self.waiting = "connecting"
            self._timer = self._host.loop.call_later(self._interval_s, self._try)
        else:
            self.waiting = ""

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._drop_socket()

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._host.loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _try(self) -> None:
        self._begin(self._find())

    def _begin(self, place: Place) -> None:
        sock = self._socket = socket.socket(place.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        self._place = place
        self._prepare(sock)
        result = sock.connect_ex(place.address)
        if result == errno.EINPROGRESS:
            self._host.loop.watch(sock.fileno(), WRITE, self._on_ready)
        else:
            self._on_result(result)

    def _on_ready(self, events: int) -> None:
        assert self._socket is not None
        self._on_result(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _on_result(self, result: int) -> None:
        sock = self._socket
        assert sock is not None
        if result:
            self._drop_socket()
            self._say(f"can't connect to {self._place}: {os.strerror(result)}")
            self.again()
            return
        self._host.loop.unwatch(sock.fileno())
        self._socket = None
        self._said = ""
        self._on_connected(sock)

    def _say(self, text: str) -> None:
        """Log what went wrong, once for each kind of it."""
        if text != self._said:
            self._said = text
            log.warning("%s: %s", self._name, text)


class Given:
    """One connected socket, opened by whoever started us."""

    waiting = ""

    def __init__(self, fd: str) -> None:
        self._fd = fd

    def open(self, host: Host, name: str, on_connected: OnConnected) -> None:
        try:
            sock = inherited.take(host, self._fd)
        except inherited.LostError:
            log.warning("%s: the connection went with the process that had it", name)
            return
        if sock.type != socket.SOCK_STREAM:
            sock.close()
            raise ConfigError(f"file descriptor {self._fd} is not a stream socket")
        on_connected(sock)

    def again(self) -> None:
        """There is no other one."""

    def close(self) -> None:
        """What was given is owned by whoever it was handed to."""
