# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A card that nobody drives: it takes what comes and counts it. The template for a new NIC.

A NIC is a *box* with one port. Its logic opens nothing; ``open`` is where an attach (a socket to
the virtual machine) is acquired, which this card doesn't have. ``docs/adding.md`` walks through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmwire.engine.host import Host
from vmwire.options.table import option, record
from vmwire.options.values import IDENTIFIER, STRING
from vmwire.wire.frame import Frame, total_length
from vmwire.wire.port import EVERYTHING, Port, stats


@record("device", "null")
@dataclass(slots=True, kw_only=True)
class NullNicOptions:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)
    netdev: str | None = option(STRING)


class NullNic:
    """Swallows what it receives, superframes included, and never sends.

    >>> nic = NullNic(NullNicOptions(id="n0"))
    >>> nic.receive([Frame.of(bytes(60))]), nic.received
    (1, 1)
    """

    OPTIONS = NullNicOptions

    def __init__(self, options: NullNicOptions) -> None:
        self.port = Port(options.id, self.receive, accepts=EVERYTHING)
        self.received = 0
        self.received_bytes = 0

    def open(self, host: Host) -> None:
        """Acquire what the card needs from the host: nothing."""

    def close(self) -> None:
        """Give it back."""

    def receive(self, frames: Sequence[Frame]) -> int:
        """Take all ``frames``. They are only lent: whoever keeps one copies it."""
        self.received += len(frames)
        self.received_bytes += total_length(frames)
        return len(frames)

    def stats(self) -> dict[str, object]:
        """Return the counters as plain data."""
        counted = {"received": self.received, "received bytes": self.received_bytes}
        return stats(self.port) | counted
