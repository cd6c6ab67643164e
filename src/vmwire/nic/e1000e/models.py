# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The 82574L as its bus sees it (data sheet, section 9 of the configuration space).

BAR 0 is the registers, BAR 1 the flash, BAR 2 IOADDR and IODATA, BAR 3 the MSI-X table.
"""

from __future__ import annotations

from vmwire.bus.pci.capabilities import (
    ErrorReporting,
    Msi,
    MsiX,
    PciExpress,
    PowerManagement,
    SerialNumber,
)
from vmwire.bus.pci.config import Bar, Description
from vmwire.nic.e1000.shared_registers import WINDOW

INTEL = 0x8086
DEVICE = 0x10D3
ETHERNET = 0x020000
FLASH_WINDOW = 0x20000
IO_WINDOW = 32
MESSAGE_WINDOW = 0x4000
ROM_WINDOW = 0x40000
VECTORS = 5
NO_MAC = bytes(6)


def serial_number(mac: bytes) -> int:
    """Return the EUI-64 that an address gives."""
    return int.from_bytes(mac[:3] + b"\xff\xff" + mac[3:], "big")


def describe(
    *,
    mac: bytes,
    subsystem_vendor: int,
    subsystem: int,
    extended_tags: bool = True,
    unsupported_masked: bool = True,
) -> Description:
    """Return the card's configuration space.

    ``extended_tags`` says whether the card can use them; ``unsupported_masked`` whether error
    reporting begins with the errors masked that PCI Express masks by default.
    """
    return Description(
        vendor=INTEL,
        device=DEVICE,
        revision=0,
        class_code=ETHERNET,
        subsystem_vendor=subsystem_vendor,
        subsystem=subsystem,
        interrupt_pin=1,
        bars=(
            Bar(0, "memory", WINDOW),
            Bar(1, "memory", FLASH_WINDOW),
            Bar(2, "io", IO_WINDOW),
            Bar(3, "memory", MESSAGE_WINDOW),
        ),
        rom_size=ROM_WINDOW,
        capabilities=(
            PowerManagement(offset=0xC8, capabilities=0x22),
            Msi(offset=0xD0),
            PciExpress(offset=0xE0, version=1, device=0x8020 if extended_tags else 0x8000),
            MsiX(offset=0xA0, vectors=VECTORS, table_bar=3, pending_bar=3, pending_offset=0x2000),
            ErrorReporting(
                offset=0x100, uncorrectable_mask=0x02400000 if unsupported_masked else 0
            ),
            SerialNumber(offset=0x140, number=serial_number(mac)),
        ),
    )
