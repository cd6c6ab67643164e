# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Guest memory: a few mapped regions, and the one place where guest addresses become views.

A region is a range of guest-physical addresses over a buffer, usually a mapping of a file that the
virtual machine shares with us. ``GuestMemory`` is an immutable set of them; when the machine's
memory changes, a new one is made and the users of the old one are told, because a mapping that
still has views can't be closed.

Whoever shares memory can also shrink the file behind it, and the next touch then ends the process
with SIGBUS. ``map_region`` refuses a range beyond the file's end when it maps; later shrinking can
only be ruled out where the file is sealed (memfd with F_SEAL_SHRINK), which ``Region.sealed`` says.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

View = memoryview

ADDRESS_LIMIT = 1 << 64
PAGE_SHIFT = 12
"""The dirty log counts pages of 4 KiB, whatever the host's page size."""


class AddressFault(Exception):
    """A guest gave an address that it has no memory at."""


class MappingError(Exception):
    """Shared memory was offered that can't be mapped as it was described."""


@dataclass(slots=True, eq=False)
class Region:
    """``view`` is the guest's memory from ``base`` on."""

    base: int
    view: View
    sealed: bool = False
    mapping: mmap.mmap | None = field(default=None, repr=False)
    end: int = field(init=False)

    def __post_init__(self) -> None:
        self.end = self.base + len(self.view)

    def close(self) -> None:
        """Unmap. If somebody still holds a view, the mapping goes with the last one of them."""
        mapping, self.mapping = self.mapping, None
        self.view.release()
        if mapping is not None:
            try:
                mapping.close()
            except BufferError:
                pass


def map_region(fd: int, base: int, size: int, offset: int) -> Region:
    """Map ``size`` bytes of ``fd`` from ``offset`` on as guest memory at ``base``.

    Huge pages can only be mapped and unmapped whole, so the mapping is widened to the file's
    block size. Raises ``MappingError``. ``fd`` stays the caller's.
    """
    facts = os.fstat(fd)
    if size <= 0 or base + size > ADDRESS_LIMIT:
        raise MappingError(f"a region of {size} bytes at {base:#x}")
    if not stat.S_ISREG(facts.st_mode):
        raise MappingError("memory that isn't a file")
    if offset + size > facts.st_size:
        raise MappingError(f"{offset} + {size} bytes of a file of {facts.st_size}")
    block = max(facts.st_blksize, mmap.ALLOCATIONGRANULARITY)
    start = offset // block * block
    end = min(-(-(offset + size) // block) * block, facts.st_size)
    try:
        mapping = mmap.mmap(fd, end - start, offset=start)
    except (OSError, ValueError, OverflowError) as error:
        raise MappingError(str(error)) from error
    mapping.madvise(mmap.MADV_DONTDUMP)  # a guest's memory has no business in our core file
    view = memoryview(mapping)[offset - start : offset - start + size]
    return Region(base, view, _is_sealed(fd), mapping)


def _is_sealed(fd: int) -> bool:
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:  # not a memfd: nothing to seal
        return False


class DirtyLog:
    """A bitmap shared with whoever migrates the guest: one bit for each page that we wrote.

    The reader clears bits with an atomic exchange while we set them. Setting is a read and a write
    here, so a bit that is cleared in between may come back: a page is then sent once more, which
    harms nobody. No bit that we set is lost, as long as one thread writes the log.
    """

    def __init__(self, bitmap: View, mapping: mmap.mmap | None = None) -> None:
        self._bitmap = bitmap
        self._mapping = mapping
        self._pages = len(bitmap) * 8

    def mark(self, address: int, length: int) -> None:
        """Note that the guest's memory from ``address`` on has changed."""
        if length <= 0:
            return
        bitmap = self._bitmap
        last = min((address + length - 1) >> PAGE_SHIFT, self._pages - 1)
        for page in range(address >> PAGE_SHIFT, last + 1):
            bitmap[page >> 3] |= 1 << (page & 7)

    def close(self) -> None:
        self._bitmap.release()
        if self._mapping is not None:
            self._mapping.close()


def map_log(fd: int, size: int, offset: int) -> DirtyLog:
    """Map a dirty log. Raises ``MappingError``; ``fd`` stays the caller's."""
    region = map_region(fd, 0, size, offset)
    return DirtyLog(region.view, region.mapping)


_NOWHERE = (0, -1, memoryview(b""))


class GuestMemory:
    """A guest's memory as it is until it changes.

    >>> memory = GuestMemory([Region(0x1000, memoryview(bytearray(16)))])
    >>> memory.view(0x1008, 8).nbytes
    8
    """

    def __init__(self, regions: Iterable[Region] = ()) -> None:
        self.regions = sorted(regions, key=lambda region: region.base)
        self._bases = [region.base for region in self.regions]
        self._last: tuple[int, int, View] = _NOWHERE
        for low, high in zip(self.regions, self.regions[1:], strict=False):
            if high.base < low.end:
                raise MappingError(f"regions overlap at {high.base:#x}")

    def views(self, addresses: Sequence[int], lengths: Sequence[int]) -> list[View]:
        """Return views of the given ranges, in order: **the** translation of guest addresses.

        A range that runs on from one region into the next gives a view of each part; all others
        give one view. Raises ``AddressFault`` for a byte that isn't there.
        """
        base, end, view = self._last
        found: list[View] = []
        for address, length in zip(addresses, lengths, strict=True):
            stop = address + length
            if address < base or stop > end:
                base, end, view = self._region_of(address)
                while stop > end:
                    found.append(view[address - base :])
                    address = end
                    base, end, view = self._region_of(address)
            found.append(view[address - base : stop - base])
        return found

    def _region_of(self, address: int) -> tuple[int, int, View]:
        index = bisect_right(self._bases, address) - 1
        if index < 0 or address >= self.regions[index].end:
            raise AddressFault(f"no memory at {address:#x}")
        region = self.regions[index]
        self._last = (region.base, region.end, region.view)
        return self._last

    def view(self, address: int, length: int) -> View:
        """Return one contiguous view; a range that is in two regions is an ``AddressFault``."""
        views = self.views((address,), (length,))
        if len(views) != 1:
            raise AddressFault(f"{length} bytes at {address:#x} aren't in one piece")
        return views[0]

    def read(self, address: int, length: int) -> bytes:
        """Return a copy of a range."""
        return b"".join(self.views((address,), (length,)))

    def close(self) -> None:
        """Unmap all regions."""
        self._last = _NOWHERE
        for region in self.regions:
            region.close()


def scatter(data: bytes | bytearray | View, views: Iterable[View]) -> None:
    """Copy ``data`` into ``views``, one after the other, as far as it goes."""
    source = memoryview(data)
    start, left = 0, len(source)
    for view in views:
        size = len(view)
        if size >= left:
            view[:left] = source[start:]
            return
        view[:] = source[start : start + size]
        start += size
        left -= size


def gather(views: Iterable[View], size: int) -> bytes:
    """Return a copy of the first ``size`` bytes of ``views`` (fewer if they end before)."""
    found = b""
    for view in views:
        found += view[: size - len(found)]
        if len(found) >= size:
            break
    return found
