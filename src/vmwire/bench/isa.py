# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A card in one of the bench's ISA slots: its ports, its interrupt line, its wire's far end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmwire.bench.address_space import Window
from vmwire.bench.wire_end import WireEnd
from vmwire.bus.isa.chip import IsaChipFactory, IsaDescription, IsaSlot

if TYPE_CHECKING:
    from vmwire.bench.machine import Bench


class IsaNic:
    """See the module. ``line_up`` says whether the card holds its line."""

    def __init__(
        self, pc: Bench, description: IsaDescription, factory: IsaChipFactory, name: str
    ) -> None:
        self.name = name
        self.description = description
        self.line_up = False
        self.wire = WireEnd(name, pc)
        self._pc = pc
        self.chip = factory(
            IsaSlot(name, self._set_line, pc.timers, pc.put_off, pc.random.randbytes)
        )

    def window(self) -> Window:
        """Where its ports are."""
        start = self.description.first_port
        return Window(start, self.description.last_port + 1, self.chip.load, self.chip.store)

    def _set_line(self, up: bool) -> None:
        if up != self.line_up:
            self.line_up = up
            self._pc.note(f"IRQ {'raise' if up else 'lower'} {self.name}")
            self._pc.lines.set(self.description.line, self.name, up)
