# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The bench machine's PCI bus 0: configuration by ports, and BARs where the driver puts them.

Configuration mechanism 1 (PCI 3.0, section 3.2.2.3.2): a 32-bit write to port 0xCF8 chooses a
function and register (bit 31 enables, 23:16 bus, 15:11 device, 10:8 function, 7:0 register), ports
0xCFC to 0xCFF are a window on it. The register number's two low bits choose the byte together with
the port, so that ``outl 0xcf8 0x80002006; inw 0xcfc`` reads the status register. A function that
isn't there reads as all ones.

A BAR answers while the command register's I/O or memory enable is set; a ROM besides while its own
enable bit is. A BAR that has not been given an address, or still holds a sizing value that runs to
the end of its space, answers nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from vmwire.bench.address_space import AddressSpace, Window
from vmwire.bench.chipset import BuiltIn, Chipset
from vmwire.bench.pci_view import PciFunctionView, view
from vmwire.bus.pci.config import ROM, Description
from vmwire.bus.pci.function import PciFunction
from vmwire.errors import ConfigError

CONFIG_ADDRESS = 0xCF8
CONFIG_DATA = 0xCFC
CONFIG_ENABLE = 1 << 31
RESET_OFFSET = 1
"""Port 0xCF9 by itself is the chipset's."""

CONFIG_REGION = 7
IO_SPACE = 1 << 16


class PciHost:
    """Bus 0. ``remap`` puts the BARs' windows into the spaces behind what is always there."""

    def __init__(self, memory: AddressSpace, ports: AddressSpace, chipset: Chipset) -> None:
        self._chipset = chipset
        self._memory = memory
        self._ports = ports
        self._address = 0
        ports.windows.append(Window(CONFIG_ADDRESS, CONFIG_DATA, self._load_cf8, self._store_cf8))
        ports.windows.append(
            Window(CONFIG_DATA, CONFIG_DATA + 4, self._load_config, self._store_config)
        )
        self._fixed_memory = list(memory.windows)
        self._fixed_ports = list(ports.windows)
        self._seats: dict[int, PciFunction | BuiltIn] = {**chipset.functions}
        self._cards: dict[int, PciFunction] = {}
        self._what = {at: f"{each.name},id=(null)" for at, each in chipset.functions.items()}
        """What is where, as a person is told."""

    def seat(self, devfn: int, card: PciFunction, what: str = "card") -> None:
        """Put a card in; ConfigError if the place is taken, or isn't one for such a card."""
        self.check(devfn, card.config.description, what)
        self._seats[devfn] = card
        self._cards[devfn] = card
        self._what[devfn] = f"{what},id={card.name}"
        self.remap()

    def check(self, devfn: int, description: Description, what: str) -> None:
        """ConfigError if no such card can be put there."""
        slot, function = devfn >> 3, devfn & 7
        if devfn in self._seats:
            raise ConfigError(
                f"PCI: slot {slot} function {function} not available for {what}, "
                f"in use by {self._what[devfn]}"
            )
        first = self._seats.get(slot << 3)
        if function and first is not None and not first.config.description.multifunction:
            raise ConfigError(
                f"PCI: single function device can't be populated in function {slot:x}.{function:x}"
            )
        others = [slot << 3 | n for n in range(1, 8) if slot << 3 | n in self._seats]
        if not function and others and not description.multifunction:
            raise ConfigError(
                f"PCI: {slot:x}.0 indicates single function, "
                f"but {slot:x}.{others[0] & 7:x} is already populated."
            )

    def unseat(self, devfn: int) -> None:
        """Take a card out."""
        del self._seats[devfn], self._cards[devfn], self._what[devfn]
        self.remap()

    def fix_port(self, window: Window) -> None:
        """Put something among the ports that sits on no PCI bus; ConfigError if they are taken."""
        if any(w.start < window.end and window.start < w.end for w in self._fixed_ports):
            raise ConfigError(f"ports {window.start:#x} to {window.end - 1:#x} are taken already")
        self._fixed_ports.append(window)
        self.remap()

    def reset(self) -> None:
        """As at power-on, but for the cards."""
        self._address = 0
        self.remap()

    def fix(self, window: Window) -> None:
        """Let something answer in memory where it is, ahead of all BARs."""
        self._fixed_memory.append(window)
        self.remap()

    def unfix(self, window: Window) -> None:
        """Let it answer no more."""
        self._fixed_memory.remove(window)
        self.remap()

    def free_slot(self) -> int:
        """The first device number with nothing in it."""
        taken = {devfn >> 3 for devfn in self._seats}
        for slot in range(32):
            if slot not in taken:
                return slot
        raise ConfigError("all 32 places of the bus are taken")

    def functions(self, ids: Mapping[int, str]) -> list[PciFunctionView]:
        """What is on the bus, with the cards' ids by place."""
        return [
            view(function.config, devfn, ids.get(devfn, ""))
            for devfn, function in sorted(self._seats.items())
        ]

    # --- configuration ports

    def _load_cf8(self, offset: int, size: int) -> int:
        if (offset, size) == (RESET_OFFSET, 1):
            return self._chipset.reset_control
        return self._address if (offset, size) == (0, 4) else (1 << 8 * size) - 1

    def _store_cf8(self, offset: int, size: int, value: int) -> None:
        if (offset, size) == (0, 4):
            self._address = value
        elif (offset, size) == (RESET_OFFSET, 1):
            self._chipset.control_reset(value)

    def _chosen(self) -> PciFunction | BuiltIn | None:
        """The function that the address register names."""
        address = self._address
        if not address & CONFIG_ENABLE or address >> 16 & 0xFF:
            return None
        return self._seats.get(address >> 8 & 0xFF)

    def _register(self, offset: int) -> int:
        return (self._address | offset) & 0xFF

    def _load_config(self, offset: int, size: int) -> int:
        function = self._chosen()
        register = self._register(offset)
        if function is None or register + size > 256:
            return (1 << 8 * size) - 1
        return function.read(CONFIG_REGION, register, size)

    def _store_config(self, offset: int, size: int, value: int) -> None:
        function = self._chosen()
        register = self._register(offset)
        if function is not None and register + size <= 256:
            function.write(CONFIG_REGION, register, size, value)
            self.remap()

    # --- BARs

    def remap(self) -> None:
        """Look at all BARs and command registers anew (a reset changes them, too)."""
        memory, ports = list(self._fixed_memory), list(self._fixed_ports)
        for card in self._cards.values():
            description, address_of = card.config.description, card.config.bar_address
            for bar in description.bars:
                address = address_of(bar.index)
                if address is None:
                    continue
                if bar.kind == "memory":
                    memory.append(_window(card, bar.index, address, bar.size))
                elif address + bar.size <= IO_SPACE:
                    ports.append(_window(card, bar.index, address, bar.size))
            address = address_of(ROM) if description.rom_size else None
            if address is not None:
                memory.append(_window(card, ROM, address, description.rom_size))
        self._memory.windows = memory
        self._ports.windows = ports


def _window(card: PciFunction, region: int, start: int, size: int) -> Window:
    read, write = card.read, card.write
    return Window(
        start,
        start + size,
        lambda offset, width: read(region, offset, width),
        lambda offset, width, value: write(region, offset, width, value),
    )
