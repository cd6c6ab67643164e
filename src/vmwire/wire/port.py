# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The port: the one thing that every box on the wire has, and all that boxes know of each other.

Two ports are joined by ``connect``. A box *sends* through its own port; the frames arrive in the
``receive`` function that the box at the other end gave to its port.

Contract
--------
*Batches.* ``send`` takes a list and returns how many frames, counted from the front, were taken.
Refused frames stay with the sender, who waits for ``resume``. A hub and the user network never
refuse. With nobody at the other end, or with the link down, frames are taken and dropped, as on a
pulled cable.

*Borrowing.* Frames are lent for the duration of ``send``. Who keeps one copies it.

*Abilities.* ``accepts`` says what a port can take as it is. The sending port finishes checksums and
cuts superframes when its peer can't take them (``vmwire.wire.offload``); boxes never do that
themselves.

*Reservations.* ``reserve(length)`` asks the peer for room in **its** memory, so that data can be
read straight into it: it gives writable views of exactly ``length`` bytes, the first of which
covers at least ``HEADROOM`` bytes (or all), or None when there is no room now (``resume`` tells
when to try again). Then ``commit(length, offload)`` (at most what was reserved) or ``cancel``. One
reservation is open at a time, and it is closed before control returns to the loop. It works only
where ``reserves`` is true; elsewhere use ``send``.

*Link.* ``set_link`` is this end's own state. ``carrier`` is true when both ends are joined and up;
``link_changed`` hears of it. A box in the middle of a line hears by ``peer_link`` of the other
end's state alone, so that it can hand it on while its own end is still down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vmwire.wire.frame import MAX_FRAME, NO_OFFLOAD, Frame, Gso, Offload, View, total_length
from vmwire.wire.offload import finish
from vmwire.wire.runs import Run

HEADROOM = 138
"""Bytes that are contiguous at a reservation's start: Ethernet, a VLAN tag, and the longest IPv4
and TCP headers."""


@dataclass(frozen=True, slots=True)
class Accepts:
    """What a port can take as it is.

    ``checksum``: frames whose transport checksum is still to be filled in. ``gso``: kinds of
    superframe. ``largest``: bytes of the longest frame that is not a superframe.
    """

    checksum: bool = False
    gso: Gso = Gso.NONE
    largest: int = MAX_FRAME
    _refused: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_refused", ~int(self.gso))

    def takes(self, offload: Offload) -> bool:
        """Whether a frame with this offload can go as it is."""
        if offload.plain:
            return True
        return self.checksum and offload.known and not offload.needs & self._refused


PACKETS_ONLY = Accepts()
EVERYTHING = Accepts(True, Gso.TCPV4 | Gso.TCPV6 | Gso.ECN | Gso.UDP_L4)


@dataclass(frozen=True, slots=True)
class Room:
    """A box's side of reservations: the three functions that a port offers to its peer."""

    reserve: Callable[[int], Sequence[View] | None]
    commit: Callable[[int, Offload], None]
    cancel: Callable[[], None]


def _nothing() -> None:
    """Do nothing: the default of a port's callbacks."""


def _ignore_link(up: bool) -> None:
    """Ignore the link: the default of ``link_changed``."""


