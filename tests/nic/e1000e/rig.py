# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The card on a workbench: memory, a clock moved by hand, and an interrupt pin that keeps books."""

from __future__ import annotations

from typing import Any

from tests.nic.e1000.rig import MEMORY_AT, RX_DATA, RX_RING
from tests.nic.e1000.rig import Rig as SiblingsRig
from tests.wire.boxes import End
from vmwire.bus.pci.chip import Slot
from vmwire.engine.clock import ManualClock, Timers
from vmwire.engine.dma import Dma
from vmwire.engine.memory import GuestMemory, Region
from vmwire.nic.e1000e import E1000E
from vmwire.nic.e1000e.registers import Registers as R
from vmwire.wire.port import PACKETS_ONLY, Accepts

MAC = bytes.fromhex("525400123456")
MEMORY_SIZE = 1 << 20


class Pin:
    """The level, and the messages sent."""

    def __init__(self) -> None:
        self.up = False
        self.rises = 0
        self.msix_enabled = False
        self.sent: list[int] = []
        self.forgotten = 0

    def set_level(self, up: bool) -> None:
        self.rises += up and not self.up
        self.up = up

    def notify(self, vector: int) -> None:
        self.sent.append(vector)

    def forget(self, vectors: int) -> None:
        self.forgotten |= vectors


class Rig(SiblingsRig):
    """A card, its memory, and its driver's side. The rings are queue 0's."""

    def __init__(
        self, *, accepts: Accepts = PACKETS_ONLY, link: bool = True, **options: Any
    ) -> None:
        self.buffer = bytearray(MEMORY_SIZE)
        self.dma = Dma()
        self.dma.memory = GuestMemory([Region(MEMORY_AT, memoryview(self.buffer))])
        self.dma.enabled = True
        self.timers = Timers(ManualClock())
        self.pin = Pin()  # type: ignore[assignment]
        self.deferred: list[Any] = []
        slot = Slot("n0", self.dma, self.pin, self.timers, self.deferred.append, lambda n: bytes(n))
        self.chip = E1000E(slot, mac=MAC, **options)  # type: ignore[assignment]
        self.wire = End("wire", accepts=accepts)
        if link:
            self.wire.port.connect(self.chip.port)
        self.tx_count = self.rx_count = 0
        self.tx_tail = self.rx_seen = 0
        self.timers.advance(1)
        self.read(R.ICR)

    def nvm(self, address: int) -> int:
        """Read a word of the NVM."""
        self.write(R.EERD, address << 2 | 1)
        assert self.read(R.EERD) & 2
        return self.read(R.EERD) >> 16

    def phy(self, number: int) -> int:
        """Read a register of the PHY."""
        self.write(R.MDIC, 2 << 26 | 1 << 21 | number << 16)
        return self.read(R.MDIC) & 0xFFFF

    def start_split(self, psrctl: int, count: int = 16, rctl: int = 0x04008002) -> None:
        """Give queue 0 a ring of packet-split descriptors, whose buffers are 16 KiB apart."""
        self.rx_count = count
        for index in range(count):
            addresses = (RX_DATA + (4 * (index % 4) + buffer) * 0x4000 for buffer in range(4))
            packed = b"".join(address.to_bytes(8, "little") for address in addresses)
            self.put(RX_RING + 32 * index, packed)
        for register, value in (
            (R.RDBAL, RX_RING), (R.RDBAH, 0), (R.RDLEN, 32 * count), (R.RDH, 0),
            (R.PSRCTL, psrctl), (R.RDT, 2 * (count - 1)), (R.RCTL, rctl | 1 << 10),
        ):  # fmt: skip
            self.write(register, value)
