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

from collections.abc import Sequence
from dataclasses import dataclass

from vmwire.bench import e1000_spec as spec
from vmwire.bench.pci import Allocator, Cpu, PciDevice

MICROWIRE_READ = 0b110
MICROWIRE_WRITE = 0b101
MICROWIRE_ERASE_WRITE_ENABLE = 0b10011
MICROWIRE_ERASE_WRITE_DISABLE = 0b10000
EEPROM_ADDRESS_BITS = 6


class DriverError(Exception):
    """The card did not do what the driver waited for."""


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


@dataclass(frozen=True, slots=True)
class Context:
    """An offload context (section 3.3.6): where checksums start, go, and end; and TSO's sizes."""

    ip_start: int = 0
    ip_offset: int = 0
    ip_end: int = 0
    start: int = 0
    offset: int = 0
    end: int = 0
    tcp: bool = True
    ipv4: bool = True
    segment: bool = False
    payload: int = 0
    header: int = 0
    mss: int = 0

    def pack(self, command: int = 0) -> bytes:
        """Return the descriptor."""
        tucmd = command | spec.TX_DEXT
        tucmd |= self.tcp * spec.TUCMD_TCP | self.ipv4 * spec.TUCMD_IP
        tucmd |= self.segment * spec.TUCMD_TSE
        return spec.TX_CONTEXT.pack(
            self.ip_start, self.ip_offset, self.ip_end, self.start, self.offset, self.end,
            self.payload & 0xFFFFF | tucmd << 24, 0, self.header, self.mss,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Received:
    """A frame out of the receive ring: its last descriptor's fields, and how many it took."""

    data: bytes
    status: int
    errors: int
    checksum: int
    special: int
    descriptors: int

    @property
    def vlan(self) -> int | None:
        """The tag that the card took out of the frame."""
        return self.special if self.status & spec.RX_VP else None


class E1000Driver(E1000Registers):
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
        super().__init__(pc, slot)
        self.ring = ring
        self.buffer_size = buffer_size
        self.mac = b""
        room = room or Allocator(0x10_0000 + (slot << 21))
        self.tx_ring = room.take(ring * spec.DESCRIPTOR_SIZE, 4096)
        self.rx_ring = room.take(ring * spec.DESCRIPTOR_SIZE, 4096)
        self.rx_buffers = room.take(ring * buffer_size, 4096)
        self._tx_room = room.take(0x8_0000, 4096)
        self._tx_used = 0
        self.tx_tail = self.tx_clean = self.rx_next = 0

    # --- bringing up

    def start(self, *, receive: int = spec.RCTL_BAM, link: bool = True) -> E1000Driver:
        """Reset the card and set it up; ``receive`` are further bits of RCTL."""
        self.reset()
        words = [self.eeprom_read_serially(word) for word in range(3)]
        self.mac = b"".join(word.to_bytes(2, "little") for word in words)
        self.set_address(0, self.mac)
        for word in range(spec.MTA_WORDS):
            self.write(spec.MTA + 4 * word, 0)
        self.start_transmit()
        self.start_receive(receive)
        if link:
            self.link_up()
            self.read(spec.ICR)
        return self

    def set_address(self, index: int, mac: bytes, valid: bool = True) -> None:
        """Set one of the exact filters; the card takes it on with the upper half."""
        self.write(spec.RAL + 8 * index, int.from_bytes(mac[:4], "little"))
        upper = int.from_bytes(mac[4:], "little") | (spec.RAH_VALID if valid else 0)
        self.write(spec.RAH + 8 * index, upper)

    def start_transmit(self) -> None:
        """Give the card an empty transmit ring."""
        self.pc.write(self.tx_ring, bytes(self.ring * spec.DESCRIPTOR_SIZE))
        self._set_ring(spec.TDBAL, self.tx_ring)
        self.tx_tail = self.tx_clean = 0
        self.write(spec.TCTL, spec.TCTL_EN | spec.TCTL_PSP | 0xF << 4 | 0x40 << 12)

    def start_receive(self, bits: int = spec.RCTL_BAM, buffers: int | None = None) -> None:
        """Give the card a receive ring with ``buffers`` buffers (all but one) and switch it on."""
        self.write(spec.RCTL, 0)
        for index in range(self.ring):
            self._post(index)
        self._set_ring(spec.RDBAL, self.rx_ring)
        self.rx_next = 0
        self.write(spec.RDT, self.ring - 1 if buffers is None else buffers)
        self.write(spec.RCTL, spec.RCTL_EN | bits | spec.RCTL_SIZES[self.buffer_size])

    def _set_ring(self, base: int, address: int) -> None:
        self.write(base, address & 0xFFFFFFFF)
        self.write(base + 4, address >> 32)
        self.write(base + 8, self.ring * spec.DESCRIPTOR_SIZE)
        self.write(base + 0x10, 0)
        self.write(base + 0x18, 0)

    def _post(self, index: int) -> None:
        buffer = self.rx_buffers + index * self.buffer_size
        descriptor = spec.RX_DESCRIPTOR.pack(buffer, 0, 0, 0, 0, 0)
        self.pc.write(self.rx_ring + index * spec.DESCRIPTOR_SIZE, descriptor)

    # --- transmit

    def tx_buffer(self, data: bytes) -> int:
        """Copy data to where the card can fetch it; return the address."""
        if self._tx_used + len(data) > 0x8_0000:
            self._tx_used = 0
        address = self._tx_room + self._tx_used
        self._tx_used += len(data)
        if data:
            self.pc.write(address, data)
        return address

    def put(self, descriptor: bytes) -> int:
        """Put a descriptor into the ring without telling the card; return its index."""
        index = self.tx_tail
        self.pc.write(self.tx_ring + index * spec.DESCRIPTOR_SIZE, descriptor)
        self.tx_tail = (index + 1) % self.ring
        return index

    def kick(self) -> None:
        """Tell the card of what was put."""
        self.write(spec.TDT, self.tx_tail)

    def send(
        self,
        frame: bytes,
        *,
        pieces: Sequence[int] = (),
        vlan: int | None = None,
        checksum: tuple[int, int] | None = None,
        command: int = spec.TX_RS | spec.TX_IFCS,
        kick: bool = True,
    ) -> int:
        """Send by legacy descriptors, one for each of ``pieces``' lengths (the last may be over).

        ``checksum`` is (CSS, CSO). Returns the last descriptor's index.
        """
        css, cso = checksum or (0, 0)
        if checksum is not None:
            command |= spec.TX_IC
        parts = _cut(frame, pieces)
        index = self.tx_tail
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            bits = command | (spec.TX_EOP if last else 0)
            bits |= spec.TX_VLE if last and vlan is not None else 0
            index = self.put(
                spec.TX_LEGACY.pack(self.tx_buffer(part), len(part), cso, bits, 0, css, vlan or 0)
            )
        if kick:
            self.kick()
        return index

    def send_extended(
        self,
        frame: bytes,
        context: Context | None = None,
        *,
        options: int = 0,
        pieces: Sequence[int] = (),
        vlan: int | None = None,
        command: int = spec.TX_RS | spec.TX_IFCS,
        segment: bool | None = None,
        kick: bool = True,
    ) -> int:
        """Send by data descriptors, behind a context (None: the card goes on with the last one).

        ``options`` are POPTS, ``segment`` asks for TSO (by default if the context does). Returns
        the last descriptor's index.
        """
        if context is not None:
            self.put(context.pack())
        if segment is None:
            segment = context is not None and context.segment
        command |= spec.TX_DEXT | (spec.TX_TSE if segment else 0)
        parts = _cut(frame, pieces)
        index = self.tx_tail
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            bits = command | (spec.TX_EOP if last else 0)
            bits |= spec.TX_VLE if last and vlan is not None else 0
            word = len(part) | spec.TX_DATA_TYPE | bits << 24
            index = self.put(
                spec.TX_DATA.pack(self.tx_buffer(part), word, 0, options if not number else 0,
                                  vlan or 0)
            )  # fmt: skip
        if kick:
            self.kick()
        return index

    def tx_done(self, index: int) -> bool:
        """Whether the card has reported this descriptor as done."""
        at = self.tx_ring + index * spec.DESCRIPTOR_SIZE + 12
        return bool(self.pc.read(at, 1)[0] & spec.TX_DD)

    @property
    def tx_head(self) -> int:
        """Up to where the card has come."""
        return self.read(spec.TDH)

    # --- receive

    def receive(self, *, give_back: bool = True) -> list[Received]:
        """Take all whole frames out of the ring; give their buffers back to the card."""
        frames = []
        while (frame := self._next_frame()) is not None:
            frames.append(frame)
        if frames and give_back:
            self.write(spec.RDT, (self.rx_next - 1) % self.ring)
        return frames

    def _next_frame(self) -> Received | None:
        data = b""
        for count in range(self.ring):
            index = (self.rx_next + count) % self.ring
            at = self.rx_ring + index * spec.DESCRIPTOR_SIZE
            address, length, checksum, status, errors, special = spec.RX_DESCRIPTOR.unpack(
                self.pc.read(at, spec.DESCRIPTOR_SIZE)
            )
            if not status & spec.RX_DD:
                return None
            data += self.pc.read(address, length) if length else b""
            if status & spec.RX_EOP:
                for used in range(count + 1):
                    self._post((self.rx_next + used) % self.ring)
                self.rx_next = (index + 1) % self.ring
                return Received(data, status, errors, checksum, special, count + 1)
        raise DriverError("a ring full of descriptors without an end")


def _cut(frame: bytes, pieces: Sequence[int]) -> list[bytes]:
    """Cut a frame into pieces of these lengths; what is left over is one more."""
    parts = []
    for length in pieces:
        parts.append(frame[:length])
        frame = frame[length:]
    return [*parts, frame] if frame or not parts else parts
