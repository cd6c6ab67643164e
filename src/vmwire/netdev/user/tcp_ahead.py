# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A guest's data that came too early: runs of bytes behind holes (RFC 9293, 3.10.7.4; RFC 2018).

Runs are kept in order, and never touch each other. Sequence numbers are 32-bit; all of one
connection's lie within half of their range, so that they can be told before and behind each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmwire.wire.frame import View
from vmwire.wire.protocols.tcp import seq_add, seq_diff

MAX_RUNS = 64
"""More holes than this at once are an attack on our time."""


class Run:
    """Bytes without a hole from sequence number ``start`` on."""

    __slots__ = ("data", "start")

    def __init__(self, start: int, data: bytearray) -> None:
        self.start = start
        self.data = data

    @property
    def end(self) -> int:
        """The sequence number behind it."""
        return seq_add(self.start, len(self.data))


class Ahead:
    """Keeps what came too early until ``take`` says that the hole before it is mended.

    >>> ahead = Ahead()
    >>> ahead.put(1005, [memoryview(b"later")])
    >>> ahead.blocks(3)
    [(1005, 1010)]
    >>> bytes(ahead.take(1007))
    b'ter'
    """

    __slots__ = ("_latest", "fin_at", "runs", "size")

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.size = 0
        """Bytes in all runs."""
        self.fin_at: int | None = None
        """Where the guest's FIN stands, if that came too early as well."""
        self._latest: Run | None = None

    def put(self, start: int, views: Sequence[View]) -> None:
        """Keep a copy of data; more of what is there already changes nothing."""
        data = bytearray().join(views)
        new = Run(start, data)
        if not data:
            return
        runs = self.runs
        first = last = len(runs)
        while first and seq_diff(runs[first - 1].end, start) >= 0:
            first -= 1
            if seq_diff(runs[first].start, new.end) > 0:
                last = first
        if first < last:
            new = self._joined(runs[first:last], new)
        elif len(runs) >= MAX_RUNS:
            return
        runs[first:last] = [new]
        self.size = sum([len(run.data) for run in runs])
        self._latest = new

    def _joined(self, touching: list[Run], new: Run) -> Run:
        """Make one run of ``new`` and those that it touches."""
        run = touching[0]
        if len(touching) == 1 and run.end == new.start:
            run.data += new.data
            return run
        start = run.start if seq_diff(run.start, new.start) < 0 else new.start
        end = touching[-1].end if seq_diff(touching[-1].end, new.end) > 0 else new.end
        whole = Run(start, bytearray(seq_diff(end, start)))
        for part in (*touching, new):
            at = seq_diff(part.start, start)
            whole.data[at : at + len(part.data)] = part.data
        return whole

    def take(self, expected: int) -> View | None:
        """Return what follows directly at ``expected``, if it is here."""
        while self.runs and seq_diff(self.runs[0].start, expected) <= 0:
            run = self.runs.pop(0)
            self.size -= len(run.data)
            known = seq_diff(expected, run.start)
            if known < len(run.data):
                return memoryview(run.data)[known:]
        return None

    def blocks(self, most: int) -> list[tuple[int, int]]:
        """Return runs as (start, end), first the one that has changed last (RFC 2018, 4)."""
        runs = [run for run in reversed(self.runs) if run is not self._latest]
        if len(runs) < len(self.runs) and self._latest is not None:
            runs.insert(0, self._latest)
        return [(run.start, run.end) for run in runs[:most]]
