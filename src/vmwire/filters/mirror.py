# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``filter-mirror``: a chardev gets a copy of what passes; the original goes on as if alone.

What the chardev's peer doesn't read in time is lost for it, and counted. Only what the far side of
the wire took is copied, in that order.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmwire.engine.host import Host
from vmwire.filters.options import MirrorOptions
from vmwire.filters.selective import MakeLine, Selective
from vmwire.wire.frame import Frame
from vmwire.wire.port import Port


class MirrorFilter(Selective):
    """The box."""

    OPTIONS = MirrorOptions

    def __init__(self, options: MirrorOptions, host: Host, make_line: MakeLine) -> None:
        self.options = options
        super().__init__(options.id)
        self._depth = 0
        self._copies: list[Frame] = []
        self._line = make_line(options.outdev, options.vnet_hdr_support)

    def open(self, host: Host) -> None:
        self._line.open(host)

    def lends(self, out: Port) -> bool:
        return not self.takes(out)

    def carry(self, out: Port, frames: Sequence[Frame]) -> int:
        """Pass ``frames`` on and copy those that were taken.

        The far side may answer before ``send`` returns; the question's copies are put in front of
        what its answers left here.
        """
        if not self.takes(out):
            return out.send(frames)
        place = len(self._copies)
        self._depth += 1
        taken = out.send(frames)
        self._depth -= 1
        self._copies[place:place] = [frame.copy() for frame in frames[:taken]]
        if self._depth == 0:
            copies, self._copies = self._copies, []
            lost = len(copies) - self._line.send(copies)
            self._line.counters["peer busy"] += lost
        return taken

    def close(self) -> None:
        """Leave the line, and hang up."""
        super().close()
        self._line.close()

    def stats(self) -> dict[str, object]:
        return super().stats() | {"outdev": self._line.stats()}
