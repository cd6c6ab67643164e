# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The clock and time stamps of IEEE 1588 (82574 data sheet, section 7.9 and 10.2.6).

SYSTIM, 64 bits, grows by TIMINCA's value every TIMINCA's period of a 25 MHz clock; TIMADJ adds or
takes off once. It stands still until TIMINCA says something.

A received frame that TSYNCRXCTL's type means is stamped: RXSTMP holds the time and the frame's
identity until RXSTMPH is read; frames that come before that go without. TXSTMP is the same for
a sent frame whose descriptor asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vmwire.nic.e1000e.registers import TSYNC_ENABLED, TSYNC_VALID
from vmwire.nic.e1000e.registers import Registers as R

TICK_HZ = 25_000_000
SIGN = 1 << 31
ONES = (1 << 64) - 1

SYSTIML = R.SYSTIML.index
SYSTIMH = R.SYSTIMH.index
TIMINCA = R.TIMINCA.index
TIMADJL = R.TIMADJL.index
TIMADJH = R.TIMADJH.index
TSYNCRXCTL = R.TSYNCRXCTL.index
TSYNCTXCTL = R.TSYNCTXCTL.index
RXSTMPL = R.RXSTMPL.index
RXSATRL = R.RXSATRL.index
TXSTMPL = R.TXSTMPL.index
RXMTRL = R.RXMTRL.index
RXUDP = R.RXUDP.index

_L2_V2, _L4_V1, _BOTH_V2, _ALL, _EVENTS_V2 = 0, 1, 2, 4, 5
_PTP = b"\x88\xf7"
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_UDP = 17
_VLAN = b"\x81\x00"
_EVENT_MESSAGES = 4
"""Of version 2, messages 0 to 3 are events."""
V1_CONTROL = 32
"""Where a version 1 message says what it is; its identity lies at 22 and 30."""


class TimeSync:
    """Over the chip's ``words``. ``now()`` tells seconds."""

    def __init__(self, words: list[int], now: Callable[[], float]) -> None:
        self._words = words
        self._now = now
        self._since = 0.0
        self._base = 0
        self._rate = (0, 0)
        """How often a step is made, in ticks, and how large it is."""

    def time(self) -> int:
        """What SYSTIM stands at."""
        period, step = self._rate
        if not period or not step:
            return self._base
        ticks = round((self._now() - self._since) * TICK_HZ)
        return self._base + ticks // period * step & ONES

    def _set(self, time: int) -> None:
        self._base, self._since = time & ONES, self._now()

    def set_rate(self) -> None:
        """TIMINCA was written: what has passed counts by the old one."""
        self._set(self.time())
        value = self._words[TIMINCA]
        self._rate = value >> 24, value & 0xFFFFFF

    def read_low(self) -> int:
        """Read SYSTIML; SYSTIMH then holds the upper half of the same moment."""
        time = self.time()
        self._words[SYSTIML], self._words[SYSTIMH] = time & 0xFFFFFFFF, time >> 32
        return time & 0xFFFFFFFF

    def written(self) -> None:
        """SYSTIMH was written: set the clock."""
        self._set(self._words[SYSTIMH] << 32 | self._words[SYSTIML])

    def adjust(self) -> None:
        """TIMADJH was written: add TIMADJ, or take it off."""
        low, high = self._words[TIMADJL], self._words[TIMADJH]
        by = (high & ~SIGN) << 32 | low
        self._set(self.time() + (-by if high & SIGN else by))

    # Stamps

    def stamp_sent(self) -> None:
        """A frame is sent whose descriptor wants a stamp."""
        words = self._words
        if words[TSYNCTXCTL] & (TSYNC_ENABLED | TSYNC_VALID) == TSYNC_ENABLED:
            self._put(TXSTMPL)
            words[TSYNCTXCTL] |= TSYNC_VALID

    def stamp_received(self, data: bytes) -> bool:
        """Stamp a frame if it is one to be stamped; return whether it was."""
        words = self._words
        control = words[TSYNCRXCTL]
        if control & (TSYNC_ENABLED | TSYNC_VALID) != TSYNC_ENABLED:
            return False
        start = self._meant(data, control >> 1 & 7)
        if start is None:
            return False
        self._put(RXSTMPL)
        message = data[start:].ljust(34, b"\0")
        version_1 = message[1] & 0x0F == 1
        source, sequence = (22, 30) if version_1 else (20, 30)
        words[RXSATRL] = int.from_bytes(message[source : source + 4], "big")
        rest = message[source + 4 : source + 6] + message[sequence : sequence + 2]
        words[RXSATRL + 1] = int.from_bytes(rest, "big")
        words[TSYNCRXCTL] |= TSYNC_VALID
        return True

    def _put(self, low: int) -> None:
        time = self.time()
        self._words[low], self._words[low + 1] = time & 0xFFFFFFFF, time >> 32

    def _meant(self, data: bytes, kind: int) -> int | None:
        """Where the message begins in a frame that is to be stamped, else None."""
        if kind == _ALL:
            return 14
        start = 18 if data[12:14] == _VLAN else 14
        if data[start - 2 : start] == _PTP:
            if kind not in (_L2_V2, _BOTH_V2, _EVENTS_V2):
                return None
        else:
            message = self._udp_message(data, start)
            if message is None or kind not in (_L4_V1, _BOTH_V2, _EVENTS_V2):
                return None
            start = message
        if len(data) < start + 34:
            return None
        if kind == _EVENTS_V2:
            return start if data[start] & 0x0F < _EVENT_MESSAGES else None
        chosen = self._words[RXMTRL]
        if kind == _L4_V1:
            return start if data[start + V1_CONTROL] == chosen >> 16 & 0xFF else None
        return start if data[start] & 0x0F == chosen >> 24 & 0x0F else None

    def _udp_message(self, data: bytes, start: int) -> int | None:
        """Where a UDP datagram to RXUDP's port has its data."""
        if data[start - 2 : start] == _IPV4 and len(data) >= start + 20:
            protocol, end = data[start + 9], start + (data[start] & 0x0F) * 4
        elif data[start - 2 : start] == _IPV6 and len(data) >= start + 40:
            protocol, end = data[start + 6], start + 40
        else:
            return None
        port = self._words[RXUDP].to_bytes(4, "little")[:2]  # as on the wire, low byte first
        right = protocol == _UDP and data[end + 2 : end + 4] in (port, port[::-1])
        return end + 8 if right else None

    # State

    def reset(self) -> None:
        """The clock stands at 0."""
        self._rate = (0, 0)
        self._set(0)

    def save(self) -> dict[str, Any]:
        """Return what the clock stands at."""
        return {"time": self.time()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where ``save`` was called."""
        self.set_rate()
        self._set(int(state["time"]))
