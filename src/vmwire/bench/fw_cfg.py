# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""QEMU's firmware configuration device on a PC: what firmware asks about its machine.

A 16-bit write to port 0x510 chooses an item, bytes of it are read one by one at 0x511 (zeros behind
its end). The items that every machine has: the signature ``QEMU``, which interfaces there are, the
machine's UUID, its RAM in bytes, whether there is no display, how many CPUs there are and can be,
and a directory of named items (big-endian count; 64 bytes each: size, item, name).

The DMA interface (bit 1 of the interfaces): the big-endian address of a control structure is
written to 0x514 (high half) and 0x518, the low half starts it. It holds, big-endian, control (16
bits of flags below the item's number), length, address; the flags are cleared when it is done.
"""

from __future__ import annotations

from collections.abc import Callable

from vmwire.bench.address_space import Window
from vmwire.engine.memory import AddressFault

SELECT_PORT = 0x510
DATA_PORT = 0x511
DMA_PORT = 0x514
DMA_SIGNATURE = b"QEMU CFG"

SIGNATURE, INTERFACES, UUID, RAM_SIZE, NO_GRAPHIC, CPUS = range(6)
BOOT_MENU = 0x0E
MAX_CPUS = 0x0F
DIRECTORY = 0x19
FIRST_FILE = 0x20
WRITE_CHANNEL = 0x4000
ARCHITECTURE = 0x8000
NAME_BYTES = 55

PORTS_AND_DMA = 3
DMA_ERROR, DMA_READ, DMA_SKIP, DMA_SELECT, DMA_WRITE = 1, 2, 4, 8, 16
MOST_DMA = 64 << 20

Read = Callable[[int, int], bytes]
Write = Callable[[int, bytes], None]


class FwCfg:
    """See the module. ``read`` and ``write`` reach the machine's RAM (``AddressFault``)."""

    def __init__(self, ram_size: int, read: Read, write: Write) -> None:
        self._read_ram, self._write_ram = read, write
        self._files: dict[str, int] = {}
        self.items: dict[int, bytes] = {
            SIGNATURE: b"QEMU",
            INTERFACES: PORTS_AND_DMA.to_bytes(4, "little"),
            UUID: bytes(16),
            RAM_SIZE: ram_size.to_bytes(8, "little"),
            NO_GRAPHIC: bytes(2),
            CPUS: b"\1\0",
            BOOT_MENU: bytes(2),
            MAX_CPUS: b"\1\0",
            DIRECTORY: bytes(4),
        }
        self._chosen = SIGNATURE
        self._at = 0
        self._dma_high = 0

    def set_cpus(self, now: int, most: int) -> None:
        """Say how many CPUs there are and can be (none of which anybody has seen)."""
        self.items[CPUS] = now.to_bytes(2, "little")
        self.items[MAX_CPUS] = most.to_bytes(2, "little")

    def add_file(self, name: str, data: bytes) -> None:
        """Add a named item, or replace it."""
        self._files.setdefault(name, FIRST_FILE + len(self._files))
        self.items[self._files[name]] = data
        entries = [
            len(self.items[item]).to_bytes(4, "big")
            + item.to_bytes(4, "big")[2:]
            + bytes(2)
            + name.encode("ascii")[:NAME_BYTES].ljust(NAME_BYTES + 1, b"\0")
            for name, item in sorted(self._files.items())
        ]
        self.items[DIRECTORY] = len(entries).to_bytes(4, "big") + b"".join(entries)

    def windows(self) -> list[Window]:
        """Where the registers are."""
        return [
            Window(SELECT_PORT, DATA_PORT + 1, self._load, self._store),
            Window(DMA_PORT, DMA_PORT + 8, self._load_dma, self._store_dma),
        ]

    def reset(self) -> None:
        """As at power-on."""
        self._chosen, self._at, self._dma_high = SIGNATURE, 0, 0

    # Ports

    def _load(self, offset: int, size: int) -> int:
        return self._take(1)[0] if size == 1 else 0

    def _store(self, offset: int, size: int, value: int) -> None:
        if (offset, size) == (0, 2):
            self._select(value)

    def _select(self, item: int) -> None:
        self._chosen, self._at = item & ~WRITE_CHANNEL, 0

    def _take(self, count: int) -> bytes:
        data = self.items.get(self._chosen, b"")[self._at : self._at + count]
        self._at += len(data)
        return data.ljust(count, b"\0")

    # DMA

    def _load_dma(self, offset: int, size: int) -> int:
        return int.from_bytes(DMA_SIGNATURE[offset : offset + size], "little")

    def _store_dma(self, offset: int, size: int, value: int) -> None:
        number = int.from_bytes(value.to_bytes(size, "little"), "big")
        if (offset, size) == (0, 4):
            self._dma_high = number << 32
        elif (offset, size) == (4, 4):
            self._transfer(self._dma_high | number)
        elif (offset, size) == (0, 8):
            self._transfer(number)

    def _transfer(self, structure: int) -> None:
        self._dma_high = 0
        try:
            words = self._read_ram(structure, 16)
            failed = not self._carry_out(
                int.from_bytes(words[:4], "big"),
                int.from_bytes(words[4:8], "big"),
                int.from_bytes(words[8:], "big"),
            )
            self._write_ram(structure, (DMA_ERROR if failed else 0).to_bytes(4, "big"))
        except AddressFault:
            return  # nobody to tell

    def _carry_out(self, control: int, length: int, address: int) -> bool:
        """Do what a control structure says; False if it can't be done."""
        if control & DMA_SELECT:
            self._select(control >> 16)
        if control & DMA_READ:
            if length > MOST_DMA:
                return False
            try:
                self._write_ram(address, self._take(length))
            except AddressFault:
                return False
        elif control & DMA_SKIP:
            self._at = min(self._at + length, len(self.items.get(self._chosen, b"")))
        return not control & DMA_WRITE  # no item of ours can be written
