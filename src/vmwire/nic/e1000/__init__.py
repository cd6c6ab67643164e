# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Intel's 8254x: 82540EM (``e1000``), 82544GC, 82545EM, register by register.

::

              registers (one flat block)
                  |  on_write, on_read
   EECD, EERD ── eeprom      chip      phy ── MDIC, the link
                            /    \\
      ring ── transmit ────/      \\──── receive ── ring
             (offloads)   |        |   (filters, checksums)
                          └─ Port ─┘
                interrupts, statistics: told by both

From "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual" (Intel 317453).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vmwire.bus.pci.chip import Slot
from vmwire.bus.pci.config import Description
from vmwire.nic.e1000.chip import E1000
from vmwire.nic.e1000.models import DESCRIPTIONS, MODELS, Model

__all__ = ["DESCRIPTIONS", "E1000", "MODELS", "Model", "Options", "describe", "factory"]


class Options(Protocol):
    """What a user can say about a card of the family."""

    @property
    def driver(self) -> str: ...

    mac: bytes | None
    autonegotiation: bool
    extra_mac_registers: bool
    init_vet: bool
    migrate_tso_props: bool
    mitigation: bool


def describe(options: Options) -> Description:
    """Return the configuration space of such a card."""
    return DESCRIPTIONS[options.driver]


def factory(options: Options) -> Callable[[Slot], E1000]:
    """Return what makes such a card in a slot. With no address given it gets one of QEMU's."""

    def make(slot: Slot) -> E1000:
        return E1000(
            slot,
            model=MODELS[options.driver],
            mac=options.mac or b"\x52\x54\x00" + slot.random(3),
            autonegotiation=options.autonegotiation,
            mitigation=options.mitigation,
            init_vet=options.init_vet,
            extra_registers=options.extra_mac_registers,
            migrate_tso_props=options.migrate_tso_props,
        )

    return make
