# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A headless PC without a CPU, for tests of cards and for authors of drivers.

``Bench`` has RAM at 0, a PCI bus behind ports 0xCF8 and 0xCFC, a clock that only ``clock_step``
moves, and for each card that is plugged in an interrupt line that can be watched and the far end of
its cable. Whoever holds it plays the CPU: reads and writes ports, registers and memory.

>>> with Bench() as pc:
...     pc.outl(0xCF8, 0x8000_0000)
...     hex(pc.inl(0xCFC))
...     pc.write(0x1000, b"hello")
...     pc.read(0x1000, 5), pc.clock_step(1000)
'0x12378086'
(b'hello', 1000)

Every access is a turn: what cards put off until the loop's end of a turn is done before the access
returns. Numbers are little-endian. Whatever is not there reads as all ones.

``record()`` makes it note every access as a script (``vmwire.bench.script``), ``execute(line)``
carries out a line of one.
"""

from __future__ import annotations

import mmap
import random
from collections.abc import Callable
from types import TracebackType
from typing import Any

from vmwire.bench import commands
from vmwire.bench.address_space import AccessError, AddressSpace, Window
from vmwire.bench.cards import Nic
from vmwire.bench.pci_host import PciHost
from vmwire.bench.pci_view import PciFunctionView
from vmwire.bench.script import Recorder, Script
from vmwire.bus.pci.config import Description
from vmwire.bus.pci.function import ChipFactory, PciFunction
from vmwire.engine.clock import ManualClock, Timers
from vmwire.engine.memory import GuestMemory, Region
from vmwire.errors import ConfigError
from vmwire.nic import options, pci_options
from vmwire.nic.pci_cards import card_of
from vmwire.options.syntax import parse
from vmwire.options.table import find, select, table_of

RAM_SIZE = 128 << 20
MOST_RAM = 0xC000_0000
"""Above begins what is left for PCI below 4 GiB."""
DECLARED = (options, pci_options)
"""Importing them declares what can be said of the cards."""
DEFAULT_MAC = bytes.fromhex("525400123456")

MOST_ROUNDS = 100_000
"""Turns in which cards put off more work before a bug is assumed."""


class HandClock(ManualClock):
    """A clock in the bench's hand. It stands at 0 to begin with."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def move_to(self, seconds: float) -> None:
        """Move on to a moment; one that is over leaves it where it is."""
        self._now = max(self._now, seconds)


