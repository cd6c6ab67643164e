# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the chips of both families do alike: windows, link, counters, filters.

A chip derives from this and from the table of its registers. It makes the parts that are declared
here in its ``__init__``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from struct import Struct
from typing import ClassVar, Protocol

from vmwire.nic.e1000.filters import Filters
from vmwire.nic.e1000.phy import ERROR, INT_EN, Phy
from vmwire.nic.e1000.registers import (
    CTRL_FD,
    CTRL_FRCDPX,
    CTRL_FRCSPD,
    CTRL_SLU,
    CTRL_SPEED_SHIFT,
    LSC,
    MDAC,
    RAH_AV,
    RCTL_EN,
    RCTL_LBM,
    STATUS_ASDV_SHIFT,
    STATUS_FD,
    STATUS_LU,
    STATUS_SPEED_SHIFT,
)
from vmwire.nic.e1000.registers import Registers as R
from vmwire.nic.e1000.shared_registers import WINDOW, SharedRegisters
from vmwire.nic.e1000.statistics import Statistics
from vmwire.nic.registers import Register
from vmwire.wire.port import Port
from vmwire.wire.port import stats as port_stats

REGISTERS = 0
IOADDR, IODATA = 0, 4

CTRL = R.CTRL.index
IMS = R.IMS.index
RCTL = R.RCTL.index
STATUS = R.STATUS.index

_LINK_BITS = STATUS_FD | STATUS_LU | 3 << STATUS_SPEED_SHIFT | 3 << STATUS_ASDV_SHIFT
_SHOWN_COUNTERS = ("GPRC", "GPTC", "MPC", "RNBC", "ROC")


class CauseLogic(Protocol):
    """What the chip's interrupt logic does for any of them."""

    raised: int

    def raise_(self, causes: int) -> None:
        """Add causes."""

    def read(self) -> int:
        """Read ICR."""

    def update(self) -> None:
        """ICR or IMS changed."""


class Places:
    """Some registers' values as bytes, in no time; see ``vmwire.bus.pci.chip.Placed``."""

    def __init__(self, registers: Sequence[Register]) -> None:
        self._indices = tuple(register.index for register in registers)
        self._struct = Struct(f"<{len(self._indices)}I")
        self._values_of = itemgetter(*self._indices)
        assert self._struct.size <= 240

    def pack(self, words: list[int]) -> bytes:
        """Return the values."""
        return self._struct.pack(*self._values_of(words))

    def put(self, words: list[int], place: object) -> None:
        """Take values on (None: none). ValueError if they can't be."""
        if place is None:
            return
        if not isinstance(place, bytes) or len(place) != self._struct.size:
            raise ValueError("not a card's place in its rings")
        for index, value in zip(self._indices, self._struct.unpack(place), strict=True):
            words[index] = value


