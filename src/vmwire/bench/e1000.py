# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A driver for the 8254x in plain Python, for tests of that card and as a driver's skeleton.

It drives whatever has ports and memory (``vmwire.bench.pci.Cpu``): the bench machine, say.

>>> from vmwire.bench.machine import Bench
>>> with Bench() as pc:
...     nic = pc.plug("e1000", mac="52:54:00:12:34:56", addr=4)
...     driver = E1000Driver(pc, 4).start()
...     _ = driver.send(bytes.fromhex("ffffffffffff 525400123456 0800") + bytes(46))
...     _ = nic.wire.send(bytes.fromhex("525400123456 525500020202 0800") + b"hi".ljust(46))
...     len(nic.wire.take()[0]), driver.receive()[0].data[14:16]
(60, b'hi')

The rings and buffers lie where ``room`` says; ``start`` resets the card, reads its address from the
EEPROM, fills the receive ring and waits for the link. Interrupts are masked until ``IMS`` is
written. ``send`` and ``send_extended`` return at once; ``reap`` tells what is done.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from vmwire.bench import e1000_spec as spec
from vmwire.bench.e1000_rings import Context, DriverError, Received, Rings
from vmwire.bench.pci import Allocator, Cpu, PciDevice

__all__ = [
    "BringUp", "Context", "DriverError", "E1000Driver", "E1000Registers", "Received", "Rings",
]  # fmt: skip

MICROWIRE_READ = 0b110
MICROWIRE_WRITE = 0b101
MICROWIRE_ERASE_WRITE_ENABLE = 0b10011
MICROWIRE_ERASE_WRITE_DISABLE = 0b10000
EEPROM_ADDRESS_BITS = 6


