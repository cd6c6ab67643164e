# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``filter-redirector``: what comes goes to a chardev; what a chardev says goes on in its place.

With ``outdev`` alone, whatever is redirected ends there; with ``indev`` alone, everything passes
and more is put in. ``queue`` says what is redirected, and which way goes what comes in (both ways
for ``all``). A peer of ``outdev`` that doesn't read makes the senders wait; what the wire refuses
of ``indev`` waits here, up to ``MOST_WAITING`` frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vmwire.engine.host import Host
from vmwire.filters.options import RedirectorOptions
from vmwire.filters.selective import MakeLine, Selective
from vmwire.wire.frame import Frame
from vmwire.wire.port import Port
from vmwire.wire.through import Holding

MOST_WAITING = 1024


class RedirectorFilter(Selective, Holding):
    """The box."""

    OPTIONS = RedirectorOptions

    def __init__(self, options: RedirectorOptions, host: Host, make_line: MakeLine) -> None:
        self.options = options
        super().__init__(options.id)
        self._lines = {
            name: make_line(id, options.vnet_hdr_support, name[:-3].upper() + " ")
            for name, id in (("indev", options.indev), ("outdev", options.outdev))
            if id is not None
        }
        self._out = self._lines.get("outdev")
        self._refused: set[Port] = set()
        if self._out is not None:
            self._out.resume = self._on_room
        if options.indev is not None:
            self._lines["indev"].receive = self._inject

    def open(self, host: Host) -> None:
        for line in self._lines.values():
            line.open(host)
        self._listen()

    def close(self) -> None:
        """Leave the line, and hang up."""
        super().close()
        for line in self._lines.values():
            line.close()

    def change(self, field: str, value: Any) -> None:
        super().change(field, value)
        self._listen()
        self._on_room()

    def lends(self, out: Port) -> bool:
        return self._out is None or not self.takes(out)

    def stats(self) -> dict[str, object]:
        return super().stats() | {name: line.stats() for name, line in self._lines.items()}

    # Out of the line

    def carry(self, out: Port, frames: Sequence[Frame]) -> int:
        if self._out is None or not self.takes(out):
            return out.send(frames)
        taken = self._out.send(frames)
        if taken < len(frames):
            self._refused.add(out)
        return taken

    def _on_room(self) -> None:
        """The chardev takes more, or isn't asked any longer."""
        refused, self._refused = self._refused, set()
        for out in refused:
            self.opposite(out).resume()

    # Into the line

    def _listen(self) -> None:
        """Read from ``indev`` only while the filter is on."""
        if "indev" in self._lines:
            self._lines["indev"].listen(self.options.status == "on")

    def _inject(self, frames: list[Frame]) -> None:
        for out in (self.left, self.right):
            if self.takes(out):
                waiting = self.waiting[out]
                room = MOST_WAITING - len(waiting)
                waiting += frames[:room]
                out.drops["no room"] += max(0, len(frames) - room)
                self.send_waiting(out)
