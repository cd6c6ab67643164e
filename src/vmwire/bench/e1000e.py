# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A driver for the 82574L in plain Python: the 8254x's (``vmwire.bench.e1000``) and what is new.

>>> from vmwire.bench.machine import Bench
>>> with Bench() as pc:
...     nic = pc.plug("e1000e", mac="52:54:00:12:34:56", addr=4)
...     driver = E1000eDriver(pc, 4).start()
...     _ = driver.send(bytes.fromhex("ffffffffffff 525400123456 0800") + bytes(46))
...     _ = nic.wire.send(bytes.fromhex("525400123456 525500020202 0800") + b"hi".ljust(46))
...     len(nic.wire.take()[0]), driver.receive()[0].data[14:16]
(60, b'hi')

``layout`` is the receive descriptors': ``LEGACY``, ``EXTENDED`` or ``SPLIT`` (into ``split``: sizes
of the first buffer, and of the up to three behind it). ``second`` is the other queue, which is
used when something steers to it: ``start_rss``, or frames that are put into its transmit ring.
``enable_msix`` hands the causes out to vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vmwire.bench import e1000_spec
from vmwire.bench import e1000e_spec as spec
from vmwire.bench.e1000 import BringUp, E1000Registers
from vmwire.bench.e1000_rings import DriverError, Received, Rings
from vmwire.bench.pci import Allocator, Cpu

LEGACY, EXTENDED, SPLIT = "legacy", "extended", "split"
MSIX, MSIX_ENABLE = 0x11, 0x8000
OFTEN = 100
"""How often a semaphore is asked for."""


@dataclass(frozen=True, slots=True)
class ReceivedExtended(Received):
    """A frame out of an extended or split descriptor. The header is in ``data`` too."""

    rss_type: int = 0
    rss_hash: int = 0
    queue: int = 0
    ip_id: int = 0
    header: bytes = b""
    """What was split off."""
    header_length: int = 0
    """As the card says."""

    @property
    def is_split(self) -> bool:
        return bool(self.header)


