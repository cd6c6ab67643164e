# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What an ISA card and its slot are to each other: ports and one interrupt line.

Nothing is configured by software: the description says where the ports are and which line the card
drives, as jumpers do. A chip is pure logic, as a PCI chip is (`vmwire.bus.pci.chip`); it reaches no
memory of the guest's, for the cards of this bus are fed through their ports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vmwire.engine.clock import Timers
from vmwire.wire.port import Port

LINES = 16
PORTS = 1 << 16


@dataclass(frozen=True, slots=True)
class IsaDescription:
    """How the jumpers are set. ValueError for what no bus has.

    >>> IsaDescription(first_port=0x300, ports=32, line=9).last_port
    799
    """

    first_port: int
    ports: int
    line: int

    def __post_init__(self) -> None:
        if not (0 < self.ports <= PORTS and 0 <= self.first_port <= PORTS - self.ports):
            raise ValueError(f"{self.ports} ports from {self.first_port:#x} on")
        if not 0 <= self.line < LINES:
            raise ValueError(f"line {self.line}")

    @property
    def last_port(self) -> int:
        return self.first_port + self.ports - 1


@dataclass(slots=True)
class IsaSlot:
    """What a chip is handed.

    ``set_line`` raises or lowers its interrupt line. ``defer`` runs a function at the end of the
    loop's turn. ``random(n)`` gives ``n`` random bytes.
    """

    name: str
    set_line: Callable[[bool], None]
    timers: Timers
    defer: Callable[[Callable[[], None]], None]
    random: Callable[[int], bytes]


class IsaChip(Protocol):
    """A card behind its bus. Nothing that a guest does raises out of any of these.

    ``offset`` counts from the first port; ``size`` is 1, 2 or 4, at any offset (a data port may
    well be read in words). Values are little-endian numbers.
    """

    port: Port

    def load(self, offset: int, size: int) -> int:
        """Read ports."""

    def store(self, offset: int, size: int, value: int) -> None:
        """Write ports."""

    def reset(self) -> None:
        """Power on, or the machine's reset."""

    def save(self) -> dict[str, Any]:
        """Return the whole state as plain data."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on a state that ``save`` gave. ValueError if it isn't one."""

    def set_link(self, up: bool) -> None:
        """Plug or pull the cable at the card."""

    def stats(self) -> dict[str, object]:
        """Return counters as plain data."""


IsaChipFactory = Callable[[IsaSlot], IsaChip]
