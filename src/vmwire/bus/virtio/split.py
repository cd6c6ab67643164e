# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The device's side of a split virtqueue (virtio 1.2, section 2.7).

Theory of operation. The driver owns the descriptor table and the *available* ring, we own the
*used* ring; each side publishes with a 16-bit index that only grows. Every word of the driver's is
fetched once, copied, then judged. What can't be followed (an index that jumps by more than the
ring, a head or a next outside of it, a loop, a buffer that goes the wrong way, an address without
memory) is a ``RingFault``; after one the ring isn't touched again until it is made anew.

Descriptors come in three shapes: one buffer in the table, a chain through the table, an *indirect*
table in guest memory that holds the chain. Drivers number indirect tables upwards, so one unpack
and two comparisons check a whole table; any other order is walked step by step, within the copy.

Ordering. x86-64 keeps loads in order and stores in order, which is all that publishing needs. The
one place where a store must be seen before a later load (publish the index, then read what the
other side wants to be told) calls ``full_fence``.

Layouts are little-endian: virtio 1.x everywhere, legacy devices on little-endian guests.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from struct import Struct
from threading import Lock

from vmwire.bus.virtio.queue import NO_CHAINS, Chains, RingFault
from vmwire.engine.memory import AddressFault, GuestMemory

if sys.byteorder != "little":
    raise ImportError("virtio rings in shared memory need a little-endian host")

F_NEXT = 1
F_WRITE = 2
F_INDIRECT = 4
AVAIL_F_NO_INTERRUPT = 1
USED_F_NO_NOTIFY = 1

MAX_SIZE = 32768
MAX_INDIRECT = 1024
"""Descriptors of an indirect table that we follow, even where the ring itself is smaller."""

DESCRIPTOR = Struct("<QIHH")  # address, length, flags, next
assert DESCRIPTOR.size == 16

_fence = Lock()


def full_fence(acquire: Callable[[], bool] = _fence.acquire) -> None:
    """Order every store before this call ahead of every load after it, as seen by other cores.

    Python has no fence. Acquiring a free lock is a locked instruction on x86, which is one.
    """
    acquire()
    _fence.release()


@cache
def _table(count: int) -> Struct:
    return Struct("<" + "QIHH" * count)


