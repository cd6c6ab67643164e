# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Superframes whole between two vmwires: how they find each other, and how such frames travel.

What QEMU's socket wires carry is finished Ethernet frames, and a stranger must never see anything
else. Two processes of ours can do better: frames whose segmentation and checksums are still to be
done travel with virtio's net header, in *capsules*.

A capsule is an Ethernet frame to 01:80:C2:00:00:0F (no bridge forwards that group, and no guest
listens to it) with the EtherType for local experiments (0x88B5, IEEE 802), so that who doesn't know
it ignores it. Behind the header: ``vmw`` and a version, the kind, a zero byte, and

* ``HELLO``: who says it to whom (``meeting``), and whether it is an answer; padded to 60 bytes;
* ``WHOLE``: the net header (10 bytes), then the frame;
* ``BUNDLE``: many small frames in one datagram, each behind its length (two bytes) and net header;
* ``FIRST``, ``REST``: as ``WHOLE`` in two pieces, where one datagram can't hold it. ``REST``
  follows right behind its ``FIRST``, or the frame is lost.

Finding each other. Everybody understands capsules at any time, but sends ``WHOLE`` only to who has
said hello. Hello is said once a connection has carried ``WORTH_BYTES`` (a short exchange with a
stranger, a harness that counts frames, sees none), and answered at once. A frame may have come
through somebody's hub, from a connection of theirs; so hello names both ends of the connection, and
counts only if these are the ends of ours as seen from the other side. Where there is something in
between that changes addresses, frames stay plain, which is slower and nothing else.

A connection that ends takes what was learnt with it. With datagrams nothing ends: there a hello
counts for ``LEASE_S`` and is renewed while there is traffic.

A guest can send capsules too. It gains nothing: it may describe superframes to its own card as it
likes, and they are judged like these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from struct import Struct

from vmwire.wire.frame import HEADER, MAX_FRAME, Frame, Offload, View
from vmwire.wire.port import EVERYTHING, PACKETS_ONLY, Accepts, Port

ETHERTYPE = 0x88B5
SIGNATURE = bytes.fromhex("0180c200000f") + b"\x02vmwir" + ETHERTYPE.to_bytes(2, "big") + b"vmw\x01"
FIRST_BYTE = SIGNATURE[0]
SIGNED = len(SIGNATURE)
HEAD = SIGNED + 2
HELLO, WHOLE, FIRST, REST, BUNDLE = 1, 2, 3, 4, 5
ANSWER = 1

WHOLE_HEAD = SIGNATURE + bytes((WHOLE, 0))
FIRST_HEAD = SIGNATURE + bytes((FIRST, 0))
REST_HEAD = SIGNATURE + bytes((REST, 0))
BUNDLE_HEAD = SIGNATURE + bytes((BUNDLE, 0))
BUNDLED_LENGTH = Struct("!H")
BUNDLED_HEAD = BUNDLED_LENGTH.size + HEADER.size
OVERHEAD = HEAD + HEADER.size
"""What a capsule adds to a frame."""
MEETING_BYTES = 16
HELLO_BYTES = 60

WORTH_BYTES = 64 << 10
"""What a connection has carried before hello is said."""
HELLO_EVERY_S = 2.0
LEASE_S = 5.0


def meeting(mine: str, theirs: str) -> bytes:
    """The two ends of a connection, as the one who says hello sees them."""
    words = f"{mine}\n{theirs}".encode(errors="surrogateescape")
    return blake2b(words, digest_size=MEETING_BYTES).digest()


def wrapped(offload: Offload) -> bytes:
    """What goes in front of a frame that isn't finished."""
    return WHOLE_HEAD + offload.packed


def bundled(frames: Sequence[Frame]) -> list[bytes | View]:
    """The parts of a capsule that holds several frames."""
    pack = BUNDLED_LENGTH.pack
    parts: list[bytes | View] = [BUNDLE_HEAD]
    for frame in frames:
        parts.append(pack(frame.length) + frame.offload.packed)
        parts += frame.views
    return parts


def _frame(body: View) -> Frame:
    """A frame behind its net header."""
    data = body[HEADER.size :]
    return Frame((data,), len(data), Offload.unpack(bytes(body[: HEADER.size])))