class E1000eRegisters(E1000Registers):
    """Registers, NVM, PHY, semaphores, MSI-X and clock of the 82574; no rings."""

    def reset(self) -> None:
        """As the data sheet wants it (5.2.1.1): the bus is let go, then CTRL.RST, then the NVM."""
        self.write(e1000_spec.CTRL, self.read(e1000_spec.CTRL) | spec.CTRL_MASTER_DISABLE)
        self.pc.clock_step(1_000_000)
        if self.read(e1000_spec.STATUS) & spec.STATUS_MASTER_ENABLED:
            raise DriverError("the card doesn't let the bus go")
        super().reset()
        self.wait(e1000_spec.EECD, spec.EECD_AUTO_READ)

    def interrupt_statistics(self) -> dict[str, int]:
        """Read the counters of interrupts and their causes; those that are 0 are left out."""
        found = {name: self.read(at) for name, at in spec.STATISTICS.items()}
        return {name: count for name, count in found.items() if count}

    # --- NVM, PHY

    def eeprom_read(self, word: int) -> int:
        """Read a word of the NVM by EERD (10.2.1.6)."""
        self.write(spec.EERD, word << spec.EERD_ADDRESS_SHIFT | spec.EERD_START)
        return self.wait(spec.EERD, spec.EERD_DONE) >> 16

    def eeprom_write(self, word: int, value: int) -> None:
        """Write a word to the card's copy of the NVM by EEWR (10.2.1.17)."""
        address = word << spec.EERD_ADDRESS_SHIFT
        self.wait(spec.EEWR, spec.EEWR_DONE)
        self.write(spec.EEWR, value << 16 | address | spec.EEWR_START)
        self.wait(spec.EEWR, spec.EEWR_DONE)

    def read_address(self) -> bytes:
        words = [self.eeprom_read(word) for word in range(3)]
        return b"".join(word.to_bytes(2, "little") for word in words)

    def paged_phy_read(self, page: int, register: int) -> int:
        """Read a PHY register behind a page."""
        self.phy_write(spec.PHY_PAGE, page)
        return self.phy_read(register)

    def paged_phy_write(self, page: int, register: int, value: int) -> None:
        """Write a PHY register behind a page."""
        self.phy_write(spec.PHY_PAGE, page)
        self.phy_write(register, value)

    # --- semaphores (10.2.4.8, 10.2.1.18)

    def take_semaphore(self) -> bool:
        """Take SWSM.SMBI, which a read hands out."""
        return not self.read(spec.SWSM) & spec.SWSM_SMBI

    def give_semaphore(self) -> None:
        bits = spec.SWSM_SMBI | spec.SWSM_SWESMBI
        self.write(spec.SWSM, self.read(spec.SWSM) & ~bits)

    def own_phy(self) -> None:
        """Take the PHY for the software: EXTCNF_CTRL's ownership bit, which has to stick."""
        for _ in range(OFTEN):
            self.write(spec.EXTCNF_CTRL, self.read(spec.EXTCNF_CTRL) | spec.EXTCNF_SW_OWNS_MDIO)
            if self.read(spec.EXTCNF_CTRL) & spec.EXTCNF_SW_OWNS_MDIO:
                return
            self.pc.clock_step(2_000_000)
        raise DriverError("somebody else owns the PHY")

    def disown_phy(self) -> None:
        self.write(spec.EXTCNF_CTRL, self.read(spec.EXTCNF_CTRL) & ~spec.EXTCNF_SW_OWNS_MDIO)

    # --- interrupts

    def enable_msix(self, vectors: Mapping[str, int] | None = None) -> None:
        """Use MSI-X: the table's entries, unmasked; IVAR as ``vectors`` says; EIAC clears.

        ``vectors`` has ``rx0``, ``rx1``, ``tx0``, ``tx1``, ``other``; by default one each.
        """
        if vectors is None:
            vectors = {name: number for number, name in enumerate(spec.IVAR_SHIFTS)}
        table = self.pci.bars[3].address
        for vector in range(spec.VECTORS):
            entry = table + 16 * vector
            self.pc.writel(entry, 0xFEE0_0000)
            self.pc.writel(entry + 4, 0)
            self.pc.writel(entry + 8, 0x40 + vector)
            self.pc.writel(entry + 12, 0)
        at = self.pci.capabilities()[MSIX]
        self.pci.config_write(at + 2, self.pci.config_read(at + 2, 2) | MSIX_ENABLE, 2)
        self.write(spec.IVAR, self.ivar(vectors))

    @staticmethod
    def ivar(vectors: Mapping[str, int]) -> int:
        """IVAR for this assignment (10.2.5.9); who isn't named interrupts nobody."""
        return sum(
            (vectors[name] | spec.IVAR_VALID) << shift
            for name, shift in spec.IVAR_SHIFTS.items()
            if name in vectors
        )

    # --- RSS (7.1.10)

    def start_rss(self, key: bytes, table: Sequence[int], types: int) -> None:
        """Hash with this key of 40 bytes; ``table`` has 128 queue numbers."""
        for at in range(0, spec.RSS_KEY_BYTES, 4):
            self.write(spec.RSSRK + at, int.from_bytes(key[at : at + 4], "little"))
        entries = bytes(queue << 7 for queue in table)
        for at in range(0, spec.RETA_ENTRIES, 4):
            self.write(spec.RETA + at, int.from_bytes(entries[at : at + 4], "little"))
        rxcsum = e1000_spec.RXCSUM
        self.write(rxcsum, self.read(rxcsum) | spec.RXCSUM_PCSD)
        self.write(spec.MRQC, spec.MRQC_RSS | types)

    # --- clock (7.9, 10.2.11)

    def start_clock(self, increment: int, period: int = 1) -> None:
        """Let SYSTIM grow by ``increment`` every ``period`` ticks of 40 ns."""
        self.write(spec.TIMINCA, period << 24 | increment)
        self.write(spec.SYSTIML, 0)
        self.write(spec.SYSTIMH, 0)

    def clock(self) -> int:
        """SYSTIM: the low half first, which holds the other."""
        return self.read(spec.SYSTIML) | self.read(spec.SYSTIMH) << 32

    def rx_stamp(self) -> int | None:
        """When the held frame came; None while none is held. Reading frees it for another."""
        if not self.read(spec.TSYNCRXCTL) & spec.SYNC_VALID:
            return None
        return self.read(spec.RXSTMPL) | self.read(spec.RXSTMPH) << 32

    def tx_stamp(self) -> int | None:
        """When the frame that asked for it left."""
        if not self.read(spec.TSYNCTXCTL) & spec.SYNC_VALID:
            return None
        return self.read(spec.TXSTMPL) | self.read(spec.TXSTMPH) << 32


