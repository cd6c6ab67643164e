# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What configuration space says of a function, as plain data: for listings of a bus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vmwire.bus.pci.config import INTERRUPT_LINE, ROM, ConfigSpace

ROM_BAR = ROM
"""The expansion ROM's number among the regions."""
CLASS = 0x0A
SUBSYSTEM = 0x2C


@dataclass(frozen=True, slots=True)
class PciRegion:
    """A BAR, or the ROM. ``address`` is None while it isn't mapped (QEMU prints -1)."""

    bar: int
    kind: Literal["memory", "io"]
    size: int
    address: int | None
    wide: bool = False
    prefetchable: bool = False


@dataclass(frozen=True, slots=True)
class PciFunctionView:
    """One function of bus 0 as configuration space shows it now."""

    slot: int
    function: int
    id: str
    """The device's id as ``-device id=`` or ``device_add`` gave it; empty for what was built in."""
    vendor: int
    device: int
    subsystem_vendor: int
    subsystem: int
    class_code: int
    """Class and subclass, 16 bits."""
    irq_pin: int
    """0 none, 1 A to 4 D."""
    irq_line: int
    regions: tuple[PciRegion, ...]


def view(config: ConfigSpace, devfn: int, id: str) -> PciFunctionView:
    """What there is at ``devfn``."""
    read = config.read
    return PciFunctionView(
        slot=devfn >> 3,
        function=devfn & 7,
        id=id,
        vendor=read(0, 2),
        device=read(2, 2),
        subsystem_vendor=read(SUBSYSTEM, 2),
        subsystem=read(SUBSYSTEM + 2, 2),
        class_code=read(CLASS, 2),
        irq_pin=read(INTERRUPT_LINE + 1, 1),
        irq_line=read(INTERRUPT_LINE, 1),
        regions=_regions(config),
    )


def _regions(config: ConfigSpace) -> tuple[PciRegion, ...]:
    card = config.description
    regions = [
        PciRegion(
            bar.index, bar.kind, bar.size, config.bar_address(bar.index), bar.wide, bar.prefetchable
        )
        for bar in card.bars
    ]
    if card.rom_size:
        regions.append(PciRegion(ROM, "memory", card.rom_size, config.bar_address(ROM)))
    return tuple(regions)
