# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The bench machine's RAM: from 0 on, and what doesn't fit below PCI's range, from 4 GiB on.

Pages that nobody touches cost nothing.
"""

from __future__ import annotations

import mmap

from vmwire.bench.address_space import Window
from vmwire.engine.memory import AddressFault, GuestMemory, Region, View
from vmwire.errors import ConfigError

MOST_LOW = 0xE000_0000
"""A machine with less has it all from 0 on."""
SPLIT = 0xC000_0000
"""A machine with more has so much from 0 on, and the rest ..."""
HIGH = 1 << 32
"""... from here on."""
MOST = 1 << 40


class Ram:
    """See the module.

    >>> ram = Ram(1 << 20)
    >>> len(ram.low), ram.view(0xFFFFE, 4)
    (1048576, None)
    """

    def __init__(self, size: int) -> None:
        if not 0 <= size <= MOST:
            raise ConfigError(f"ram_size={size} isn't between 0 and {MOST:#x}")
        self.size = size
        low = size if size < MOST_LOW else SPLIT
        self.regions = [_region(0, low)] if low else []
        if size > low:
            self.regions.append(_region(HIGH, size - low))
        self.low: View = self.regions[0].view if low else memoryview(b"")
        self.memory = GuestMemory(self.regions)

    def windows(self) -> list[Window]:
        """Who answers for it in the memory space."""
        return [_window(region) for region in self.regions]

    def view(self, address: int, length: int) -> View | None:
        """A range that is RAM from end to end, in one piece."""
        for region in self.regions:
            if region.base <= address and address + length <= region.end:
                return region.view[address - region.base : address - region.base + length]
        return None

    def read(self, address: int, length: int) -> bytes:
        """Return a copy of a range; AddressFault where there is none."""
        return self.memory.read(address, length)

    def write(self, address: int, data: bytes) -> None:
        """Put ``data`` there; AddressFault where there is none."""
        view = self.view(address, len(data))
        if view is None:
            raise AddressFault(f"no memory at {address:#x}")
        view[:] = data

    def close(self) -> None:
        """Give it back."""
        self.memory.close()


def _region(base: int, size: int) -> Region:
    try:
        mapping = mmap.mmap(-1, size)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"{size} bytes of RAM can't be had: {error}") from None
    return Region(base, memoryview(mapping), sealed=True, mapping=mapping)


def _window(region: Region) -> Window:
    view = region.view

    def load(offset: int, size: int) -> int:
        return int.from_bytes(view[offset : offset + size], "little")

    def store(offset: int, size: int, value: int) -> None:
        view[offset : offset + size] = value.to_bytes(size, "little")

    return Window(region.base, region.end, load, store)
