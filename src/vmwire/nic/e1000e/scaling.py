# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Receive side scaling on the 82574: which hash a frame gets, and which queue that means (data
sheet, section 7.1.8).

It is on when MRQC says so and RXCSUM.PCSD gives the hash its place in the descriptor. The hash's
low seven bits choose an entry of RETA, whose bit 7 is the queue.
"""

from __future__ import annotations

from vmwire.nic.e1000e import headers
from vmwire.nic.e1000e.headers import IPV4, TCP
from vmwire.nic.e1000e.registers import (
    MRQC_ENABLE_MASK,
    MRQC_IPV4,
    MRQC_IPV6,
    MRQC_IPV6_EX,
    MRQC_RSS,
    MRQC_TCP_IPV4,
    MRQC_TCP_IPV6,
    RFCTL_IPV6_DIS,
    RFCTL_IPV6_EX_DIS,
    RXCSUM_PCSD,
)
from vmwire.nic.e1000e.registers import Registers as R
from vmwire.nic.rss import Hasher
from vmwire.wire.frame import Frame

MRQC = R.MRQC.index
RETA = R.RETA.index
RFCTL = R.RFCTL.index
RSSRK = R.RSSRK.indexes
RXCSUM = R.RXCSUM.index

NONE, TCP_IPV4, OF_IPV4, TCP_IPV6, OF_IPV6_EX, OF_IPV6 = range(6)


class Scaling:
    """Over the chip's ``words``."""

    def __init__(self, words: list[int]) -> None:
        self._words = words
        self._hasher = Hasher(self._key)

    def _key(self) -> bytes:
        words = self._words
        return b"".join([words[index].to_bytes(4, "little") for index in RSSRK])

    def forget(self) -> None:
        """The key changed."""
        self._hasher.forget()

    @property
    def enabled(self) -> bool:
        """Whether frames are spread."""
        words = self._words
        on = words[MRQC] & MRQC_ENABLE_MASK == MRQC_RSS
        return on and bool(words[RXCSUM] & RXCSUM_PCSD)

    def hash_of(self, data: bytes) -> tuple[int, int]:
        """Return which kind of hash a frame gets, and the hash."""
        if not self.enabled:
            return NONE, 0
        mrqc, rfctl = self._words[MRQC], self._words[RFCTL]
        found = headers.parse(data, extensions=not rfctl & RFCTL_IPV6_EX_DIS)
        if not found.version or (found.version != IPV4 and rfctl & RFCTL_IPV6_DIS):
            return NONE, 0
        tcp = found.protocol == TCP
        if found.version == IPV4:
            size, start = 8, found.start + 12
            kinds: tuple[tuple[int, int, bool], ...] = (
                (MRQC_TCP_IPV4, TCP_IPV4, tcp),
                (MRQC_IPV4, OF_IPV4, True),
            )
        else:
            size, start = 32, found.start + 8
            kinds = (
                (MRQC_TCP_IPV6, TCP_IPV6, tcp),
                (MRQC_IPV6_EX, OF_IPV6_EX, True),
                (MRQC_IPV6, OF_IPV6, True),
            )
        for bit, kind, fits in kinds:
            if mrqc & bit and fits:
                chosen = data[start : start + size]
                if kind in (TCP_IPV4, TCP_IPV6):
                    chosen += data[found.transport : found.transport + 4]
                return kind, self._hasher.of(chosen)
        return NONE, 0

    def queue_of(self, frame: Frame) -> int:
        """Return the queue for a frame."""
        kind, number = self.hash_of(frame.tobytes())
        if kind == NONE:
            return 0
        entry = number & 0x7F
        return self._words[RETA + (entry >> 2)] >> 8 * (entry & 3) + 7 & 1
