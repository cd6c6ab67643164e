# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The members of the family, and how they differ: ids, EEPROM words, the PHY's revision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vmwire.bus.pci.config import Bar, Description
from vmwire.nic.e1000.shared_registers import WINDOW

INTEL = 0x8086
ETHERNET = 0x020000
IO_WINDOW = 64
ROM_WINDOW = 0x40000


@dataclass(frozen=True, slots=True)
class Model:
    """One chip. ``phy_id2`` holds the PHY's model and revision."""

    name: str
    chip: str
    device: int
    phy_id2: int = 0x0C20


MODELS: Mapping[str, Model] = {
    model.name: model
    for model in (
        Model("e1000", "82540EM", 0x100E),
        Model("e1000-82544gc", "82544GC", 0x100C, 0x0C30),
        Model("e1000-82545em", "82545EM", 0x100F),
    )
}


def _describe(model: Model) -> Description:
    return Description(
        vendor=INTEL,
        device=model.device,
        revision=3,
        class_code=ETHERNET,
        subsystem_vendor=0x1AF4,
        subsystem=0x1100,
        interrupt_pin=1,
        bars=(Bar(0, "memory", WINDOW), Bar(1, "io", IO_WINDOW)),
        rom_size=ROM_WINDOW,
    )


DESCRIPTIONS: Mapping[str, Description] = {name: _describe(model) for name, model in MODELS.items()}
