# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A hub: what comes in at one port goes out at all the others.

A hub never refuses, since one slow member must not hold up the rest: each member is offered every
frame, and what it doesn't take is dropped and counted at its port. Superframes pass whole; they are
finished once for all members that can't take them. A member without carrier costs nothing.
One that has a carrier costs each frame, whether it wants it or not: where there are many of those,
``vmwire.wire.switch`` is a hub that learns who is where.

A hub's own ports are always up: pulling one member's cable is not seen by the others. Two hubs
must not be joined twice, for frames would circle: ``vmwire.network`` refuses that where it sees it,
and where it is done by way of sockets, ``vmwire.wire.loops`` ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from vmwire.wire.frame import Frame
from vmwire.wire.loops import LoopGuard
from vmwire.wire.port import EVERYTHING, Accepts, Port, as_taken, stats


class Hub:
    """Any number of ports that all hear each other. ``now()`` is the time in seconds.

    >>> hub = Hub("h", lambda: 0.0)
    >>> hub.add_port("a").name
    'a'
    """

    def __init__(self, name: str, now: Callable[[], float]) -> None:
        self.name = name
        self._guard = LoopGuard(name, now)
        self.ports: tuple[Port, ...] = ()
        self._up: tuple[Port, ...] = ()
        """Those that have a carrier."""

    def add_port(self, name: str) -> Port:
        """Add a member's port, ready to be connected."""
        port = Port(name, len, accepts=EVERYTHING)
        port.receive = partial(self._receive, port)
        port.on_link_changed = partial(self._link_changed, port)
        self.ports += (port,)
        return port

    def remove_port(self, port: Port) -> None:
        """Take a port away; the member behind it loses its carrier."""
        port.disconnect()
        self._guard.forget(port)
        self.ports = tuple(other for other in self.ports if other is not port)

    def _link_changed(self, port: Port, carrier: bool) -> None:
        """A member is there now, or has gone."""
        self._up = tuple(each for each in self.ports if each.carrier)

    def _receive(self, source: Port, frames: Sequence[Frame]) -> int:
        """Take all that a member sends."""
        admitted = self._guard.admit(source, frames)
        if admitted:
            self._forward(source, admitted)
        return len(frames)

    def _forward(self, source: Port, frames: Sequence[Frame]) -> None:
        """Send on what came in at ``source``: to all others."""
        others = [port for port in self._up if port is not source]
        if len(others) == 1:
            offer(others[0], frames)
            return
        made: list[tuple[Accepts, Sequence[Frame]]] = [(EVERYTHING, frames)]
        for port in others:
            offer(port, _as_taken_by(port.peer_accepts, made))

    def stats(self) -> dict[str, object]:
        """Return each port's counters as plain data."""
        return {port.name: stats(port) for port in self.ports}


def _as_taken_by(accepts: Accepts, made: list[tuple[Accepts, Sequence[Frame]]]) -> Sequence[Frame]:
    """The first frames of ``made`` as a member can take them; new ones are added there."""
    for others, frames in made:
        if others is accepts or others == accepts:
            return frames
    fitting: list[Frame] = []
    for frame in made[0][1]:
        fitting += as_taken(frame, accepts) or [frame]  # whose port counts what is malformed
    made.append((accepts, fitting))
    return fitting


def offer(port: Port, frames: Sequence[Frame]) -> None:
    """Send by ``port``; what isn't taken is lost and counted."""
    taken = port.send(frames)
    if taken < len(frames):
        port.drops["member busy"] += len(frames) - taken
