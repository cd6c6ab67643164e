# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Who answers at an address: windows in the bench machine's memory and I/O spaces.

What nobody answers reads as all ones and takes writes silently, as a PCI bus does when no target
claims a cycle (PCI 3.0, section 3.3.3.1, master abort). An access that runs over a window's edge is
made byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


class AccessError(ValueError):
    """An access that no CPU could make: beyond the address space, a value that doesn't fit."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """``start`` up to but not including ``end`` is answered by ``load`` and ``store``.

    ``load(offset, size)`` and ``store(offset, size, value)`` count from the window's start.
    """

    start: int
    end: int
    load: Callable[[int, int], int]
    store: Callable[[int, int, int], None]


class AddressSpace:
    """Windows in order of precedence: where two overlap, the first one answers.

    >>> space = AddressSpace([Window(0x10, 0x14, lambda offset, size: offset, print)])
    >>> space.load(0x12, 1), hex(space.load(0x20, 2))
    (2, '0xffff')
    >>> space.store(0x10, 4, 7)
    0 4 7
    """

    def __init__(self, windows: Sequence[Window] = ()) -> None:
        self.windows = list(windows)

    def load(self, address: int, size: int) -> int:
        """Read a little-endian number of ``size`` bytes."""
        window = self._covering(address, size)
        if window is not None:
            return window.load(address - window.start, size)
        if not self._touched(address, size):
            return (1 << 8 * size) - 1
        return int.from_bytes(bytes(self.load(address + i, 1) for i in range(size)), "little")

    def store(self, address: int, size: int, value: int) -> None:
        """Write a little-endian number of ``size`` bytes."""
        window = self._covering(address, size)
        if window is not None:
            window.store(address - window.start, size, value)
        elif self._touched(address, size):
            for i in range(size):
                self.store(address + i, 1, value >> 8 * i & 0xFF)

    def _covering(self, address: int, size: int) -> Window | None:
        """The window that answers the whole access."""
        end = address + size
        for window in self.windows:
            if window.start < end and address < window.end:
                return window if window.start <= address and end <= window.end else None
        return None

    def _touched(self, address: int, size: int) -> bool:
        """Whether somebody answers a part of it (a single byte is answered whole or not)."""
        end = address + size
        return size > 1 and any(w.start < end and address < w.end for w in self.windows)