class E1000Registers:
    """Registers, EEPROM and PHY; no rings."""

    def __init__(self, pc: Cpu, slot: int) -> None:
        self.pc = pc
        self.pci = PciDevice(pc, slot)
        bars = self.pci.enable()
        self.base = bars[0].address
        self.ports = next((bar.address for bar in bars.values() if bar.is_io), 0)

    def read(self, register: int) -> int:
        """Read a register."""
        return self.pc.readl(self.base + register)

    def write(self, register: int, value: int) -> None:
        """Write a register."""
        self.pc.writel(self.base + register, value)

    def port_read(self, register: int) -> int:
        """Read a register by way of the I/O window: IOADDR, then IODATA (section 13.1.1)."""
        self.pc.outl(self.ports, register)
        return self.pc.inl(self.ports + 4)

    def port_write(self, register: int, value: int) -> None:
        """Write a register by way of the I/O window."""
        self.pc.outl(self.ports, register)
        self.pc.outl(self.ports + 4, value)

    def wait(self, register: int, bit: int, limit_ns: int = 10_000_000_000) -> int:
        """Let time pass until a bit is set; return the register. ``DriverError`` if it never is."""
        step = 1000
        while limit_ns > 0:
            value = self.read(register)
            if value & bit:
                return value
            self.pc.clock_step(step)
            limit_ns -= step
            step = min(step * 2, 10_000_000)
        raise DriverError(f"register {register:#x} never had bit {bit:#x}")

    def reset(self) -> None:
        """The card's own reset (CTRL.RST), which ends by itself."""
        self.write(spec.IMC, 0xFFFFFFFF)
        self.write(spec.CTRL, self.read(spec.CTRL) | spec.CTRL_RST)
        self.pc.clock_step(10_000_000)
        if self.read(spec.CTRL) & spec.CTRL_RST:
            raise DriverError("the reset doesn't end")

    def link_up(self) -> None:
        """Ask for the link and wait for it."""
        control = self.read(spec.CTRL)
        self.write(spec.CTRL, control | spec.CTRL_SLU | spec.CTRL_ASDE | spec.CTRL_FD)
        self.wait(spec.STATUS, spec.STATUS_LU)

    def set_address(self, index: int, mac: bytes, valid: bool = True) -> None:
        """Set one of the exact filters; the card takes it on with the upper half."""
        self.write(spec.RAL + 8 * index, int.from_bytes(mac[:4], "little"))
        upper = int.from_bytes(mac[4:], "little") | (spec.RAH_VALID if valid else 0)
        self.write(spec.RAH + 8 * index, upper)

    def statistics(self) -> dict[str, int]:
        """Read all counters, which clears them; those that are 0 are left out."""
        found = {name: self.read(at) for name, at in spec.STATISTICS.items()}
        for name, at in spec.WIDE_STATISTICS.items():
            found[name] = self.read(at) | self.read(at + 4) << 32
        return {name: count for name, count in found.items() if count}

    # --- PHY

    def phy_read(self, register: int, phy: int = spec.PHY_ADDRESS) -> int:
        """Read a PHY register over MDIC; ``DriverError`` if no PHY answers."""
        self.write(spec.MDIC, spec.MDIC_READ | phy << 21 | register << 16)
        return self._mdic_done() & 0xFFFF

    def phy_write(self, register: int, value: int, phy: int = spec.PHY_ADDRESS) -> None:
        """Write a PHY register over MDIC."""
        self.write(spec.MDIC, spec.MDIC_WRITE | phy << 21 | register << 16 | value)
        self._mdic_done()

    def _mdic_done(self) -> int:
        value = self.wait(spec.MDIC, spec.MDIC_READY)
        if value & spec.MDIC_ERROR:
            raise DriverError("no PHY answers there")
        return value

    # --- EEPROM, by EERD and bit by bit (section 5.3)

    def read_address(self) -> bytes:
        """The card's own address, as the EEPROM has it."""
        words = [self.eeprom_read_serially(word) for word in range(3)]
        return b"".join(word.to_bytes(2, "little") for word in words)

    def eeprom_read(self, word: int) -> int:
        """Read a word by the EERD register."""
        self.write(spec.EERD, word << 8 | spec.EERD_START)
        return self.wait(spec.EERD, spec.EERD_DONE) >> 16

    def eeprom_read_serially(self, word: int) -> int:
        """Read a word over the Microwire pins in EECD."""
        self._eeprom_begin()
        self._shift_out(MICROWIRE_READ, 3)
        self._shift_out(word, EEPROM_ADDRESS_BITS)
        value = self._shift_in(16)
        self._eeprom_end()
        return value

    def eeprom_write_serially(self, word: int, value: int) -> None:
        """Write a word over the Microwire pins, as the part wants it: enable, write, disable."""
        self._eeprom_begin()
        self._shift_out(MICROWIRE_ERASE_WRITE_ENABLE, 5)
        self._shift_out(0, EEPROM_ADDRESS_BITS - 2)
        self._deselect()
        self._shift_out(MICROWIRE_WRITE, 3)
        self._shift_out(word, EEPROM_ADDRESS_BITS)
        self._shift_out(value, 16)
        self._deselect()
        self.wait(spec.EECD, spec.EECD_DO)
        self._deselect()
        self._shift_out(MICROWIRE_ERASE_WRITE_DISABLE, 5)
        self._shift_out(0, EEPROM_ADDRESS_BITS - 2)
        self._eeprom_end()

    def _eeprom_begin(self) -> None:
        self.write(spec.EECD, spec.EECD_REQ)
        self.wait(spec.EECD, spec.EECD_GNT)
        self._pins(spec.EECD_CS)

    def _eeprom_end(self) -> None:
        self._pins(0)
        self._pins(spec.EECD_SK)
        self._pins(0)
        self.write(spec.EECD, 0)

    def _deselect(self) -> None:
        """Take the select away for a clock and give it again."""
        for pins in (0, spec.EECD_SK, 0, spec.EECD_CS):
            self._pins(pins)

    def _pins(self, pins: int) -> None:
        self.write(spec.EECD, spec.EECD_REQ | pins)
        self.pc.clock_step(1000)

    def _shift_out(self, value: int, bits: int) -> None:
        for bit in reversed(range(bits)):
            data = spec.EECD_CS | (spec.EECD_DI if value >> bit & 1 else 0)
            for pins in (data, data | spec.EECD_SK, data):
                self._pins(pins)

    def _shift_in(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            self._pins(spec.EECD_CS | spec.EECD_SK)
            value = value << 1 | bool(self.read(spec.EECD) & spec.EECD_DO)
            self._pins(spec.EECD_CS)
        return value


class BringUp(E1000Registers, ABC):
    """Bringing a card up, whose rings are what derives from this."""

    mac = b""

    @property
    @abstractmethod
    def queues(self) -> Sequence[Rings]:
        """The rings that the card is given."""

    def start(self, *, receive: int = spec.RCTL_BAM, link: bool = True) -> Self:
        """Reset the card and set it up; ``receive`` are further bits of RCTL."""
        self.reset()
        self.take_over()
        self.mac = self.read_address()
        self.set_address(0, self.mac)
        for word in range(spec.MTA_WORDS):
            self.write(spec.MTA + 4 * word, 0)
        self.start_transmit()
        self.start_receive(receive)
        if link:
            self.link_up()
            self.read(spec.ICR)
        return self

    def start_transmit(self) -> None:
        """Give the card empty transmit rings and switch it on."""
        for queue in self.queues:
            queue.empty_transmit_ring()
        self.write(spec.TCTL, spec.TCTL_EN | spec.TCTL_PSP | 0xF << 4 | 0x40 << 12)

    def start_receive(self, bits: int = spec.RCTL_BAM, buffers: int | None = None) -> None:
        """Give the card receive rings with ``buffers`` buffers (all but one) and switch it on."""
        self.write(spec.RCTL, 0)
        self.choose_layout()
        for queue in self.queues:
            queue.fill_receive_ring(buffers)
        self.write(spec.RCTL, spec.RCTL_EN | bits | self.queues[0].buffer_bits)

    def take_over(self) -> None:
        """Tell the card that it has a driver, where it wants to know."""

    def choose_layout(self) -> None:
        """Tell the card what receive descriptors look like, where there is a choice."""


class E1000Driver(BringUp, Rings):
    """The whole driver: registers, and one ring each way of ``ring`` descriptors."""

    def __init__(
        self,
        pc: Cpu,
        slot: int,
        *,
        ring: int = 64,
        buffer_size: int = 2048,
        room: Allocator | None = None,
    ) -> None:
        BringUp.__init__(self, pc, slot)
        Rings.__init__(self, pc, ring, buffer_size, room or Allocator(0x10_0000 + (slot << 21)))

    @property
    def queues(self) -> Sequence[Rings]:
        return (self,)
