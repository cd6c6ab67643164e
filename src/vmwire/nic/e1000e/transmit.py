# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""One transmit queue of the 82574 (data sheet, section 7.2).

Its ring works as the 8254x's. Beside that the queue's TARC must say that it is enabled, and a data
descriptor can ask for the time when its packet is sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from vmwire.engine.dma import Dma
from vmwire.nic.e1000.statistics import Statistics
from vmwire.nic.e1000.transmit import DEXT, QUEUE_STRIDE, Packet, Transmitter
from vmwire.nic.e1000e.interrupts import QueueCauses
from vmwire.nic.e1000e.registers import TARC_ENABLE
from vmwire.nic.e1000e.registers import Registers as R
from vmwire.nic.e1000e.timesync import TimeSync
from vmwire.wire.frame import Frame

TARC = R.TARC0.index
TSTAMP = 1 << 4
"""In a data descriptor's upper word."""


class QueueTransmitter(Transmitter):
    """Over the chip's ``words``."""

    def __init__(
        self,
        words: list[int],
        dma: Dma,
        causes: QueueCauses,
        statistics: Statistics,
        send: Callable[[Sequence[Frame]], int],
        defer: Callable[[Callable[[], None]], None],
        drops: Counter[str],
        *,
        queue: int,
        sync: TimeSync,
    ) -> None:
        super().__init__(words, dma, causes, statistics, send, defer, drops, queue=queue)
        self._arbitration = TARC + QUEUE_STRIDE * queue
        self._sync = sync

    def run(self) -> None:
        """Send what is in the ring."""
        if self._words[self._arbitration] & TARC_ENABLE:
            super().run()

    def _frame(self, packet: Packet, lower: int, upper: int) -> Frame | None:
        if lower & DEXT and upper & TSTAMP:
            self._sync.stamp_sent()
        return super()._frame(packet, lower, upper)
