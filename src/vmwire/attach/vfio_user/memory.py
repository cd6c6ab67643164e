# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The machine's memory as a vfio-user client shows it: windows that come and go.

A window with a descriptor that may be read and written is mapped and becomes part of
``DmaMap.memory``, which a card reaches in place. Everything else goes through ``DmaMap.read`` and
``write`` (a ``vmwire.engine.dma.Remote``): windows without a descriptor, which are reached by
messages; windows that may only be read or only be written; ranges that run from one kind into
another.
"""

from __future__ import annotations

import errno
import mmap
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vmwire.attach.vfio_user.channel import NoReply
from vmwire.attach.vfio_user.refused import Refused
from vmwire.bus.pci.vfio_user import (
    DMA_ACCESS,
    DMA_READABLE,
    DMA_WRITABLE,
    MAX_DATA,
    MAX_MAPS,
    Command,
)
from vmwire.engine.memory import (
    ADDRESS_LIMIT,
    AddressFault,
    GuestMemory,
    MappingError,
    Region,
    map_region,
)

READ_WRITE = DMA_READABLE | DMA_WRITABLE

Ask = Callable[[int, bytes], bytes]
"""Sends a command with its payload to the machine, returns the answer's; raises ``NoReply``."""


@dataclass(slots=True, eq=False)
class Window:
    """One range of the machine's memory. ``region`` is None where there was no descriptor."""

    address: int
    size: int
    flags: int
    offset: int
    region: Region | None

    @property
    def in_place(self) -> bool:
        """Whether a card may have views of it."""
        return self.region is not None and self.flags == READ_WRITE


class DmaMap:
    """All windows of one connection. ``memory`` is replaced by each change."""

    def __init__(self, ask: Ask) -> None:
        self.memory = GuestMemory()
        self.largest = MAX_DATA
        """Bytes of data that the machine takes in one message."""
        self._ask = ask
        self._windows: list[Window] = []
        self._starts: list[int] = []

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def windows(self) -> list[Window]:
        """Return the windows by address."""
        return list(self._windows)

    @property
    def size(self) -> int:
        """Bytes that are mapped."""
        return sum(window.size for window in self._windows if window.region is not None)

    @property
    def sealed(self) -> bool:
        """Whether nothing of it can be shrunk under our hands."""
        regions = [window.region for window in self._windows if window.region is not None]
        return all(region.sealed for region in regions)

    # Changes

    def add(self, address: int, size: int, flags: int, offset: int, fd: int | None) -> Window:
        """Add a window. ``fd`` stays the caller's. Raises ``Refused``."""
        if flags & ~READ_WRITE or not flags:
            raise Refused(f"DMA flags {flags:#x}")
        if not 0 < size <= ADDRESS_LIMIT - address:
            raise Refused(f"a window of {size:#x} bytes at {address:#x}")
        if len(self._windows) >= MAX_MAPS:
            raise Refused(f"more than {MAX_MAPS} windows", errno.ENOSPC)
        place = bisect_right(self._starts, address)
        if (place > 0 and self._end(place - 1) > address) or (
            place < len(self._starts) and self._starts[place] < address + size
        ):
            raise Refused(f"there is a window at {address:#x} already", errno.EEXIST)
        window = Window(address, size, flags, offset, _map(address, size, flags, offset, fd))
        self._windows.insert(place, window)
        self._starts.insert(place, address)
        self._rebuild()
        return window

    def _end(self, place: int) -> int:
        window = self._windows[place]
        return window.address + window.size

    def remove(self, address: int, size: int) -> list[Window]:
        """Take out the window that is exactly so, still mapped. Raises ``Refused``."""
        place = bisect_right(self._starts, address) - 1
        if place < 0 or (self._starts[place], self._windows[place].size) != (address, size):
            raise Refused(f"no window of {size:#x} bytes at {address:#x}", errno.ENOENT)
        window = self._windows.pop(place)
        self._starts.pop(place)
        self._rebuild()
        return [window]

    def remove_all(self) -> list[Window]:
        """Take out all windows, still mapped."""
        windows, self._windows, self._starts = self._windows, [], []
        self._rebuild()
        return windows

    def _rebuild(self) -> None:
        self.memory = GuestMemory(
            window.region for window in self._windows if window.in_place and window.region
        )

    # Access to what isn't in place

    def read(self, address: int, length: int) -> bytes:
        """Return a copy of a range."""
        parts: list[bytes] = []
        for window, start, count in self._pieces(address, length, DMA_READABLE):
            region = window.region
            if region is not None:
                at = start - region.base
                parts.append(bytes(region.view[at : at + count]))
            else:
                parts.append(self._ask_to_read(start, count))
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Put ``data`` into a range."""
        done = 0
        for window, start, count in self._pieces(address, len(data), DMA_WRITABLE):
            part = data[done : done + count]
            region = window.region
            if region is not None:
                at = start - region.base
                region.view[at : at + count] = part
            else:
                self._ask_to_write(start, part)
            done += count

    def _pieces(self, address: int, length: int, right: int) -> Iterator[tuple[Window, int, int]]:
        """Cut a range at the windows' ends, and at the longest message."""
        end = address + length
        while address < end:
            place = bisect_right(self._starts, address) - 1
            if place < 0 or address >= self._end(place):
                raise AddressFault(f"no memory at {address:#x}")
            window = self._windows[place]
            if not window.flags & right:
                raise AddressFault(f"no right to that at {address:#x}")
            count = min(end, self._end(place)) - address
            if window.region is None:
                count = min(count, self.largest)
            yield window, address, count
            address += count

    def _ask_to_read(self, address: int, count: int) -> bytes:
        answer = self._asked(Command.DMA_READ, DMA_ACCESS.pack(address, count))
        data = answer[DMA_ACCESS.size :]
        if len(data) != count:
            raise AddressFault(f"{len(data)} bytes instead of {count} at {address:#x}")
        return data

    def _ask_to_write(self, address: int, data: bytes) -> None:
        self._asked(Command.DMA_WRITE, DMA_ACCESS.pack(address, len(data)) + data)

    def _asked(self, command: Command, payload: bytes) -> bytes:
        try:
            return self._ask(command, payload)
        except NoReply as error:
            raise AddressFault(f"{command.name}: {error}") from None

    def close(self) -> None:
        """Unmap everything."""
        close(self.remove_all())


def close(windows: list[Window]) -> None:
    """Unmap windows that were taken out."""
    for window in windows:
        if window.region is not None:
            window.region.close()


def _map(address: int, size: int, flags: int, offset: int, fd: int | None) -> Region | None:
    if fd is None:
        return None
    try:
        if flags & DMA_WRITABLE:
            return map_region(fd, address, size, offset)
        return _map_readable(fd, address, size, offset)
    except MappingError as error:
        raise Refused(str(error)) from None


def _map_readable(fd: int, address: int, size: int, offset: int) -> Region:
    """Map memory that may only be read; its descriptor may be one that can't be written."""
    if offset + size > os.fstat(fd).st_size:
        raise MappingError(f"{offset} + {size} bytes of a shorter file")
    start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    try:
        mapping = mmap.mmap(fd, offset + size - start, offset=start, prot=mmap.PROT_READ)
    except (OSError, ValueError, OverflowError) as error:
        raise MappingError(str(error)) from error
    return Region(address, memoryview(mapping)[offset - start :], False, mapping)
