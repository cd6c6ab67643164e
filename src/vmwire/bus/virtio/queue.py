# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a device knows of a virtqueue, whatever its ring looks like in memory.

A device *takes* chains of buffers that the driver made available, *gives back* from the end what it
took too much, and *completes* the rest. Between ``take`` and one of the two a chain is on loan: the
views are only good until control returns to the loop. Completions may be shown to the driver at
once; the driver is woken by ``flush``, once for however many there were.

Chains are plain tuples because there is one for each small frame: ``(token, views, length)``.
The token is the ring's own (a split ring's head; a packed ring's buffer id and count; a slot of an
in-flight table) and goes back to ``complete`` as it came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

View = memoryview
Chain = tuple[int, list[View], int]


class RingFault(Exception):
    """The driver wrote something into its ring that can't be followed. The ring is dead."""


class Queue(Protocol):
    """One virtqueue, seen from the device."""

    size: int

    def take(self, count: int) -> list[Chain]:
        """Return at most ``count`` chains that are available. Raises ``RingFault``."""

    def give_back(self, count: int) -> None:
        """Return the last ``count`` chains taken to the ring, as if they were never taken."""

    def complete(self, tokens: Sequence[int], lengths: Sequence[int] | None = None) -> None:
        """Show chains to the driver as used, with the bytes written to each (none if not given).

        All of one call become visible together, as the parts of one mergeable frame must.
        """

    def flush(self) -> None:
        """Wake the driver if anything was completed since the last time and it wants to know."""

    def want_kicks(self, seen: int = 0) -> bool:
        """Ask to be told when there are more chains than ``seen``, which were given back.

        True: there are some already, and nobody will tell.
        """

    def refuse_kicks(self) -> None:
        """Ask not to be told of new buffers, as far as the ring's format allows."""

    def close(self) -> None:
        """Let go of the ring's memory."""