class Bench:
    """The machine; see the module. ``seed`` is for what chips take for random."""

    def __init__(self, ram_size: int = RAM_SIZE, *, seed: int = 0) -> None:
        if not 0 < ram_size <= MOST_RAM:
            raise ConfigError(f"ram_size={ram_size} isn't between 1 and {MOST_RAM:#x}")
        self.timers = Timers(HandClock())
        self.recorder: Recorder | None = None
        self.cards: dict[str, Nic] = {}
        self.on_irq: Callable[[int, bool], None] | None = None
        """Told of the interrupts that are intercepted: their number, and whether it rose."""
        self.random = random.Random(seed)
        mapping = mmap.mmap(-1, ram_size)
        self.ram = memoryview(mapping)
        self.memory = GuestMemory([Region(0, self.ram, sealed=True, mapping=mapping)])
        self._now_ns = 0
        self._deferred: list[Callable[[], None]] = []
        self._space = AddressSpace([Window(0, ram_size, self._load_ram, self._store_ram)])
        self._ports = AddressSpace()
        self._pci = PciHost(self._space, self._ports)

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the RAM back."""
        for card in self.cards.values():
            card.function.dma.memory = GuestMemory()
        self.memory.close()

    # --- cards

    def plug(self, driver: str, *, addr: int | str | None = None, **properties: Any) -> Nic:
        """Put a card in, described as behind ``-device`` (``id``, ``mac``, …), its cable plugged.

        ``addr`` is a slot's number, or QEMU's text for a slot and function (``"04.0"``, in hex).
        """
        devfn = self._place(addr)
        properties.setdefault("id", f"nic{len(self.cards)}")
        properties.setdefault("mac", DEFAULT_MAC[:-1] + bytes([DEFAULT_MAC[-1] + len(self.cards)]))
        place = f"{devfn >> 3:02x}.{devfn & 7}"
        return self._plug(find("device", driver).from_kwargs(addr=place, **properties), devfn)

    def plug_text(self, text: str) -> Nic:
        """Put a card in that is described in one text, like ``e1000,id=nic0,addr=4``."""
        options = select("device", parse(text, "driver")).from_text(text)
        if options.id is None or options.mac is None:
            raise ConfigError("a card in a script needs its id and its mac")
        return self._plug(options, self._place(options.addr))

    def _plug(self, options: Any, devfn: int) -> Nic:
        nic = self.make(options, devfn)
        self.begin(f"plug {table_of(type(options)).to_text(options)}")
        nic.function.port.connect(nic.wire.port)
        self.seat(nic)
        self.end()
        return nic

    def make(self, options: Any, devfn: int | None = None) -> Nic:
        """Make the card that ``options`` describe, for ``seat``; its cable hangs loose."""
        card = card_of(options)
        if card is None:
            raise ConfigError(f"'{table_of(type(options)).name}' is no card that the bench has")
        place = self._place(options.addr) if devfn is None else devfn
        return self._build(*card, place, options.id)

    def insert(
        self,
        description: Description,
        factory: ChipFactory,
        *,
        addr: int | str | None = None,
        name: str | None = None,
        rom: bytes = b"",
    ) -> Nic:
        """Put a chip of the caller's own in. (A script can't do that by itself.)"""
        name = name or f"nic{len(self.cards)}"
        nic = self._build(description, factory, self._place(addr), name, rom)
        nic.function.port.connect(nic.wire.port)
        self.seat(nic)
        return nic

    def _place(self, addr: int | str | None) -> int:
        """The function's number on the bus, as ``addr`` says or free."""
        if addr is None:
            return self._pci.free_slot() << 3
        if isinstance(addr, int):
            slot, function = addr, 0
        else:
            text, _, rest = addr.partition(".")
            slot, function = int(text, 16), int(rest or "0", 16)
        if not (0 <= slot < 32 and 0 <= function < 8):
            raise ConfigError(f"addr={addr} is no place on the bus (00.0 to 1f.7)")
        return slot << 3 | function

    def _build(
        self,
        description: Description,
        factory: ChipFactory,
        devfn: int,
        name: str,
        rom: bytes = b"",
    ) -> Nic:
        nic = Nic(name, devfn, self)
        nic.function = nic.irq.function = PciFunction(
            description,
            factory,
            machine=nic.irq,
            timers=self.timers,
            defer=self._deferred.append,
            random=self.random.randbytes,
            name=name,
            rom=rom,
        )
        return nic

    def seat(self, nic: Nic) -> None:
        """Put a card in its place; ConfigError if that, or its name, is taken."""
        if nic.name in self.cards:
            raise ConfigError(f"there is a card '{nic.name}' already")
        self._pci.seat(nic.devfn, nic.function)
        nic.function.dma.memory = self.memory
        self.cards[nic.name] = nic
        self.settle()

    def unseat(self, nic: Nic) -> None:
        """Pull a card out; its line falls, and it reaches memory no more."""
        if self.cards.get(nic.name) is nic:
            del self.cards[nic.name]
            self._pci.unseat(nic.devfn)
            nic.function.reset()
            nic.function.dma.memory = GuestMemory()
            self.settle()

    def moved(self, nic: Nic, up: bool) -> None:
        """A card's line changes."""

    def message(self, address: int, data: int) -> None:
        """A message of a card's: a write of 32 bits, for whoever watches that word of RAM."""
        if address + 4 <= len(self.ram):
            self.ram[address : address + 4] = data.to_bytes(4, "little")

    def reset(self, nic: Nic) -> None:
        """The bus's reset, as this card sees it."""
        self.begin(f"reset {nic.name}")
        nic.function.reset()
        self._pci.remap()
        self.settle()
        self.end()

    def reload(self, nic: Nic) -> None:
        """Save the card's state, power it on anew, and restore it, as if its process had ended."""
        self.begin(f"reload {nic.name}")
        state = nic.function.save()
        nic.function.reset()
        nic.function.restore(state)
        self._pci.remap()
        self.settle()
        self.end()

    def pci_functions(self) -> list[PciFunctionView]:
        """What is on the bus, by place."""
        return self._pci.functions({nic.devfn: nic.name for nic in self.cards.values()})

    def reset_all(self) -> None:
        """The machine's reset."""
        for nic in list(self.cards.values()):
            self.reset(nic)

    @property
    def has_work(self) -> bool:
        """Whether a card has put something off that ``settle`` would do."""
        return bool(self._deferred)

    def settle(self) -> None:
        """Do what cards have put off until the end of a turn, and what that puts off."""
        for _ in range(MOST_ROUNDS):
            if not self._deferred:
                return
            deferred = self._deferred[:]
            self._deferred.clear()
            for callback in deferred:
                callback()
        raise RuntimeError("a card puts its work off without end")

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
        if address + length <= len(self.ram):
            data = bytes(self.ram[address : address + length])
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
        if address + length <= len(self.ram):
            self.ram[address : address + length] = data
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

    def _load_ram(self, offset: int, size: int) -> int:
        return int.from_bytes(self.ram[offset : offset + size], "little")

    def _store_ram(self, offset: int, size: int, value: int) -> None:
        self.ram[offset : offset + size] = value.to_bytes(size, "little")

    # --- time

    @property
    def now_ns(self) -> int:
        """Nanoseconds since the machine was made."""
        return self._now_ns

    def clock_step(self, ns: int | None = None) -> int:
        """Move the clock on (None: to the next timer, if any); return where it stands."""
        recorder = self._begin("clock_step" if ns is None else f"clock_step {ns}")
        if ns is None:
            deadline = self.timers.next_deadline()
            ns = 0 if deadline is None else max(0, round(deadline * 1e9) - self._now_ns)
        self._run_until(self._now_ns + ns)
        if recorder is not None:
            recorder.end(str(self._now_ns))
        return self._now_ns

    def clock_set(self, ns: int) -> int:
        """Move the clock on to ``ns``; a moment that is over leaves it alone."""
        recorder = self._begin(f"clock_set {ns}")
        self._run_until(max(ns, self._now_ns))
        if recorder is not None:
            recorder.end(str(self._now_ns))
        return self._now_ns

    def _run_until(self, end_ns: int) -> None:
        """Make each timer's call at its own moment, to the nanosecond."""
        if end_ns < self._now_ns:
            raise AccessError("a clock does not go back")
        clock = self.timers.clock
        assert isinstance(clock, HandClock)
        while (due := self.timers.next_deadline()) is not None and round(due * 1e9) <= end_ns:
            self._now_ns = max(self._now_ns, round(due * 1e9))
            clock.move_to(due)
            self.timers.run_due()
            self.settle()
        self._now_ns = end_ns
        clock.move_to(end_ns / 1e9)

    # --- scripts

    def record(self) -> Script:
        """From now on note every access; the script that is returned grows."""
        self.recorder = Recorder()
        return self.recorder.script

    def execute(self, line: str) -> str:
        """Carry out a command line; return its answer. ``ScriptError`` if it makes no sense."""
        return commands.execute(self, line)

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
