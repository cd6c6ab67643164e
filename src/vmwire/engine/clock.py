# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Clocks and timers: time is something that is handed in.

A ``Timers`` object holds what is due when. The engine drives one with the system's monotonic
clock; a test or the bench machine drives one by hand with a ``ManualClock``, and nothing that
uses timers can tell the difference. Times are seconds (float) on a monotonic clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Protocol


class Clock(Protocol):
    """Something that tells the time."""

    def now(self) -> float:
        """Return seconds since an arbitrary fixed moment; never goes back."""


class SystemClock:
    """The kernel's CLOCK_MONOTONIC."""

    now = staticmethod(time.monotonic)


class ManualClock:
    """A clock that stands still until ``advance`` is called."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock on; negative steps are a caller's bug."""
        if seconds < 0:
            raise ValueError("a clock does not go back")
        self._now += seconds


class Timer:
    """One call that is due at ``when``; ``cancel`` makes it never happen."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    @property
    def active(self) -> bool:
        """Whether the call is still to come."""
        return self.callback is not None

    def cancel(self) -> None:
        """Forget the call. Harmless if it has happened."""
        self.callback = None


class Timers:
    """What is due when, over a clock that is handed in.

    >>> clock = ManualClock()
    >>> timers = Timers(clock)
    >>> _ = timers.call_later(2.0, lambda: print("due"))
    >>> timers.advance(2.0)
    due
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock if clock is not None else SystemClock()
        self.now = self.clock.now
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()

    def join(self, other: Timers) -> None:
        """Be ``other`` from now on, under another name; what is due here is due there.

        For who needs timers before the loop is known that drives them.
        """
        for when, _, timer in self._heap:
            heappush(other._heap, (when, next(other._order), timer))
        self._heap, self._order = other._heap, other._order
        self.clock, self.now = other.clock, other.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Have ``callback`` called at ``when`` (seconds on this clock)."""
        timer = Timer(when, callback)
        heappush(self._heap, (when, next(self._order), timer))
        return timer

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Have ``callback`` called ``delay_s`` seconds from now."""
        return self.call_at(self.now() + delay_s, callback)

    def next_deadline(self) -> float | None:
        """When the next call is due, or None."""
        heap = self._heap
        while heap and heap[0][2].callback is None:
            heappop(heap)
        return heap[0][0] if heap else None

    def run_due(self) -> int:
        """Make all calls that are due now; return how many were made.

        A call made here may set new timers; those that are due at once wait for the next round,
        so that a timer that re-arms itself with no delay can't hold the loop.
        """
        heap = self._heap
        if not heap or heap[0][0] > (now := self.now()):
            return 0
        due: list[Timer] = []
        while heap and heap[0][0] <= now:
            due.append(heappop(heap)[2])
        made = 0
        for timer in due:
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
                made += 1
        return made

    def advance(self, seconds: float) -> None:
        """With a manual clock: move on by ``seconds``, making each call at its own moment."""
        clock = self.clock
        if not isinstance(clock, ManualClock):
            raise TypeError("only a ManualClock can be advanced")
        end = clock.now() + seconds
        while (deadline := self.next_deadline()) is not None and deadline <= end:
            clock.advance(max(0.0, deadline - clock.now()))
            self.run_due()
        clock.advance(end - clock.now())
