# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The statistics registers (manual, 13.7).

Lengths are those of the wire, with the frame check sequence and without what stripping takes away.
All counters stop at all ones. Pairs of registers are one 64-bit counter each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from vmwire.nic.e1000.registers import Registers as R

FCS = 4
ONES = 0xFFFFFFFF

_BOUNDS = (64, 127, 255, 511, 1023)
_RX_SIZES = [R.PRC64.index + bin_ for bin_ in range(6)]
_TX_SIZES = [R.PTC64.index + bin_ for bin_ in range(6)]
GPRC = R.GPRC.index
TPR = R.TPR.index
BPRC = R.BPRC.index
MPRC = R.MPRC.index
GORCL = R.GORCL.index
TORL = R.TORL.index
GPTC = R.GPTC.index
TPT = R.TPT.index
BPTC = R.BPTC.index
MPTC = R.MPTC.index
GOTCL = R.GOTCL.index
TOTL = R.TOTL.index
TSCTC = R.TSCTC.index

BROADCAST = b"\xff" * 6


class Statistics:
    """Counting, over the chip's ``words``."""

    def __init__(self, words: list[int]) -> None:
        self._words = words

    def add(self, index: int, number: int = 1) -> None:
        """Count into one register."""
        total = self._words[index] + number
        self._words[index] = total if total < ONES else ONES

    def add_pair(self, low: int, number: int) -> None:
        """Count into a pair of registers."""
        words = self._words
        total = (words[low + 1] << 32 | words[low]) + number
        if total >> 64:
            total = (1 << 64) - 1
        words[low], words[low + 1] = total & ONES, total >> 32

    def read_pair_high(self, low: int) -> int:
        """Read a pair's upper half, which clears both."""
        words = self._words
        high = words[low + 1]
        words[low] = words[low + 1] = 0
        return high

    def received(self, lengths: Sequence[int], groups: Sequence[int]) -> None:
        """Count frames that were delivered, by lengths without FCS and ``group_of``."""
        words = self._words
        for length in lengths:
            index = _RX_SIZES[bisect_left(_BOUNDS, length + FCS)]
            if words[index] != ONES:
                words[index] += 1
        number = len(lengths)
        self.add(GPRC, number)
        self.add(TPR, number)
        octets = sum(lengths) + FCS * number
        self.add_pair(GORCL, octets)
        self.add_pair(TORL, octets)
        if multicast := groups.count(1):
            self.add(MPRC, multicast)
        if broadcast := groups.count(2):
            self.add(BPRC, broadcast)

    def refused(self, length: int) -> None:
        """Count a frame that the filters kept out: it is in the totals only."""
        self.add(TPR)
        self.add_pair(TORL, length + FCS)

    def sent(self, lengths: Sequence[int], groups: Sequence[int]) -> None:
        """Count frames as ``received`` does."""
        words = self._words
        for length in lengths:
            index = _TX_SIZES[bisect_left(_BOUNDS, length + FCS)]
            if words[index] != ONES:
                words[index] += 1
        number = len(lengths)
        self.add(GPTC, number)
        self.add(TPT, number)
        octets = sum(lengths) + FCS * number
        self.add_pair(GOTCL, octets)
        self.add_pair(TOTL, octets)
        if multicast := groups.count(1):
            self.add(MPTC, multicast)
        if broadcast := groups.count(2):
            self.add(BPTC, broadcast)


def group_of(destination: bytes) -> int:
    """Return 0 for a unicast address, 1 for a multicast one, 2 for broadcast."""
    if destination == BROADCAST:
        return 2
    return destination[0] & 1
