# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The far end of a card's cable, in a test's hand.

>>> near, far = Port("card", len), WireEnd("nic0")
>>> near.connect(far.port)
>>> near.send([Frame.of(b"one"), Frame.of(b"two")]), far.take()
(2, [b'one', b'two'])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from vmwire.wire.frame import NO_OFFLOAD, Frame
from vmwire.wire.port import EVERYTHING, PACKETS_ONLY, Port

Sendable = bytes | bytearray | Frame


class Journal(Protocol):
    """Who hears of what is done here: the bench, which records it and lets its cards work."""

    def begin(self, command: str) -> None:
        """A command begins; its text is one of a script's."""

    def note(self, event: str) -> None:
        """Something comes of it."""

    def end(self, answer: str = "") -> None:
        """It is over."""

    def settle(self) -> None:
        """A card may have something to do now."""


class NoJournal:
    """Nobody."""

    def begin(self, command: str) -> None:
        pass

    def note(self, event: str) -> None:
        pass

    def end(self, answer: str = "") -> None:
        pass

    def settle(self) -> None:
        pass


class WireEnd:
    """Keeps a copy of what comes until ``take``, and sends what it is told to.

    ``received`` are the frames with their offloads. While ``full`` is true nothing is taken, and
    the card has to wait until there is room again. ``resumes`` counts how often the card said that
    it has room again. ``name`` is the card's.
    """

    def __init__(self, name: str, journal: Journal | None = None) -> None:
        self.name = name
        self.port = Port(f"{name} far end", self._receive, resume=self._resumed)
        self.received: list[Frame] = []
        self.resumes = 0
        self.full = False
        self._journal = journal or NoJournal()

    def send(self, frames: Sendable | Iterable[Sendable]) -> int:
        """Offer one frame or several at once to the card; return how many it took."""
        several = [frames] if isinstance(frames, Sendable) else frames
        offered = [one if isinstance(one, Frame) else Frame.of(one) for one in several]
        self._journal.begin(" ".join(["send", self.name, *map(frame_text, offered)]))
        taken = self.port.send(offered)
        self._journal.settle()
        self._journal.end(str(taken))
        return taken

    def take(self) -> list[bytes]:
        """Return what came since the last time, as bytes."""
        taken = [frame.tobytes() for frame in self.received]
        self.received.clear()
        return taken

    def accept_superframes(self, yes: bool = True) -> None:
        """Say whether this end takes superframes and unfinished checksums as they are."""
        self._journal.begin(f"accept {self.name} {'all' if yes else 'packets'}")
        self.port.set_accepts(EVERYTHING if yes else PACKETS_ONLY)
        self._journal.settle()
        self._journal.end()

    def set_link(self, up: bool) -> None:
        """Pull or plug the cable."""
        self._journal.begin(f"link {self.name} {'up' if up else 'down'}")
        self.port.set_link(up)
        self._journal.settle()
        self._journal.end()

    def set_full(self, full: bool) -> None:
        """Take nothing from now on, or take again and say so."""
        self._journal.begin(f"room {self.name} {'no' if full else 'yes'}")
        self.full = full
        if not full:
            self.port.resume()
        self._journal.settle()
        self._journal.end()

    def _receive(self, frames: Sequence[Frame]) -> int:
        if self.full:
            return 0
        for frame in frames:
            self.received.append(frame.copy())
            self._journal.note(f"FRAME {self.name} {frame_text(frame)}")
        return len(frames)

    def _resumed(self) -> None:
        self.resumes += 1


def frame_text(frame: Frame) -> str:
    """A frame in a script: its bytes in hex (``-``: none), after a colon its offload's, if any."""
    text = frame.tobytes().hex() or "-"
    return text if frame.offload == NO_OFFLOAD else f"{text}:{frame.offload.packed.hex()}"
