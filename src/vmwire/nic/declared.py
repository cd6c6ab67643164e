# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Where the options of cards are declared, by the cards' names in the order of help, which is
QEMU's. Importing one of these modules imports tables and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

OPTIONS: Mapping[str, str] = {
    "e1000": "vmwire.nic.pci_options",
    "e1000-82544gc": "vmwire.nic.pci_options",
    "e1000-82545em": "vmwire.nic.pci_options",
    "e1000e": "vmwire.nic.e1000e_options",
    "virtio-net-device": "vmwire.nic.options",
    "virtio-net-pci": "vmwire.nic.options",
    "virtio-net-pci-non-transitional": "vmwire.nic.options",
    "virtio-net-pci-transitional": "vmwire.nic.options",
}
ALIASES = {"e1000-82540em": "e1000", "virtio-net": "virtio-net-pci"}


def module_of(driver: str) -> str | None:
    """The module that declares a card's options; None if there is no such card."""
    return OPTIONS.get(ALIASES.get(driver, driver))
