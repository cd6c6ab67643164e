# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Intel's 82574L (``e1000e``), register by register.

::

              registers (one flat block)
                  |  on_write, on_read
   EERD, EEWR ── nvm        chip       phy ── MDIC, the link
                          /   |  \\
     2 rings ── transmit ─    |   ─ receive ── 2 rings
                  |           |        |  (scaling, headers)
                timesync ─────┴────────┘
                interrupts: 5 vectors, or the pin

What it has in common with its ancestors is `vmwire.nic.e1000`'s: offloads, checksums, filters,
statistics, and how a ring is walked and filled.

From "Intel 82574 GbE Controller Family Datasheet" (317694).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vmwire.bus.pci.chip import Slot
from vmwire.bus.pci.config import Description
from vmwire.nic.e1000e import models
from vmwire.nic.e1000e.chip import E1000E

__all__ = ["E1000E", "Options", "describe", "factory"]


class Options(Protocol):
    """What a user can say about such a card."""

    mac: bytes | None
    disable_vnet_hdr: int
    init_vet: bool
    migrate_timadj: bool
    subsys: int
    subsys_ven: int
    x_pcie_err_unc_mask: bool
    x_pcie_ext_tag: bool


def describe(options: Options) -> Description:
    """Return the configuration space of such a card."""
    return models.describe(
        mac=options.mac or models.NO_MAC,
        subsystem_vendor=options.subsys_ven,
        subsystem=options.subsys,
        extended_tags=options.x_pcie_ext_tag,
        unsupported_masked=options.x_pcie_err_unc_mask,
    )


def factory(options: Options) -> Callable[[Slot], E1000E]:
    """Return what makes such a card in a slot. With no address given it gets one of QEMU's."""

    def make(slot: Slot) -> E1000E:
        return E1000E(
            slot,
            mac=options.mac or b"\x52\x54\x00" + slot.random(3),
            init_vet=options.init_vet,
            offloads=not options.disable_vnet_hdr,
            migrate_timadj=options.migrate_timadj,
        )

    return make
