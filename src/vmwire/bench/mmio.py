# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Places for virtio-mmio cards in the bench, as microvm and virt machines have them.

There are eight, of 512 bytes, from `FIRST` on, with interrupt lines from `FIRST_LINE` on. A place
answers once there is a card in it.

>>> from vmwire.bench.machine import Bench
>>> from vmwire.bench.virtio_mmio import Mmio
>>> from vmwire.bench.virtio_net import VirtioNetDriver
>>> with Bench() as pc:
...     nic = plug(pc, mac="52:54:00:12:34:56")
...     driver = VirtioNetDriver(pc, Mmio(pc, nic.base)).start()
...     _ = nic.wire.send(bytes.fromhex("525400123456 525500020202 0800") + b"hi".ljust(46))
...     driver.receive()[0][0][14:16], nic.irq_level, pc.lines.level(nic.line)
(b'hi', True, True)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmwire.bench.address_space import Window
from vmwire.bench.machine import DEFAULT_MAC, Bench
from vmwire.bench.wire_end import WireEnd
from vmwire.bus.pci.chip import Slot
from vmwire.bus.virtio.mmio import SIZE, VirtioMmio
from vmwire.engine.dma import Dma
from vmwire.engine.memory import GuestMemory
from vmwire.errors import ConfigError
from vmwire.nic.options import VirtioNetDeviceOptions
from vmwire.nic.virtio_card import VirtioCard
from vmwire.wire.port import Port

FIRST = 0xFEB0_0000
FIRST_LINE = 5
PLACES = 8


class MmioNic:
    """A card in one of the places."""

    def __init__(self, pc: Bench, options: VirtioNetDeviceOptions, number: int) -> None:
        self.name = options.id or f"virtio{number}"
        self.base = FIRST + number * SIZE
        self.line = FIRST_LINE + number
        self.irq_level = False
        self.msix_enabled = False
        self.edges = 0
        """How often the line rose."""
        self.wire = WireEnd(self.name, pc)
        self.dma = Dma()
        self._pc = pc
        slot = Slot(self.name, self.dma, self, pc.timers, pc.put_off, pc.random.randbytes)
        mac = options.mac or DEFAULT_MAC[:-1] + bytes([DEFAULT_MAC[-1] + number])
        self.card = VirtioCard(self.name, options, mac, pc.put_off)
        self.chip = VirtioMmio(slot, self.card, version=1 if options.force_legacy else 2)
        self.window = Window(self.base, self.base + SIZE, self.chip.load, self.chip.store)
        self.dma.enabled = True
        self.dma.memory = pc.memory

    @property
    def port(self) -> Port:
        """The card's end of the wire."""
        return self.card.port

    # What the chip has for a bus

    def set_level(self, up: bool) -> None:
        """The interrupt line."""
        if up != self.irq_level:
            self.irq_level = up
            self.edges += up
            self._pc.note(f"IRQ {'raise' if up else 'lower'} {self.name}")
            self._pc.lines.set(self.line, self.name, up)

    def notify(self, vector: int) -> None:
        """There are no messages here."""

    def forget(self, vectors: int) -> None:
        """Nor are any kept."""

    # What its holder does

    def reset(self) -> None:
        """The machine's reset."""
        self.chip.reset()
        self._pc.settle()

    def reload(self) -> None:
        """Save the card's state, power it on anew, and restore it, as if its process had ended."""
        state = self.chip.save()
        self.chip.reset()
        self.chip.restore(state)
        self._pc.settle()

    def set_link(self, up: bool) -> None:
        """Plug or pull the cable at the card."""
        self.card.set_link(up)
        self._pc.settle()

    def stats(self) -> Mapping[str, object]:
        """Return counters as plain data."""
        return self.card.stats()


def make(pc: Bench, options: VirtioNetDeviceOptions) -> MmioNic:
    """Put a card into the first free place; its cable hangs loose."""
    for number in range(PLACES):
        base = FIRST + number * SIZE
        if pc.is_vacant(base):
            nic = MmioNic(pc, options, number)
            pc.resets.append(nic.reset)
            pc.map(nic.window)
            return nic
    raise ConfigError(f"all {PLACES} places for virtio-mmio are taken")


def remove(pc: Bench, nic: MmioNic) -> None:
    """Take a card out of its place."""
    nic.reset()
    pc.resets.remove(nic.reset)
    pc.unmap(nic.window)
    nic.dma.memory = GuestMemory()


def plug(pc: Bench, **properties: Any) -> MmioNic:
    """Put a card in, described as behind ``-device virtio-net-device``, its cable plugged."""
    if isinstance(properties.get("mac"), str):
        properties["mac"] = bytes.fromhex(properties["mac"].replace(":", ""))
    nic = make(pc, VirtioNetDeviceOptions(**properties))
    nic.port.connect(nic.wire.port)
    return nic
