# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The driver's side of split virtqueues (virtio 1.2, section 2.7) over memory of its own.

For tests of devices, ours and others': everything that a driver may do, and every word within
reach for a test that wants to do what a driver may not. ``bench/vhost_user.py`` brings such a
driver to a back end's socket.

>>> arena = Arena(1 << 20)
>>> ring = DriverRing(arena, 4)
>>> buffer = arena.allocate(64)
>>> ring.add([(buffer, 64)], writable=True)
0
>>> ring.used()
[]
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence
from struct import Struct
from typing import Protocol

from vmwire.bus.virtio.split import (
    DESCRIPTOR,
    F_INDIRECT,
    F_NEXT,
    F_WRITE,
    USED_F_NO_NOTIFY,
    Layout,
    full_fence,
)
from vmwire.engine.memory import GuestMemory, Region

U16 = Struct("<H")
USED_ENTRY = Struct("<II")
PAGE = 4096

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


class Arena:
    """Guest memory in a sealed memfd, from guest address ``base`` on, handed out piece by piece."""

    def __init__(self, size: int, base: int = 0) -> None:
        self.base = base
        self.size = size
        self.fd = os.memfd_create("vmwire-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._mapping = mmap.mmap(self.fd, size)
        self.memory = memoryview(self._mapping)
        self._next = 0

    def allocate(self, size: int, align: int = 16) -> int:
        """Return the guest address of ``size`` fresh bytes."""
        start = -(-self._next // align) * align
        if start + size > self.size:
            raise MemoryError(f"{size} bytes of an arena of {self.size}")
        self._next = start + size
        return self.base + start

    def view(self, address: int, size: int) -> memoryview:
        """Return the memory at a guest address."""
        start = address - self.base
        return self.memory[start : start + size]

    def write(self, address: int, data: bytes) -> None:
        """Put ``data`` at a guest address."""
        self.view(address, len(data))[:] = data

    def read(self, address: int, size: int) -> bytes:
        """Copy from a guest address."""
        return bytes(self.view(address, size))

    def guest_memory(self) -> GuestMemory:
        """Return what a device sees of this arena, without any socket in between."""
        return GuestMemory([Region(self.base, self.memory[:])])

    def close(self) -> None:
        """Unmap, as far as nobody looks any more."""
        self.memory.release()
        try:
            self._mapping.close()
        except BufferError:
            pass
        os.close(self.fd)


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
