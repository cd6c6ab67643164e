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

import random
from collections.abc import Callable
from importlib import import_module
from typing import Any

from vmwire.bench import commands, slots
from vmwire.bench.accesses import Accesses
from vmwire.bench.address_space import AccessError, Window
from vmwire.bench.board import Board
from vmwire.bench.cards import Nic
from vmwire.bench.irq_lines import IrqLines
from vmwire.bench.isa import IsaNic
from vmwire.bench.pci_host import PciHost
from vmwire.bench.pci_view import PciFunctionView
from vmwire.bench.ram import Ram
from vmwire.bus.isa.chip import IsaChipFactory, IsaDescription
from vmwire.bus.pci.config import Description
from vmwire.bus.pci.function import ChipFactory, PciFunction
from vmwire.engine.clock import ManualClock, Timers
from vmwire.engine.memory import GuestMemory
from vmwire.errors import ConfigError
from vmwire.nic.declared import module_of
from vmwire.nic.pci_cards import card_of
from vmwire.options.syntax import parse
from vmwire.options.table import find, select, table_of

RAM_SIZE = 128 << 20
IO_APIC = commands.IO_APIC
LINES_OF_MACHINE = ""
"""No card's name."""
OnIrq = Callable[[int, bool], None]
DEFAULT_MAC = bytes.fromhex("525400123456")

MOST_ROUNDS = 100_000
"""Turns in which cards put off more work before a bug is assumed."""


def _declare(driver: str) -> None:
    """Import the options of a card, if there is such a card."""
    where = module_of(driver)
    if where is not None:
        import_module(where)


