# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a device knows of a virtqueue, whatever its ring looks like in memory.

A device *takes* chains of buffers that the driver made available, *gives back* from the end what it
took too much, and *completes* the rest. Between ``take`` and one of the two a chain is on loan: the
views are only good until control returns to the loop. Completions may be shown to the driver at
once; the driver is woken by ``flush``, once for however many there were.

Chains come as parallel lists, because there are tens of them for one long frame: what a list can do
as a whole costs a tenth of what a loop does. A chain's token is the ring's own (a split ring's
head; a packed ring's buffer id and count; a slot of an in-flight table) and goes back to
``complete`` as it came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

View = memoryview


class Chains:
    """Some chains of buffers, in order.

    ``lengths`` are bytes per chain. ``views`` are all chains' buffers; ``ends`` says where each
    chain's end among them, or is None where every chain is a single buffer.
    """

    __slots__ = ("ends", "lengths", "tokens", "views")

    def __init__(
        self,
        tokens: list[int],
        lengths: list[int],
        views: list[View],
        ends: list[int] | None = None,
    ) -> None:
        self.tokens = tokens
        self.lengths = lengths
        self.views = views
        self.ends = ends

    def __len__(self) -> int:
        return len(self.tokens)

    def views_of(self, start: int, stop: int) -> list[View]:
        """Return the buffers of the chains from ``start`` up to ``stop``."""
        ends = self.ends
        if ends is None:
            return self.views[start:stop]
        return self.views[ends[start - 1] if start else 0 : ends[stop - 1] if stop else 0]

    def joined(self, start: int, more: Chains) -> Chains:
        """Return the chains from ``start`` on, followed by ``more``."""
        views = self.views_of(start, len(self))
        ends = None
        if self.ends is not None or more.ends is not None:
            gone = len(self.views) - len(views)
            ends = [end - gone for end in self._all_ends()[start:]]
            ends += [end + len(views) for end in more._all_ends()]
        return Chains(
            self.tokens[start:] + more.tokens,
            self.lengths[start:] + more.lengths,
            views + more.views,
            ends,
        )

    def _all_ends(self) -> list[int]:
        return list(range(1, len(self.views) + 1)) if self.ends is None else self.ends


NO_CHAINS = Chains([], [], [])


class RingFault(Exception):
    """The driver wrote something into its ring that can't be followed. The ring is dead."""


class Queue(Protocol):
    """One virtqueue, seen from the device."""

    size: int

    def take(self, count: int) -> Chains:
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
