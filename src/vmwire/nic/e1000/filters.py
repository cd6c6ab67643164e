# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Which frames are received (manual, 3.2.1, 13.4.22, 13.5).

A destination passes as one of the 16 receive addresses, as a multicast address whose hash is in the
multicast table, as broadcast, or because a promiscuous mode is on. Verdicts are remembered until
a register that they depend on changes. Then a VLAN filter looks at the tag.
"""

from __future__ import annotations

from vmwire.nic.e1000.registers import (
    RAH_AV,
    RCTL_BAM,
    RCTL_CFI,
    RCTL_CFIEN,
    RCTL_MPE,
    RCTL_UPE,
    RCTL_VFE,
)
from vmwire.nic.e1000.registers import Registers as R
from vmwire.nic.e1000.statistics import BROADCAST

RCTL = R.RCTL.index
MTA = R.MTA.index
VFTA = R.VFTA.index

_HASH_SHIFTS = (4, 3, 2, 0)
"""By RCTL.MO: which 12 bits of the address's last two bytes pick a bit of the table."""
_REMEMBERED = 1024


class Filters:
    """Over the chip's ``words``. Call ``forget`` when RCTL, RA or MTA were written."""

    def __init__(self, words: list[int]) -> None:
        self._words = words
        self._verdicts: dict[bytes, bool] = {}

    def forget(self) -> None:
        """The filters changed."""
        self._verdicts.clear()

    def passes(self, destination: bytes) -> bool:
        """Whether frames for this address are received."""
        verdict = self._verdicts.get(destination)
        if verdict is None:
            if len(self._verdicts) >= _REMEMBERED:
                self._verdicts.clear()
            verdict = self._verdicts[destination] = self._judge(destination)
        return verdict

    def _judge(self, destination: bytes) -> bool:
        rctl = self._words[RCTL]
        if destination == BROADCAST and rctl & RCTL_BAM:
            return True
        if rctl & (RCTL_MPE if destination[0] & 1 else RCTL_UPE):
            return True
        group = bool(destination[0] & 1)
        return self._is_own(destination) or (group and self._hashes(destination))

    def _is_own(self, destination: bytes) -> bool:
        """Whether it is one of the receive addresses (their order on the wire: low byte first)."""
        low = int.from_bytes(destination[:4], "little")
        high = int.from_bytes(destination[4:], "little")
        words = self._words
        for index in R.RAL.indexes:
            if words[index] == low and words[index + 1] & (RAH_AV | 0xFFFF) == RAH_AV | high:
                return True
        return False

    def _hashes(self, destination: bytes) -> bool:
        offset = self._words[RCTL] >> 12 & 3
        number = int.from_bytes(destination[4:], "little") >> _HASH_SHIFTS[offset] & 0xFFF
        return bool(self._words[MTA + (number >> 5)] >> (number & 31) & 1)

    def vlan_passes(self, tci: int) -> bool:
        """Whether a tagged frame is received."""
        rctl = self._words[RCTL]
        if not rctl & RCTL_VFE:
            return True
        if rctl & RCTL_CFIEN and bool(tci & 0x1000) != bool(rctl & RCTL_CFI):
            return False
        vlan = tci & 0xFFF
        return bool(self._words[VFTA + (vlan >> 5)] >> (vlan & 31) & 1)