class Acquaintance:
    """What one end of a line knows of the other, and what is to be said.

    ``ends`` are (mine, theirs), or None where hello can't be said. ``say(capsule)`` sends one; it
    may come to nothing, which is then said again. ``now`` is given for datagrams, whose hello has
    its time. ``finished`` is what strangers are sent, ``whole`` what friends take.
    """

    def __init__(
        self,
        port: Port,
        say: Callable[[bytes], None],
        *,
        now: Callable[[], float] | None = None,
        finished: Accepts = PACKETS_ONLY,
    ) -> None:
        self._port = port
        self._say = say
        self._now = now
        self._finished = finished
        self._ends: tuple[str, str] | None = None
        self._first: Frame | None = None
        self.reset(None)

    def reset(self, ends: tuple[str, str] | None) -> None:
        """Begin anew with the ends of another connection, or none."""
        self._ends = ends
        self.known = False
        self._worth = 0
        self._said_at: float | None = None
        self._heard_at = 0.0
        self._first = None
        self._port.set_accepts(self._finished)

    # Speaking

    def carried(self, size: int) -> None:
        """Frames of so many bytes have passed, in either direction."""
        if self._ends is None:
            return
        if self._now is not None and self._said_at is not None:
            self._renew(self._now())
        elif self._said_at is None:
            self._worth += size
            if self._worth >= WORTH_BYTES:
                self._hello()

    def _renew(self, now: float) -> None:
        """The time of a hello runs out: say it again, to a friend only."""
        if self.known:
            assert self._said_at is not None
            if now - self._heard_at > LEASE_S:
                self.known = False
                self._port.set_accepts(self._finished)
                self._hello()
            elif now - self._said_at > HELLO_EVERY_S:
                self._hello()

    def _hello(self, flags: int = 0) -> None:
        assert self._ends is not None
        self._said_at = 0.0 if self._now is None else self._now()
        words = SIGNATURE + bytes((HELLO, flags)) + meeting(*self._ends)
        self._say(words.ljust(HELLO_BYTES, b"\0"))

    # Listening

    def open(self, capsule: View, frames: list[Frame]) -> None:
        """Add what is in a capsule to ``frames``; what is malformed or not for us is counted."""
        if len(capsule) < OVERHEAD:
            self._port.drops["malformed capsule"] += 1
            return
        kind, flags = capsule[SIGNED], capsule[SIGNED + 1]
        body = capsule[HEAD:]
        if kind == HELLO:
            self._on_hello(bytes(body[:MEETING_BYTES]), flags)
        elif kind == FIRST:
            self._first = _frame(body)
        elif kind == BUNDLE:
            self._unbundle(body, frames)
        else:
            self._take(_frame(body) if kind == WHOLE else self._join(kind, body), frames)

    def _take(self, frame: Frame | None, frames: list[Frame]) -> None:
        if frame is None or not 0 < frame.length <= MAX_FRAME:
            self._port.drops["malformed capsule"] += 1
        else:
            frames.append(frame)

    def _unbundle(self, body: View, frames: list[Frame]) -> None:
        at, end = 0, len(body)
        unpack, offload_of = BUNDLED_LENGTH.unpack_from, Offload.unpack
        while at + BUNDLED_HEAD <= end:
            (length,) = unpack(body, at)
            start = at + BUNDLED_HEAD
            at = start + length
            if not length or at > end:
                self._port.drops["malformed capsule"] += 1
                return
            offload = offload_of(bytes(body[start - HEADER.size : start]))
            frames.append(Frame((body[start:at],), length, offload))

    def _join(self, kind: int, rest: View) -> Frame | None:
        """The frame that began with the last ``FIRST``, if this is the rest of one."""
        first, self._first = self._first, None
        if first is None or kind != REST:
            return None
        return Frame((*first.views, rest), first.length + len(rest), first.offload)

    def keep_piece(self) -> None:
        """The memory of what was read is about to be used again: copy a piece that waits."""
        if self._first is not None:
            self._first = self._first.copy()

    def _on_hello(self, said: bytes, flags: int) -> None:
        if self._ends is None or said != meeting(*reversed(self._ends)):
            self._port.drops["hello for somebody else"] += 1
            return
        self._heard_at = 0.0 if self._now is None else self._now()
        if not self.known:
            self.known = True
            self._port.set_accepts(EVERYTHING)
        if not flags & ANSWER:
            self._hello(ANSWER)
