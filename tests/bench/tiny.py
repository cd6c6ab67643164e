# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The smallest card that does something of everything, for tests of the bench itself.

Registers of BAR 0 (memory): 0 scratch; 4 a write of N sends the N bytes at the address in register
0, at the end of the turn; 8 the interrupt pin; 0xC a write of N raises the pin N ns later; 0x10
counts reads of itself. BAR 1 (ports): scratch, the same as register 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vmwire.bus.pci.chip import Slot
from vmwire.bus.pci.config import Bar, Description
from vmwire.engine.memory import AddressFault
from vmwire.wire.frame import Frame
from vmwire.wire.port import Port

TINY = Description(
    vendor=0x1234, device=0x5678, revision=1, class_code=0x020000, subsystem_vendor=0, subsystem=0,
    interrupt_pin=1, bars=(Bar(0, "memory", 0x1000), Bar(1, "io", 0x20)), rom_size=0x800,
)  # fmt: skip


class Tiny:
    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.port = Port(slot.name, self.receive)
        self.scratch = 0
        self.reads = 0
        self.stores: list[tuple[int, int, int, int]] = []
        self.received: list[bytes] = []

    def load(self, region: int, offset: int, size: int) -> int:
        if region == 0 and offset == 0x10:
            self.reads += 1
            return self.reads
        return self.scratch >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def store(self, region: int, offset: int, size: int, value: int) -> None:
        self.stores.append((region, offset, size, value))
        if offset == 0:
            self.scratch = value
        elif offset == 4:
            self.slot.defer(lambda: self.send(value))
        elif offset == 8:
            self.slot.interrupts.set_level(bool(value))
        elif offset == 0xC:
            self.slot.timers.call_later(value / 1e9, lambda: self.slot.interrupts.set_level(True))

    def send(self, length: int) -> None:
        try:
            self.port.send([Frame.of(self.slot.dma.read(self.scratch, length))])
        except AddressFault:
            self.port.drops["no memory"] += 1

    def receive(self, frames: Sequence[Frame]) -> int:
        self.received += [frame.tobytes() for frame in frames]
        self.slot.interrupts.set_level(True)
        return len(frames)

    def reset(self) -> None:
        self.scratch = 0

    def save(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass

    def set_link(self, up: bool) -> None:
        self.port.set_link(up)

    def stats(self) -> dict[str, object]:
        return {}
