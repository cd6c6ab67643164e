# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""IPv4 fragments: put together what a guest sends in pieces, cut what is too big for it.

Theory of operation (RFC 791 3.2, RFC 815). Pieces of one datagram share source, destination,
protocol and identification. They are kept in order of offset until they cover everything up to
the one without the more-fragments flag. A piece that comes twice is ignored. A piece that
*overlaps* others, lies behind the end, or makes the datagram longer than IPv4 allows spoils the
whole: its memory is freed, and a spoilt entry swallows the rest of the datagram until its time is
over (RFC 5722 asks that of IPv6, and nothing honest overlaps in IPv4 either).

Limits: 64 datagrams at a time, 1 MiB with a charge for each piece, 30 seconds for each datagram.
Beyond them the oldest goes, so that a flood of halves can't keep a whole one out for long. Work
for a piece is a binary search, whatever a guest sends.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from vmwire.wire.protocols.checksum import Buffer
from vmwire.wire.protocols.ipv4 import (
    DONT_FRAGMENT,
    MAXIMUM_LENGTH,
    MINIMUM_MTU,
    MORE_FRAGMENTS,
    Header,
)

MAX_DATAGRAMS = 64
MAX_BYTES = 1 << 20
PIECE_CHARGE = 256  # what a piece costs beside its bytes
TIMEOUT_S = 30.0

_Key = tuple[bytes, bytes, int, int]


class Datagram(NamedTuple):
    """A whole datagram: the first piece's header, made whole, and the payload."""

    header: Header
    payload: bytes


@dataclass(slots=True)
class _Partial:
    """A datagram in the making; `total` is known once its last piece is there."""

    deadline: float
    first: Header | None = None
    total: int | None = None
    held: int = 0
    charge: int = PIECE_CHARGE
    offsets: list[int] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    spoilt: bool = False

    def place(self, header: Header, piece: bytes) -> int | None:
        """Where the piece goes; None if it overlaps with what is there. -1: it came before."""
        start = header.offset_bytes
        index = bisect_left(self.offsets, start)
        if index < len(self.offsets):
            if self.offsets[index] == start and self.pieces[index] == piece:
                return -1
            if start + len(piece) > self.offsets[index]:
                return None
        if index and self.offsets[index - 1] + len(self.pieces[index - 1]) > start:
            return None
        return index

    def fits(self, header: Header, piece: bytes) -> bool:
        """Whether the piece agrees with the datagram's end, as far as it is known."""
        end = header.offset_bytes + len(piece)
        longest_header = max(header.length, self.first.length if self.first else 0)
        if longest_header + max(end, self.total or 0) > MAXIMUM_LENGTH or not piece:
            return False
        if header.fragment & MORE_FRAGMENTS:
            return len(piece) % 8 == 0 and (self.total is None or end < self.total)
        if self.total is not None:
            return end == self.total
        return not self.offsets or self.offsets[-1] + len(self.pieces[-1]) <= end

    def insert(self, index: int, header: Header, piece: bytes) -> None:
        self.offsets.insert(index, header.offset_bytes)
        self.pieces.insert(index, piece)
        self.held += len(piece)
        self.charge += len(piece) + PIECE_CHARGE
        if not header.offset_bytes:
            self.first = header
        if not header.fragment & MORE_FRAGMENTS:
            self.total = header.offset_bytes + len(piece)

    def spoil(self) -> None:
        self.spoilt = True
        self.offsets.clear()
        self.pieces.clear()
        self.charge = PIECE_CHARGE


class Reassembler:
    """Takes pieces, returns whole datagrams. Time is handed in.

    >>> whole = Reassembler()
    >>> first = Header(bytes(4), bytes(4), 17, 8, ident=7, fragment=MORE_FRAGMENTS)
    >>> last = Header(bytes(4), bytes(4), 17, 2, ident=7, fragment=1)
    >>> whole.add(last, b"89", now=0.0)
    >>> whole.add(first, b"01234567", now=0.1).payload
    b'0123456789'
    """

    def __init__(self) -> None:
        self._partials: dict[_Key, _Partial] = {}  # in order of their deadlines
        self._charge = 0
        self.drops: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._partials)

    @property
    def charge(self) -> int:
        """The bytes accounted for; never above MAX_BYTES after a call."""
        return self._charge

    def add(self, header: Header, payload: Buffer, now: float) -> Datagram | None:
        """Take one piece (`header.is_fragment`); return the datagram that it completes."""
        self.expire(now)
        key = (header.src, header.dst, header.proto, header.ident)
        partial = self._partials.get(key)
        if partial is None:
            partial = self._partials[key] = _Partial(now + TIMEOUT_S)
            self._charge += partial.charge
        before = partial.charge
        self._take(partial, header, bytes(payload))
        self._charge += partial.charge - before
        whole = self._finish(key, partial)
        while len(self._partials) > MAX_DATAGRAMS or self._charge > MAX_BYTES:
            self._drop_oldest("fragments: no room")
        return whole

    def _take(self, partial: _Partial, header: Header, piece: bytes) -> None:
        if partial.spoilt:
            self.drops["fragments: spoilt datagram"] += 1
            return
        index = partial.place(header, piece) if partial.fits(header, piece) else None
        if index == -1:
            self.drops["fragments: duplicate"] += 1
        elif index is None:
            self.drops["fragments: overlap or bad length"] += 1
            partial.spoil()
        else:
            partial.insert(index, header, piece)

    def _finish(self, key: _Key, partial: _Partial) -> Datagram | None:
        # Pieces neither overlap nor lie behind the end, so that the sum tells completeness.
        if partial.first is None or partial.total != partial.held or partial.spoilt:
            return None
        del self._partials[key]
        self._charge -= partial.charge
        payload = b"".join(partial.pieces)
        return Datagram(replace(partial.first, payload_length=len(payload), fragment=0), payload)

    def _drop_oldest(self, reason: str) -> None:
        partial = self._partials.pop(next(iter(self._partials)))
        self._charge -= partial.charge
        if not partial.spoilt:
            self.drops[reason] += 1

    def next_deadline(self) -> float | None:
        """When `expire` has something to do."""
        for partial in self._partials.values():
            return partial.deadline
        return None

    def expire(self, now: float) -> None:
        """Forget what was not completed in time."""
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            self._drop_oldest("fragments: timed out")


def fragment(header: Header, payload: Buffer, mtu: int) -> Iterator[tuple[bytes, Buffer]]:
    """Cut a packet that is longer than `mtu`: each piece's header bytes and its payload slice.

    A packet that fits comes back as the one piece it is. The header must have no options (the
    user network sends none; which of them go into later pieces would differ by option).
    """
    if mtu < MINIMUM_MTU:
        raise ValueError(f"an IPv4 link's MTU is at least {MINIMUM_MTU}")
    flags = header.fragment & DONT_FRAGMENT
    total = len(payload)
    room = total if header.length + total <= mtu else (mtu - header.length) & ~7
    for start in range(0, max(total, 1), max(room, 1)):
        piece = payload[start : start + room]
        more = MORE_FRAGMENTS if start + len(piece) < total else 0
        word = flags | more | start >> 3
        yield replace(header, payload_length=len(piece), fragment=word).emit(), piece
