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
from typing import Any, ClassVar

from vmwire.bus.pci.chip import Slot
from vmwire.nic.e1000.eeprom import Eeprom, contents
from vmwire.nic.e1000.filters import Filters
from vmwire.nic.e1000.interrupts import Causes
from vmwire.nic.e1000.mac import Mac, Places
from vmwire.nic.e1000.models import Model
from vmwire.nic.e1000.phy import Phy
from vmwire.nic.e1000.receive import LONGEST, Receiver
from vmwire.nic.e1000.registers import (
    CTRL_EXT_EE_RST,
    CTRL_PHY_RST,
    CTRL_RST,
    EXTRA,
    RDTR_FPD,
    STATUS_LU,
    Registers,
)
from vmwire.nic.e1000.statistics import Statistics
from vmwire.nic.e1000.transmit import Transmitter
from vmwire.wire.frame import Frame, Gso
from vmwire.wire.offload import finish
from vmwire.wire.port import Accepts, Port

CTRL = Registers.CTRL.index
ICR = Registers.ICR.index
IMS = Registers.IMS.index
RCTL = Registers.RCTL.index
STATUS = Registers.STATUS.index

_PLACES = Places(
    (
        Registers.ICR, Registers.ITR, Registers.IMS, Registers.RCTL, Registers.TCTL,
        Registers.RDBAL, Registers.RDBAH, Registers.RDLEN, Registers.RDH, Registers.RDT,
        Registers.TDBAL, Registers.TDBAH, Registers.TDLEN, Registers.TDH, Registers.TDT,
    )
)  # fmt: skip

STATE_VERSION = 1


class E1000(Mac, Registers):
    """One card of the family; see ``vmwire.bus.pci.chip.Chip`` for the contract.

    ``autonegotiation``: the link takes its time to come up. ``mitigation``: interrupts are put off
    as the registers ask. ``init_vet``: VET is 8100h after a reset. ``extra_registers``: those of
    ``EXTRA`` are there. ``migrate_tso_props``: a saved state holds a context for segmentation.
    """

    IO_REGION: ClassVar[int] = 1
    DETECTED: ClassVar[tuple[int, int, int]] = (0, 1, 3)

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
        self._defer = slot.defer
        self._io_address = 0
        if not extra_registers:
            self.hide(EXTRA)
        self._eeprom = Eeprom(contents(mac, model.device))
        self._causes: Causes = Causes(
            self.words, slot.interrupts, slot.timers, moderated=mitigation
        )
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
        self._take_address(self._eeprom.mac)
        self._transmitter.reset()
        self._receiver.reset()
        self.EECD = self._eeprom.pins()
        self._show_link()
        self._note_receiver()

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
        return _PLACES.pack(self.words)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on a state that ``save`` gave. ValueError if it isn't one."""
        try:
            if state["version"] != STATE_VERSION or state["model"] != self.model.name:
                raise ValueError(f"not a state of this {self.model.chip}")
            self._causes.reset()
            self.restore_registers(bytes(state["registers"]))
            _PLACES.put(self.words, state.get("place"))
            self._io_address = int(state["io_address"]) & 0xFFFFFFFF
            self._eeprom.restore(state["eeprom"])
            self._phy.restore(state["phy"], self.port.carrier)
            self._transmitter.restore(state["transmit"])
            self._causes.restore(state["interrupts"])
        except (KeyError, TypeError, IndexError, OverflowError) as error:
            raise ValueError(f"not a card's state: {error!r}") from error
        self._note_receiver()
        self._defer(self._transmitter.run)  # nothing leaves while the card may be another's yet

    # General registers

    @Registers.CTRL.on_write
    def _on_ctrl(self, value: int) -> None:
        if value & CTRL_RST:
            self._software_reset()
        if value & CTRL_PHY_RST:
            self._phy.hard_reset()
        self._show_link()

    @Registers.CTRL_EXT.on_write
    def _on_ctrl_ext(self, value: int) -> None:
        if value & CTRL_EXT_EE_RST:
            self._take_address(self._eeprom.mac)
            self._filters.forget()

    @Registers.EECD.on_write
    def _on_eecd(self, value: int) -> None:
        self._eeprom.drive(value)
        self.EECD = self._eeprom.pins()

    @Registers.EERD.on_write
    def _on_eerd(self, value: int) -> None:
        self.EERD = self._eeprom.read_register(value)

    @Registers.WUS.on_write
    def _on_wus(self, value: int) -> None:
        self.WUS &= ~value

    # Interrupts

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

    @Registers.RDTR.on_write
    def _on_rdtr(self, value: int) -> None:
        if value & RDTR_FPD:
            self._causes.rx.flush()

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
