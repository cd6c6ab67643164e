# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A box in the line: what comes in at one side goes out at the other.

Filters are made of it: a subclass changes ``carry``, and, where it wants something else than a
transparent box, ``accepted`` and ``lends``. ``left`` is the side nearer to the
guest, ``right`` the side nearer to the host.

Everything that a wire carries passes: frames, refusals and ``resume``, what the far end accepts,
its link, and reservations in its memory. So two boxes with a ``Through`` between them see each
other as if they were joined directly, and a pulled cable is seen through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from vmwire.wire.frame import Frame, Offload, View
from vmwire.wire.port import EVERYTHING, Accepts, Port, Room, stats


class Through:
    """Forwards everything in both directions.

    >>> box = Through("f")
    >>> box.left.name, box.right.name
    ('f.left', 'f.right')
    """

    carries_reservations = True
    """What ``lends`` says for both directions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.left, self.right = self._port("left"), self._port("right")
        self._rooms = {out: self._room_behind(out) for out in (self.left, self.right)}
        self._couple(self.left, self.right)
        self._couple(self.right, self.left)

    def carry(self, out: Port, frames: Sequence[Frame]) -> int:
        """Take ``frames`` that are to leave by ``out``; return how many were taken."""
        return out.send(frames)

    def resumed(self, out: Port) -> None:
        """The box behind ``out`` has room again: the box behind the other port may go on."""
        self.opposite(out).resume()

    def accepted(self, out: Port) -> Accepts:
        """What the box takes of frames that are to leave by ``out``."""
        return out.peer_accepts

    def lends(self, out: Port) -> bool:
        """Whether a sender may write straight into the memory of the box behind ``out``."""
        return self.carries_reservations

    def mirror(self) -> None:
        """Show both neighbours what the other one is now: ``accepted`` or ``lends`` has changed."""
        self._mirror(self.left, self.right)
        self._mirror(self.right, self.left)

    def opposite(self, port: Port) -> Port:
        """Return the other one of the two ports."""
        return self.right if port is self.left else self.left

    def close(self) -> None:
        """Take the box out of the line and join its neighbours with each other."""
        self.left.bypass(self.right)

    def stats(self) -> dict[str, object]:
        """Return the box's counters as plain data."""
        return {"left": stats(self.left), "right": stats(self.right)}

    # The plumbing

    def _port(self, side: str) -> Port:
        port = Port(f"{self.name}.{side}", len, accepts=EVERYTHING)
        port.link_up = False  # until the box at the far side is there
        return port

    def _couple(self, port: Port, out: Port) -> None:
        """Give ``port``'s callbacks their meaning: what enters by it leaves by ``out``."""
        port.receive = partial(self.carry, out)
        port.on_resume = partial(self.resumed, port)
        port.on_peer_link = out.set_link
        port.on_accepts_changed = partial(self._mirror, port, out)

    def _mirror(self, port: Port, other: Port) -> None:
        """The box behind ``port`` changed: ``other`` shows what it is now."""
        other.set_accepts(self.accepted(port))
        there = self.lends(port) and port.peer is not None and port.peer.room is not None
        other.set_room(self._rooms[port] if there else None)

    def _room_behind(self, out: Port) -> Room:
        """The room that the other port offers while the box behind ``out`` has one."""
        return Room(
            partial(self.reserve, out), partial(self.commit, out), partial(self.cancel, out)
        )

    def reserve(self, out: Port, length: int) -> Sequence[View] | None:
        """Reserve room behind ``out``."""
        return out.reserve(length)

    def commit(self, out: Port, length: int, offload: Offload) -> None:
        """Send by ``out`` what was reserved there."""
        out.commit(length, offload)

    def cancel(self, out: Port) -> None:
        """Give back what was reserved behind ``out``."""
        out.cancel()


class Holding(Through):
    """A box that takes all of what it is given: what the far side refuses waits here, and its
    subclass takes nothing more until ``send_waiting`` says that it is gone."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.waiting: dict[Port, list[Frame]] = {self.left: [], self.right: []}

    def send_waiting(self, out: Port) -> bool:
        """Send what was refused; whether all of it is gone."""
        waiting = self.waiting[out]
        if waiting:
            del waiting[: out.send(waiting)]
        return not waiting

    def resumed(self, out: Port) -> None:
        if self.send_waiting(out):
            super().resumed(out)
