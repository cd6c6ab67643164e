# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The statistics registers (manual, 13.7).

Lengths are those of the wire, with the frame check sequence and without what stripping takes away.
All counters stop at all ones. Pairs of registers are one 64-bit counter each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from vmwire.nic.e1000.registers import Registers as R

FCS = 4
ONES = 0xFFFFFFFF

_BOUNDS = (64, 127, 255, 511, 1023)
TSCTC = R.TSCTC.index
TPR = R.TPR.index
TORL = R.TORL.index


class Counters(NamedTuple):
    """Where one direction is counted: indices of registers (of a pair, the lower one)."""

    sizes: tuple[int, ...]
    """By length: up to 64, 127, 255, 511, 1023 octets, and more."""
    frames: int
    all_frames: int
    multicast: int
    broadcast: int
    octets: int
    all_octets: int


RECEIVED = Counters(
    tuple(range(R.PRC64.index, R.PRC64.index + 6)),
    R.GPRC.index, TPR, R.MPRC.index, R.BPRC.index, R.GORCL.index, TORL,
)  # fmt: skip
SENT = Counters(
    tuple(range(R.PTC64.index, R.PTC64.index + 6)),
    R.GPTC.index, R.TPT.index, R.MPTC.index, R.BPTC.index, R.GOTCL.index, R.TOTL.index,
)  # fmt: skip

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

    def passed(self, to: Counters, lengths: Sequence[int], groups: Sequence[int]) -> None:
        """Count frames that were delivered or sent, by lengths without FCS and ``group_of``."""
        words = self._words
        sizes = to.sizes
        for length in lengths:
            index = sizes[bisect_left(_BOUNDS, length + FCS)]
            if words[index] != ONES:
                words[index] += 1
        number = len(lengths)
        self.add(to.frames, number)
        self.add(to.all_frames, number)
        octets = sum(lengths) + FCS * number
        self.add_pair(to.octets, octets)
        self.add_pair(to.all_octets, octets)
        if multicast := groups.count(1):
            self.add(to.multicast, multicast)
        if broadcast := groups.count(2):
            self.add(to.broadcast, broadcast)

    def refused(self, length: int, count: int = 1) -> None:
        """Count frames of ``length`` bytes together that the filters kept out: they are in the
        totals only."""
        self.add(TPR, count)
        self.add_pair(TORL, length + FCS * count)


def group_of(destination: bytes) -> int:
    """Return 0 for a unicast address, 1 for a multicast one, 2 for broadcast."""
    if destination == BROADCAST:
        return 2
    return destination[0] & 1
