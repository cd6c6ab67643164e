# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A PC with one card behind vfio-user: what the bench's drivers need of a machine.

RAM is shared with the card from address 0; the card is in slot 0, and time is the real one.
"""

from __future__ import annotations

import time

from vmwire.bench.pci import BAR0
from vmwire.bench.vfio_user import Client

CONFIG = 7
RAM_BYTES = 8 << 20
COMMAND = 4
ABSENT = 0xFFFFFFFF


class VfioUserPc:
    """``Cpu`` of the drivers (`vmwire.bench.pci`), over one connection."""

    def __init__(self, path: str) -> None:
        self.client = Client(path, timeout_s=20)
        self.client.negotiate()
        self.ram = self.client.map(0, RAM_BYTES)
        self._config_address = 0

    def close(self) -> None:
        self.client.close()

    # Configuration space by ports; there are no others

    def outl(self, port: int, value: int) -> None:
        self._out(port, value, 4)

    def outw(self, port: int, value: int) -> None:
        self._out(port, value, 2)

    def outb(self, port: int, value: int) -> None:
        self._out(port, value, 1)

    def inl(self, port: int) -> int:
        return self._in(port, 4)

    def inw(self, port: int) -> int:
        return self._in(port, 2)

    def inb(self, port: int) -> int:
        return self._in(port, 1)

    def _out(self, port: int, value: int, size: int) -> None:
        if port == 0xCF8:
            self._config_address = value
        else:
            self.client.write(CONFIG, (self._config_address & 0xFC) + (port & 3), value, size)

    def _in(self, port: int, size: int) -> int:
        return self.client.read(CONFIG, (self._config_address & 0xFC) + (port & 3), size)

    # Memory

    def readl(self, address: int) -> int:
        return int.from_bytes(self.read(address, 4), "little")

    def writel(self, address: int, value: int) -> None:
        self.write(address, value.to_bytes(4, "little"))

    def read(self, address: int, length: int) -> bytes:
        if address + length <= RAM_BYTES:
            return self.ram[address : address + length]
        return self.client.read(*self._place(address), length).to_bytes(length, "little")

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        if address + len(data) <= RAM_BYTES:
            self.ram[address : address + len(data)] = bytes(data)
        else:
            value = int.from_bytes(data, "little")
            self.client.write(*self._place(address), value, len(data))

    def _place(self, address: int) -> tuple[int, int]:
        """BAR and offset: the memory BAR that begins nearest before it."""
        bases = {bar: self.client.read(CONFIG, BAR0 + 4 * bar) for bar in range(6)}
        before = {
            base & ~0xF: bar
            for bar, base in bases.items()
            if not base & 1 and 0 < base & ~0xF <= address
        }
        nearest = max(before)
        return before[nearest], address - nearest

    def clock_step(self, ns: int | None = None) -> int:
        time.sleep((ns or 1_000_000) / 1e9)
        return time.monotonic_ns()
