# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The chip: its register windows, and what hangs on the registers.

BAR 0 is the registers. BAR 1 is the flash, which reads as zeros. BAR 2 is two I/O words through
which the registers are reached without memory space: IOADDR says which one, IODATA is it. BAR 3 is
the MSI-X table, which the bus answers. The registers are 32 bits wide; smaller accesses see a part.

The chip has no clock of its own and recurses nowhere: what it sends in a loopback mode goes
straight to its receivers, which send nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from vmwire.bus.pci.chip import Slot
from vmwire.nic.e1000.filters import Filters
from vmwire.nic.e1000.mac import Mac, Places
from vmwire.nic.e1000.receive import LONGEST
from vmwire.nic.e1000.registers import (
    CTRL_EXT_EE_RST,
    CTRL_PHY_RST,
    CTRL_RST,
    RDTR_FPD,
    STATUS_LU,
)
from vmwire.nic.e1000.statistics import Statistics
from vmwire.nic.e1000e.interrupts import Causes
from vmwire.nic.e1000e.nvm import Nvm, contents
from vmwire.nic.e1000e.phy import PagedPhy
from vmwire.nic.e1000e.receive import ExtendedReceiver, Shared, SplitReceiver
from vmwire.nic.e1000e.registers import (
    CTRL_EXT_PBA_CLR,
    CTRL_MASTER_DISABLE,
    EEMNGCTL_CFG_DONE,
    QUEUES,
    RCTL_SPLIT,
    STATUS_MASTER_ENABLED,
    STATUS_PHYRA,
    SWSM_SMBI,
    TSYNC_VALID,
    VECTORS,
    WRITABLE_CAUSES,
    Registers,
)
from vmwire.nic.e1000e.scaling import Scaling
from vmwire.nic.e1000e.timesync import TimeSync
from vmwire.nic.e1000e.transmit import QueueTransmitter
from vmwire.wire.frame import Frame, Gso
from vmwire.wire.offload import finish
from vmwire.wire.port import Accepts, Port

CTRL = Registers.CTRL.index
ICR = Registers.ICR.index
IMS = Registers.IMS.index
RCTL = Registers.RCTL.index
STATUS = Registers.STATUS.index

_RCTL_DTYP = 3 << 10

_PLACES = Places(
    (
        Registers.ICR, Registers.IMS, Registers.RCTL, Registers.TCTL,
        Registers.RDBAL, Registers.RDBAH, Registers.RDLEN, Registers.RDH, Registers.RDT,
        Registers.TDBAL, Registers.TDBAH, Registers.TDLEN, Registers.TDH, Registers.TDT,
        Registers.RDBAL1, Registers.RDBAH1, Registers.RDLEN1, Registers.RDH1, Registers.RDT1,
        Registers.TDBAL1, Registers.TDBAH1, Registers.TDLEN1, Registers.TDH1, Registers.TDT1,
        Registers.CTRL, Registers.CTRL_EXT, Registers.IVAR, Registers.EIAC, Registers.IAM,
        Registers.RXCSUM, Registers.RFCTL, Registers.PSRCTL,
    )
)  # fmt: skip

STATE_VERSION = 1