class HandClock(ManualClock):
    """A clock in the bench's hand. It stands at 0 to begin with."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def move_to(self, seconds: float) -> None:
        """Move on to a moment; one that is over leaves it where it is."""
        self._now = max(self._now, seconds)


class Bench(Accesses):
    """The machine; see the module. ``seed`` is for what chips take for random.

    ``bare`` is a machine with RAM and nothing else (QEMU's ``-machine none``).
    """

    def __init__(self, ram_size: int = RAM_SIZE, *, seed: int = 0, bare: bool = False) -> None:
        self._ram = Ram(ram_size)
        super().__init__(self._ram)
        self.ram = self._ram.low
        self.memory = self._ram.memory
        self.timers = Timers(HandClock())
        self.cards: dict[str, Nic] = {}
        self.on_irq: OnIrq | None = None
        """Told of the intercepted interrupts' changes: the line's number, and if it rose."""
        self._intercepted: str | None = None
        self.lines = IrqLines(self._line_changed)
        self.random = random.Random(seed)
        self._now_ns = 0
        self._deferred: list[Callable[[], None]] = []
        self.board = None if bare else Board(self._space, self._ports, self._ram, self.lines)
        if self.board is not None:
            self.board.chipset.hotplug.eject = self._eject
            self.board.chipset.on_reset = self._reset_by_guest
        self.hot = False
        """Whether the guest is told by ACPI of cards that are put in: the machine runs."""
        self.on_eject: Callable[[Nic], None] = self.unseat
        """What becomes of a card that the guest ejects."""
        self.on_guest_reset: Callable[[], None] = self.reset_all
        """What becomes of the machine when the guest resets it."""
        self.resets: list[Callable[[], None]] = []
        """What is reset with the machine and sits on no bus."""

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the RAM back."""
        for card in self.cards.values():
            card.function.dma.memory = GuestMemory()
        self._ram.close()

    # --- cards

    def plug(self, driver: str, *, addr: int | str | None = None, **properties: Any) -> Nic:
        """Put a card in, described as behind ``-device`` (``id``, ``mac``, …), its cable plugged.

        ``addr`` is a slot's number, or QEMU's text for a slot and function (``"04.0"``, in hex).
        """
        _declare(driver)
        devfn = self._place(addr)
        properties.setdefault("id", f"nic{len(self.cards)}")
        properties.setdefault("mac", DEFAULT_MAC[:-1] + bytes([DEFAULT_MAC[-1] + len(self.cards)]))
        place = f"{devfn >> 3:02x}.{devfn & 7}"
        return self._plug(find("device", driver).from_kwargs(addr=place, **properties), devfn)

    def plug_text(self, text: str) -> Nic:
        """Put a card in that is described in one text, like ``e1000,id=nic0,addr=4``."""
        _declare(text)
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
        name = slots.name_of(options)
        card = card_of(options)
        if card is None:
            raise ConfigError(f"'{name}' is no card that the bench has")
        slots.check_bus(options)
        if self.board is None:
            raise ConfigError(f"No 'PCI' bus found for device '{name}'")
        description, rom = slots.with_slot(card[0], options)
        place = self._place(options.addr) if devfn is None else devfn
        self.board.pci.check(place, description, name)
        self.board.boot_order.check(options.bootindex)
        nic = self._build(description, card[1], place, options.id, rom)
        nic.model, nic.bootindex = name, options.bootindex
        return nic

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

    def insert_isa(
        self, description: IsaDescription, factory: IsaChipFactory, *, name: str = "isa0"
    ) -> IsaNic:
        """Put a card into an ISA slot, its cable plugged; ConfigError if its ports are taken."""
        if self.board is None:
            raise ConfigError(f"No 'ISA' bus found for device '{name}'")
        nic = IsaNic(self, description, factory, name)
        self.board.pci.fix_port(nic.window())
        self.resets.append(nic.chip.reset)
        nic.chip.port.connect(nic.wire.port)
        self.settle()
        return nic

    def _place(self, addr: int | str | None) -> int:
        """The function's number on the bus, as ``addr`` says or free."""
        if slots.is_any(addr):
            return self._bus.free_slot() << 3
        assert addr is not None
        return slots.devfn_of(addr)

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
        self._bus.seat(nic.devfn, nic.function, nic.model)
        if nic.bootindex is not None and self.board is not None:
            self.board.set_boot(nic.bootindex, nic.devfn, nic.name)
        nic.function.dma.memory = self.memory
        self.cards[nic.name] = nic
        if self.hot and self.board is not None:
            self.board.chipset.hotplug.came(nic.devfn >> 3)
        self.settle()

    def unseat(self, nic: Nic) -> None:
        """Pull a card out; its line falls, and it reaches memory no more."""
        if self.cards.get(nic.name) is nic:
            nic.function.reset()
            del self.cards[nic.name]
            self._bus.unseat(nic.devfn)
            nic.function.dma.memory = GuestMemory()
            if self.board is not None:
                self.board.chipset.hotplug.gone(nic.devfn >> 3)
                self.board.set_boot(None, nic.devfn, nic.name)
            self.settle()

    @property
    def _bus(self) -> PciHost:
        if self.board is None:
            raise ConfigError("this machine has no PCI bus")
        return self.board.pci

    def moved(self, nic: Nic, up: bool) -> None:
        """A card's line changes."""
        if nic.name == self._intercepted:
            self._tell_irq(0, up)
        if self.board is not None:
            pin = nic.function.config.description.interrupt_pin
            self.board.chipset.pin(nic.name, nic.devfn, pin, up)

    def message(self, address: int, data: int) -> None:
        """A message of a card's: a write of 32 bits, for whoever watches that word of RAM."""
        view = self._ram.view(address, 4)
        if view is not None:
            view[:] = data.to_bytes(4, "little")

    def intercept(self, card: str | None) -> None:
        """Note and tell the interrupt lines' changes, or (as number 0) those of a card's own pin.

        ``AccessError`` if it is another thing's already.
        """
        wanted = LINES_OF_MACHINE if card is None else card
        if self._intercepted not in (None, wanted):
            raise AccessError("IRQ intercept already enabled")
        self.begin(f"irq_intercept_in {IO_APIC}" if card is None else f"irq_intercept_out {card}")
        self._intercepted = wanted
        self.end()

    def drive_line(self, number: int, up: bool) -> None:
        """Hold an interrupt line up by hand, or let it go."""
        self.begin(f"set_irq_in {IO_APIC} unnamed-gpio-in {number} {up:d}")
        self.lines.set(number, "by hand", up)
        self.end()

    def _line_changed(self, number: int, up: bool) -> None:
        if self._intercepted == LINES_OF_MACHINE:
            self._tell_irq(number, up)

    def _tell_irq(self, number: int, up: bool) -> None:
        self.note(f"IRQ {'raise' if up else 'lower'} {number}")
        if self.on_irq is not None:
            self.on_irq(number, up)

    def map(self, window: Window) -> None:
        """Let something answer in memory that sits on no bus."""
        if self.board is not None:
            self.board.pci.fix(window)
        else:
            self._space.windows.append(window)

    def unmap(self, window: Window) -> None:
        """Let something answer no more that ``map`` was told of."""
        if self.board is not None:
            self.board.pci.unfix(window)
        else:
            self._space.windows.remove(window)

    def is_vacant(self, address: int) -> bool:
        """Whether nobody answers there."""
        return not any(w.start <= address < w.end for w in self._space.windows)

    def put_off(self, function: Callable[[], None]) -> None:
        """Have something done at the end of the turn."""
        self._deferred.append(function)

    # --- cards that come and go while the machine runs

    def ask_out(self, nic: Nic) -> bool:
        """Ask the guest to let a card go; False if it was asked already."""
        assert self.board is not None
        hotplug = self.board.chipset.hotplug
        if hotplug.to_go >> (nic.devfn >> 3) & 1:
            return False
        hotplug.ask(nic.devfn >> 3)
        return True

    def _eject(self, slot: int) -> None:
        for nic in [nic for nic in self.cards.values() if nic.devfn >> 3 == slot]:
            self.on_eject(nic)

    def _reset_by_guest(self) -> None:
        self.on_guest_reset()

    def reset(self, nic: Nic) -> None:
        """The bus's reset, as this card sees it."""
        self.begin(f"reset {nic.name}")
        nic.function.reset()
        self._bus.remap()
        self.settle()
        self.end()

    def reload(self, nic: Nic) -> None:
        """Save the card's state, power it on anew, and restore it, as if its process had ended."""
        self.begin(f"reload {nic.name}")
        state = nic.function.save()
        nic.function.reset()
        nic.function.restore(state)
        self._bus.remap()
        self.settle()
        self.end()

    def pci_functions(self) -> list[PciFunctionView]:
        """What is on the bus, by place."""
        if self.board is None:
            return []
        return self.board.pci.functions({nic.devfn: nic.name for nic in self.cards.values()})

    def reset_all(self) -> None:
        """The machine's reset: all cards, all that is built in. RAM and clock stay; a card that
        the guest was asked to let go, goes."""
        if self.board is not None:
            to_go = self.board.chipset.hotplug.to_go
            for slot in range(32):
                if to_go >> slot & 1:
                    self._eject(slot)
            self.board.reset()
        for nic in list(self.cards.values()):
            self.reset(nic)
        for reset in self.resets:
            reset()

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

    def execute(self, line: str) -> str:
        """Carry out a command line; return its answer. ``ScriptError`` if it makes no sense."""
        return commands.execute(self, line)
