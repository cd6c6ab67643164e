# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A network with nothing in it: what a guest sends is counted and gone. The template for a netdev.

A netdev is a *box* with one port that owns host resources between ``open`` and ``close``. This one
owns none; what a real one does there stands in the comments. ``docs/adding.md`` walks through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmwire.engine.host import Host
from vmwire.options.table import option, record
from vmwire.options.values import IDENTIFIER
from vmwire.wire.frame import Frame, total_length
from vmwire.wire.port import EVERYTHING, Port, stats


@record("netdev", "null")
@dataclass(slots=True, kw_only=True)
class NullOptions:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)


class NullNetdev:
    """Swallows what it receives, superframes included, and never sends.

    >>> netdev = NullNetdev(NullOptions(id="x"))
    >>> netdev.receive([Frame.of(bytes(60))]), netdev.received
    (1, 1)
    """

    OPTIONS = NullOptions

    def __init__(self, options: NullOptions) -> None:
        self.port = Port(options.id, self.receive, accepts=EVERYTHING)
        self.received = 0
        self.received_bytes = 0

    def open(self, host: Host) -> None:
        """Acquire descriptors and watch them: ``host.loop.watch(fd, READ, self.on_readable)``.

        A user's mistake raises ConfigError, a refusal of the host OSError; either way everything
        that was acquired here before is given back first.
        """

    def close(self) -> None:
        """Unwatch and close what ``open`` acquired. Harmless when called twice."""

    def receive(self, frames: Sequence[Frame]) -> int:
        """Take all ``frames``.

        A backend that has no room takes fewer, and calls ``self.port.resume()`` once it has.
        """
        self.received += len(frames)
        self.received_bytes += total_length(frames)
        return len(frames)

    def stats(self) -> dict[str, object]:
        """Return the counters as plain data."""
        counted = {"received": self.received, "received bytes": self.received_bytes}
        return stats(self.port) | counted
