# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A card as it sits in the bench: the function, its interrupts as seen from outside, its wire."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from vmwire.bench.wire_end import WireEnd
from vmwire.bus.pci.function import PciFunction

if TYPE_CHECKING:
    from vmwire.bench.machine import Bench

KEPT_MESSAGES = 4096


class Irq:
    """What a card's interrupts look like from outside: a line, and messages.

    A message is a write to memory; ``write`` makes it there, if the driver gave it an address in
    RAM. ``moved`` is told the line's level.
    """

    def __init__(
        self,
        name: str,
        note: Callable[[str], None],
        moved: Callable[[bool], None],
        write: Callable[[int, int], None],
    ) -> None:
        self.name = name
        self.level = False
        self.edges = 0
        """How often the line rose."""
        self.messages: deque[int] = deque(maxlen=KEPT_MESSAGES)
        """Vectors of the MSI and MSI-X messages that came, the newest last."""
        self.function: PciFunction | None = None
        self._note, self._moved, self._write = note, moved, write

    def intx(self, up: bool) -> None:
        """The line changes."""
        if up != self.level:
            self.level = up
            self.edges += up
            self._note(f"IRQ {'raise' if up else 'lower'} {self.name}")
            self._moved(up)

    def msi(self, vector: int) -> None:
        """A message of MSI comes."""
        self._came(vector)
        if self.function is not None:
            self._write(*self.function.interrupts.msi_message(vector))

    def msix(self, vector: int) -> None:
        """A message of MSI-X comes."""
        self._came(vector)
        if self.function is not None:
            self._write(*self.function.interrupts.msix_message(vector))

    def _came(self, vector: int) -> None:
        self.messages.append(vector)
        self._note(f"MSI {self.name} {vector}")


class Nic:
    """A card in the bench: its ``function``, its ``irq``, and, if it is the bench's own, the far
    end of its ``wire``."""

    def __init__(self, name: str, devfn: int, pc: Bench) -> None:
        self.name = name
        self.devfn = devfn
        self.irq = Irq(name, pc.note, lambda up: pc.moved(self, up), pc.message)
        self.wire = WireEnd(name, pc)
        self.function: PciFunction
        self.model = "card"
        """QEMU's name of it."""
        self.bootindex: int | None = None

    @property
    def irq_level(self) -> bool:
        """Whether the interrupt line is up."""
        return self.irq.level
