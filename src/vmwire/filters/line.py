# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A chardev in use by a filter: frames to and from one peer over a stream socket.

States: *waiting* for a connection from its source, *connected*. Without a connection what is sent
is lost, as with QEMU. What the socket doesn't take waits here, up to ``MOST_WAITING``; then nothing
more is taken until all of it is gone.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence

from vmwire.engine.host import Host
from vmwire.engine.loop import READ, WRITE
from vmwire.filters.packets import BrokenFraming, Unpacker, pack
from vmwire.netdev.connections import Source
from vmwire.wire.frame import Frame

log = logging.getLogger(__name__)

READ_BYTES = 256 << 10
MOST_WAITING = 1 << 20


def _nothing() -> None:
    """Do nothing: the default of ``resume``."""


def _lose(frames: Sequence[Frame]) -> None:
    """Forget frames: what a line without a reader does."""


class Line:
    """One chardev. ``receive(frames)`` hears what comes; ``resume()``: more may be sent."""

    def __init__(self, name: str, source: Source, with_header: bool) -> None:
        self.name = name
        self.counters: Counter[str] = Counter()
        self.receive: Callable[[list[Frame]], None] = _lose
        self.resume: Callable[[], None] = _nothing
        self._source = source
        self._with_header = with_header
        self._socket: socket.socket | None = None
        self._waiting = bytearray()
        self._refused = False
        """Whether something wasn't taken, so that its sender waits for ``resume``."""
        self._listens = True

    def open(self, host: Host) -> None:
        """Begin to look for a connection; ``ConfigError``."""
        self._host = host
        self._source.open(host, f"chardev {self.name}", self._on_connected)

    def close(self) -> None:
        """End. Harmless when called twice."""
        self._source.close()
        self._hang_up()

    def listen(self, on: bool) -> None:
        """Read from the peer, or leave it to wait."""
        self._listens = on
        self._watch()

    def send(self, frames: Sequence[Frame]) -> int:
        """Send to the peer; return how many were taken, from the front."""
        if self._socket is None:
            self.counters["no peer"] += len(frames)
            return len(frames)
        for taken, frame in enumerate(frames):
            if len(self._waiting) > MOST_WAITING and not self._flush():
                self._refused = True
                return taken
            self._waiting += pack(frame, self._with_header)
        self._flush()
        return len(frames)

    def stats(self) -> dict[str, object]:
        """Return the counters as plain data."""
        return {"connected": self._socket is not None, **self.counters}

    # The connection

    def _on_connected(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._unpacker = Unpacker(self._with_header)
        self._events = READ
        self._host.loop.watch(sock.fileno(), READ, self._on_events)
        self._watch()

    def _on_events(self, events: int) -> None:
        if events & WRITE and self._flush():
            self._let_go_on()
        if self._socket is not None and events & ~WRITE:
            self._read(self._socket)

    def _read(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(str(error.strerror))
            return
        if not data:
            self._end("the peer left")
            return
        try:
            frames = self._unpacker.feed(data)
        except BrokenFraming as error:
            self._end(str(error))
            return
        self.counters["received"] += len(frames)
        self.receive(frames)

    def _flush(self) -> bool:
        """Send what waits; whether all of it is gone."""
        assert self._socket is not None
        try:
            while self._waiting:
                del self._waiting[: self._socket.send(self._waiting)]
        except BlockingIOError:
            pass
        except OSError:  # reading tells what has become of the peer
            self._waiting.clear()
        self._watch()
        return not self._waiting

    def _let_go_on(self) -> None:
        """There is room again, or nobody who needs any."""
        if self._refused:
            self._refused = False
            self.resume()

    def _watch(self) -> None:
        events = (READ if self._listens else 0) | (WRITE if self._waiting else 0)
        if self._socket is not None and events != self._events:
            self._events = events
            self._host.loop.change(self._socket.fileno(), events)

    def _end(self, reason: str) -> None:
        log.info("chardev %s: %s", self.name, reason)
        self._hang_up()
        self._let_go_on()
        self._source.again()

    def _hang_up(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            self._host.loop.unwatch(sock.fileno())
            sock.close()
            self._waiting.clear()
