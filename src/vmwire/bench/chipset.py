# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What an i440FX machine has on bus 0 by itself, as far as a card's driver sees it.

* 00.0, the 82441FX host bridge, and 01.1, the PIIX3's IDE function: only to be found;
* 01.0, the PIIX3 ISA bridge: its registers 0x60 to 0x63 lead the four PCI interrupt lines to the
  machine's (82371SB data sheet, PIRQRC). Pin A of slot N is on line ``(N - 1) % 4``, the next pins
  on the next lines. Without a BIOS nothing is led anywhere until somebody writes those registers;
* 01.3, the PIIX4's power management function: only to be found, and beside it the general purpose
  events at 0xAFE0 and ACPI's PCI hotplug registers at 0xAE00, where a guest ejects a card;
* port 0xCF9, where a guest resets the machine.

Hotplug (QEMU's interface for its own ACPI tables, docs/specs/acpi_pci_hotplug): 0xAE00 slots that
got a card, 0xAE04 slots whose card is to go, 0xAE08 written: eject these, 0xAE0C slots that can be
ejected, 0xAE10 which bus (0). A change sets bit 1 of the event status, and, if it is enabled, the
system control interrupt, line 9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vmwire.bench.address_space import AddressSpace, Window
from vmwire.bench.irq_lines import LINES, IrqLines
from vmwire.bus.pci.config import Bar, ConfigSpace, Description

CONFIG_REGION = 7
PIRQ_ROUTES = 0x60
PIRQ_OFF = 0x80
ISA_LINES = 16
ROW_BYTES = 8 << 20
"""What the host bridge counts RAM in."""
RESET_CPU = 0x04
GPE_PORT = 0xAFE0
HOTPLUG_PORT = 0xAE00
HOTPLUG_SIZE = 0x18
HOTPLUG_EVENT = 0x02
SCI_LINE = 9
FIXED_SLOTS = 0b11


def _bridge(
    device: int,
    revision: int,
    class_code: int,
    status: int,
    pin: int = 0,
    bars: tuple[Bar, ...] = (),
    several: bool = False,
) -> Description:
    return Description(
        vendor=0x8086, device=device, revision=revision, class_code=class_code,
        subsystem_vendor=0x1AF4, subsystem=0x1100, interrupt_pin=pin, bars=bars, status=status,
        multifunction=several,
    )  # fmt: skip


class BuiltIn:
    """A function that is soldered in: configuration space, and ``held`` in it at reset."""

    def __init__(self, name: str, description: Description, held: Mapping[int, int]) -> None:
        self.name = name
        self.config = ConfigSpace(description)
        self._held = held
        self.written: Callable[[], None] = self._nobody
        self.reset()

    def _nobody(self) -> None:
        """Hears of writes to a function that does nothing."""

    def read(self, region: int, offset: int, size: int) -> int:
        """Read a number."""
        return self.config.read(offset, size) if region == CONFIG_REGION else (1 << 8 * size) - 1

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """Write a number."""
        if region == CONFIG_REGION:
            self.config.write(offset, size, value)
            self.written()

    def reset(self) -> None:
        """As at power-on."""
        self.config.reset()
        for offset, value in self._held.items():
            self.config.show(offset, 1, value)
        self.written()


def _host_bridge(ram_size: int) -> BuiltIn:
    rows = min(ram_size // ROW_BYTES, 0xFF)
    return BuiltIn("i440FX", _bridge(0x1237, 2, 0x060000, 0), {0x57: rows, 0x72: 0x02})


def _isa_bridge() -> BuiltIn:
    held = {0x4C: 0x4D, 0x4E: 0x03, 0x69: 0x02, 0x70: 0x80, 0x76: 0x0C}
    held |= {0x77: 0x0C, 0x78: 0x02, 0xA0: 0x08, 0xA8: 0x0F}
    routes = dict.fromkeys(range(PIRQ_ROUTES, PIRQ_ROUTES + 4), PIRQ_OFF)
    return BuiltIn("PIIX3", _bridge(0x7000, 0, 0x060100, 0x0200, several=True), held | routes)


def _ide() -> BuiltIn:
    bars = (Bar(4, "io", 16),)
    return BuiltIn("piix3-ide", _bridge(0x7010, 0, 0x010180, 0x0280, bars=bars), {})


def _power_management() -> BuiltIn:
    held = {0x40: 0x01, 0x5F: 0x10, 0x63: 0x60, 0x90: 0x01, 0x91: 0xB1, 0xD2: 0x09}
    return BuiltIn("PIIX4_PM", _bridge(0x7113, 3, 0x068000, 0x0280, pin=1), held)


class Chipset:
    """The functions by place, the routing of PCI's interrupts, and ACPI's hotplug."""

    def __init__(self, lines: IrqLines, ports: AddressSpace, ram_size: int) -> None:
        self.lines = lines
        self._isa = _isa_bridge()
        self._isa.written = self._route
        self.functions: dict[int, BuiltIn] = {
            0x00: _host_bridge(ram_size),
            0x08: self._isa,
            0x09: _ide(),
            0x0B: _power_management(),
        }
        self._up: list[set[str]] = [set() for _ in range(4)]
        self._led_to: list[int | None] = [None] * 4
        self.reset_control = 0
        self.on_reset: Callable[[], None] = self.reset
        """Told that the guest resets the machine."""
        self.hotplug = Hotplug(lines)
        ports.windows += self.hotplug.windows()

    def reset(self) -> None:
        """As at power-on; the cards are reset by whoever calls."""
        self.reset_control = 0
        for function in self.functions.values():
            function.reset()
        self.hotplug.reset()

    # Interrupts

    def pin(self, name: str, devfn: int, pin: int, up: bool) -> None:
        """A card's interrupt pin (1 is A) changes."""
        if not pin:
            return
        number = ((devfn >> 3) - 1 + pin - 1) % 4
        if up:
            self._up[number].add(name)
        else:
            self._up[number].discard(name)
        self._route()

    def _route(self) -> None:
        """Lead PCI's lines where the ISA bridge says. What rises does so before anything falls."""
        before = self._led_to
        routes = [self._isa.config.read(PIRQ_ROUTES + number, 1) for number in range(4)]
        self._led_to = [
            route if route < ISA_LINES and up else None
            for route, up in zip(routes, self._up, strict=True)
        ]
        for number, line in enumerate(self._led_to):
            if line is not None:
                self.lines.set(line, number, True)
        for number, line in enumerate(before):
            if line is not None and line != self._led_to[number]:
                self.lines.set(line, number, False)

    # Port 0xCF9

    def control_reset(self, value: int) -> None:
        """The reset control register is written."""
        if value & RESET_CPU:
            self.on_reset()
        else:
            self.reset_control = value & 2


class Hotplug:
    """ACPI's view of cards that come and go."""

    def __init__(self, lines: IrqLines) -> None:
        self._lines = lines
        self.eject: Callable[[int], None] = self._empty
        """Told the slot whose cards are let go."""
        self._came = self.to_go = self._bus = 0
        self._status = self._enabled = 0

    def _empty(self, slot: int) -> None:
        """Ejects from a machine without cards."""

    def windows(self) -> list[Window]:
        """Where the registers are."""
        return [
            Window(HOTPLUG_PORT, HOTPLUG_PORT + HOTPLUG_SIZE, self._load, self._store),
            Window(GPE_PORT, GPE_PORT + 4, self._load_event, self._store_event),
        ]

    def reset(self) -> None:
        """As at power-on."""
        self._came = self.to_go = self._bus = 0
        self._status = self._enabled = 0
        self._show()

    def came(self, slot: int) -> None:
        """A card was put in while the machine runs."""
        self._came |= 1 << slot
        self._raise()

    def ask(self, slot: int) -> None:
        """A card is to go."""
        self.to_go |= 1 << slot
        self._raise()

    def gone(self, slot: int) -> None:
        """It went."""
        self._came &= ~(1 << slot)
        self.to_go &= ~(1 << slot)

    def _raise(self) -> None:
        self._status |= HOTPLUG_EVENT
        self._show()

    def _show(self) -> None:
        self._lines.set(SCI_LINE, "SCI", bool(self._status & self._enabled))

    # Registers

    def _load(self, offset: int, size: int) -> int:
        register = offset & ~3
        value = {0: self._came, 4: self.to_go, 12: ~FIXED_SLOTS, 16: self._bus}.get(register, 0)
        if self._bus and register < 12:
            value = 0
        if self._bus and register == 12:
            value = ~0
        if register == 0 and not self._bus:
            self._came = 0
        return value >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def _store(self, offset: int, size: int, value: int) -> None:
        if offset == 16:
            self._bus = value
        elif offset == 8 and not self._bus:
            for slot in range(32):
                if (value & ~FIXED_SLOTS) >> slot & 1:
                    self.eject(slot)

    def _load_event(self, offset: int, size: int) -> int:
        whole = self._status | self._enabled << 16
        return whole >> 8 * offset & (1 << 8 * size) - 1

    def _store_event(self, offset: int, size: int, value: int) -> None:
        whole = value << 8 * offset
        touched = (1 << 8 * size) - 1 << 8 * offset
        self._status &= ~(whole & 0xFFFF)
        enabled = self._enabled << 16 & ~touched | whole & touched
        self._enabled = enabled >> 16 & 0xFFFF
        self._show()


assert SCI_LINE < LINES
