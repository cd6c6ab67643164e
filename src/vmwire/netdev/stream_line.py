# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A line over stream sockets: what ``socket`` and ``stream`` have in common.

States: *waiting* for a connection from its source (``connections``), with the link down, so that a
guest sees a pulled cable; *connected*, with the link up, frames going both ways (``framing``).

    waiting ──connection──▶ connected ──peer left, framing broken──▶ waiting
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from vmwire.engine.host import Host
from vmwire.netdev.addresses import Place
from vmwire.netdev.connections import Source
from vmwire.netdev.framing import FrameStream
from vmwire.netdev.handed_over import HandedOver
from vmwire.wire.frame import Frame
from vmwire.wire.port import Port, stats

log = logging.getLogger(__name__)

MAPPED = "::ffff:"
"""In front of an IPv4 address as a socket of IPv6 sees it (RFC 4291 2.5.5.2)."""


def _ignore(sock: socket.socket | None) -> None:
    """Nobody wants to know of connections."""


class StreamLine:
    """A port, and the connection behind it when there is one.

    ``on_change(socket)`` hears of each connection, and None of its end.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        on_change: Callable[[socket.socket | None], None] = _ignore,
    ) -> None:
        self.port = Port(name, self._receive, resume=self._resume)
        self.port.set_link(False)
        self.connections = 0
        self._source = source
        self._on_change = on_change
        self._stream: FrameStream | None = None
        self._plugged = True

    def open(self, host: Host) -> None:
        """Go on with the connection of the process before, or look for one."""
        self._host = host
        self._handed_over = HandedOver(host.store, self.port.name)
        found = self._handed_over.take_up()
        self._source.open(host, self.port.name, self._on_connected, busy=found is not None)
        if found is not None:
            self._begin(*found)

    def close(self) -> None:
        """End. Harmless when called twice."""
        self._source.close()
        if self._stream is not None:
            self._handed_over.let_go()
            self._stream.close()
            self._stream = None
            self.port.set_link(False)

    def hand_over(self) -> None:
        """Put the connection down for a successor; ``NotNow`` in the middle of a frame."""
        if self._stream is not None:
            self._handed_over.put_down(self._stream.socket, self._stream.begun())

    def go_on(self) -> None:
        """Nobody took over."""
        self._handed_over.let_go()

    @property
    def connection(self) -> socket.socket | None:
        """The connection's socket, if there is one."""
        return None if self._stream is None else self._stream.socket

    @property
    def waiting(self) -> str:
        """What is done while there is no connection."""
        return self._source.waiting

    def set_link(self, up: bool) -> None:
        """Pull or plug the cable, whether there is a connection or not."""
        self._plugged = up
        self._set_link()

    def _set_link(self) -> None:
        self.port.set_link(self._plugged and self._stream is not None)

    def _on_connected(self, sock: socket.socket) -> None:
        self._begin(sock)
        self._on_change(sock)

    def _begin(self, sock: socket.socket, begun: bytes = b"") -> None:
        loop, ends = self._host.loop, ends_of(sock)
        self._stream = FrameStream(sock, loop, self.port, self._on_lost, ends, begun)
        self.connections += 1
        self._set_link()

    def _on_lost(self, reason: str) -> None:
        log.info("%s: %s", self.port.name, reason)
        assert self._stream is not None
        self._handed_over.let_go()
        self._stream.close()
        self._stream = None
        self._set_link()
        self._on_change(None)
        self._source.again()

    def _receive(self, frames: Sequence[Frame]) -> int:
        if self._stream is not None:
            return self._stream.receive(frames)
        self.port.drops["no connection"] += len(frames)
        return len(frames)

    def _resume(self) -> None:
        if self._stream is not None:
            self._stream.resume()

    def stats(self) -> dict[str, object]:
        """Return the counters as plain data."""
        connected = self._stream is not None
        return stats(self.port) | {"connected": connected, "connections": self.connections}


def name_of(address: tuple[Any, ...]) -> str:
    """An address of the internet by which both ends know it."""
    return f"{address[0].removeprefix(MAPPED)} {address[1]}"


def ends_of(sock: socket.socket) -> tuple[str, str] | None:
    """The two ends of a connection, as this one sees them; None if they have no names."""
    try:
        mine, theirs = sock.getsockname(), sock.getpeername()
    except OSError:  # the peer has left already
        return None
    if sock.family != socket.AF_UNIX:
        return name_of(mine), name_of(theirs)
    if not mine and not theirs:
        return None
    path = mine or theirs
    if isinstance(path, str):
        path = os.path.realpath(path)
    place = Place(socket.AF_UNIX, path)
    ends = f"server of {place}", f"client of {place}"
    return ends if mine else ends[::-1]
