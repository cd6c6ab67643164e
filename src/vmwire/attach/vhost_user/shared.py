# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The machine's memory as a vhost-user front end shares it: regions that come and go.

A front end names memory by two addresses: buffers by the guest's, rings by its own. ``user`` ones
are translated once, when a ring starts; everything else works with guest addresses.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Sequence

from vmwire.bus.protocol import ProtocolError
from vmwire.bus.virtio.handed_on import HandedRegion
from vmwire.bus.virtio.split import Layout
from vmwire.bus.virtio.vhost_user import RegionInfo, RingAddresses
from vmwire.engine.memory import AddressFault, GuestMemory, MappingError, Region, map_region

MAX_SLOTS = 509
"""Regions that we keep at once: what vhost in the kernel allows."""


class SharedMemory:
    """The regions of one connection.

    Each change gives a new ``current``. What it took out is returned, still mapped: the caller has
    everybody move to the new one, then closes it.
    """

    def __init__(self) -> None:
        self.current = GuestMemory()
        self._regions: dict[RegionInfo, Region] = {}
        self._fds: dict[RegionInfo, int] = {}
        """A copy of each one's descriptor, for whoever is handed rings."""

    def replace(self, infos: Sequence[RegionInfo], fds: Sequence[int]) -> list[Region]:
        """Map a whole new table; return the regions of the old one, to be closed by the caller."""
        fresh: dict[RegionInfo, Region] = {}
        copies: dict[RegionInfo, int] = {}
        try:
            if len(set(infos)) != len(infos):
                raise ProtocolError("a region twice in one memory table")
            for info, fd in zip(infos, fds, strict=True):
                fresh[info] = _map(info, fd)
                copies[info] = _copy(fd)
            memory = GuestMemory(fresh.values())
        except BaseException:
            _close(fresh.values(), copies.values())
            raise
        old = list(self._regions.values())
        _close((), self._fds.values())
        self._regions, self._fds, self.current = fresh, copies, memory
        return old

    def add(self, info: RegionInfo, fd: int) -> None:
        """Map one more region. QEMU tells of each once per queue pair; only the first counts."""
        if info in self._regions:
            return
        if len(self._regions) >= MAX_SLOTS:
            raise ProtocolError(f"more than {MAX_SLOTS} memory regions")
        region = _map(info, fd)
        try:
            memory = GuestMemory([*self._regions.values(), region])
            self._fds[info] = _copy(fd)
        except BaseException:
            region.close()
            raise
        self._regions[info], self.current = region, memory

    def remove(self, info: RegionInfo) -> Region | None:
        """Take a region out; return it, to be closed by the caller. Its offset doesn't matter.

        None: it isn't there, which after the first pair's removal is how it should be.
        """
        for known in self._regions:
            if (known.guest_address, known.size, known.user_address) == (
                info.guest_address, info.size, info.user_address,
            ):  # fmt: skip
                region = self._regions.pop(known)
                os.close(self._fds.pop(known))
                self.current = GuestMemory(self._regions.values())
                return region
        return None

    def layout(self, size: int, ring: RingAddresses) -> Layout:
        """Translate a ring's addresses. Raises ``AddressFault``."""
        return Layout(
            size,
            self._guest_address(ring.descriptors),
            self._guest_address(ring.available),
            self._guest_address(ring.used),
        )

    def _guest_address(self, address: int) -> int:
        for info in self._regions:
            offset = address - info.user_address
            if 0 <= offset < info.size:
                return info.guest_address + offset
        raise AddressFault(f"no memory at the front end's {address:#x}")

    def handed(self) -> tuple[HandedRegion, ...]:
        """The regions as whoever is handed rings sees them; good until anything changes."""
        return tuple(
            HandedRegion(info, self._fds[info], _address(region))
            for info, region in self._regions.items()
        )

    @property
    def infos(self) -> list[RegionInfo]:
        """The regions as the front end described them."""
        return list(self._regions)

    @property
    def size(self) -> int:
        """Bytes of guest memory that we see."""
        return sum(info.size for info in self._regions)

    @property
    def sealed(self) -> bool:
        """Whether none of it can be shrunk under our hands."""
        return all(region.sealed for region in self._regions.values())

    def close(self) -> None:
        """Unmap everything."""
        regions, self._regions = list(self._regions.values()), {}
        fds, self._fds = list(self._fds.values()), {}
        self.current = GuestMemory()
        _close(regions, fds)


def _map(info: RegionInfo, fd: int) -> Region:
    return map_region(fd, info.guest_address, info.size, info.offset)


def _copy(fd: int) -> int:
    try:
        return os.dup(fd)
    except OSError as error:
        raise MappingError(str(error)) from None


def _address(region: Region) -> int:
    """Where a region is in this process."""
    return ctypes.addressof(ctypes.c_char.from_buffer(region.view))


def _close(regions: Iterable[Region], fds: Iterable[int]) -> None:
    for region in regions:
        region.close()
    for fd in fds:
        os.close(fd)
