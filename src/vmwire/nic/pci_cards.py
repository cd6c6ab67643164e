# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Which chip families there are for a PCI slot, and what one of their cards is made of.

A family is a package with ``describe(options)``, which gives the card's configuration space, and
``factory(options)``, which gives what makes its chip. It is imported when a card of it is asked
for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from vmwire.bus.pci.config import Description
from vmwire.bus.pci.function import ChipFactory

FAMILIES: Mapping[str, str] = {
    "e1000": "vmwire.nic.e1000",
    "e1000-82544gc": "vmwire.nic.e1000",
    "e1000-82545em": "vmwire.nic.e1000",
    "e1000e": "vmwire.nic.e1000e",
    "virtio-net-pci": "vmwire.nic.virtio",
    "virtio-net-pci-non-transitional": "vmwire.nic.virtio",
    "virtio-net-pci-transitional": "vmwire.nic.virtio",
}


def card_of(options: Any) -> tuple[Description, ChipFactory] | None:
    """Return what the card that ``options`` describe is made of; None if it is no such card."""
    where = FAMILIES.get(options.driver)
    if where is None:
        return None
    family = import_module(where)
    return family.describe(options), family.factory(options)
