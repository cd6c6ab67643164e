# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``filter-buffer``: frames wait, and leave together every ``interval`` microseconds.

Theory of operation. Time is cut into intervals from the filter's making on. What comes during one
leaves at its end; what the far side doesn't take then leaves as soon as it has room. No more than
``MOST_HELD`` frames wait for each direction; further ones are refused, so that their senders wait.
A filter without frames needs no timer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vmwire.engine.clock import Timer
from vmwire.engine.host import Host
from vmwire.filters.options import BufferOptions
from vmwire.filters.selective import MakeLine, Selective
from vmwire.wire.frame import Frame
from vmwire.wire.port import Port

MOST_HELD = 4096


class BufferFilter(Selective):
    """The box."""

    OPTIONS = BufferOptions
    CHANGEABLE = (*Selective.CHANGEABLE, "interval")

    def __init__(self, options: BufferOptions, host: Host, make_line: MakeLine) -> None:
        self.options: BufferOptions = options
        self._loop = host.loop
        self._begin = host.loop.now()
        self._timer: Timer | None = None
        super().__init__(options.id)
        self._held: dict[Port, list[Frame]] = {self.left: [], self.right: []}
        self._leaving: dict[Port, list[Frame]] = {self.left: [], self.right: []}
        """What has waited long enough."""
        self._refused: dict[Port, bool] = {self.left: False, self.right: False}

    def lends(self, out: Port) -> bool:
        return not self.takes(out)

    def carry(self, out: Port, frames: Sequence[Frame]) -> int:
        if not self.takes(out):
            if self._leaving[out]:  # what was held when the filter was switched off goes first
                self._refused[out] = True
                return 0
            return out.send(frames)
        held = self._held[out]
        taken = frames[: max(0, MOST_HELD - len(held) - len(self._leaving[out]))]
        held += [frame.copy() for frame in taken]
        if len(taken) < len(frames):
            self._refused[out] = True
        if self._timer is None:
            self._timer = self._loop.call_at(self._interval_end(), self._on_interval_end)
        return len(taken)

    def resumed(self, out: Port) -> None:
        if self._leave(out):
            super().resumed(out)

    def change(self, field: str, value: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._release()  # what comes from now on may pass at once
        super().change(field, value)

    def close(self) -> None:
        """Let go what waits, and leave the line."""
        if self._timer is not None:
            self._timer.cancel()
        self._release()
        for out, frames in self._leaving.items():
            out.drops["filter removed"] += len(frames)
        super().close()

    def stats(self) -> dict[str, object]:
        held = {"rx": self.right, "tx": self.left}
        return super().stats() | {
            "held": {
                queue: len(self._held[out]) + len(self._leaving[out]) for queue, out in held.items()
            }
        }

    def _interval_end(self) -> float:
        interval_s = self.options.interval / 1e6
        since = self._loop.now() - self._begin
        return self._begin + (math.floor(since / interval_s) + 1) * interval_s

    def _on_interval_end(self) -> None:
        self._timer = None
        self._release()

    def _release(self) -> None:
        for out in (self.left, self.right):
            self._leaving[out] += self._held[out]
            self._held[out].clear()
            if self._leave(out) and self._refused[out]:
                self._refused[out] = False
                self.opposite(out).resume()

    def _leave(self, out: Port) -> bool:
        """Send what is to leave by ``out``; whether all of it is gone."""
        leaving = self._leaving[out]
        if leaving:
            del leaving[: out.send(leaving)]
        return not leaving
