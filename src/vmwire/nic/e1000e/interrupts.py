# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Causes, masks, vectors and moderation of interrupts (82574 data sheet, section 7.4).

Causes gather in ICR. What happens then depends on what the driver uses:

* *Pin or MSI.* The pin is up while ICR & IMS isn't zero; it doesn't rise sooner than ITR after it
  rose last. RDTR, RADV, TIDV and TADV put off what rings cause.
* *MSI-X.* Five causes have a vector each, by IVAR: receive and transmit of each queue, and OTHER,
  which stands for link, overrun and the like (ICR shows it in this mode only). A cause that becomes
  pending and unmasked sends its message once, not sooner than EITR after the vector's last; ICR's
  bit is cleared then if EIAC says so, IMS's if CTRL_EXT.EIAME and IAM do. The rings' delays don't
  count: EITR is there.

ICR's bit 31 says that an interrupt was sent. Reading ICR clears it if that is so or if all is
masked, and with CTRL_EXT.IAME masks what IAM names; otherwise it changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmwire.bus.pci.chip import InterruptPin
from vmwire.engine.clock import Timer, Timers
from vmwire.nic.e1000.interrupts import DELAY_UNIT_S, ITR_UNIT_S, Delay
from vmwire.nic.e1000.registers import (
    LSC,
    MDAC,
    RXDMT0,
    RXO,
    RXT0,
    SRPD,
    TXD_LOW,
    TXDW,
    TXQE,
)
from vmwire.nic.e1000e.registers import (
    ACK,
    ASSERTED,
    CTRL_EXT_EIAME,
    CTRL_EXT_IAME,
    CTRL_MASTER_DISABLE,
    IVAR_VALID,
    MNG,
    OTHER,
    QUEUES,
    RXQ,
    TXQ,
    VECTORS,
)
from vmwire.nic.e1000e.registers import Registers as R

ICR = R.ICR.index
IMS = R.IMS.index
IAM = R.IAM.index
EIAC = R.EIAC.index
ITR = R.ITR.index
EITR = R.EITR.index
IVAR = R.IVAR.index
CTRL = R.CTRL.index
CTRL_EXT = R.CTRL_EXT.index
RDTR = R.RDTR.index
RADV = R.RADV.index
TIDV = R.TIDV.index
TADV = R.TADV.index
IAC = R.IAC.index

OF_OTHER = LSC | RXO | MDAC | SRPD | ACK | MNG
OF_VECTORS = RXQ[0] | RXQ[1] | TXQ[0] | TXQ[1] | OTHER
_SHIFTS = tuple(zip((*RXQ, *TXQ, OTHER), (0, 4, 8, 12, 16), strict=True))
"""Each cause with a vector, and where IVAR has it."""
_OF_RX = RXT0 | RXDMT0
_OF_TX = TXDW | TXD_LOW

_COUNTED = (
    (TXQE, R.ICTXQEC.index),
    (TXD_LOW, R.ICTXQMTC.index),
    (RXDMT0, R.ICRXDMTC.index),
    (RXO, R.ICRXOC.index),
)
_TO_COUNT = TXQE | TXD_LOW | RXDMT0 | RXO
ONES = 0xFFFFFFFF
NEVER = float("-inf")


