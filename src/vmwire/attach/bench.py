# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Cards of a network that are seated in a bench machine instead of being served over a socket.

    pc = Bench()
    net = Network(cards=BenchCards(pc))
    net.add_netdev("user", id="u")
    net.add_nic("e1000", id="n0", netdev="u", addr="4")
    pc.outl(0xCF8, 0x8000_2000)                           # the driver is whoever holds the bench
    net.loop.turn(0)                                      # and lets the network run meanwhile

The bench and the network have one thread between them: the network's engine isn't started, its
loop is turned by hand (`vmwire.cli.headless` does it for a process in QEMU's place).

Between card and wire stands a gate: it holds the wire while the machine is paused, and has the
bench do at the end of the turn what a card puts off when a frame comes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from vmwire.bench import mmio
from vmwire.bench.cards import Nic
from vmwire.bench.machine import Bench
from vmwire.engine.host import Host
from vmwire.nic.options import VirtioNetDeviceOptions
from vmwire.nic.pci_options import PciNicOptions
from vmwire.options.table import table_of
from vmwire.wire.frame import Frame, View
from vmwire.wire.port import Port
from vmwire.wire.through import Through


def _nothing() -> None:
    """What is done for a gate that isn't open yet."""


class Gate(Through):
    """Lets frames through while the machine runs. ``left`` is the card's side."""

    def __init__(self, name: str, pc: Bench) -> None:
        super().__init__(name)
        self._pc = pc
        self.running = True
        self.wake: Callable[[], None] = _nothing
        """Has the bench settle soon."""

    def carry(self, out: Port, frames: Sequence[Frame]) -> int:
        if not self.running:
            return 0
        taken = out.send(frames)
        if self._pc.has_work:
            self.wake()
        return taken

    def reserve(self, out: Port, length: int) -> Sequence[View] | None:
        return out.reserve(length) if self.running else None

    def resumed(self, out: Port) -> None:
        if self.running:
            super().resumed(out)
            if self._pc.has_work:
                self.wake()

    def set_running(self, running: bool) -> None:
        """Hold both directions, or go on."""
        if running != self.running:
            self.running = running
            self.resumed(self.left)
            self.resumed(self.right)


class BenchNic:
    """A card in a bench, as a box of a network."""

    OPTIONS = PciNicOptions

    def __init__(self, options: Any, pc: Bench) -> None:
        self.options = options
        self.nic: Nic = pc.make(options)
        self._pc = pc
        self.gate = Gate(self.nic.name, pc)
        self.nic.function.port.connect(self.gate.left)
        self.port = self.gate.right

    @property
    def register_chip(self) -> object:
        """The card's chip."""
        return self.nic.function.chip

    def open(self, host: Host) -> None:
        """Put the card into its slot."""
        self.gate.wake = lambda: host.loop.defer(self._pc.settle)
        self.nic.function.reset()  # powered on only now, with the cable in it
        self._pc.seat(self.nic)

    def close(self) -> None:
        """Pull it out."""
        self._pc.unseat(self.nic)

    def set_link(self, up: bool) -> None:
        """Plug or pull the cable at the card."""
        self.nic.function.set_link(up)
        self._pc.settle()

    def stats(self) -> dict[str, object]:
        """Return counters as plain data."""
        return self.nic.function.stats()


class BenchMmioNic:
    """A virtio-mmio card in one of a bench's places, as a box of a network."""

    OPTIONS = VirtioNetDeviceOptions

    def __init__(self, options: VirtioNetDeviceOptions, pc: Bench) -> None:
        self.options = options
        self.nic = mmio.make(pc, options)
        self._pc = pc
        self._in = True
        self.gate = Gate(self.nic.name, pc)
        self.nic.port.connect(self.gate.left)
        self.port = self.gate.right

    @property
    def register_chip(self) -> object:
        """The card, without its transport."""
        return self.nic.card

    def open(self, host: Host) -> None:
        """Let its frames be moved."""
        self.gate.wake = lambda: host.loop.defer(self._pc.settle)

    def close(self) -> None:
        """Pull it out."""
        if self._in:
            self._in = False
            mmio.remove(self._pc, self.nic)

    def set_link(self, up: bool) -> None:
        """Plug or pull the cable at the card."""
        self.nic.set_link(up)

    def stats(self) -> dict[str, object]:
        """Return counters as plain data."""
        return self.nic.card.stats()


class BenchCards:
    """Makes a network's cards for a bench; what is no card of a bus is left to the registry."""

    def __init__(self, pc: Bench) -> None:
        self._pc = pc
        self._running = True
        self._made: weakref.WeakSet[BenchNic | BenchMmioNic] = weakref.WeakSet()

    def __call__(self, options: Any) -> BenchNic | BenchMmioNic | None:
        box: BenchNic | BenchMmioNic
        if isinstance(options, VirtioNetDeviceOptions):
            box = BenchMmioNic(options, self._pc)
        elif "addr" in table_of(type(options)).entries:
            box = BenchNic(options, self._pc)
        else:
            return None
        box.gate.running = self._running
        self._made.add(box)
        return box

    def set_running(self, running: bool) -> None:
        """Pause all cards' wires, and those of cards to come, or let them go on."""
        self._running = running
        for box in self._made:
            box.gate.set_running(running)
