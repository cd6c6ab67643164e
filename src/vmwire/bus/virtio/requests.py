# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A split virtqueue of requests: chains whose first buffers are read and whose last are written.

Control queues are of this kind (virtio 1.2, section 5.1.6.5). Requests are few and small, so each
chain is walked by itself, from copies of its descriptors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vmwire.bus.virtio.queue import RingFault, View
from vmwire.bus.virtio.split import (
    DESCRIPTOR,
    F_INDIRECT,
    F_NEXT,
    F_WRITE,
    MAX_INDIRECT,
    SplitQueue,
)
from vmwire.engine.memory import AddressFault

Entry = tuple[int, int, int, int]
"""A descriptor: address, length, flags, next."""


@dataclass(slots=True)
class Request:
    """One chain: what the driver says (``read``), and the room for the answer (``write``)."""

    token: int
    read: list[View]
    write: list[View]


class RequestQueue(SplitQueue):
    """A split ring whose chains may go both ways."""

    def take_request(self) -> Request | None:
        """Return the next request; None: there is none. Raises ``RingFault``."""
        waiting = (self._available[1] - self.position) & 0xFFFF
        if not waiting:
            return None
        if waiting > self.size:
            raise RingFault(f"{waiting} buffers in a ring of {self.size}")
        head = self._available[2 + (self.position & (self.size - 1))]
        if head >= self.size:
            raise RingFault(f"a head outside of a ring of {self.size}")
        self.position = (self.position + 1) & 0xFFFF
        try:
            return self._part(head)
        except AddressFault as fault:
            raise RingFault(str(fault)) from None

    def _part(self, head: int) -> Request:
        """Part a chain into what is to be read and what is to be written."""
        ranges: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
        for address, length, flags, _ in self._entries(head):
            if flags & F_WRITE:
                ranges[1].append((address, length))
            elif ranges[1]:
                raise RingFault("a buffer to be read behind one to be written")
            else:
                ranges[0].append((address, length))
        read, write = (
            self._memory.views([start for start, _ in some], [length for _, length in some])
            for some in ranges
        )
        if self.dirty is not None:
            addresses, lengths = zip(*ranges[1], strict=True) if ranges[1] else ((), ())
            self._written_to[head] = (addresses, lengths)
        return Request(head, read, write)

    def _entries(self, head: int) -> Iterator[Entry]:
        """The descriptors of a chain, with an indirect table in place of the one that names it."""
        index = head
        for _ in range(self.size):
            entry = (
                self._addresses[index],
                self._lengths[index],
                self._flags[index],
                self._nexts[index],
            )
            if entry[2] & F_INDIRECT:
                if entry[2] & F_NEXT:
                    raise RingFault("an indirect descriptor in a chain")
                yield from self._table(entry[0], entry[1])
                return
            yield entry
            if not entry[2] & F_NEXT:
                return
            index = entry[3]
            if index >= self.size:
                raise RingFault(f"descriptor {index} in a table of {self.size}")
        raise RingFault("a chain that doesn't end")

    def _table(self, address: int, length: int) -> Iterator[Entry]:
        """The descriptors of an indirect table, from one copy of it."""
        count = length // DESCRIPTOR.size
        if not 0 < count <= MAX_INDIRECT or length % DESCRIPTOR.size:
            raise RingFault(f"an indirect table of {length} bytes")
        table = self._memory.read(address, length)
        index = 0
        for _ in range(count):
            entry: Entry = DESCRIPTOR.unpack_from(table, index * DESCRIPTOR.size)
            if entry[2] & F_INDIRECT:
                raise RingFault("an indirect table in an indirect table")
            yield entry
            if not entry[2] & F_NEXT:
                return
            index = entry[3]
            if index >= count:
                raise RingFault(f"descriptor {index} in a table of {count}")
        raise RingFault("a chain that doesn't end")