class E1000E(Mac, Registers):
    """The card; see ``vmwire.bus.pci.chip.Chip`` for the contract.

    ``init_vet``: VET is 8100h after a reset. ``offloads``: superframes and unfinished checksums
    pass between the card and its wire. ``migrate_timadj``: a saved state holds TIMADJ.
    """

    IO_REGION: ClassVar[int] = 2
    DETECTED: ClassVar[tuple[int, int, int]] = (0, 1, 2)

    def __init__(
        self,
        slot: Slot,
        *,
        mac: bytes,
        init_vet: bool = True,
        offloads: bool = True,
        migrate_timadj: bool = True,
    ) -> None:
        super().__init__()
        self.drops: Counter[str] = Counter()
        """Frames lost here, and rings that couldn't be followed, by reason."""
        kinds = Gso.TCPV4 | Gso.TCPV6 | Gso.ECN if offloads else Gso.NONE
        self.port = Port(
            slot.name,
            self._receive,
            resume=self._on_resume,
            link_changed=self._on_carrier,
            accepts=Accepts(offloads, kinds, LONGEST),
        )
        self._wire_takes = self.port.send if offloads else self.port.send_plain
        self._init_vet = init_vet
        self._migrate_timadj = migrate_timadj
        self._defer = slot.defer
        self._io_address = 0
        self._nvm = Nvm(contents(mac))
        self._causes: Causes = Causes(self.words, slot.interrupts, slot.timers)
        self._phy = PagedPhy(slot.timers, self._on_link)
        self._statistics = Statistics(self.words)
        self._filters = Filters(self.words)
        self._scaling = Scaling(self.words)
        self._sync = TimeSync(self.words, slot.timers.now)
        self._make_queues(slot)
        self.reset()

    def _make_queues(self, slot: Slot) -> None:
        shared = Shared(
            self.words, slot.dma, self._statistics, self._filters, self.drops, self._scaling,
            self._sync, self._causes,
        )  # fmt: skip
        self._plain = [ExtendedReceiver(shared, queue) for queue in range(QUEUES)]
        self._split = [SplitReceiver(shared, queue) for queue in range(QUEUES)]
        self._receivers: Sequence[ExtendedReceiver] = self._plain
        self._transmitters = [
            QueueTransmitter(
                self.words, slot.dma, self._causes.queues[queue], self._statistics, self._send,
                slot.defer, self.drops, queue=queue, sync=self._sync,
            )
            for queue in range(QUEUES)
        ]  # fmt: skip

    # Reset and state

    def reset(self) -> None:
        """Power on."""
        self._io_address = 0
        self._sync.reset()
        self._software_reset()
        self._phy.reset(self.port.carrier)
        self.words[ICR] = 0
        self._causes.update()

    def _software_reset(self) -> None:
        """CTRL.RST: all of the MAC; the PHY, its link and the clock stay (10.2.2.1)."""
        self._causes.reset()
        stamped = self.TIMINCA
        self.reset_registers()
        self.TIMINCA = stamped
        if not self._init_vet:
            self.VET = 0
        self._take_address(self._nvm.mac)
        for transmitter in self._transmitters:
            transmitter.reset()
        for receiver in (*self._plain, *self._split):
            receiver.reset()
        self._scaling.forget()
        self._show_link()
        self._note_receiver()

    def save(self) -> dict[str, Any]:
        """Return the whole state as plain data."""
        return {
            "version": STATE_VERSION,
            "model": "e1000e",
            "registers": self.save_registers(),
            "io_address": self._io_address,
            "nvm": self._nvm.save(),
            "phy": self._phy.save(),
            "transmit": self._transmitters[0].save(),
            "transmit 1": self._transmitters[1].save(),
            "interrupts": self._causes.save(),
            "sync": self._sync.save(),
        }

    def save_place(self) -> bytes:
        """Return the rings' and the interrupts' registers; see ``vmwire.bus.pci.chip.Placed``."""
        return _PLACES.pack(self.words)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on a state that ``save`` gave. ValueError if it isn't one."""
        try:
            if state["version"] != STATE_VERSION or state["model"] != "e1000e":
                raise ValueError("not a state of an 82574L")
            self._restore_parts(state)
        except (KeyError, TypeError, IndexError, OverflowError) as error:
            raise ValueError(f"not a card's state: {error!r}") from error
        self._scaling.forget()
        self._note_receiver()
        self._defer(self._transmit)  # nothing leaves while the card may be another's yet

    def _restore_parts(self, state: Mapping[str, Any]) -> None:
        self._causes.reset()
        self.restore_registers(bytes(state["registers"]))
        _PLACES.put(self.words, state.get("place"))
        if not self._migrate_timadj:
            self.TIMADJL = self.TIMADJH = 0
        self._io_address = int(state["io_address"]) & 0xFFFFFFFF
        self._nvm.restore(state["nvm"])
        self._phy.restore(state["phy"], self.port.carrier)
        self._transmitters[0].restore(state["transmit"])
        self._transmitters[1].restore(state["transmit 1"])
        self._sync.restore(state["sync"])
        self._causes.restore(state["interrupts"])

    # General registers

    @Registers.CTRL.on_write
    def _on_ctrl(self, value: int) -> None:
        if value & CTRL_RST:
            self._software_reset()
        if value & CTRL_PHY_RST:
            self.STATUS |= STATUS_PHYRA
            self.EEMNGCTL |= EEMNGCTL_CFG_DONE
            self._phy.hard_reset()
        self._show_link()
        self._causes.update()

    @Registers.STATUS.on_write
    def _on_status(self, value: int) -> None:
        if not value & STATUS_PHYRA:
            self.STATUS &= ~STATUS_PHYRA

    @Registers.CTRL_EXT.on_write
    def _on_ctrl_ext(self, value: int) -> None:
        if value & CTRL_EXT_EE_RST:
            self._take_address(self._nvm.mac)
            self._filters.forget()

    @Registers.EECD.on_write
    def _on_eecd(self, value: int) -> None:
        self.EECD = self._nvm.control_register(value)

    @Registers.EERD.on_write
    def _on_eerd(self, value: int) -> None:
        self.EERD = self._nvm.read_register(value)

    @Registers.EEWR.on_write
    def _on_eewr(self, value: int) -> None:
        self.EEWR = self._nvm.write_register(value)

    @Registers.SWSM.on_read
    def _read_swsm(self) -> int:
        """Who reads SMBI as clear has it."""
        value = self.SWSM
        self.SWSM = value | SWSM_SMBI
        return value

    # Interrupts

    @Registers.ICR.on_write
    def _on_icr(self, value: int) -> None:
        self._causes.clear(value)

    @Registers.ICS.on_write
    def _on_ics(self, value: int) -> None:
        self._causes.raise_(value & WRITABLE_CAUSES)

    @Registers.ICS.on_read
    def _read_ics(self) -> int:
        return self.ICR

    @Registers.IMS.on_write
    def _on_ims(self, value: int) -> None:
        self.words[IMS] |= value & WRITABLE_CAUSES
        if self.CTRL_EXT & CTRL_EXT_PBA_CLR:
            self._causes.forget(value)
        self._causes.update()

    @Registers.IVAR.on_write
    def _on_ivar(self, value: int) -> None:
        self._causes.update()

    @Registers.PBACLR.on_write
    def _on_pbaclr(self, value: int) -> None:
        self._causes.forget_vectors(value & (1 << VECTORS) - 1)

    @Registers.RDTR.on_write
    def _on_rdtr(self, value: int) -> None:
        if value & RDTR_FPD:
            for queue in self._causes.queues:
                queue.rx.flush()

    @Registers.TIDV.on_write
    def _on_tidv(self, value: int) -> None:
        if value & RDTR_FPD:
            for queue in self._causes.queues:
                queue.tx.flush()

    # Time

    @Registers.SYSTIML.on_read
    def _read_systiml(self) -> int:
        return self._sync.read_low()

    @Registers.SYSTIMH.on_write
    def _on_systimh(self, value: int) -> None:
        self._sync.written()

    @Registers.TIMADJH.on_write
    def _on_timadjh(self, value: int) -> None:
        self._sync.adjust()

    @Registers.TIMINCA.on_write
    def _on_timinca(self, value: int) -> None:
        self._sync.set_rate()

    @Registers.RXSTMPH.on_read
    def _read_rxstmph(self) -> int:
        self.TSYNCRXCTL &= ~TSYNC_VALID
        return self.RXSTMPH

    @Registers.TXSTMPH.on_read
    def _read_txstmph(self) -> int:
        self.TSYNCTXCTL &= ~TSYNC_VALID
        return self.TXSTMPH

    # Transmit

    @Registers.TDT.on_write
    @Registers.TDH.on_write
    @Registers.TDLEN.on_write
    @Registers.TARC0.on_write
    def _on_transmit_0(self, value: int) -> None:
        self._transmitters[0].run()

    @Registers.TDT1.on_write
    @Registers.TDH1.on_write
    @Registers.TDLEN1.on_write
    @Registers.TARC1.on_write
    def _on_transmit_1(self, value: int) -> None:
        self._transmitters[1].run()

    @Registers.TCTL.on_write
    def _on_tctl(self, value: int) -> None:
        self._transmit()

    def _transmit(self) -> None:
        for transmitter in self._transmitters:
            transmitter.run()

    def _on_resume(self) -> None:
        self._transmit()

    def _send(self, frames: Sequence[Frame]) -> int:
        if not self._loops:
            if self.words[STATUS] & STATUS_LU:
                return self._wire_takes(frames)
            self.drops["no link"] += len(frames)
            return len(frames)
        for frame in frames:
            whole = [frame] if frame.offload.plain else finish(frame)
            for part in whole:
                self._receivers[self._queue_of(part)].receive_own([part])
        return len(frames)

    # Receive

    @Registers.RCTL.on_write
    def _on_rctl(self, value: int) -> None:
        self._note_receiver()

    @Registers.RDT.on_write
    @Registers.RDH.on_write
    @Registers.RDLEN.on_write
    def _on_receive_0(self, value: int) -> None:
        self._go_on_receiving(0)

    @Registers.RDT1.on_write
    @Registers.RDH1.on_write
    @Registers.RDLEN1.on_write
    def _on_receive_1(self, value: int) -> None:
        self._go_on_receiving(1)

    def _go_on_receiving(self, queue: int) -> None:
        receiver = self._receivers[queue]
        if receiver.starved:
            receiver.starved = False
            receiver.receive(())
            if not receiver.starved:
                self.port.resume()

    @Registers.RSSRK.on_write
    def _on_key(self, value: int) -> None:
        self._scaling.forget()

    def _note_receiver(self) -> None:
        """The receiver was set up anew."""
        self._filters.forget()
        split = self.words[RCTL] & _RCTL_DTYP == RCTL_SPLIT
        chosen: Sequence[ExtendedReceiver] = self._split if split else self._plain
        if chosen is not self._receivers:
            for new, old in zip(chosen, self._receivers, strict=True):
                new.starved = old.starved
                old.reset()
            self._receivers = chosen
        for queue in range(QUEUES):
            self._go_on_receiving(queue)

    def _queue_of(self, frame: Frame) -> int:
        return self._scaling.queue_of(frame) if self._scaling.enabled else 0

    def _receive(self, frames: Sequence[Frame]) -> int:
        if self._loops:
            self.drops["loopback"] += len(frames)
            return len(frames)
        if not self.words[STATUS] & STATUS_LU:
            self.drops["no link"] += len(frames)
            return len(frames)
        if not self._scaling.enabled:
            return self._receivers[0].receive(frames)
        return self._spread(frames)

    def _spread(self, frames: Sequence[Frame]) -> int:
        """Give each run of frames to its queue; a full one holds up what comes behind."""
        queue_of = self._scaling.queue_of
        start = 0
        while start < len(frames):
            queue, end = queue_of(frames[start]), start + 1
            while end < len(frames) and queue_of(frames[end]) == queue:
                end += 1
            taken = self._receivers[queue].receive(frames[start:end])
            if taken < end - start:
                return start + taken
            start = end
        return len(frames)

    # Link

    def _show_link(self) -> None:
        super()._show_link()
        enabled = 0 if self.words[CTRL] & CTRL_MASTER_DISABLE else STATUS_MASTER_ENABLED
        self.words[STATUS] = self.words[STATUS] & ~STATUS_MASTER_ENABLED | enabled
