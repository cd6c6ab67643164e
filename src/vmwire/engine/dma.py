# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A device's way to its guest's memory: what a bus-mastering card reads and writes.

Memory that the machine shares is reached in place; a range that it doesn't share (no descriptor
came with it) is reached through ``remote``, by messages. The device can't tell. While the guest has
not made the card a bus master, and wherever nothing is mapped, every access is an ``AddressFault``:
the device's own error state is the answer to that, never an exception that leaves it.

What ``gather`` gives is only good until control returns to the loop, because the machine may unmap
memory between two events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from vmwire.engine.memory import AddressFault, DirtyLog, GuestMemory, View, scatter

_NO_MEMORY = GuestMemory()


class Remote(Protocol):
    """Memory that is reached by asking for it. Both raise ``AddressFault``."""

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes from ``address`` on."""

    def write(self, address: int, data: bytes) -> None:
        """Put ``data`` there."""


class Dma:
    """One device's access. ``enabled`` is the command register's bus master bit.

    >>> from vmwire.engine.memory import Region
    >>> dma = Dma()
    >>> dma.memory = GuestMemory([Region(0, memoryview(bytearray(64)))])
    >>> dma.enabled = True
    >>> dma.write(16, b"frame")
    >>> dma.read(16, 5)
    b'frame'
    """

    def __init__(self) -> None:
        self.remote: Remote | None = None
        self.log: DirtyLog | None = None
        """Notes what was written, while somebody migrates the guest."""
        self.on_change: Callable[[], None] | None = None
        """Hears that there is other memory, or that the right to it came or went: for a device that
        keeps views, which have to be of the new memory when this returns."""
        self._memory = GuestMemory()
        self._enabled = False

    @property
    def memory(self) -> GuestMemory:
        """What the machine shares. Views of the old memory are dead once there is other."""
        return self._memory

    @memory.setter
    def memory(self, memory: GuestMemory) -> None:
        self._memory = memory
        if self.on_change is not None:
            self.on_change()

    @property
    def enabled(self) -> bool:
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        if enabled != self._enabled:
            self._enabled = enabled
            if self.on_change is not None:
                self.on_change()

    @property
    def reachable(self) -> GuestMemory:
        """The memory that the device may have views of now."""
        return self._memory if self._enabled else _NO_MEMORY

    def read(self, address: int, length: int) -> bytes:
        """Return a copy of a range."""
        return b"".join(self.gather((address,), (length,)))

    def gather(self, addresses: Sequence[int], lengths: Sequence[int]) -> list[View]:
        """Return the given ranges in order, in place where they are shared; not to be kept."""
        self._check()
        try:
            return self._memory.views(addresses, lengths)
        except AddressFault:
            if self.remote is None:
                raise
            return [
                memoryview(self.remote.read(address, length))
                for address, length in zip(addresses, lengths, strict=True)
            ]

    def write(self, address: int, data: bytes | bytearray | View) -> None:
        """Put ``data`` into the guest's memory."""
        self._check()
        length = len(data)
        try:
            views = self._memory.views((address,), (length,))
        except AddressFault:
            if self.remote is None:
                raise
            self.remote.write(address, bytes(data))
            return
        if len(views) == 1:
            views[0][:] = data
        else:
            scatter(data, views)
        if self.log is not None:
            self.log.mark(address, length)

    def write_each(
        self, addresses: Sequence[int], parts: Sequence[bytes | bytearray | View]
    ) -> None:
        """Put each part at its own address: what ``write`` does, for a whole burst.

        At an ``AddressFault`` some of the parts may have been written.
        """
        self._check()
        try:
            views = self._memory.views(addresses, [len(part) for part in parts])
        except AddressFault:
            views = []
        if len(views) != len(parts) or self.log is not None:
            for address, part in zip(addresses, parts, strict=True):
                self.write(address, part)
            return
        for view, part in zip(views, parts, strict=True):
            view[:] = part

    def write_all(self, address: int, parts: Iterable[bytes | View]) -> None:
        """Put ``parts`` there, one behind the other."""
        for part in parts:
            self.write(address, part)
            address += len(part)

    def _check(self) -> None:
        if not self._enabled:
            raise AddressFault("the card is no bus master")
