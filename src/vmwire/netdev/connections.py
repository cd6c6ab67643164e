# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Where a netdev's connections come from: listening, connecting, or a socket that was given.

A *source* hands over one connected socket at a time and is told when that has ended:

* ``Listening`` accepts the next client then; clients that come meanwhile wait in the kernel's
  queue. The listening socket is kept in the fd store, so they also wait while a worker restarts.
* ``Connecting`` tries again after its interval, if it has one, and so it does while nobody listens
  yet. A name is resolved anew for each try, in a thread, since name servers may take their time.
* ``Given`` has had its one.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from vmwire.engine.clock import Timer
from vmwire.engine.host import Host
from vmwire.engine.loop import READ, WRITE
from vmwire.errors import ConfigError
from vmwire.netdev import inherited
from vmwire.netdev.addresses import Place
from vmwire.netdev.binding import remove_own_file

log = logging.getLogger(__name__)

ACCEPT_AGAIN_S = 0.5
"""How long to leave the listening socket alone after accepting has failed."""

OnConnected = Callable[[socket.socket], None]


class Source(Protocol):
    """Hands over connected sockets, one at a time."""

    waiting: str
    """What it is doing while there is no connection, in a few words."""

    def open(self, host: Host, name: str, on_connected: OnConnected, *, busy: bool = False) -> None:
        """Begin. ``name`` is the netdev's, for the fd store and the log.

        ``busy``: there is a connection already, until ``again`` is called.
        """

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

    def open(self, host: Host, name: str, on_connected: OnConnected, *, busy: bool = False) -> None:
        self._host, self._store_name, self._on_connected = host, f"{name}.listener", on_connected
        kept = host.store.take(self._store_name)
        self._socket = self._listen() if kept is None else socket.socket(fileno=kept)
        self._socket.setblocking(False)
        if kept is None:
            host.store.keep(self._store_name, self._socket.fileno())
        if not busy:
            self.again()

    def again(self) -> None:
        if self._socket is not None and not self._watched:
            self._watched = True
            self._host.loop.watch(self._socket.fileno(), READ, self._on_ready)

    def close(self) -> None:
        if self._socket is not None:
            self._rest()
            self._host.store.drop(self._store_name)
            remove_own_file(self._socket)
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


class Connecting:
    """Connects to what ``find()`` names; tries again every ``interval_s``, or once if that is 0.

    ``find`` gives one place or several, tried in turn, or raises ``ConfigError``; it is asked
    again in a thread unless it is ``fixed``. ``settings`` are options of the socket.
    """

    def __init__(
        self,
        find: Callable[[], Sequence[Place]],
        interval_s: float,
        *,
        fixed: bool = False,
        protocol: int = 0,
        settings: Sequence[tuple[int, int, int]] = (),
    ) -> None:
        self.waiting = "connecting"
        self._find = find
        self._interval_s = interval_s
        self._fixed = fixed
        self._protocol = protocol
        self._settings = settings
        self._places: Sequence[Place] = ()
        self._next = 0
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self._said = ""
        self._closed = False

    def open(self, host: Host, name: str, on_connected: OnConnected, *, busy: bool = False) -> None:
        self._host, self._name, self._on_connected = host, name, on_connected
        if not busy:
            self._found(self._find())

    def again(self) -> None:
        if self._interval_s and not self._closed:
            self.waiting = "connecting"
            self._timer = self._host.loop.call_later(self._interval_s, self._try)

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
        if self._fixed and self._places:
            self._found(self._places)
        else:
            threading.Thread(target=self._ask, name="vmwire-resolver", daemon=True).start()

    def _ask(self) -> None:
        """In a thread: resolve the name, and go on in the loop."""
        try:
            places = self._find()
        except ConfigError as error:
            failure = error.message
            self._post(lambda: self._fail(failure))
        else:
            self._post(lambda: self._found(places))

    def _post(self, callback: Callable[[], None]) -> None:
        try:
            self._host.loop.post(callback)
        except OSError:  # the loop has gone meanwhile
            pass

    def _found(self, places: Sequence[Place]) -> None:
        if not self._closed:
            self._places, self._next = places, 0
            self._begin()

    def _begin(self) -> None:
        """Connect to the next place."""
        place = self._places[self._next]
        try:
            sock = socket.socket(place.family, socket.SOCK_STREAM, self._protocol)
        except OSError as error:
            self._fail(f"can't connect to {place}: {error.strerror}")
            return
        self._socket = sock
        sock.setblocking(False)
        for setting in self._settings:
            sock.setsockopt(*setting)
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
            self._on_refused(os.strerror(result))
            return
        self._host.loop.unwatch(sock.fileno())
        self._socket = None
        self._said = ""
        self._on_connected(sock)

    def _on_refused(self, reason: str) -> None:
        place = self._places[self._next]
        self._next += 1
        if self._next < len(self._places):
            self._begin()
        else:
            self._fail(f"Failed to connect to '{place}': {reason}")

    def _fail(self, text: str) -> None:
        """Log what went wrong, once for each kind of it, and try later."""
        self.waiting = f"error: {text}"
        if text != self._said:
            self._said = text
            log.warning("%s: %s", self._name, text)
        if self._interval_s and not self._closed:
            self.again()


class Given:
    """One socket, opened by whoever started us: connected, or listening if that is said."""

    def __init__(self, fd: str, *, listening: bool = False) -> None:
        self.waiting = ""
        self._fd = fd
        self._listening = Listening(self._take) if listening else None

    def open(self, host: Host, name: str, on_connected: OnConnected, *, busy: bool = False) -> None:
        self._host = host
        if self._listening is not None:
            self._listening.open(host, name, on_connected, busy=busy)
            self.waiting = self._listening.waiting
            return
        if busy:
            return
        try:
            sock = self._take()
        except inherited.LostError:
            log.warning("%s: the connection went with the process that had it", name)
        else:
            on_connected(sock)

    def _take(self) -> socket.socket:
        sock = inherited.take(self._host, self._fd)
        accepts = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if sock.type == socket.SOCK_STREAM and bool(accepts) is (self._listening is not None):
            return sock
        sock.close()
        wanted = "connected" if self._listening is None else "listening"
        raise ConfigError(f"file descriptor {self._fd} is not a {wanted} stream socket")

    def again(self) -> None:
        if self._listening is not None:
            self._listening.again()

    def close(self) -> None:
        if self._listening is not None:
            self._listening.close()
