# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Causes, masks and moderation of interrupts (manual, 3.2.7, 3.3.3.1 and 13.4.17 to 13.4.22).

Causes gather in ICR; the pin is up while ICR & IMS isn't zero. Reading ICR clears it. Three delays:

* ITR: the pin doesn't rise sooner than so long after it rose last.
* RDTR and RADV: a received frame is reported when no other came for RDTR, at the latest after RADV.
* TIDV and TADV: the same for transmitted descriptors that ask for a delay (IDE).

A delay of zero is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from vmwire.bus.pci.chip import InterruptPin
from vmwire.engine.clock import Timer, Timers
from vmwire.nic.e1000.registers import RXT0, TXDW
from vmwire.nic.e1000.registers import Registers as R

ICR = R.ICR.index
IMS = R.IMS.index
ITR = R.ITR.index
RDTR = R.RDTR.index
RADV = R.RADV.index
TIDV = R.TIDV.index
TADV = R.TADV.index

ITR_UNIT_S = 256e-9
DELAY_UNIT_S = 1.024e-6


class Moderation(Protocol):
    """What a delay needs of the interrupt logic."""

    words: list[int]
    timers: Timers

    @property
    def moderated(self) -> bool:
        """Whether delays count."""

    def raise_(self, causes: int) -> None:
        """Add causes."""


class Delay:
    """One cause, put off by a timer that starts again with each event and one that doesn't."""

    def __init__(
        self, causes: Moderation, cause: int, packet_index: int, absolute_index: int
    ) -> None:
        self._causes = causes
        self._cause = cause
        self._packet_index = packet_index
        self._absolute_index = absolute_index
        self._packet: Timer | None = None
        self._absolute: Timer | None = None

    @property
    def pending(self) -> bool:
        """Whether there is something to report later."""
        return self._packet is not None

    def event(self) -> int:
        """Note an event; return the cause if it is to be reported at once, else 0."""
        words, timers = self._causes.words, self._causes.timers
        wait = words[self._packet_index]
        if not wait or not self._causes.moderated:
            self.stop()
            return self._cause
        if self._packet is not None:
            self._packet.cancel()
        self._packet = timers.call_later(wait * DELAY_UNIT_S, self.on_packet_timer)
        most = words[self._absolute_index]
        if most and self._absolute is None:
            self._absolute = timers.call_later(most * DELAY_UNIT_S, self.on_absolute_timer)
        return 0

    def on_packet_timer(self) -> None:
        """No event came for a while."""
        self.flush()

    def on_absolute_timer(self) -> None:
        """The first event was long enough ago."""
        self.flush()

    def flush(self) -> None:
        """Report now what is put off, if anything is."""
        if self._packet is not None:
            self.stop()
            self._causes.raise_(self._cause)

    def stop(self) -> None:
        """Forget it."""
        for timer in (self._packet, self._absolute):
            if timer is not None:
                timer.cancel()
        self._packet = self._absolute = None


class RingCauses(Protocol):
    """What a ring needs of the interrupt logic."""

    rx: Delay
    tx: Delay

    def raise_(self, causes: int) -> None:
        """Add causes."""


class Causes:
    """The chip's interrupt logic over ``words``."""

    def __init__(
        self, words: list[int], pin: InterruptPin, timers: Timers, *, moderated: bool = True
    ) -> None:
        self.words = words
        self.timers = timers
        self.moderated = moderated
        self.raised = 0
        """How often the pin rose."""
        self._pin = pin
        self._up = False
        self._rose_at = float("-inf")
        self._throttle: Timer | None = None
        self.rx = Delay(self, RXT0, RDTR, RADV)
        self.tx = Delay(self, TXDW, TIDV, TADV)

    def raise_(self, causes: int) -> None:
        """Add causes."""
        self.words[ICR] |= causes
        self.update()

    def read(self) -> int:
        """Read ICR."""
        words = self.words
        causes = words[ICR]
        words[ICR] = 0
        if self._up:
            self._up = False
            self._pin.set_level(False)
        return causes

    def update(self) -> None:
        """Bring the pin into line with ICR and IMS."""
        words = self.words
        if words[ICR] & words[IMS]:
            if not self._up and self._throttle is None:
                self._rise()
        elif self._up:
            self._up = False
            self._pin.set_level(False)

    def _rise(self) -> None:
        interval = self.words[ITR] * ITR_UNIT_S if self.moderated else 0.0
        if interval:
            now = self.timers.now()
            wait = self._rose_at + interval - now
            if wait > 0:
                self._throttle = self.timers.call_later(wait, self._throttled)
                return
            self._rose_at = now
        self._up = True
        self.raised += 1
        self._pin.set_level(True)

    def _throttled(self) -> None:
        self._throttle = None
        self._rose_at = float("-inf")
        self.update()
        if self._up:
            self._rose_at = self.timers.now()

    def reset(self) -> None:
        """Forget what is put off and lower the pin. The words are the chip's to clear."""
        self.rx.stop()
        self.tx.stop()
        if self._throttle is not None:
            self._throttle.cancel()
            self._throttle = None
        self._rose_at = float("-inf")
        if self._up:
            self._up = False
            self._pin.set_level(False)

    def save(self) -> dict[str, Any]:
        """Return what is put off; the rest is in the registers."""
        return {"rx": self.rx.pending, "tx": self.tx.pending}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on what ``save`` gave, over words that are restored. Delays end at once."""
        self.reset()
        late = (RXT0 if state["rx"] else 0) | (TXDW if state["tx"] else 0)
        self.raise_(late)
