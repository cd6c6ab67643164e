# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The driver's side of split virtqueues (virtio 1.2, section 2.7).

``DriverRing`` is all that a driver may do, over any memory, with every word within reach of a test
that wants to do what a driver may not. ``BufferRing`` is what moves frames: each of its
descriptors has one buffer for good, and what happens to many of them happens at once.

>>> from vmwire.engine.arena import Arena
>>> arena = Arena(1 << 20)
>>> ring = DriverRing(arena, 4)
>>> buffer = arena.allocate(64)
>>> ring.add([(buffer, 64)], writable=True)
0
>>> ring.used()
[]
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from struct import Struct
from typing import Literal, Protocol

from vmwire.bus.virtio.queue import RingFault
from vmwire.bus.virtio.split import (
    AVAIL_F_NO_INTERRUPT,
    DESCRIPTOR,
    F_INDIRECT,
    F_NEXT,
    F_WRITE,
    USED_F_NO_NOTIFY,
    Layout,
    full_fence,
)

U16 = Struct("<H")
USED_ENTRY = Struct("<II")

Segment = tuple[int, int]
"""A guest address and a length."""


class Memory(Protocol):
    """Where a driver has its rings and buffers, by guest addresses."""

    def allocate(self, size: int, align: int = 16) -> int:
        """Return the address of ``size`` bytes that nobody else got."""

    def view(self, address: int, size: int) -> memoryview:
        """Return the memory at an address, to be read."""

    def write(self, address: int, data: bytes) -> None:
        """Put ``data`` there."""

    def read(self, address: int, size: int) -> bytes:
        """Copy from there."""


