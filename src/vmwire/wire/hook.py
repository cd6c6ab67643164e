# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A Python function in the line: it looks at frames, drops them, or replaces them.

The function gets a ``Packet`` and answers with

- None (or PASS): the packet goes on as it is;
- DROP: it goes nowhere;
- bytes, a ``Packet``, or a list of them: these go on in its place.

By default it sees plain packets: the hook's ports accept no superframes and no unfinished
checksums, so the sender cuts and finishes them first, which costs most of a bulk transfer's speed.
With ``superframes=True`` it sees what really travels, with the offload that is still to be done.

An exception in the function drops the packet (a filter that failed has not said yes), is counted,
and is logged once. The function runs in the engine's thread: while it waits, everything waits.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from vmwire.wire.frame import NO_OFFLOAD, Frame, Offload
from vmwire.wire.port import PACKETS_ONLY, Accepts, Port
from vmwire.wire.through import Holding

log = logging.getLogger(__name__)


class Direction(Enum):
    """Which way a packet goes, from the guest's view."""

    TX = "tx"
    """From the guest."""
    RX = "rx"
    """To the guest."""


class Verdict(Enum):
    """What becomes of a packet."""

    PASS = "pass"
    DROP = "drop"


PASS = Verdict.PASS
DROP = Verdict.DROP


@dataclass(frozen=True, slots=True)
class Packet:
    """A frame with memory of its own, which way it goes, and what is still to be done to it."""

    data: bytes
    direction: Direction
    offload: Offload = NO_OFFLOAD


Replacement: TypeAlias = bytes | Packet
Answer: TypeAlias = Verdict | Replacement | Sequence[Replacement] | None
HookFunction: TypeAlias = Callable[[Packet], Answer]


class Hook(Holding):
    """Asks ``function`` about each packet.

    >>> box = Hook("h", lambda packet: DROP if packet.data[12:14] == b"\\x86\\xdd" else PASS)
    """

    carries_reservations = False

    def __init__(self, name: str, function: HookFunction, *, superframes: bool = False) -> None:
        self._superframes = superframes
        super().__init__(name)
        self._function = function
        self.counts: Counter[str] = Counter()
        for port in (self.left, self.right):
            port.accepts = self.accepted(port)

    def accepted(self, out: Port) -> Accepts:
        return super().accepted(out) if self._superframes else PACKETS_ONLY

    def carry(self, out: Port, frames: Sequence[Frame]) -> int:
        """Ask about all ``frames``; what the far side refuses waits here, and nothing else is
        taken until it is gone, so that no packet is asked about twice."""
        if not self.send_waiting(out):
            return 0
        direction = Direction.TX if out is self.right else Direction.RX
        passing: list[Frame] = []
        for frame in frames:
            passing += self._ask(Packet(frame.tobytes(), direction, frame.offload))
        if passing:
            taken = out.send(passing)
            self.waiting[out] += passing[taken:]
        return len(frames)

    def inject(self, data: bytes, direction: Direction, offload: Offload = NO_OFFLOAD) -> bool:
        """Send a packet of one's own from here; return whether it was taken."""
        out = self.right if direction is Direction.TX else self.left
        self.counts["injected"] += 1
        return out.send([Frame.of(data, offload)]) == 1

    def stats(self) -> dict[str, object]:
        return super().stats() | dict(self.counts)

    def _ask(self, packet: Packet) -> Iterable[Frame]:
        try:
            frames = list(self._frames(packet, self._function(packet)))
        except Exception:  # a user's function may raise anything; the engine goes on
            if not self.counts["failed"]:
                log.exception("%s: the hook failed; the packet is dropped", self.name)
            self.counts["failed"] += 1
            return ()
        self.counts["dropped"] += not frames
        return frames

    def _frames(self, packet: Packet, answer: Answer) -> Iterable[Frame]:
        if answer is None or answer is PASS:
            return (Frame.of(packet.data, packet.offload),)
        if answer is DROP:
            return ()
        parts = answer if isinstance(answer, list | tuple) else [answer]
        self.counts["replaced"] += 1
        return map(_frame, parts)


def _frame(part: object) -> Frame:
    if isinstance(part, Packet):
        return Frame.of(part.data, part.offload)
    if isinstance(part, bytes | bytearray | memoryview):
        return Frame.of(bytes(part))
    raise TypeError(f"a hook answers None, PASS, DROP, bytes, a Packet or a list, not {part!r}")
