# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A tiny card with a copy engine, and a server of it in a thread."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vmwire.attach.vfio_user.server import CardServer
from vmwire.attach.vfio_user.session import Session
from vmwire.bench.vfio_user import Client
from vmwire.bus.pci.capabilities import Msi, MsiX
from vmwire.bus.pci.chip import Slot
from vmwire.bus.pci.config import Bar, Description
from vmwire.engine.host import FdStore, Host, NoStore
from vmwire.engine.loop import Loop
from vmwire.engine.memory import AddressFault
from vmwire.wire.frame import Frame
from vmwire.wire.port import Port

IDENT, SCRATCH, SOURCE, TARGET, LENGTH, GO, FAULTS, LEVEL, NOTIFY, COUNT, LATER = range(0, 0x2C, 4)
BAR_SIZE = 0x1000
ROM_IMAGE = bytes(range(256)) * 8

CARD = Description(
    vendor=0x1234, device=0x5678, revision=1, class_code=0x020000, subsystem_vendor=0, subsystem=0,
    interrupt_pin=1, rom_size=0x800,
    bars=(Bar(0, "memory", BAR_SIZE), Bar(1, "io", 0x20), Bar(2, "memory", 0x1000)),
    capabilities=(
        Msi(offset=0x40, vectors=4),
        MsiX(offset=0x60, vectors=3, table_bar=2, pending_bar=2, pending_offset=0x800),
    ),
)  # fmt: skip


class Copier:
    """COUNT tells how often it was read."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.port = Port(slot.name, self.receive)
        self.registers = [0] * 16

    def load(self, region: int, offset: int, size: int) -> int:
        if region != 0 or offset >= 64:
            return 0
        value = 0xC0B1E5 if offset == IDENT else self.registers[offset >> 2]
        if offset == COUNT:
            self.registers[COUNT >> 2] += 1
        return value >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def store(self, region: int, offset: int, size: int, value: int) -> None:
        if region != 0 or offset >= 64 or size != 4:
            return
        self.registers[offset >> 2] = value
        if offset == GO:
            self.copy()
        elif offset == LEVEL:
            self.slot.interrupts.set_level(bool(value))
        elif offset == NOTIFY:
            self.slot.interrupts.notify(value)
        elif offset == LATER:
            self.slot.timers.call_later(value / 1e6, self.copy)

    def copy(self) -> None:
        dma = self.slot.dma
        source, target, length = (self.registers[at >> 2] for at in (SOURCE, TARGET, LENGTH))
        try:
            dma.write(target, dma.read(source, min(length, 1 << 21)))
        except AddressFault:
            self.registers[FAULTS >> 2] += 1

    def receive(self, frames: Sequence[Frame]) -> int:
        self.registers[SCRATCH >> 2] = frames[-1].length
        self.slot.interrupts.set_level(True)
        return len(frames)

    def reset(self) -> None:
        self.registers = [0] * 16

    def save(self) -> dict[str, Any]:
        return {"registers": list(self.registers)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.registers = list(state["registers"])

    def set_link(self, up: bool) -> None:
        self.port.set_link(up)

    def stats(self) -> dict[str, object]:
        return {}


class Served:
    """The card at ``path``, served from a thread."""

    def __init__(
        self, folder: Path, store: FdStore | None = None, card: Description = CARD
    ) -> None:
        self.path = str(folder / "c0.sock")
        self.loop = Loop()
        self.nic = CardServer("c0", self.path, card, Copier, ROM_IMAGE)
        self.nic.open(Host(self.loop, store or NoStore()))
        self.run()

    def run(self) -> None:
        """Serve; also once more after ``stand_still``."""
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def stand_still(self) -> None:
        """Serve nothing for now."""
        self.loop.stop()
        self._thread.join()
        self.loop.idle()

    @property
    def chip(self) -> Copier:
        chip = self.nic.card.chip
        assert isinstance(chip, Copier)
        return chip

    @property
    def session(self) -> Session:
        """The connection that is served."""
        assert self.nic._session is not None
        return self.nic._session

    def client(self) -> Client:
        """Connect, and agree on a version."""
        client = Client(self.path)
        client.negotiate()
        return client

    def stats(self) -> dict[str, Any]:
        return self.loop.call(self.nic.stats)

    def has_met(self, machines: int) -> bool:
        """Whether this many have connected so far."""
        return self.nic.connections == machines

    def wait(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Wait until something holds in the engine's thread."""
        deadline = time.monotonic() + timeout_s
        while not self.loop.call(condition):
            assert time.monotonic() < deadline, f"not in {timeout_s} s: {self.stats()}"
            time.sleep(0.002)

    def die(self) -> None:
        """End as a killed process does: nothing is closed in order."""
        self.loop.stop()
        self._thread.join()
        nic = self.nic
        if nic._listener is not None:
            nic._listener.socket.close()
        if nic._session is not None:
            nic._session.channel.connection.close()
        self.loop.close()

    def close(self) -> None:
        self.loop.stop()
        self._thread.join()
        self.nic.close()
        self.loop.close()


def open_fds() -> int:
    gc.collect()  # what tests before left behind
    return len(os.listdir("/proc/self/fd"))