class DriverRing:
    """One split ring, seen from the driver.

    ``descriptors``, ``available`` and ``used`` are guest addresses of the parts. With ``indirect``,
    chains of more than one buffer go into tables beside the ring. ``alignment`` is a legacy ring's,
    whose parts lie behind each other.
    """

    def __init__(
        self,
        arena: Memory,
        size: int,
        *,
        event_index: bool = False,
        indirect: bool = False,
        alignment: int = 0,
    ) -> None:
        self.arena = arena
        self.size = size
        self.event_index = event_index
        self.indirect = indirect
        self.descriptors = arena.allocate(16 * size, alignment or 16)
        self.available = arena.allocate(6 + 2 * size, 2)
        self.used_ring = arena.allocate(6 + 8 * size, alignment or 4)
        self._tables = [arena.allocate(16 * 64, 16) for _ in range(size)] if indirect else []
        self._free = list(range(size - 1, -1, -1))
        self._chains: dict[int, list[int]] = {}
        self._seen = 0
        self._kicked = 0
        self.next = 0
        """The available index that ``publish`` will write."""

    @property
    def layout(self) -> Layout:
        """Where the ring lies, for a device."""
        return Layout(self.size, self.descriptors, self.available, self.used_ring)

    @property
    def free(self) -> int:
        """Descriptors that are not in use."""
        return len(self._free)

    # Making buffers available

    def add(self, segments: Sequence[Segment], *, writable: bool, publish: bool = True) -> int:
        """Make one chain available; return its head. IndexError: the ring is full."""
        direction = F_WRITE if writable else 0
        if self.indirect and 1 < len(segments) <= 64:
            head = self._free.pop()
            table = self._tables[head]
            for place, (address, length) in enumerate(segments):
                last = place == len(segments) - 1
                flags = direction | (0 if last else F_NEXT)
                self.arena.write(
                    table + 16 * place, DESCRIPTOR.pack(address, length, flags, place + 1)
                )
            self.describe(head, table, 16 * len(segments), F_INDIRECT)
            self._chains[head] = [head]
        else:
            if len(segments) > len(self._free):
                raise IndexError("the ring is full")
            chain = [self._free.pop() for _ in segments]
            for place, (address, length) in enumerate(segments):
                last = place == len(segments) - 1
                following = 0 if last else chain[place + 1]
                self.describe(
                    chain[place], address, length, direction | (0 if last else F_NEXT), following
                )
            head = chain[0]
            self._chains[head] = chain
        self.offer(head)
        if publish:
            self.publish()
        return head

    def add_parts(self, parts: Sequence[tuple[int, int, int]]) -> int:
        """Make a chain of (address, length, flags) available, whatever they say; return its head.

        The flag for a following buffer is put in.
        """
        if len(parts) > len(self._free):
            raise IndexError("the ring is full")
        chain = [self._free.pop() for _ in parts]
        for place, (address, length, flags) in enumerate(parts):
            last = place == len(parts) - 1
            following = 0 if last else chain[place + 1]
            self.describe(chain[place], address, length, flags | (0 if last else F_NEXT), following)
        self._chains[chain[0]] = chain
        self.offer(chain[0])
        self.publish()
        return chain[0]

    def describe(self, index: int, address: int, length: int, flags: int, next: int = 0) -> None:
        """Write one descriptor, whatever it says."""
        self.arena.write(
            self.descriptors + 16 * index, DESCRIPTOR.pack(address, length, flags, next)
        )

    def offer(self, head: int) -> None:
        """Put a head into the available ring."""
        slot = self.next & (self.size - 1)
        self.arena.write(self.available + 4 + 2 * slot, U16.pack(head))
        self.next = (self.next + 1) & 0xFFFF

    def publish(self) -> None:
        """Show the device what was offered."""
        self.arena.write(self.available + 2, U16.pack(self.next))

    def wants_kick(self) -> bool:
        """Whether the device asked to be told of what was published since the last call."""
        full_fence()
        old, self._kicked = self._kicked, self.next
        if not self.event_index:
            return not self._word(self.used_ring) & USED_F_NO_NOTIFY
        event = self._word(self.used_ring + 4 + 8 * self.size)
        return (self.next - event - 1) & 0xFFFF < (self.next - old) & 0xFFFF

    # Getting them back

    def used(self) -> list[tuple[int, int]]:
        """Return (head, bytes written) of the chains that came back since the last call."""
        found = []
        index = self._word(self.used_ring + 2)
        while self._seen != index:
            slot = self._seen & (self.size - 1)
            entry = self.arena.view(self.used_ring + 4 + 8 * slot, 8)
            head, length = USED_ENTRY.unpack(entry)
            self._free += reversed(self._chains.pop(head))
            found.append((head, length))
            self._seen = (self._seen + 1) & 0xFFFF
        return found

    def has_used(self) -> bool:
        """Whether chains have come back that ``used`` hasn't returned yet."""
        full_fence()
        return self._word(self.used_ring + 2) != self._seen

    def want_interrupt(self, after: int = 0) -> None:
        """Ask to be woken when ``after`` chains more than one have come back (event index)."""
        if self.event_index:
            event = (self._seen + after) & 0xFFFF
            self.arena.write(self.available + 4 + 2 * self.size, U16.pack(event))

    def _word(self, address: int) -> int:
        value: int = U16.unpack(self.arena.view(address, 2))[0]
        return value


