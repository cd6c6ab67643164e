# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The driver's side of PCI: find a card, size and place its BARs, switch it on.

Works on whatever has ports and memory to read and write (``Cpu``): the bench machine does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

COMMAND = 0x04
STATUS = 0x06
BAR0 = 0x10
ROM_BAR = 0x30
CAPABILITIES = 0x34

COMMAND_IO = 0x001
COMMAND_MEMORY = 0x002
COMMAND_MASTER = 0x004
COMMAND_INTX_DISABLE = 0x400
STATUS_CAPABILITIES = 0x10

FIRST_MEMORY = 0xE000_0000
FIRST_PORT = 0xC000
RING_MEMORY = 0x10_0000
"""Where an allocator begins by default: above the first MiB, as a PC has it."""


class Cpu(Protocol):
    """What a driver needs of its machine."""

    def inb(self, port: int) -> int: ...
    def inw(self, port: int) -> int: ...
    def inl(self, port: int) -> int: ...
    def outb(self, port: int, value: int) -> None: ...
    def outw(self, port: int, value: int) -> None: ...
    def outl(self, port: int, value: int) -> None: ...
    def readl(self, address: int) -> int: ...
    def writel(self, address: int, value: int) -> None: ...
    def read(self, address: int, length: int) -> bytes: ...
    def write(self, address: int, data: bytes | bytearray | memoryview) -> None: ...
    def clock_step(self, ns: int | None = None) -> int: ...


class Allocator:
    """Hands out addresses one behind the other, aligned to powers of two.

    >>> room = Allocator(0x1000)
    >>> hex(room.take(20)), hex(room.take(16, 256))
    ('0x1000', '0x1100')
    """

    def __init__(self, start: int = RING_MEMORY) -> None:
        self.next = start

    def take(self, size: int, align: int = 16) -> int:
        """Return the address of ``size`` bytes that nobody else got."""
        address = -(-self.next // align) * align
        self.next = address + size
        return address


@dataclass(frozen=True, slots=True)
class PlacedBar:
    """A BAR as a driver found it: ``address`` in its space, or 0 before it is placed."""

    index: int
    is_io: bool
    wide: bool
    size: int
    address: int = 0


class PciDevice:
    """One function on bus 0, by its slot (and function) number."""

    def __init__(self, cpu: Cpu, slot: int, function: int = 0) -> None:
        self.cpu = cpu
        self._address = 1 << 31 | slot << 11 | function << 8
        self.bars: dict[int, PlacedBar] = {}

    # --- configuration space

    def config_read(self, offset: int, size: int = 4) -> int:
        """Read 1, 2 or 4 bytes of configuration space."""
        self.cpu.outl(0xCF8, self._address | offset & 0xFC)
        read = {1: self.cpu.inb, 2: self.cpu.inw, 4: self.cpu.inl}[size]
        return read(0xCFC + (offset & 3))

    def config_write(self, offset: int, value: int, size: int = 4) -> None:
        """Write 1, 2 or 4 bytes of configuration space."""
        self.cpu.outl(0xCF8, self._address | offset & 0xFC)
        write = {1: self.cpu.outb, 2: self.cpu.outw, 4: self.cpu.outl}[size]
        write(0xCFC + (offset & 3), value)

    @property
    def ids(self) -> tuple[int, int]:
        """Vendor and device."""
        word = self.config_read(0)
        return word & 0xFFFF, word >> 16

    def capabilities(self) -> dict[int, int]:
        """Where each capability is, by its id."""
        found: dict[int, int] = {}
        if self.config_read(STATUS, 2) & STATUS_CAPABILITIES:
            offset = self.config_read(CAPABILITIES, 1) & 0xFC
            while offset and len(found) < 48:
                word = self.config_read(offset, 2)
                found[word & 0xFF] = offset
                offset = word >> 8 & 0xFC
        return found

    # --- BARs

    def size_bars(self) -> dict[int, PlacedBar]:
        """Find out what BARs there are, as PCI 3.0, section 6.2.5.1 says; the card is off then."""
        self.config_write(COMMAND, 0, 2)
        index = 0
        while index < 6:
            bar = self._size_bar(index)
            if bar is not None:
                self.bars[index] = bar
            index += 2 if bar is not None and bar.wide else 1
        return self.bars

    def _size_bar(self, index: int) -> PlacedBar | None:
        offset = BAR0 + 4 * index
        found = self._probe(offset)
        if not found:
            return None
        if found & 1:
            return PlacedBar(index, True, False, -(found & ~0x3) & 0xFFFF)
        wide = bool(found & 4)
        mask = found & ~0xF | (self._probe(offset + 4) << 32 if wide else 0xFFFF_FFFF << 32)
        return PlacedBar(index, False, wide, -mask & (1 << 64) - 1)

    def _probe(self, offset: int) -> int:
        old = self.config_read(offset)
        self.config_write(offset, 0xFFFF_FFFF)
        found = self.config_read(offset)
        self.config_write(offset, old)
        return found

    def place(self, index: int, address: int) -> None:
        """Give a BAR its address."""
        bar = self.bars[index]
        self.config_write(BAR0 + 4 * index, address & 0xFFFF_FFFF)
        if bar.wide:
            self.config_write(BAR0 + 4 * index + 4, address >> 32)
        self.bars[index] = PlacedBar(index, bar.is_io, bar.wide, bar.size, address)

    def enable(
        self, memory: Allocator | None = None, ports: Allocator | None = None
    ) -> dict[int, PlacedBar]:
        """Size and place all BARs and switch the card on: I/O, memory, bus master.

        Without allocators each slot gets a range of its own: 16 MiB of memory, 512 ports.
        """
        slot = self._address >> 11 & 0x1F
        memory = memory or Allocator(FIRST_MEMORY + (slot << 24))
        ports = ports or Allocator(FIRST_PORT + slot * 512)
        for bar in self.size_bars().copy().values():
            room = ports if bar.is_io else memory
            self.place(bar.index, room.take(bar.size, bar.size))
        self.config_write(COMMAND, COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER, 2)
        return self.bars