class Causes:
    """The chip's interrupt logic over ``words``. Each queue reaches it by its ``QueueCauses``."""

    def __init__(self, words: list[int], pin: InterruptPin, timers: Timers) -> None:
        self.words = words
        self.timers = timers
        self.raised = 0
        """How often an interrupt was sent."""
        self._pin = pin
        self._up = False
        self._rose_at = NEVER
        self._throttle: Timer | None = None
        self._sent = 0
        """Causes whose message was sent, and that are still pending and unmasked."""
        self._sent_at = [NEVER] * VECTORS
        self._waiting: list[Timer | None] = [None] * VECTORS
        self._acknowledged: Timer | None = None
        self.queues = tuple(QueueCauses(self, queue) for queue in range(QUEUES))

    @property
    def moderated(self) -> bool:
        """Whether the rings' delay timers count: with MSI-X they don't."""
        return not self._pin.msix_enabled

    def raise_(self, causes: int) -> None:
        """Add causes."""
        if causes & OF_OTHER and self._pin.msix_enabled:
            causes |= OTHER
        if causes & _TO_COUNT:
            self._count(causes)
        self.words[ICR] |= causes
        self.update()

    def acknowledged(self, delay: int) -> None:
        """A TCP acknowledgement was received; it is reported after RAID's ``delay``."""
        if not delay:
            self.raise_(ACK)
        elif self._acknowledged is None:
            self._acknowledged = self.timers.call_later(delay * DELAY_UNIT_S, self._report_ack)

    def _report_ack(self) -> None:
        self._acknowledged = None
        self.raise_(ACK)

    def _count(self, causes: int) -> None:
        words = self.words
        for cause, index in _COUNTED:
            if causes & cause and words[index] != ONES:
                words[index] += 1

    def update(self) -> None:
        """Bring pin or messages into line with ICR and IMS."""
        if self._pin.msix_enabled:
            self._update_messages()
            return
        words = self.words
        if words[ICR] & words[IMS]:
            if not self._up and self._throttle is None:
                self._rise()
        elif self._up:
            self._lower()

    # Reading and clearing

    def read(self) -> int:
        """Read ICR."""
        words = self.words
        causes = words[ICR]
        if causes & ASSERTED or not words[IMS]:
            words[ICR] = 0
            self._acknowledge(causes)
            self.update()
        return causes

    def clear(self, causes: int) -> None:
        """Write ICR."""
        words = self.words
        before = words[ICR]
        if causes & OTHER:
            causes |= OF_OTHER
        words[ICR] = self._with_assertion(before & ~causes)
        self._acknowledge(before)
        self.update()

    def _acknowledge(self, causes: int) -> None:
        """Mask by IAM what was acknowledged."""
        words = self.words
        if causes & ASSERTED and words[CTRL_EXT] & CTRL_EXT_IAME:
            words[IMS] &= ~words[IAM]

    @staticmethod
    def _with_assertion(causes: int) -> int:
        """Nothing pending is nothing asserted."""
        return causes if causes & ~ASSERTED else 0

    # The pin

    def _rise(self) -> None:
        interval = self.words[ITR] * ITR_UNIT_S
        if interval:
            now = self.timers.now()
            wait = self._rose_at + interval - now
            if wait > 0:
                self._throttle = self.timers.call_later(wait, self._throttled)
                return
            self._rose_at = now
        self._up = True
        self._note_assertion()
        self._pin.set_level(True)

    def _note_assertion(self) -> None:
        words = self.words
        words[ICR] |= ASSERTED
        self.raised += 1
        if words[IAC] != ONES:
            words[IAC] += 1

    def _lower(self) -> None:
        self._up = False
        self._pin.set_level(False)

    def _throttled(self) -> None:
        self._throttle = None
        self._rose_at = NEVER
        self.update()
        if self._up:
            self._rose_at = self.timers.now()

    # Messages

    def _update_messages(self) -> None:
        words = self.words
        pending = words[ICR] & words[IMS] & OF_VECTORS
        self._sent &= pending
        new = pending & ~self._sent
        if not new or words[CTRL] & CTRL_MASTER_DISABLE:
            return
        vectors = words[IVAR]
        for cause, shift in _SHIFTS:
            if new & cause:
                entry = vectors >> shift & 0xF
                vector = entry & 7
                if entry & IVAR_VALID and vector < VECTORS and self._may_send(vector):
                    self._send(cause, vector)

    def _may_send(self, vector: int) -> bool:
        """Whether EITR lets a message go now; if it doesn't, it is looked at again later."""
        if self._waiting[vector] is not None:
            return False
        interval = self.words[EITR + vector] * ITR_UNIT_S
        if interval:
            now = self.timers.now()
            wait = self._sent_at[vector] + interval - now
            if wait > 0:
                timer = self.timers.call_later(wait, lambda: self._waited(vector))
                self._waiting[vector] = timer
                return False
            self._sent_at[vector] = now
        return True

    def _waited(self, vector: int) -> None:
        self._waiting[vector] = None
        self._sent_at[vector] = NEVER
        before = self.raised
        self.update()
        if self.raised != before:
            self._sent_at[vector] = self.timers.now()

    def _send(self, cause: int, vector: int) -> None:
        words = self.words
        self._note_assertion()
        self._sent |= cause
        self._pin.notify(vector)
        if words[CTRL_EXT] & CTRL_EXT_EIAME:
            words[IMS] &= ~(words[IAM] & cause)
        if words[EIAC] & cause:
            words[ICR] = self._with_assertion(words[ICR] & ~cause)
            self._sent &= ~cause

    def forget(self, causes: int) -> None:
        """Drop messages of these causes that the table's masks hold back."""
        entries = self.words[IVAR]
        found = 0
        for cause, shift in _SHIFTS:
            if causes & cause and entries >> shift & IVAR_VALID:
                found |= 1 << (entries >> shift & 7)
        self.forget_vectors(found)

    def forget_vectors(self, vectors: int) -> None:
        """The same by vectors, a bit for each."""
        if self._pin.msix_enabled:
            self._pin.forget(vectors)

    # Reset and state

    def reset(self) -> None:
        """Forget what is put off and lower the pin. The words are the chip's to clear."""
        for queue in self.queues:
            queue.rx.stop()
            queue.tx.stop()
        for timer in (self._throttle, self._acknowledged, *self._waiting):
            if timer is not None:
                timer.cancel()
        self._throttle = self._acknowledged = None
        self._waiting = [None] * VECTORS
        self._rose_at = NEVER
        self._sent_at = [NEVER] * VECTORS
        self._sent = 0
        if self._up:
            self._lower()

    def save(self) -> dict[str, Any]:
        """Return what is put off; the rest is in the registers."""
        return {"delayed": [[queue.rx.pending, queue.tx.pending] for queue in self.queues]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on what ``save`` gave, over words that are restored.

        Delays end at once, and what is pending is sent, perhaps again: better so than never.
        """
        delayed = list(state["delayed"])
        if len(delayed) != QUEUES:
            raise ValueError("not an interrupt logic's state")
        self.reset()
        self._pin.set_level(False)
        late = 0
        for queue, (rx, tx) in zip(self.queues, delayed, strict=True):
            late |= (queue.of_rx if rx else 0) | (queue.of_tx if tx else 0)
        self.raise_(late)


class QueueCauses:
    """What a queue's rings raise: the cause itself, and the queue's own."""

    def __init__(self, causes: Causes, queue: int) -> None:
        self._causes = causes
        self._rx_bit, self._tx_bit = RXQ[queue], TXQ[queue]
        self.of_rx, self.of_tx = RXT0 | self._rx_bit, TXDW | self._tx_bit
        self.rx: Delay = CountedDelay(
            causes, self.of_rx, RDTR, RADV, R.ICRXPTC.index, R.ICRXATC.index
        )
        self.tx: Delay = CountedDelay(
            causes, self.of_tx, TIDV, TADV, R.ICTXPTC.index, R.ICTXATC.index
        )

    def raise_(self, causes: int) -> None:
        """Add causes."""
        if causes & _OF_RX:
            causes |= self._rx_bit
        if causes & _OF_TX:
            causes |= self._tx_bit
        self._causes.raise_(causes)


class CountedDelay(Delay):
    """A delay whose ends are counted, by which of its timers ended it."""

    def __init__(
        self,
        causes: Causes,
        cause: int,
        packet_index: int,
        absolute_index: int,
        packet_count: int,
        absolute_count: int,
    ) -> None:
        super().__init__(causes, cause, packet_index, absolute_index)
        self._words = causes.words
        self._packet_count, self._absolute_count = packet_count, absolute_count

    def on_packet_timer(self) -> None:
        """No event came for a while."""
        self._count(self._packet_count)
        super().on_packet_timer()

    def on_absolute_timer(self) -> None:
        """The first event was long enough ago."""
        self._count(self._absolute_count)
        super().on_absolute_timer()

    def _count(self, index: int) -> None:
        if self._words[index] != ONES:
            self._words[index] += 1
