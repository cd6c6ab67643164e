# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The chip: its register windows, and what hangs on the registers.

BAR 0 is the registers. BAR 1 is two I/O words through which the same registers are reached without
memory space: IOADDR says which one, IODATA is it (manual, 13.3). The registers are 32 bits wide;
smaller accesses see a part of them.

The chip has no clock of its own and recurses nowhere: what it sends in a loopback mode goes
straight to its receiver, which sends nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from struct import Struct
from typing import Any

from vmwire.bus.pci.chip import Slot
from vmwire.nic.e1000.eeprom import Eeprom, contents
from vmwire.nic.e1000.filters import Filters
from vmwire.nic.e1000.interrupts import Causes
from vmwire.nic.e1000.models import IO_WINDOW, Model
from vmwire.nic.e1000.phy import ERROR, INT_EN, Phy
from vmwire.nic.e1000.receive import LONGEST, Receiver
from vmwire.nic.e1000.registers import (
    CTRL_EXT_EE_RST,
    CTRL_FD,
    CTRL_FRCDPX,
    CTRL_FRCSPD,
    CTRL_PHY_RST,
    CTRL_RST,
    CTRL_SLU,
    CTRL_SPEED_SHIFT,
    EXTRA,
    LSC,
    MDAC,
    RAH_AV,
    RCTL_EN,
    RCTL_LBM,
    RDTR_FPD,
    STATUS_ASDV_SHIFT,
    STATUS_FD,
    STATUS_LU,
    STATUS_SPEED_SHIFT,
    Registers,
)
from vmwire.nic.e1000.shared_registers import WINDOW
from vmwire.nic.e1000.statistics import Statistics
from vmwire.nic.e1000.transmit import Transmitter
from vmwire.wire.frame import Frame, Gso
from vmwire.wire.offload import finish
from vmwire.wire.port import Accepts, Port
from vmwire.wire.port import stats as port_stats

REGISTERS, IO = 0, 1
IOADDR, IODATA = 0, 4

CTRL = Registers.CTRL.index
ICR = Registers.ICR.index
IMS = Registers.IMS.index
RCTL = Registers.RCTL.index
STATUS = Registers.STATUS.index

_STATUS_LINK_BITS = STATUS_FD | STATUS_LU | 3 << STATUS_SPEED_SHIFT | 3 << STATUS_ASDV_SHIFT

_DETECTED = (0, 1, 3)
"""How STATUS.ASDV spells 10, 100 and 1000 Mbit/s; 1000 has two spellings."""

_PLACES = tuple(
    register.index
    for register in (
        Registers.ICR, Registers.ITR, Registers.IMS, Registers.RCTL, Registers.TCTL,
        Registers.RDBAL, Registers.RDBAH, Registers.RDLEN, Registers.RDH, Registers.RDT,
        Registers.TDBAL, Registers.TDBAH, Registers.TDLEN, Registers.TDH, Registers.TDT,
    )
)  # fmt: skip
_PLACE = Struct(f"<{len(_PLACES)}I")
_place_of = itemgetter(*_PLACES)

STATE_VERSION = 1


