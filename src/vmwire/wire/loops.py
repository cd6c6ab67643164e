# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a hub does when its own frames come back: by two sockets that lead to each other, by two
lines to one and the same other hub, by a bridge of the host's. Without it each broadcast would
circle for ever, and take all of the processor and of every guest with it.

Theory of operation.

*Watching* costs next to nothing: of every few bursts one frame is looked at, and what it begins
with is remembered for ``MEMORY_S``. A frame that circles is met again: at another port, or, where
it goes round one way only, ``REPEATS`` times at a port that isn't its sender's. When the first has
happened ``STRIKES`` times, or the second once, there is a loop: one line in the log, and the hub is

*guarded*. First everything is dropped for ``FLUSH_S``, so that nothing circles any more. From then
on a sender's address belongs to the port that it was first heard at, and what comes from it by
another one is dropped and counted: a broadcast makes one round and ends where it comes back. So
everybody hears everybody, once. A sender that has not been heard at its port for ``MOVE_S`` may be
elsewhere: a machine that has moved. And what goes round by the right port, since another hub of
the circle hasn't noticed, ends after ``REPEATS`` rounds. When nothing has come back for ``CALM_S``
the loop is gone, and the hub watches again.

    watching ──met again, in MEMORY_S──▶ guarded ──nothing came back for CALM_S──▶ watching

What is remembered is bounded; addresses beyond ``MOST_SENDERS`` pass unjudged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from vmwire.wire.frame import Frame
from vmwire.wire.port import Port

log = logging.getLogger(__name__)

LOOK_BYTES = 64
"""Bytes that tell frames from each other: headers with their sequence numbers and checksums."""
STRIDES = (5, 7)
"""Bursts from look to look, by turns: a fixed number could meet the same port of a loop always."""
LARGE_BURST = 16
"""Frames after which a burst counts for another one: in a storm there are few of them, and long."""
MEMORY_S = 3.0
MOST_LOOKS = 256
STRIKES = 4
REPEATS = 16
"""Machines that announce themselves after a move say the same a few times, too."""
FLUSH_S = 0.1
MOVE_S = 2.0
CALM_S = 10.0
MOST_SENDERS = 4096
TELL_AGAIN_S = 60.0


class LoopGuard:
    """Judges what comes in at a hub's ports: ``admit(port, frames)`` returns what may go on.

    ``now()`` is the time in seconds.

    >>> guard = LoopGuard("hub0", lambda: 0.0)
    >>> guard.admit(Port("a", len), [Frame.of(bytes(60))])[0].length
    60
    """

    def __init__(self, name: str, now: Callable[[], float]) -> None:
        self._name = name
        self._now = now
        self._wait = 1
        self._stride = 0
        self._looks: dict[bytes, tuple[Port, int]] = {}
        """By a frame's first bytes: where it was met first, and how often."""
        self._homes: dict[bytes, Port] = {}
        """By address: where a sender was met before."""
        self._moves: dict[bytes, Port] = {}
        """Where it is now, if that is somewhere else: its home when ``MEMORY_S`` are over."""
        self._looks_since = now()
        self._strikes = 0
        self._guarded = False
        self._flushed_at = 0.0
        self._came_back_at = 0.0
        self._told_at: float | None = None
        self._senders: dict[bytes, tuple[Port, float]] = {}
        """While guarded: where each belongs, and when it was last heard there."""

    def admit(self, source: Port, frames: Sequence[Frame]) -> Sequence[Frame]:
        """What of these frames may go on."""
        if self._guarded:
            return self._judge(source, frames)
        count = len(frames)
        self._wait -= 1 + count // LARGE_BURST
        if self._wait <= 0 and count:
            self._stride = (self._stride + 1) % len(STRIDES)
            self._wait = STRIDES[self._stride]
            self._look(source, frames[0])
            if count >= LARGE_BURST and not self._guarded:
                self._look(source, frames[-1])
        return frames

    def forget(self, port: Port) -> None:
        """A port is taken away."""
        self._forget_looks()
        self._homes = {key: each for key, each in self._homes.items() if each is not port}
        self._senders = {key: each for key, each in self._senders.items() if each[0] is not port}

    # Watching

    def _look(self, source: Port, frame: Frame) -> None:
        now = self._now()
        if now - self._looks_since > MEMORY_S or len(self._looks) >= MOST_LOOKS:
            self._forget_looks()
            self._looks_since = now
        head = frame.head(LOOK_BYTES)
        sender = head[6:12]
        home = self._homes.setdefault(sender, source)
        if home is not source:
            self._moves[sender] = source
        first, count = self._looks.get(head, (source, 0))
        self._looks[head] = first, count + 1
        if first is not source:
            self._strikes += 1
            if self._strikes >= STRIKES:
                self._begin(first, source, now)
        elif home is not source and count >= REPEATS:
            self._begin(home, source, now)

    def _forget_looks(self) -> None:
        self._looks.clear()
        self._strikes = 0
        if len(self._homes) >= MOST_SENDERS:
            self._homes.clear()
        self._homes.update(self._moves)
        self._moves.clear()

    def _begin(self, first: Port, second: Port, now: float) -> None:
        self._guarded = True
        self._flushed_at = now + FLUSH_S
        self._came_back_at = now
        self._moves.clear()
        self._forget_looks()
        if self._told_at is None or now - self._told_at > TELL_AGAIN_S:
            self._told_at = now
            log.warning(
                "%s: what comes in at '%s' comes back at '%s': a loop, which is cut there",
                self._name, first.name, second.name,
            )  # fmt: skip

    # Guarded

    def _judge(self, source: Port, frames: Sequence[Frame]) -> Sequence[Frame]:
        now = self._now()
        if now < self._flushed_at:
            source.drops["loop"] += len(frames)
            return ()
        if now - self._looks_since > MEMORY_S or len(self._looks) >= MOST_LOOKS:
            self._forget_looks()
            self._looks_since = now
        admitted = [frame for frame in frames if self._is_new(frame.head(LOOK_BYTES), source, now)]
        if len(admitted) < len(frames):
            source.drops["loop"] += len(frames) - len(admitted)
            self._came_back_at = now
        elif now - self._came_back_at > CALM_S:
            self._guarded = False
            self._senders.clear()
        return admitted

    def _is_new(self, head: bytes, source: Port, now: float) -> bool:
        """Whether a frame hasn't been here before, as far as can be told."""
        if not self._belongs(head[6:12], source, now):
            return False
        first, count = self._looks.get(head, (source, 0))
        self._looks[head] = first, count + 1
        return count < REPEATS

    def _belongs(self, sender: bytes, source: Port, now: float) -> bool:
        """Whether a sender may speak by this port; note that it has."""
        known = self._senders.get(sender)
        if known is None:
            if len(self._senders) >= MOST_SENDERS:
                return True
        elif known[0] is not source and now - known[1] <= MOVE_S:
            return False
        self._senders[sender] = source, now
        return True
