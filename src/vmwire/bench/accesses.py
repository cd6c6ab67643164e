# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The bench machine's CPU side: accesses to ports and memory, each a turn, each noted in a script.

Whoever holds a machine plays its CPU. An access that a CPU couldn't make is an ``AccessError``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from vmwire.bench import commands
from vmwire.bench.address_space import AccessError, AddressSpace
from vmwire.bench.ram import Ram
from vmwire.bench.script import Recorder, Script

PIECE = 4
"""Bytes that the machine's bus moves at once."""


class Accesses(ABC):
    """What a machine can be asked to do, given its spaces."""

    def __init__(self, ram: Ram) -> None:
        self.recorder: Recorder | None = None
        self._space = AddressSpace(ram.windows())
        self._ports = AddressSpace()
        self._ram_view = ram.view

    @abstractmethod
    def settle(self) -> None:
        """Do what cards have put off until the end of a turn."""

    # --- ports

    def inb(self, port: int) -> int:
        return self._in("inb", port, 1)

    def inw(self, port: int) -> int:
        return self._in("inw", port, 2)

    def inl(self, port: int) -> int:
        return self._in("inl", port, 4)

    def outb(self, port: int, value: int) -> None:
        self._out("outb", port, 1, value)

    def outw(self, port: int, value: int) -> None:
        self._out("outw", port, 2, value)

    def outl(self, port: int, value: int) -> None:
        self._out("outl", port, 4, value)

    def _in(self, name: str, port: int, size: int) -> int:
        _check(port, size, 0, 16)
        recorder = self._begin(f"{name} {port:#x}")
        value = self._ports.load(port, size)
        self.settle()
        if recorder is not None:
            recorder.end(commands.port_answer(value))
        return value

    def _out(self, name: str, port: int, size: int, value: int) -> None:
        _check(port, size, value, 16)
        recorder = self._begin(f"{name} {port:#x} {value:#x}")
        self._ports.store(port, size, value)
        self.settle()
        if recorder is not None:
            recorder.end()

    # --- memory and registers

    def readb(self, address: int) -> int:
        return self._read("readb", address, 1)

    def readw(self, address: int) -> int:
        return self._read("readw", address, 2)

    def readl(self, address: int) -> int:
        return self._read("readl", address, 4)

    def readq(self, address: int) -> int:
        return self._read("readq", address, 8)

    def writeb(self, address: int, value: int) -> None:
        self._write("writeb", address, 1, value)

    def writew(self, address: int, value: int) -> None:
        self._write("writew", address, 2, value)

    def writel(self, address: int, value: int) -> None:
        self._write("writel", address, 4, value)

    def writeq(self, address: int, value: int) -> None:
        self._write("writeq", address, 8, value)

    def read(self, address: int, length: int) -> bytes:
        """Read bytes, from whatever is there."""
        _check(address, length, 0, 64)
        recorder = self._begin(f"read {address:#x} {length:#x}")
        ram = self._ram_view(address, length)
        if ram is not None:
            data = bytes(ram)
        else:
            data = b"".join(
                self._space.load(at, size).to_bytes(size, "little")
                for at, size in _pieces(address, length)
            )
            self.settle()
        if recorder is not None:
            recorder.end(f"0x{data.hex()}")
        return data

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes, to whatever is there."""
        length = len(data)
        _check(address, length, 0, 64)
        recorder = self._begin(f"write {address:#x} {length:#x} 0x", data)
        ram = self._ram_view(address, length)
        if ram is not None:
            ram[:] = data
        else:
            for at, size in _pieces(address, length):
                start = at - address
                part = bytes(data[start : start + size])
                self._space.store(at, size, int.from_bytes(part, "little"))
            self.settle()
        if recorder is not None:
            recorder.end()

    def memset(self, address: int, length: int, value: int) -> None:
        """Fill ``length`` bytes with one."""
        _check(address, length, 0, 64)
        _check(0, 1, value, 64)
        recorder = self._begin(f"memset {address:#x} {length:#x} {value:#x}")
        self.recorder = None
        try:
            self.write(address, bytes([value]) * length)
        finally:
            self.recorder = recorder
        if recorder is not None:
            recorder.end()

    def _read(self, name: str, address: int, size: int) -> int:
        _check(address, size, 0, 64)
        recorder = self._begin(f"{name} {address:#x}")
        value = self._space.load(address, size)
        self.settle()
        if recorder is not None:
            recorder.end(commands.memory_answer(value))
        return value

    def _write(self, name: str, address: int, size: int, value: int) -> None:
        _check(address, size, value, 64)
        recorder = self._begin(f"{name} {address:#x} {value:#x}")
        self._space.store(address, size, value)
        self.settle()
        if recorder is not None:
            recorder.end()

    # --- scripts

    def record(self) -> Script:
        """From now on note every access; the script that is returned grows."""
        self.recorder = Recorder()
        return self.recorder.script

    def begin(self, command: str) -> None:
        """Note a command that is about to be carried out."""
        if self.recorder is not None:
            self.recorder.begin(command)

    def note(self, event: str) -> None:
        """Note what a card did."""
        if self.recorder is not None:
            self.recorder.event(event)

    def end(self, answer: str = "") -> None:
        """Note the answer to the command."""
        if self.recorder is not None:
            self.recorder.end(answer)

    def _begin(self, command: str, data: bytes | bytearray | memoryview = b"") -> Recorder | None:
        recorder = self.recorder
        if recorder is not None:
            recorder.begin(command + data.hex())
        return recorder


def _check(address: int, size: int, value: int, bits: int) -> None:
    """The bench's user gets told of a slip, where a real CPU couldn't make it."""
    if address < 0 or address + size > 1 << bits:
        raise AccessError(f"{size} bytes at {address:#x} are beyond the {bits}-bit address space")
    if not 0 <= value < 1 << 8 * size:
        raise AccessError(f"{value:#x} is no number of {size} bytes")


def _pieces(address: int, length: int) -> list[tuple[int, int]]:
    """Cut a range into aligned accesses of at most four bytes."""
    pieces = []
    end = address + length
    while address < end:
        size = min(address & -address or 4, 4)
        while address + size > end:
            size //= 2
        pieces.append((address, size))
        address += size
    return pieces
