# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``filter-mirror``: a chardev gets a copy of what passes; the original goes on as if alone.

A frame is copied when it comes, before anybody behind the mirror can answer it. What the far side
refuses then waits here, and nothing else is taken until it is gone, so that nothing is copied
twice. What the chardev's peer doesn't read in time is lost for it, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmwire.engine.host import Host
from vmwire.filters.options import MirrorOptions
from vmwire.filters.selective import MakeLine, Selective
from vmwire.wire.frame import Frame
from vmwire.wire.port import Port
from vmwire.wire.through import Holding


class MirrorFilter(Selective, Holding):
    """The box."""

    OPTIONS = MirrorOptions

    def __init__(self, options: MirrorOptions, host: Host, make_line: MakeLine) -> None:
        self.options = options
        super().__init__(options.id)
        self._line = make_line(options.outdev, options.vnet_hdr_support)

    def open(self, host: Host) -> None:
        self._line.open(host)

    def lends(self, out: Port) -> bool:
        return not self.takes(out)

    def carry(self, out: Port, frames: Sequence[Frame]) -> int:
        if not self.send_waiting(out):
            return 0
        if not self.takes(out):
            return out.send(frames)
        self._line.counters["peer busy"] += len(frames) - self._line.send(frames)
        taken = out.send(frames)
        self.waiting[out] += [frame.copy() for frame in frames[taken:]]
        return len(frames)

    def close(self) -> None:
        """Leave the line, and hang up."""
        super().close()
        self._line.close()

    def stats(self) -> dict[str, object]:
        return super().stats() | {"outdev": self._line.stats()}
