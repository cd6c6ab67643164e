# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A PCI function: a chip with the bus in front of it.

Accesses come by *region*, numbered as VFIO does: 0 to 5 the BARs, 6 the expansion ROM, 7
configuration space; others (8 is VGA's) don't exist. Any offset and size will do: what isn't a
naturally aligned access of 1, 2 or 4 bytes is split into such, lowest address first, as a 32-bit
bus does it. What lies outside reads as all ones, and writes to it are lost.

MSI-X's table and pending bits are answered here; the chip never sees those accesses.

Whether BARs are decoded at all (the command register's I/O and memory bits) is up to whoever routes
accesses: a host bridge asks ``config.bar_address``, a VFIO client has its own view of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from vmwire.bus.pci.capabilities import BarWindow
from vmwire.bus.pci.chip import Chip, Revised, Slot
from vmwire.bus.pci.config import ROM, ConfigSpace, Description
from vmwire.bus.pci.interrupts import Interrupts, Machine
from vmwire.engine.clock import Timers
from vmwire.engine.dma import Dma
from vmwire.wire.port import Port

ChipFactory = Callable[[Slot], Chip]

CONFIG = 7

WIDTH = 4
"""The bus is 32 bits wide."""
LARGEST = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFFFFFF}
"""The largest number of each size that the bus moves at once."""


class PciFunction:
    """One card in its slot. Nothing that software does raises out of ``read`` and ``write``.

    The ROM BAR has the described size, or what a larger ``rom`` needs; the rest reads as all ones.
    How many bytes one access may have is for the caller to limit.
    """

    def __init__(
        self,
        description: Description,
        factory: ChipFactory,
        *,
        machine: Machine,
        timers: Timers,
        defer: Callable[[Callable[[], None]], None],
        random: Callable[[int], bytes],
        name: str,
        rom: bytes = b"",
    ) -> None:
        if len(rom) > description.rom_size:
            description = description.with_rom(rom)
        self.name = name
        self.config = ConfigSpace(description)
        self.dma = Dma()
        self.interrupts = Interrupts(machine, self.config)
        self.unanswered: Counter[str] = Counter()
        self._rom = rom.ljust(description.rom_size, b"\xff")
        self._sizes = {bar.index: bar.size for bar in description.bars}
        self._sizes |= {ROM: description.rom_size, CONFIG: self.config.size}
        self._window = description.capability(BarWindow)
        msix = self.config.msix
        shared = set() if msix is None else {msix.table_bar, msix.pending_bar}
        self._direct = {bar.index: bar.size for bar in description.bars if bar.index not in shared}
        """The BARs that are the chip's alone, and their sizes."""
        self._table_writes = 0
        self.chip = factory(Slot(name, self.dma, self.interrupts, timers, defer, random))
        self._revised = self.chip if isinstance(self.chip, Revised) else None

    @property
    def port(self) -> Port:
        """The card's end of the wire."""
        return self.chip.port

    def region_size(self, region: int) -> int:
        """Return how many bytes a region has (0: it isn't there)."""
        return self._sizes.get(region, 0)

    # Accesses

    def read(self, region: int, offset: int, size: int) -> int:
        """Return a little-endian number of ``size`` bytes."""
        if size in LARGEST and not offset & size - 1 and 0 <= offset < self._direct.get(region, 0):
            return self.chip.load(region, offset, size)
        return self._read_odd(region, offset, size)

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """Write a little-endian number of ``size`` bytes."""
        if size in LARGEST and not offset & size - 1 and 0 <= offset < self._direct.get(region, 0):
            self.chip.store(region, offset, size, value & LARGEST[size])
        else:
            self._write_odd(region, offset, size, value)

    def _read_odd(self, region: int, offset: int, size: int) -> int:
        inside = self._inside(region, offset, size)
        ones = (1 << 8 * max(size, 0)) - 1
        if not inside:
            return ones
        if region == CONFIG:
            value = self._read_config(offset, inside)
        elif region == ROM:
            value = int.from_bytes(self._rom[offset : offset + inside], "little")
        else:
            value = self._load_pieces(region, offset, inside)
        return value | ones >> 8 * inside << 8 * inside

    def _write_odd(self, region: int, offset: int, size: int, value: int) -> None:
        inside = self._inside(region, offset, size)
        if not inside:
            return
        if region == CONFIG:
            self._write_config(offset, inside, value)
        elif region == ROM:
            self.unanswered["writes to the ROM"] += 1
        else:
            self._store_pieces(region, offset, inside, value)

    def _inside(self, region: int, offset: int, size: int) -> int:
        """Return how many bytes from ``offset`` on are there."""
        end = self._sizes.get(region, 0)
        if size > 0 and 0 <= offset < end:
            return min(size, end - offset)
        self.unanswered["accesses outside"] += 1
        return 0

    def _load_pieces(self, region: int, offset: int, size: int) -> int:
        value = done = 0
        while done < size:
            piece = _piece(offset + done, size - done)
            part = self._load(region, offset + done, piece)
            value |= part << 8 * done
            done += piece
        return value

    def _store_pieces(self, region: int, offset: int, size: int, value: int) -> None:
        done = 0
        while done < size:
            piece = _piece(offset + done, size - done)
            part = value >> 8 * done & (1 << 8 * piece) - 1
            self._store(region, offset + done, piece, part)
            done += piece

    # A BAR that MSI-X lives in

    def _load(self, region: int, offset: int, size: int) -> int:
        msix, table = self.config.msix, self.interrupts.table
        if msix is not None:
            place = offset - msix.table_offset
            if region == msix.table_bar and 0 <= place < msix.table_size:
                return table.load(place, size)
            place = offset - msix.pending_offset
            if region == msix.pending_bar and 0 <= place < msix.pending_size:
                return table.load_pending(place, size)
        return self.chip.load(region, offset, size)

    def _store(self, region: int, offset: int, size: int, value: int) -> None:
        msix = self.config.msix
        if msix is not None:
            place = offset - msix.table_offset
            if region == msix.table_bar and 0 <= place < msix.table_size:
                self._table_writes += 1
                self.interrupts.store_table(place, size, value)
                return
            place = offset - msix.pending_offset
            if region == msix.pending_bar and 0 <= place < msix.pending_size:
                return  # only the card writes there
        self.chip.store(region, offset, size, value)

    # Configuration space

    def _read_config(self, offset: int, size: int) -> int:
        chosen = self._seen_through_window(offset, size)
        if chosen is not None:
            assert self._window is not None
            self.config.show(self._window.data_offset, WIDTH, self.read(*chosen))
        return self.config.read(offset, size)

    def _seen_through_window(self, offset: int, size: int) -> tuple[int, int, int] | None:
        """The place in a BAR that an access to configuration space means: region, offset, size."""
        window = self._window
        if window is None or not offset <= window.data_offset < offset + size:
            return None
        bar = self.config.read(window.offset + 4, 1)
        place = self.config.read(window.offset + 8, 4)
        length = self.config.read(window.offset + 12, 4)
        if bar > 5 or length not in LARGEST or place & length - 1:
            return None
        return bar, place, length

    def _write_config(self, offset: int, size: int, value: int) -> None:
        self.config.write(offset, size, value)
        chosen = self._seen_through_window(offset, size)
        if chosen is not None:
            assert self._window is not None
            data = self.config.read(self._window.data_offset, WIDTH)
            self.write(*chosen, data & LARGEST[chosen[2]])
        if self.config.take_reset_request():
            self.reset()
        self._follow_config()

    def _follow_config(self) -> None:
        self.dma.enabled = self.config.bus_master
        self.interrupts.on_config_changed()

    # The whole card

    def reset(self) -> None:
        """Power on, or the bus's reset."""
        self.chip.reset()
        self.config.reset()
        self.interrupts.reset()
        self._follow_config()

    @property
    def revision(self) -> int | None:
        """Another number after each access to a BAR that changed what is saved; None: unknown."""
        return None if self._revised is None else self._revised.revision + self._table_writes

    def save(self) -> dict[str, Any]:
        """Return the whole state as plain data."""
        return {
            "config": self.config.save(),
            "interrupts": self.interrupts.save(),
            "chip": self.chip.save(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on a state that ``save`` gave. ValueError if it isn't one."""
        try:
            config, interrupts, chip = state["config"], state["interrupts"], state["chip"]
        except KeyError as error:
            raise ValueError(f"a card's state without {error}") from error
        self.config.restore(config)
        self.dma.enabled = self.config.bus_master
        self.interrupts.restore(interrupts)
        self.chip.restore(chip)  # which may know better whether its pin is up

    def set_link(self, up: bool) -> None:
        """Plug or pull the cable at the card."""
        self.chip.set_link(up)

    def stats(self) -> dict[str, object]:
        """Return counters as plain data."""
        return self.chip.stats() | dict(self.unanswered)


def _piece(offset: int, left: int) -> int:
    """How much the bus takes in one access from ``offset`` on."""
    aligned = offset & -offset or WIDTH
    return min(aligned, WIDTH, 1 << left.bit_length() - 1)