class Mac(SharedRegisters):
    """``IO_REGION`` is the BAR with IOADDR and IODATA. ``DETECTED``: how STATUS.ASDV spells 10, 100
    and 1000 Mbit/s."""

    IO_REGION: ClassVar[int]
    DETECTED: ClassVar[tuple[int, int, int]]

    port: Port
    drops: Counter[str]
    _io_address: int
    _phy: Phy
    _causes: CauseLogic
    _statistics: Statistics
    _filters: Filters

    # Accesses

    def load(self, region: int, offset: int, size: int) -> int:
        """Read registers."""
        if region == REGISTERS and size == 4 and not offset & 3 and offset < WINDOW:
            reader = self._reader_of(offset)
            return self.words[offset >> 2] if reader is None else reader(self)
        value = done = 0
        while done < size:  # a part, or parts, of whole registers
            at = offset + done
            width = min(4 - (at & 3), size - done)
            whole = self._load_word(region, at & ~3) >> 8 * (at & 3)
            value |= (whole & (1 << 8 * width) - 1) << 8 * done
            done += width
        return value

    def _load_word(self, region: int, offset: int) -> int:
        if region == REGISTERS and 0 <= offset < WINDOW:
            return self.load(REGISTERS, offset, 4)
        if region == self.IO_REGION and offset == IOADDR:
            return self._io_address
        if region == self.IO_REGION and offset == IODATA and self._io_address < WINDOW:
            return self.load(REGISTERS, self._io_address & ~3, 4)
        return 0

    def store(self, region: int, offset: int, size: int, value: int) -> None:
        """Write registers."""
        if region == REGISTERS and size == 4 and not offset & 3 and offset < WINDOW:
            self.store32(offset, value)
            return
        done = 0
        while done < size:
            at = offset + done
            width = min(4 - (at & 3), size - done)
            part = value >> 8 * done & (1 << 8 * width) - 1
            self._store_word(region, at & ~3, part << 8 * (at & 3))
            done += width

    def _store_word(self, region: int, offset: int, value: int) -> None:
        if region == REGISTERS and 0 <= offset < WINDOW:
            self.store32(offset, value)
        elif region == self.IO_REGION and offset == IOADDR:
            self._io_address = value
        elif region == self.IO_REGION and offset == IODATA and self._io_address < WINDOW:
            self.store32(self._io_address & ~3, value)

    # Registers

    @SharedRegisters.CTRL_DUP.on_write
    def _on_ctrl_dup(self, value: int) -> None:
        self.store32(R.CTRL.offset, value)

    @SharedRegisters.CTRL_DUP.on_read
    def _read_ctrl_dup(self) -> int:
        return self.words[CTRL]

    @SharedRegisters.MDIC.on_write
    def _on_mdic(self, value: int) -> None:
        self.MDIC = done = self._phy.access(value)
        if value & INT_EN and not done & ERROR:
            self._causes.raise_(MDAC)

    @SharedRegisters.ICR.on_read
    def _read_icr(self) -> int:
        return self._causes.read()

    @SharedRegisters.IMC.on_write
    def _on_imc(self, value: int) -> None:
        self.words[IMS] &= ~value
        self._causes.update()

    @SharedRegisters.GORCH.on_read
    def _read_gorch(self) -> int:
        return self._statistics.read_pair_high(R.GORCL.index)

    @SharedRegisters.GOTCH.on_read
    def _read_gotch(self) -> int:
        return self._statistics.read_pair_high(R.GOTCL.index)

    @SharedRegisters.TORH.on_read
    def _read_torh(self) -> int:
        return self._statistics.read_pair_high(R.TORL.index)

    @SharedRegisters.TOTH.on_read
    def _read_toth(self) -> int:
        return self._statistics.read_pair_high(R.TOTL.index)

    @SharedRegisters.RAL.on_write
    @SharedRegisters.RAH.on_write
    @SharedRegisters.MTA.on_write
    def _on_filter(self, value: int) -> None:
        self._filters.forget()

    def _take_address(self, mac: bytes) -> None:
        """Put the EEPROM's address into the first receive address."""
        self.words[R.RAL.index] = int.from_bytes(mac[:4], "little")
        self.words[R.RAH.index] = RAH_AV | int.from_bytes(mac[4:], "little")

    # Link

    @property
    def _loops(self) -> bool:
        """Whether what is sent comes back, by the MAC's or the PHY's loopback."""
        return bool(self.words[RCTL] & RCTL_LBM) or self._phy.loopback

    def set_link(self, up: bool) -> None:
        """Plug or pull the cable at the card."""
        self.port.set_link(up)

    def _on_carrier(self, carrier: bool) -> None:
        self._phy.set_carrier(carrier)

    def _on_link(self) -> None:
        """The PHY's link came or went."""
        self._show_link()
        self._causes.raise_(LSC)

    def _show_link(self) -> None:
        """Work STATUS out of the PHY's link and CTRL."""
        phy, ctrl = self._phy, self.words[CTRL]
        speed, full = phy.speed, phy.full_duplex
        shown = self.DETECTED[speed] << STATUS_ASDV_SHIFT
        if ctrl & CTRL_FRCSPD:
            speed = min(ctrl >> CTRL_SPEED_SHIFT & 3, 2)
        if ctrl & CTRL_FRCDPX:
            full = bool(ctrl & CTRL_FD)
        if phy.up and ctrl & CTRL_SLU:
            shown |= STATUS_LU
        shown |= speed << STATUS_SPEED_SHIFT | (STATUS_FD if full else 0)
        self.words[STATUS] = self.words[STATUS] & ~_LINK_BITS | shown

    def stats(self) -> dict[str, object]:
        """Return counters as plain data."""
        words = self.words
        return port_stats(self.port) | {
            "drops": dict(self.drops + self.port.drops),
            "interrupts": self._causes.raised,
            "link": bool(words[STATUS] & STATUS_LU),
            "receiver": bool(words[RCTL] & RCTL_EN),
            "registers": {name: words[getattr(R, name).index] for name in _SHOWN_COUNTERS},
        }