class Port:
    """One end of a wire. See the module for the contract.

    ``receive(frames) -> int`` takes what the peer sends. ``resume()``: the peer has room again.
    ``link_changed(carrier)`` tells about the wire. ``accepts_changed()`` (what it accepts, and
    whether it has room for reservations) and ``peer_link(up)`` tell about the peer.
    """

    def __init__(
        self,
        name: str,
        receive: Callable[[Sequence[Frame]], int],
        *,
        resume: Callable[[], None] = _nothing,
        link_changed: Callable[[bool], None] = _ignore_link,
        peer_link: Callable[[bool], None] = _ignore_link,
        accepts_changed: Callable[[], None] = _nothing,
        accepts: Accepts = PACKETS_ONLY,
        room: Room | None = None,
    ) -> None:
        self.name = name
        self.receive = receive
        self.on_resume = resume
        self.on_link_changed = link_changed
        self.on_peer_link = peer_link
        self.on_accepts_changed = accepts_changed
        self.accepts = accepts
        self.room = room
        self.peer: Port | None = None
        self.link_up = True
        self.frames = 0
        """Frames sent through this port and taken by the peer (a superframe is one)."""
        self.bytes = 0
        """Their bytes."""
        self.drops: Counter[str] = Counter()
        """Frames lost here, by reason."""
        self._carrier = False
        self._left_over: list[Frame] = []

    # Joining

    def connect(self, peer: Port) -> None:
        """Join two ports that are free; tells both ends."""
        if self.peer is not None or peer.peer is not None or peer is self:
            raise ValueError(f"{self.name} and {peer.name} can't be joined: one is in use")
        self.peer, peer.peer = peer, self
        for port in (self, peer):
            port.on_accepts_changed()
        self.on_peer_link(peer.link_up)
        peer.on_peer_link(self.link_up)
        self._note_link()

    def disconnect(self) -> None:
        """Part from the peer; both ends lose the carrier. Harmless on a free port."""
        peer = self.peer
        if peer is None:
            return
        self.peer = peer.peer = None
        self._left_over.clear()
        peer._left_over.clear()
        for port in (self, peer):
            port.on_accepts_changed()
            port.on_peer_link(False)
            port._note_carrier(False)

    def insert(self, near: Port, far: Port) -> None:
        """Put a box in the line, with ``near`` toward this port; a carrier stays as it is.

        ``near`` and ``far`` are free, and their box hands the link on. With nobody at the other
        end only ``near`` is joined.
        """
        peer = self.peer
        if peer is None:
            self.connect(near)
            return
        near.link_up, far.link_up = peer.link_up, self.link_up
        self.peer, near.peer, far.peer, peer.peer = near, self, peer, far
        for port in (near, far, self, peer):
            port.on_accepts_changed()
            port._note_link()

    def bypass(self, far: Port) -> None:
        """Take a box out of the line whose ends are this port and ``far``; the inverse."""
        before, behind = self.peer, far.peer
        if before is None or behind is None:
            self.disconnect()
            far.disconnect()
            return
        self.peer = far.peer = None
        before.peer, behind.peer = behind, before
        for port in (before, behind):
            port.on_accepts_changed()
            port._note_link()
        for port in (self, far):
            port._left_over.clear()
            port._note_carrier(False)

    # State that travels

    @property
    def carrier(self) -> bool:
        """Whether frames sent now would reach somebody."""
        return self._carrier

    def set_link(self, up: bool) -> None:
        """Pull or plug this end's cable."""
        if up != self.link_up:
            self.link_up = up
            if self.peer is not None:
                self.peer.on_peer_link(up)
            self._note_link()

    def set_accepts(self, accepts: Accepts) -> None:
        """Say anew what this port can take; the peer is told."""
        if accepts != self.accepts:
            self.accepts = accepts
            if self.peer is not None:
                self.peer.on_accepts_changed()

    def set_room(self, room: Room | None) -> None:
        """Offer or withdraw reservations; the peer is told."""
        if room is not self.room:
            self.room = room
            if self.peer is not None:
                self.peer.on_accepts_changed()

    def _note_link(self) -> None:
        peer = self.peer
        if peer is not None:
            carrier = self.link_up and peer.link_up
            self._note_carrier(carrier)
            peer._note_carrier(carrier)

    def _note_carrier(self, carrier: bool) -> None:
        if carrier != self._carrier:
            self._carrier = carrier
            self.on_link_changed(carrier)

    # Frames

    def send(self, frames: Sequence[Frame]) -> int:
        """Offer ``frames`` to the peer; return how many were taken, from the front."""
        peer = self.peer
        if peer is None or not self._carrier:
            self.drops["no carrier"] += len(frames)
            return len(frames)
        if self._left_over and not self._send_left_over(peer):
            return 0
        accepts = peer.accepts
        largest = accepts.largest
        fitting: Offload | None = None
        size = 0
        for frame in frames:
            offload = frame.offload
            size += frame.length
            if offload is not fitting:  # the frames of a burst are often alike
                if not accepts.takes(offload):
                    break
                fitting = offload
            if frame.length > largest and not offload.needs:
                break
        else:
            taken = peer.receive(frames)
            self.frames += taken
            self.bytes += size if taken == len(frames) else total_length(frames[:taken])
            return taken
        return self._send_finished(peer, frames, accepts)

    def send_plain(self, frames: Sequence[Frame]) -> int:
        """``send``, with nothing left to do to any frame, whatever the peer could take."""
        peer = self.peer
        if peer is None or not self._carrier:
            self.drops["no carrier"] += len(frames)
            return len(frames)
        if self._left_over and not self._send_left_over(peer):
            return 0
        return self._send_finished(peer, frames, Accepts(largest=peer.accepts.largest))

    def resume(self) -> None:
        """Tell the peer that this port's box has room again."""
        peer = self.peer
        if peer is not None and (not peer._left_over or peer._send_left_over(self)):
            peer.on_resume()

    def _send_finished(self, peer: Port, frames: Sequence[Frame], accepts: Accepts) -> int:
        """Send one by one, and count."""
        taken = self._send_each(peer, frames, accepts)
        self.frames += taken
        self.bytes += total_length(frames[:taken])
        return taken

    def _send_each(self, peer: Port, frames: Sequence[Frame], accepts: Accepts) -> int:
        """Send one by one, each as its peer can take it.

        Segments of a superframe that is taken in part are copied and kept here; the superframe
        then counts as taken.
        """
        for index, frame in enumerate(frames):
            parts = as_taken(frame, accepts)
            if not parts:
                self.drops["malformed superframe"] += 1
                continue
            fitting = [
                part for part in parts if part.length <= accepts.largest or part.offload.needs
            ]
            taken = peer.receive(fitting) if fitting else 0
            if fitting and taken == 0:
                return index  # and the frame is offered again, whole
            self.drops["too long"] += len(parts) - len(fitting)
            if taken < len(fitting):
                self._left_over = [part.copy() for part in fitting[taken:]]
                return index + 1
        return len(frames)

    def _send_left_over(self, peer: Port) -> bool:
        del self._left_over[: peer.receive(self._left_over)]
        return not self._left_over

    # Reservations in the peer's memory

    @property
    def peer_accepts(self) -> Accepts:
        """What the peer takes as it is (everything, when nobody is there)."""
        return EVERYTHING if self.peer is None else self.peer.accepts

    @property
    def reserves(self) -> bool:
        """Whether the peer gives room in its memory (a wire without carrier doesn't)."""
        peer = self.peer
        return peer is not None and peer.room is not None and self._carrier

    def reserve(self, length: int) -> Sequence[View] | None:
        """Ask the peer for ``length`` writable bytes; None when there is no room now."""
        peer = self.peer
        if peer is None or peer.room is None or not self._carrier or self._left_over:
            return None
        return peer.room.reserve(length)

    def commit(self, length: int, offload: Offload = NO_OFFLOAD) -> None:
        """Send the first ``length`` bytes of what was reserved, as one frame."""
        peer = self.peer
        assert peer is not None and peer.room is not None
        peer.room.commit(length, offload)
        self.frames += 1
        self.bytes += length

    def cancel(self) -> None:
        """Give the reservation back unused."""
        peer = self.peer
        assert peer is not None and peer.room is not None
        peer.room.cancel()


def as_taken(frame: Frame, accepts: Accepts) -> list[Frame]:
    """``frame`` as somebody with these abilities can take it; [] if it is malformed."""
    if accepts.takes(frame.offload):
        return [frame]
    if isinstance(frame, Run):
        parts = frame.parts()
        if accepts.takes(parts[0].offload):
            return parts
    return finish(frame)


def stats(port: Port) -> dict[str, object]:
    """Return a port's counters as plain data."""
    return {"frames": port.frames, "bytes": port.bytes, "drops": dict(+port.drops)}