class BufferRing(DriverRing):
    """A ring whose descriptor *n* is buffer *n*, of ``buffer_size`` bytes; no chains.

    ``writable``: the device fills the buffers. ``slots`` are the buffers. What the device says is
    checked: an index that went too far, an id that it doesn't have, more bytes than the buffer has
    are a ``RingFault``, after which the ring is of no more use.
    """

    def __init__(
        self,
        arena: Memory,
        size: int,
        buffer_size: int,
        *,
        writable: bool,
        event_index: bool = False,
    ) -> None:
        super().__init__(arena, size, event_index=event_index)
        self.buffer_size = buffer_size
        self.mine = list(range(size - 1, -1, -1))
        """The buffers that the device doesn't have; the last one is the next to be used."""
        self._lent = bytearray(size)
        self._limit = buffer_size if writable else 0xFFFFFFFF  # it writes nothing: says anything
        start = arena.allocate(size * buffer_size, 4096)
        buffers = arena.view(start, size * buffer_size)
        self.slots = [
            buffers[place : place + buffer_size]
            for place in range(0, size * buffer_size, buffer_size)
        ]
        for index in range(size):
            address = start + index * buffer_size
            self.describe(index, address, buffer_size, F_WRITE if writable else 0)
        self._buffers = buffers
        self._columns: list[memoryview] = []
        self.lengths = arena.view(self.descriptors, 16 * size).cast("I")[2::4]
        """How much of each buffer there is for the device."""
        self._heads = arena.view(self.available, 4 + 2 * size).cast("H")
        used = arena.view(self.used_ring, 4 + 8 * size)
        self._used_index = used[:4].cast("H")
        self._used_ids = used[4:].cast("I")[0::2]
        self._used_lengths = used[4:].cast("I")[1::2]

    def lend(self, ids: Sequence[int]) -> None:
        """Make buffers available, and show that."""
        heads, lent, size = self._heads, self._lent, self.size
        for id in ids:
            lent[id] = 1
        start = self.next & (size - 1)
        room = size - start  # before the ring wraps
        heads[2 + start : 2 + start + min(room, len(ids))] = memoryview(array("H", ids[:room]))
        if len(ids) > room:
            heads[2 : 2 + len(ids) - room] = memoryview(array("H", ids[room:]))
        heads[1] = self.next = (self.next + len(ids)) & 0xFFFF

    def column(self, format: Literal["I", "Q"], offset: int) -> memoryview:
        """The number at ``offset`` of each buffer, by id."""
        numbers = self._buffers.cast(format)
        step = self.buffer_size // numbers.itemsize
        self._columns.append(numbers[offset // numbers.itemsize :: step])
        return self._columns[-1]

    def take_back(self, most: int) -> tuple[list[int], list[int]]:
        """The ids and written lengths of at most ``most`` buffers that the device gave back.

        They are not in ``mine`` yet. Raises ``RingFault``.
        """
        seen, size, lent = self._seen, self.size, self._lent
        count = (self._used_index[1] - seen) & 0xFFFF
        if not count:
            return [], []
        if count > size:
            raise RingFault(f"{count} used buffers in a ring of {size}")
        count = min(count, most)
        start = seen & (size - 1)
        stop = min(start + count, size)
        ids = self._used_ids[start:stop].tolist()
        lengths = self._used_lengths[start:stop].tolist()
        if start + count > size:
            ids += self._used_ids[: start + count - size].tolist()
            lengths += self._used_lengths[: start + count - size].tolist()
        for id in ids:
            if id >= size or not lent[id]:
                raise RingFault(f"used buffer {id}, which the device doesn't have")
            lent[id] = 0
        if max(lengths) > self._limit:
            raise RingFault(f"{max(lengths)} bytes in a buffer of {self.buffer_size}")
        self._seen = (seen + count) & 0xFFFF
        return ids, lengths

    def reclaim(self) -> None:
        """Put what the device gave back into ``mine``. Raises ``RingFault``."""
        ids, _ = self.take_back(self.size)
        self.mine += ids

    def refuse_interrupts(self) -> None:
        """Ask not to be woken. With an event index it is enough not to move it."""
        if not self.event_index:
            self._heads[0] = AVAIL_F_NO_INTERRUPT

    def want_interrupt(self, after: int = 0) -> None:
        """Ask to be woken, as ``DriverRing`` does; without an event index for the next buffer."""
        if not self.event_index:
            self._heads[0] = 0
        super().want_interrupt(after)

    def close(self) -> None:
        """Let go of the memory."""
        for view in (
            *self.slots, *self._columns, self._buffers, self.lengths, self._heads,
            self._used_index, self._used_ids, self._used_lengths,
        ):  # fmt: skip
            view.release()
        self.slots = []