class E1000(Registers):
    """One card of the family; see ``vmwire.bus.pci.chip.Chip`` for the contract.

    ``autonegotiation``: the link takes its time to come up. ``mitigation``: interrupts are put off
    as the registers ask. ``init_vet``: VET is 8100h after a reset. ``extra_registers``: those of
    ``EXTRA`` are there. ``migrate_tso_props``: a saved state holds a context for segmentation.
    """

    def __init__(
        self,
        slot: Slot,
        *,
        model: Model,
        mac: bytes,
        autonegotiation: bool = True,
        mitigation: bool = True,
        init_vet: bool = True,
        extra_registers: bool = True,
        migrate_tso_props: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.drops: Counter[str] = Counter()
        """Frames lost here, and rings that couldn't be followed, by reason."""
        self.port = Port(
            slot.name,
            self._receive,
            resume=self._on_resume,
            link_changed=self._on_carrier,
            accepts=Accepts(True, Gso.TCPV4 | Gso.TCPV6 | Gso.ECN, LONGEST),
        )
        self._init_vet = init_vet
        self._io_address = 0
        self._missing = set() if extra_registers else _indexes(EXTRA)
        self._eeprom = Eeprom(contents(mac, model.device))
        self._causes = Causes(self.words, slot.interrupts, slot.timers, moderated=mitigation)
        self._phy = Phy(model.phy_id2, slot.timers, self._on_link, slow=autonegotiation)
        self._statistics = Statistics(self.words)
        self._filters = Filters(self.words)
        self._receiver = Receiver(
            self.words, slot.dma, self._causes, self._statistics, self._filters, self.drops
        )
        self._transmitter = Transmitter(
            self.words, slot.dma, self._causes, self._statistics, self._send, slot.defer,
            self.drops, saves_segmentation=migrate_tso_props,
        )  # fmt: skip
        self.reset()

    # Accesses

    def load(self, region: int, offset: int, size: int) -> int:
        """Read registers."""
        if region == REGISTERS and size == 4 and not offset & 3 and offset < WINDOW:
            reader = self._readers.get(offset)
            value = self.words[offset >> 2] if reader is None else reader(self)
            return 0 if self._missing and offset >> 2 in self._missing else value
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
        if region == IO and offset == IOADDR:
            return self._io_address
        if region == IO and offset == IODATA and self._io_address < WINDOW:
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
        elif region == IO and offset == IOADDR:
            self._io_address = value
        elif region == IO and offset == IODATA and self._io_address < WINDOW:
            self.store32(self._io_address & ~3, value)

    # Reset and state

    def reset(self) -> None:
        """Power on."""
        self._io_address = 0
        self._eeprom.reset()
        self._software_reset()
        self._phy.reset(self.port.carrier)
        self.words[ICR] = 0
        self._causes.update()

    def _software_reset(self) -> None:
        """CTRL.RST: all of the MAC; the PHY and its link stay (13.4.1)."""
        self._causes.reset()
        self.reset_registers()
        if not self._init_vet:
            self.VET = 0
        self._load_address()
        self._transmitter.reset()
        self._receiver.reset()
        self.EECD = self._eeprom.pins()
        self._show_link()
        self._note_receiver()

    def _load_address(self) -> None:
        """Put the EEPROM's address into the first receive address."""
        mac = self._eeprom.mac
        self.words[Registers.RAL.index] = int.from_bytes(mac[:4], "little")
        self.words[Registers.RAH.index] = RAH_AV | int.from_bytes(mac[4:], "little")

    def save(self) -> dict[str, Any]:
        """Return the whole state as plain data."""
        return {
            "version": STATE_VERSION,
            "model": self.model.name,
            "registers": self.save_registers(),
            "io_address": self._io_address,
            "eeprom": self._eeprom.save(),
            "phy": self._phy.save(),
            "transmit": self._transmitter.save(),
            "interrupts": self._causes.save(),
        }

    def save_place(self) -> bytes:
        """Return the rings' and the interrupts' registers; see ``vmwire.bus.pci.chip.Placed``."""
        return _PLACE.pack(*_place_of(self.words))

    def _restore_place(self, place: object) -> None:
        if place is None:
            return
        if not isinstance(place, bytes) or len(place) != _PLACE.size:
            raise ValueError("not a card's place in its rings")
        for index, value in zip(_PLACES, _PLACE.unpack(place), strict=True):
            self.words[index] = value

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on a state that ``save`` gave. ValueError if it isn't one."""
        try:
            if state["version"] != STATE_VERSION or state["model"] != self.model.name:
                raise ValueError(f"not a state of this {self.model.chip}")
            self._causes.reset()
            self.restore_registers(bytes(state["registers"]))
            self._restore_place(state.get("place"))
            self._io_address = int(state["io_address"]) & 0xFFFFFFFF
            self._eeprom.restore(state["eeprom"])
            self._phy.restore(state["phy"], self.port.carrier)
            self._transmitter.restore(state["transmit"])
            self._causes.restore(state["interrupts"])
        except (KeyError, TypeError, IndexError, OverflowError) as error:
            raise ValueError(f"not a card's state: {error!r}") from error
        self._note_receiver()
        self._transmitter.run()

    # General registers

    @Registers.CTRL.on_write
    def _on_ctrl(self, value: int) -> None:
        if value & CTRL_RST:
            self._software_reset()
        if value & CTRL_PHY_RST:
            self._phy.hard_reset()
        self._show_link()

    @Registers.CTRL_DUP.on_write
    def _on_ctrl_dup(self, value: int) -> None:
        self.store32(Registers.CTRL.offset, value)

    @Registers.CTRL_DUP.on_read
    def _read_ctrl_dup(self) -> int:
        return self.CTRL

    @Registers.CTRL_EXT.on_write
    def _on_ctrl_ext(self, value: int) -> None:
        if value & CTRL_EXT_EE_RST:
            self._load_address()
            self._filters.forget()

    @Registers.EECD.on_write
    def _on_eecd(self, value: int) -> None:
        self._eeprom.drive(value)
        self.EECD = self._eeprom.pins()

    @Registers.EERD.on_write
    def _on_eerd(self, value: int) -> None:
        self.EERD = self._eeprom.read_register(value)

    @Registers.MDIC.on_write
    def _on_mdic(self, value: int) -> None:
        self.MDIC = done = self._phy.access(value)
        if value & INT_EN and not done & ERROR:
            self._causes.raise_(MDAC)

    @Registers.WUS.on_write
    def _on_wus(self, value: int) -> None:
        self.WUS &= ~value

    # Interrupts

    @Registers.ICR.on_read
    def _read_icr(self) -> int:
        return self._causes.read()

    @Registers.ICR.on_write
    def _on_icr(self, value: int) -> None:
        self.words[ICR] &= ~value
        self._causes.update()

    @Registers.ICS.on_write
    def _on_ics(self, value: int) -> None:
        self._causes.raise_(value)

    @Registers.IMS.on_write
    def _on_ims(self, value: int) -> None:
        self.words[IMS] |= value
        self._causes.update()

    @Registers.IMC.on_write
    def _on_imc(self, value: int) -> None:
        self.words[IMS] &= ~value
        self._causes.update()

    @Registers.RDTR.on_write
    def _on_rdtr(self, value: int) -> None:
        if value & RDTR_FPD:
            self._causes.rx.flush()

    # Statistics' pairs

    @Registers.GORCH.on_read
    def _read_gorch(self) -> int:
        return self._statistics.read_pair_high(Registers.GORCL.index)

    @Registers.GOTCH.on_read
    def _read_gotch(self) -> int:
        return self._statistics.read_pair_high(Registers.GOTCL.index)

    @Registers.TORH.on_read
    def _read_torh(self) -> int:
        return self._statistics.read_pair_high(Registers.TORL.index)

    @Registers.TOTH.on_read
    def _read_toth(self) -> int:
        return self._statistics.read_pair_high(Registers.TOTL.index)

    # Transmit

    @Registers.TDT.on_write
    @Registers.TDH.on_write
    @Registers.TDLEN.on_write
    @Registers.TCTL.on_write
    def _on_transmit(self, value: int) -> None:
        self._transmitter.run()

    def _on_resume(self) -> None:
        self._transmitter.run()

    def _send(self, frames: Sequence[Frame]) -> int:
        if not self._loops:
            if self.words[STATUS] & STATUS_LU:
                return self.port.send(frames)
            self.drops["no link"] += len(frames)
            return len(frames)
        for frame in frames:
            self._receiver.receive_own([frame] if frame.offload.plain else finish(frame))
        return len(frames)

    @property
    def _loops(self) -> bool:
        """Whether what is sent comes back, by the MAC's or the PHY's loopback."""
        return bool(self.words[RCTL] & RCTL_LBM) or self._phy.loopback

    # Receive

    @Registers.RCTL.on_write
    def _on_rctl(self, value: int) -> None:
        self._note_receiver()

    @Registers.RDT.on_write
    @Registers.RDH.on_write
    @Registers.RDLEN.on_write
    def _on_receive(self, value: int) -> None:
        if self._receiver.starved:
            self._receiver.starved = False
            self._receiver.receive(())
            if not self._receiver.starved:
                self.port.resume()

    @Registers.RAL.on_write
    @Registers.RAH.on_write
    @Registers.MTA.on_write
    def _on_filter(self, value: int) -> None:
        self._filters.forget()

    def _note_receiver(self) -> None:
        """The receiver was set up anew."""
        self._filters.forget()
        self._on_receive(0)

    def _receive(self, frames: Sequence[Frame]) -> int:
        if self._loops:
            self.drops["loopback"] += len(frames)
            return len(frames)
        if not self.words[STATUS] & STATUS_LU:
            self.drops["no link"] += len(frames)
            return len(frames)
        return self._receiver.receive(frames)

    # Link

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
        shown = _DETECTED[speed] << STATUS_ASDV_SHIFT
        if ctrl & CTRL_FRCSPD:
            speed = min(ctrl >> CTRL_SPEED_SHIFT & 3, 2)
        if ctrl & CTRL_FRCDPX:
            full = bool(ctrl & CTRL_FD)
        if phy.up and ctrl & CTRL_SLU:
            shown |= STATUS_LU
        shown |= speed << STATUS_SPEED_SHIFT | (STATUS_FD if full else 0)
        self.words[STATUS] = self.words[STATUS] & ~_STATUS_LINK_BITS | shown

    def stats(self) -> dict[str, object]:
        """Return counters as plain data."""
        words = self.words
        return port_stats(self.port) | {
            "drops": dict(self.drops + self.port.drops),
            "interrupts": self._causes.raised,
            "link": bool(words[STATUS] & STATUS_LU),
            "receiver": bool(words[RCTL] & RCTL_EN),
            "registers": {
                name: words[getattr(Registers, name).index]
                for name in ("GPRC", "GPTC", "MPC", "RNBC", "ROC")
            },
        }


def _indexes(names: frozenset[str]) -> set[int]:
    return {index for name in names for index in Registers.TABLE[name].indexes}


assert IO_WINDOW > IODATA
