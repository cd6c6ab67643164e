# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What makes a bench machine a PC: the PCI bus, the chipset, the firmware configuration device."""

from __future__ import annotations

from vmwire.bench.address_space import AddressSpace
from vmwire.bench.chipset import Chipset
from vmwire.bench.fw_cfg import FwCfg
from vmwire.bench.irq_lines import IrqLines
from vmwire.bench.pci_host import PciHost
from vmwire.bench.ram import Ram
from vmwire.bench.slots import BootOrder


class Board:
    """The parts, put together."""

    def __init__(
        self, memory: AddressSpace, ports: AddressSpace, ram: Ram, lines: IrqLines
    ) -> None:
        self.fw_cfg = FwCfg(ram.size, ram.read, ram.write)
        self.chipset = Chipset(lines, ports, ram.size)
        ports.windows += self.fw_cfg.windows()
        self.pci = PciHost(memory, ports, self.chipset)
        self.boot_order = BootOrder()

    def set_boot(self, index: int | None, devfn: int, name: str) -> None:
        """Tell the firmware of a card's place in the boot order, or that it has none any more."""
        self.boot_order.remove(name)
        if index is not None:
            self.boot_order.add(index, devfn, name)
        self.fw_cfg.add_file("bootorder", self.boot_order.text())

    def reset(self) -> None:
        """As at power-on, but for the cards."""
        self.chipset.reset()
        self.fw_cfg.reset()
        self.pci.reset()