@cache
def _upwards(count: int) -> tuple[int, ...]:
    return tuple(range(1, count))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a split ring lies, in guest-physical addresses, and how many entries it has."""

    size: int
    descriptors: int
    available: int
    used: int


class SplitQueue:
    """One split ring, seen from the device. A ``Queue``.

    ``writable``: the device fills the buffers (receive); else it reads them. ``notify`` wakes the
    driver. ``position`` is the index of the next chain to take; ``used_log`` the address under
    which writes to the used ring go to the dirty log, or None.
    """

    def __init__(
        self,
        memory: GuestMemory,
        layout: Layout,
        *,
        writable: bool,
        notify: Callable[[], None],
        position: int = 0,
        event_index: bool = False,
    ) -> None:
        self.size = layout.size
        self.layout = layout
        self.position = position
        self.notify = notify
        self.event_index = event_index
        self.dirty: Callable[[int, int], None] | None = None
        self.used_log: int | None = None
        self.notify_on_empty = False
        """Whether the driver is woken in any case when it has left no more chains (legacy)."""
        self._direction = F_WRITE if writable else 0
        self._expected: dict[int, tuple[int, ...]] = {}
        self._written_to: dict[int, tuple[Sequence[int], Sequence[int]]] = {}
        self.attach(memory)
        self._used_index: int = self._used[1]
        self._told_index: int | None = None
        """Used index when the driver was last told; None: tell it in any case."""
        self._kicks_wanted = not self._used[0]  # whoever served the ring before may have left it

    # The ring's memory

    def attach(self, memory: GuestMemory) -> None:
        """(Re)build the views over the ring. Raises ``AddressFault``."""
        layout, size = self.layout, self.size
        table = memory.view(layout.descriptors, 16 * size)
        event = 2 if self.event_index else 0
        available = memory.view(layout.available, 4 + 2 * size + event)
        used = memory.view(layout.used, 4 + 8 * size + event)
        self._memory = memory
        # One view per field of the descriptors and of the used entries: an index is a ring slot
        self._addresses = table.cast("Q")[0::2]
        self._lengths = table.cast("I")[2::4]
        self._flags = table.cast("H")[6::8]
        self._nexts = table.cast("H")[7::8]
        self._available = available.cast("H")
        self._used = used[:4].cast("H")
        self._used_ids = used[4 : 4 + 8 * size].cast("I")[0::2]
        self._used_lengths = used[4 : 4 + 8 * size].cast("I")[1::2]
        self._kick_event = used[4 + 8 * size :].cast("H")

    @property
    def used_index(self) -> int:
        """How many chains were completed, as the driver sees it."""
        return self._used_index

    def close(self) -> None:
        """Let go of the ring's memory."""
        for view in (
            self._addresses, self._lengths, self._flags, self._nexts, self._available,
            self._used, self._used_ids, self._used_lengths, self._kick_event,
        ):  # fmt: skip
            view.release()
        self._memory = GuestMemory()

    # Taking chains

    def take(self, count: int) -> Chains:
        """Return at most ``count`` available chains. See ``Queue.take``."""
        available = self._available
        position = self.position
        waiting = (available[1] - position) & 0xFFFF
        if waiting < count:
            count = waiting
        if not count:
            return NO_CHAINS
        if waiting > self.size:
            raise RingFault(f"{waiting} buffers in a ring of {self.size}")
        start = (position & (self.size - 1)) + 2
        stop = start + count
        if count == 1:
            heads = [available[start]]
        elif stop <= self.size + 2:
            heads = available[start:stop].tolist()
        else:
            heads = available[start : self.size + 2].tolist()
            heads += available[2 : stop - self.size].tolist()
        self.position = (position + count) & 0xFFFF
        try:
            return self._chains(heads)
        except AddressFault as fault:
            raise RingFault(str(fault)) from None

    def _chains(self, heads: list[int]) -> Chains:
        """Follow ``heads``: all at once if each is a single buffer, else one by one."""
        try:
            flags = [*map(self._flags.__getitem__, heads)]
        except IndexError:
            raise RingFault(f"a head outside of a ring of {self.size}") from None
        addresses = [*map(self._addresses.__getitem__, heads)]
        lengths = [*map(self._lengths.__getitem__, heads)]
        if self.dirty is None and flags.count(self._direction) == len(flags):
            views = self._memory.views(addresses, lengths)
            if len(views) == len(heads):
                return Chains(heads, lengths, views)
        return self._one_by_one(heads, list(zip(addresses, lengths, flags, strict=True)))

    def _one_by_one(self, heads: list[int], firsts: list[tuple[int, int, int]]) -> Chains:
        """Follow each of ``heads``, from its descriptor's address, length and flags on."""
        views: list[memoryview] = []
        totals: list[int] = []
        ends: list[int] = []
        for head, first in zip(heads, firsts, strict=True):
            addresses, lengths = self._follow(head, *first)
            if self.dirty is not None and self._direction:
                self._written_to[head] = (addresses, lengths)
            views += self._memory.views(addresses, lengths)
            totals.append(sum(lengths))
            ends.append(len(views))
        return Chains(heads, totals, views, ends)

    def _follow(
        self, head: int, address: int, length: int, flags: int
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Return addresses and lengths of one chain's buffers."""
        if flags == self._direction:
            return (address,), (length,)
        if not flags & F_INDIRECT:
            return self._walk(head, (address, length, flags, self._nexts[head]))
        if flags & F_NEXT:
            raise RingFault("an indirect descriptor in a chain")
        return self._indirect(address, length)

    def _indirect(self, address: int, length: int) -> tuple[Sequence[int], Sequence[int]]:
        """Read an indirect table, once, and return its buffers."""
        count = length // 16
        if not 0 < count <= MAX_INDIRECT or length & 15:
            raise RingFault(f"an indirect table of {length} bytes")
        views = self._memory.views((address,), (length,))
        entries = _table(count).unpack(views[0] if len(views) == 1 else b"".join(views))
        if entries[3:-1:4] == _upwards(count) and entries[2::4] == self._straight(count):
            return entries[0::4], entries[1::4]
        return self._wander(lambda index: entries[4 * index : 4 * index + 4], 0, count, True)

    def _straight(self, count: int) -> tuple[int, ...]:
        """Return the flags of ``count`` buffers in a row that all go the right way."""
        flags = self._expected.get(count)
        if flags is None:
            flags = (self._direction | F_NEXT,) * (count - 1) + (self._direction,)
            self._expected[count] = flags
        return flags

    def _walk(self, head: int, first: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Follow a chain through the ring's own table."""

        def entry(index: int) -> Sequence[int]:
            if index == head:
                return first
            return (
                self._addresses[index],
                self._lengths[index],
                self._flags[index],
                self._nexts[index],
            )

        return self._wander(entry, head, self.size)

    def _wander(
        self, entry: Callable[[int], Sequence[int]], index: int, limit: int, nested: bool = False
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Follow a chain from ``index`` through a table of ``limit`` entries, step by step.

        Buffers of length 0 are left out. A chain through the ring's own table may end in one
        indirect descriptor.
        """
        addresses: list[int] = []
        lengths: list[int] = []
        for _ in range(limit):
            address, length, flags, following = entry(index)
            if flags & F_INDIRECT and not flags & F_NEXT and not nested:
                more = self._indirect(address, length)
                return [*addresses, *more[0]], [*lengths, *more[1]]
            if flags & (F_WRITE | F_INDIRECT) != self._direction:
                raise RingFault("a buffer that goes the wrong way")
            if length:
                addresses.append(address)
                lengths.append(length)
            if not flags & F_NEXT:
                return addresses, lengths
            index = following
            if index >= limit:
                raise RingFault(f"descriptor {index} in a table of {limit}")
        raise RingFault("a chain that doesn't end")

    def give_back(self, count: int) -> None:
        """Return the last ``count`` chains to the ring."""
        self.position = (self.position - count) & 0xFFFF

    # Completing them

    def complete(self, tokens: Sequence[int], lengths: Sequence[int] | None = None) -> None:
        """Show chains as used. See ``Queue.complete``."""
        index = self._used_index
        start = index & (self.size - 1)
        count = len(tokens)
        if lengths is None:
            lengths = (0,) * count
        if count == 1:
            self._used_ids[start] = tokens[0]
            self._used_lengths[start] = lengths[0]
        else:
            room = self.size - start  # before the ring wraps
            self._put(start, tokens[:room], lengths[:room])
            if count > room:
                self._put(0, tokens[room:], lengths[room:])
        self._used_index = self._used[1] = (index + count) & 0xFFFF
        if self.dirty is not None:
            self._log(index, tokens, lengths)

    def _put(self, start: int, tokens: Sequence[int], lengths: Sequence[int]) -> None:
        """Write used entries into slots that lie side by side."""
        stop = start + len(tokens)
        self._used_ids[start:stop] = memoryview(array("I", tokens))
        self._used_lengths[start:stop] = memoryview(array("I", lengths))

    def _log(self, index: int, tokens: Sequence[int], lengths: Sequence[int]) -> None:
        """Tell the dirty log, after the fact, of buffers, used entries and the used index."""
        for token, written in zip(tokens, lengths, strict=True):
            self._log_chain(token, written)
        for offset in range(len(tokens)):
            self._log_used(4 + 8 * ((index + offset) & (self.size - 1)), 8)
        self._log_used(0, 4)

    def _log_chain(self, token: int, written: int) -> None:
        addresses, lengths = self._written_to.pop(token, ((), ()))
        for address, length in zip(addresses, lengths, strict=True):
            if self.dirty is not None:
                self.dirty(address, min(length, written))
            written = max(0, written - length)

    # Telling each other

    def flush(self) -> None:
        """Wake the driver if it wants to know of what was completed."""
        index, told = self._used_index, self._told_index
        if index == told:
            return
        self._told_index = index
        full_fence()
        if not self.event_index:
            wanted = not self._available[0] & AVAIL_F_NO_INTERRUPT
        elif told is None:
            wanted = True
        else:
            event = self._available[self.size + 2]
            wanted = (index - event - 1) & 0xFFFF < (index - told) & 0xFFFF
        if wanted or (self.notify_on_empty and self._available[1] == self.position):
            self.notify()

    def want_kicks(self, seen: int = 0) -> bool:
        """Ask for kicks. True if there are more than ``seen`` chains already."""
        seen = (self.position + seen) & 0xFFFF
        if self.event_index:
            self._kick_event[0] = seen
            self._log_used(4 + 8 * self.size, 2)
        elif not self._kicks_wanted:
            self._used[0] = 0
            self._log_used(0, 2)
        self._kicks_wanted = True
        full_fence()
        available: int = self._available[1]
        return available != seen

    def refuse_kicks(self) -> None:
        """Ask for no kicks. With an event index it is enough not to move the index."""
        if self._kicks_wanted:
            self._kicks_wanted = False
            if not self.event_index:
                self._used[0] = USED_F_NO_NOTIFY
                self._log_used(0, 2)

    def _log_used(self, offset: int, length: int) -> None:
        if self.dirty is not None and self.used_log is not None:
            self.dirty(self.used_log + offset, length)