class Queue(Rings):
    """One of the two queues, in any of the three layouts."""

    def __init__(
        self,
        pc: Cpu,
        ring: int,
        buffer_size: int,
        room: Allocator,
        layout: str,
        split: Sequence[int],
    ) -> None:
        self.layout = layout
        self.split = split
        if layout == SPLIT:
            self.RX_SIZE = spec.RX_SPLIT_READ.size
            buffer_size = sum(split)
        super().__init__(pc, ring, buffer_size, room)

    @property
    def buffer_bits(self) -> int:
        return spec.RCTL_SPLIT if self.layout == SPLIT else super().buffer_bits

    def _addresses(self, index: int) -> list[int]:
        """The buffers of one descriptor."""
        at = self.rx_buffers + index * self.buffer_size
        if self.layout != SPLIT:
            return [at]
        return [at + sum(self.split[:place]) for place in range(len(self.split))]

    def _post(self, index: int) -> None:
        if self.layout == LEGACY:
            super()._post(index)
            return
        addresses = self._addresses(index)
        if self.layout == EXTENDED:
            descriptor = spec.RX_EXTENDED_READ.pack(addresses[0], 0)
        else:
            descriptor = spec.RX_SPLIT_READ.pack(*addresses, *[0] * (4 - len(addresses)))
        self.pc.write(self.rx_ring + index * self.RX_SIZE, descriptor)

    def _done(self, index: int) -> Received | None:
        if self.layout == LEGACY:
            return super()._done(index)
        found = self.pc.read(self.rx_ring + index * self.RX_SIZE, self.RX_SIZE)
        mrq, second, state, length, vlan = spec.RX_EXTENDED.unpack_from(found)
        if not state & e1000_spec.RX_DD:
            return None
        header, lengths = 0, [length]
        if self.layout == SPLIT:
            header, *more = spec.RX_SPLIT.unpack(found)[5:9]
            lengths += more
        parts = [
            self.pc.read(address, size) if size else b""
            for address, size in zip(self._addresses(index), lengths, strict=False)
        ]
        return ReceivedExtended(
            b"".join(parts),
            state & (1 << spec.RX_STATUS_BITS) - 1,
            state >> spec.RX_ERRORS_SHIFT,
            second >> 16,
            vlan,
            rss_type=mrq & 0xF,
            queue=mrq >> 8 & 0x1F,
            rss_hash=second,
            ip_id=second & 0xFFFF,
            header=parts[0] if header & spec.RX_HEADER_SPLIT else b"",
            header_length=header & spec.RX_HEADER_LENGTH,
        )


class SecondQueue(Queue):
    """The other queue of a driver's card."""

    QUEUE = spec.QUEUE_STRIDE

    def __init__(self, first: E1000eDriver, room: Allocator) -> None:
        super().__init__(first.pc, first.ring, first.buffer_size, room, first.layout, first.split)
        self._first = first

    def read(self, register: int) -> int:
        return self._first.read(register)

    def write(self, register: int, value: int) -> None:
        self._first.write(register, value)


class E1000eDriver(E1000eRegisters, BringUp, Queue):
    """The whole driver: registers, and two queues of one ring each way."""

    def __init__(
        self,
        pc: Cpu,
        slot: int,
        *,
        ring: int = 64,
        buffer_size: int = 2048,
        room: Allocator | None = None,
        layout: str = LEGACY,
        split: Sequence[int] = (256, 2048, 2048, 2048),
    ) -> None:
        E1000eRegisters.__init__(self, pc, slot)
        room = room or Allocator(0x10_0000 + (slot << 21))
        Queue.__init__(self, pc, ring, buffer_size, room, layout, split)
        self.second = SecondQueue(self, room)

    @property
    def queues(self) -> Sequence[Rings]:
        return (self, self.second)

    def take_over(self) -> None:
        self.write(e1000_spec.CTRL_EXT, self.read(e1000_spec.CTRL_EXT) | spec.CTRL_EXT_DRV_LOAD)

    def choose_layout(self) -> None:
        self.write(spec.RFCTL, 0 if self.layout == LEGACY else spec.RFCTL_EXTENDED)
        if self.layout == SPLIT:
            self.write(spec.PSRCTL, self._split_sizes())

    def _split_sizes(self) -> int:
        """PSRCTL (10.2.6.3): the first in units of 128 bytes, the others of 1024."""
        first, *others = self.split
        shifted = (size // 1024 << 8 * place for place, size in enumerate(others, 1))
        return first // 128 | sum(shifted)
