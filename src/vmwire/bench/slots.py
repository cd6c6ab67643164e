# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a card's options ask of its slot: the place, the ROM, several functions, the boot order.

The rules and their words are QEMU's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vmwire.bus.pci.config import Description
from vmwire.errors import ConfigError
from vmwire.nic.pci_options import NO_ROM_SIZE, check_address
from vmwire.options.table import table_of

BUS = "pci.0"
MOST_ROM = 2 << 30


def devfn_of(addr: int | str) -> int:
    """The function's number of a slot, or of QEMU's text for slot and function (in hex)."""
    text = f"{addr:x}" if isinstance(addr, int) else addr
    try:
        slot, _, function = check_address(text).partition(".")
        place = int(slot, 16) << 3 | int(function or "0", 16)
    except ValueError:
        place = -1
    if place < 0:
        raise ConfigError(f"addr={addr} is no place on the bus (00.0 to 1f.7)")
    return place


def is_any(addr: int | str | None) -> bool:
    """Whether the first free slot will do."""
    return addr is None or addr == "-1"


def check_bus(options: Any) -> None:
    """There is one bus."""
    bus = getattr(options, "bus", None)
    if bus not in (None, BUS):
        raise ConfigError(f"Bus '{bus}' not found")


def name_of(options: Any) -> str:
    """QEMU's name of the card."""
    return table_of(type(options)).name


def with_slot(description: Description, options: Any) -> tuple[Description, bytes]:
    """What the card shows in such a slot, and its ROM's content.

    A ROM that wasn't named has its size and no content, for it is QEMU's.
    """
    description = replace(description, multifunction=bool(getattr(options, "multifunction", False)))
    path = getattr(options, "romfile", None)
    if path == "" or getattr(options, "rombar", -1) == 0:
        return replace(description, rom_size=0), b""
    size = getattr(options, "romsize", NO_ROM_SIZE)
    if size != NO_ROM_SIZE and size & size - 1:
        raise ConfigError(f"ROM size {size} is not a power of two")
    if path is None:
        return description, b""
    rom = _load(path)
    if size != NO_ROM_SIZE and len(rom) > size:
        raise ConfigError(f'romfile "{path}" ({len(rom)} bytes) is too large for ROM size {size}')
    return description.with_rom(rom.ljust(0 if size == NO_ROM_SIZE else size, b"\xff")), rom


def _load(path: str) -> bytes:
    try:
        if Path(path).stat().st_size > MOST_ROM:
            raise ConfigError(f'romfile "{path}" is too large')
        rom = Path(path).read_bytes()
    except OSError:
        raise ConfigError(f'failed to find romfile "{path}"') from None
    if not rom:
        raise ConfigError(f'romfile "{path}" is empty')
    return rom


class BootOrder:
    """Which cards are to be booted from, as firmware is told.

    >>> order = BootOrder()
    >>> order.add(2, 0x20, "n0"); order.add(1, 0x21, "n1")
    >>> order.text()
    b'/pci@i0cf8/ethernet@4,1/ethernet-phy@0\\n/pci@i0cf8/ethernet@4/ethernet-phy@0\\x00'
    """

    def __init__(self) -> None:
        self._places: dict[int, tuple[int, str]] = {}

    def check(self, index: int | None) -> None:
        """ConfigError if somebody has that place."""
        if index in self._places:
            raise ConfigError(f"The bootindex {index} has already been used")

    def add(self, index: int, devfn: int, name: str) -> None:
        """Give a card its place."""
        self.check(index)
        self._places[index] = (devfn, name)

    def remove(self, name: str) -> None:
        """Forget a card."""
        self._places = {at: each for at, each in self._places.items() if each[1] != name}

    def text(self) -> bytes:
        """The item ``bootorder``."""
        lines = [_path(devfn) for _, (devfn, _) in sorted(self._places.items())]
        return "\n".join(lines).encode() + b"\0" if lines else b""


def _path(devfn: int) -> str:
    slot, function = devfn >> 3, devfn & 7
    return f"/pci@i0cf8/ethernet@{slot:x}{f',{function:x}' if function else ''}/ethernet-phy@0"
