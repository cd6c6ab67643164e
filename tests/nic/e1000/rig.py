# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A card of the family on a workbench: memory, a clock moved by hand, and the driver's hands."""

from __future__ import annotations

from struct import Struct
from typing import Any

from tests.wire.boxes import End
from vmwire.bus.pci.chip import Slot
from vmwire.engine.clock import ManualClock, Timers
from vmwire.engine.dma import Dma
from vmwire.engine.memory import GuestMemory, Region
from vmwire.nic.e1000 import E1000, MODELS
from vmwire.nic.e1000.registers import Registers as R
from vmwire.wire.frame import Frame
from vmwire.wire.port import PACKETS_ONLY, Accepts

MAC = bytes.fromhex("525400123456")
PEER = bytes.fromhex("020000000001")
BROADCAST = b"\xff" * 6

MEMORY_AT = 0x100000
MEMORY_SIZE = 1 << 20
TX_RING = MEMORY_AT
RX_RING = MEMORY_AT + 0x10000
TX_DATA = MEMORY_AT + 0x20000
RX_DATA = MEMORY_AT + 0x80000

TX_DESCRIPTOR = Struct("<QII")
RX_DESCRIPTOR = Struct("<QHHBBH")

EOP, IFCS, IC, TSE, RS, RPS, DEXT, VLE, IDE = (
    1 << bit for bit in (24, 25, 26, 26, 27, 28, 29, 30, 31)
)
DATA = DEXT | 1 << 20
IXSM, TXSM = 1 << 8, 1 << 9

EN, SBP, UPE, MPE, LPE = (1 << bit for bit in (1, 2, 3, 4, 5))
BAM, BSEX, SECRC = 1 << 15, 1 << 25, 1 << 26

ONES = 0xFFFFFFFF


class Pin:
    """Counts how often it rose."""

    def __init__(self) -> None:
        self.up = False
        self.rises = 0

    def set_level(self, up: bool) -> None:
        assert up != self.up
        self.up = up
        self.rises += up

    def notify(self, vector: int) -> None:
        raise AssertionError("this card has no messages")


class Rig:
    """A card, its memory, and its driver's side."""

    def __init__(
        self, model: str = "e1000", *, accepts: Accepts = PACKETS_ONLY, **options: Any
    ) -> None:
        self.buffer = bytearray(MEMORY_SIZE)
        self.dma = Dma()
        self.dma.memory = GuestMemory([Region(MEMORY_AT, memoryview(self.buffer))])
        self.dma.enabled = True
        self.timers = Timers(ManualClock())
        self.pin = Pin()
        self.deferred: list[Any] = []
        slot = Slot("n0", self.dma, self.pin, self.timers, self.deferred.append, lambda n: bytes(n))
        self.chip = E1000(slot, model=MODELS[model], mac=MAC, **options)
        self.wire = End("wire", accepts=accepts)
        self.wire.port.connect(self.chip.port)
        self.tx_count = self.rx_count = 0
        self.tx_tail = self.rx_seen = 0
        self.timers.advance(1)
        self.read(R.ICR)

    def read(self, register: Any) -> int:
        return self.chip.load(0, getattr(register, "offset", register), 4)

    def write(self, register: Any, value: int) -> None:
        self.chip.store(0, getattr(register, "offset", register), 4, value)

    def turn(self) -> None:
        """End the loop's turn."""
        deferred, self.deferred[:] = list(self.deferred), []
        for call in deferred:
            call()

    # The driver

    def start(self, *, count: int = 16, rctl: int = EN | BAM | SECRC, size: int = 2048) -> Rig:
        self.start_tx(count)
        self.start_rx(count, rctl, size)
        return self

    def start_tx(self, count: int = 16) -> None:
        self.tx_count, self.tx_tail = count, 0
        for register, value in (
            (R.TDBAL, TX_RING), (R.TDBAH, 0), (R.TDLEN, 16 * count), (R.TDH, 0), (R.TDT, 0),
            (R.TCTL, 0x0004010A),
        ):  # fmt: skip
            self.write(register, value)

    def start_rx(self, count: int = 16, rctl: int = EN | BAM | SECRC, size: int = 2048) -> None:
        self.rx_count, self.rx_seen = count, 0
        for index in range(count):
            self.put(RX_RING + 16 * index, RX_DESCRIPTOR.pack(RX_DATA + size * index, *(0,) * 5))
        for register, value in (
            (R.RDBAL, RX_RING), (R.RDBAH, 0), (R.RDLEN, 16 * count), (R.RDH, 0),
            (R.RDT, count - 1), (R.RCTL, rctl),
        ):  # fmt: skip
            self.write(register, value)

    def put(self, address: int, data: bytes) -> None:
        at = address - MEMORY_AT
        self.buffer[at : at + len(data)] = data

    def get(self, address: int, length: int) -> bytes:
        at = address - MEMORY_AT
        return bytes(self.buffer[at : at + length])

    def describe(self, address: int, lower: int, upper: int = 0) -> int:
        """Put a transmit descriptor behind the others; return its place."""
        place = self.tx_tail
        self.put(TX_RING + 16 * place, TX_DESCRIPTOR.pack(address, lower, upper))
        self.tx_tail = (place + 1) % self.tx_count
        return place

    def kick(self) -> None:
        self.write(R.TDT, self.tx_tail)

    def send(self, data: bytes, flags: int = EOP | IFCS | RS, upper: int = 0) -> int:
        """Send a frame in one descriptor, legacy unless ``flags`` says otherwise."""
        address = TX_DATA + 0x4000 * (self.tx_tail % 16)
        self.put(address, data)
        place = self.describe(address, len(data) | flags, upper)
        self.kick()
        return place

    def is_done(self, place: int) -> bool:
        return bool(self.get(TX_RING + 16 * place + 12, 1)[0] & 1)

    def context(
        self,
        *,
        mss: int = 0,
        header: int = 0,
        command: int = 0,
        ip: tuple[int, int, int] = (14, 24, 33),
        transport: tuple[int, int, int] = (34, 50, 0),
    ) -> None:
        """Put a context descriptor into the ring."""
        first = ip[0] | ip[1] << 8 | ip[2] << 16
        first |= transport[0] << 32 | transport[1] << 40 | transport[2] << 48
        self.describe(first, DEXT | command << 24, header << 8 | mss << 16)

    def receive(self, *frames: bytes) -> int:
        return self.wire.port.send([Frame.of(frame) for frame in frames])

    def descriptor(self, index: int) -> tuple[int, int, int, int, int, int]:
        found: tuple[int, int, int, int, int, int]
        found = RX_DESCRIPTOR.unpack(self.get(RX_RING + 16 * index, 16))
        return found

    def received(self) -> list[bytes]:
        """Take what was received, as a driver does; gives the buffers back."""
        frames, data = [], b""
        while True:
            address, length, _, status, _, _ = self.descriptor(self.rx_seen)
            if not status & 1:
                break
            data += self.get(address, length)
            if status & 2:
                frames.append(data)
                data = b""
            self.put(RX_RING + 16 * self.rx_seen + 12, b"\0")
            self.rx_seen = (self.rx_seen + 1) % self.rx_count
        self.write(R.RDT, (self.rx_seen - 1) % self.rx_count)
        return frames


def frame(size: int = 64, dst: bytes = MAC, src: bytes = PEER, kind: bytes = b"\x88\xb5") -> bytes:
    head = dst + src + kind
    return head + bytes(index & 0xFF for index in range(size - len(head)))
