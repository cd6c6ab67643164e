# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a PCI card and its slot are to each other.

A *chip* is pure logic: it is handed a ``Slot`` when it is made; it opens nothing, reads no
clock and starts no thread, so that it runs the same in a virtual machine, on the bench and under a
fuzzer.
``PciFunction`` (``vmwire.bus.pci.function``) stands between the two: configuration space, BARs,
command register, interrupts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from vmwire.engine.clock import Timers
from vmwire.engine.dma import Dma
from vmwire.wire.port import Port


class InterruptPin(Protocol):
    """A chip's way to interrupt: INTx by its level, or messages; the bus knows which is in use."""

    @property
    def msix_enabled(self) -> bool:
        """Whether software uses MSI-X, for chips whose registers depend on that."""

    def set_level(self, up: bool) -> None:
        """Raise or lower the pin. With MSI in use a rise sends message 0."""

    def notify(self, vector: int) -> None:
        """Send an MSI or MSI-X message (kept pending while it is masked)."""

    def forget(self, vectors: int) -> None:
        """Drop MSI-X messages that are kept pending: one bit for each vector."""


@dataclass(slots=True)
class Slot:
    """What a chip is handed.

    ``defer`` runs a function at the end of the loop's turn. ``random(n)`` gives ``n`` random bytes.
    """

    name: str
    dma: Dma
    interrupts: InterruptPin
    timers: Timers
    defer: Callable[[Callable[[], None]], None]
    random: Callable[[int], bytes]


class Chip(Protocol):
    """A card behind its bus. Nothing that a guest does raises out of any of these.

    A *region* is the number of a BAR, 0 to 5. ``offset`` and ``size`` lie in it; ``size`` is 1, 2
    or 4, and ``offset`` a multiple of it (the bus splits what isn't). Values are little-endian
    numbers.
    """

    port: Port

    def load(self, region: int, offset: int, size: int) -> int:
        """Read registers."""

    def store(self, region: int, offset: int, size: int, value: int) -> None:
        """Write registers."""

    def reset(self) -> None:
        """Power on, or the bus's reset: all registers as the data sheet says."""

    def save(self) -> dict[str, Any]:
        """Return the whole state as plain data (numbers, bytes, strings, lists, dicts)."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on a state that ``save`` gave. ValueError if it isn't one.

        The state may be another process's still, which goes on if this one can't: nothing goes out
        and the guest's memory is as it was until the loop turns.
        """

    def set_link(self, up: bool) -> None:
        """Plug or pull the cable at the card."""

    def stats(self) -> dict[str, object]:
        """Return counters as plain data."""


@runtime_checkable
class Revised(Protocol):
    """A chip whose guest's memory tells where it is in its rings, and that knows when the rest of
    its state changes: as long as nothing does, nothing needs to be saved anew.
    """

    @property
    def revision(self) -> int:
        """Another number after each change of what ``save`` returns, if memory can't tell it."""


@runtime_checkable
class Placed(Protocol):
    """A chip that can tell in no time where it is in its rings, for who must not lose that.

    ``save`` is too long to be called for each frame. This is called after each: what it returns is
    put as ``place`` into the state that ``save`` gave before, and counts for more when ``restore``
    finds it there.
    """

    def save_place(self) -> bytes:
        """Return what moves with every frame; at most 240 bytes."""
