# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The EEPROM: 64 words, reached by EERD and by the Microwire bus behind EECD (manual, section 5).

Microwire (93C46). A command is a start bit, two bits of opcode and six of address, taken from DI at
rising edges of SK while CS is high; DO follows at rising edges too. READ answers with a zero and
then with words from the address on, for as long as there is a clock. WRITE, ERASE and their ALL
forms work between EWEN and EWDS only, and happen when CS falls. Raising CS between commands shows
on DO whether the device is ready; this one always is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WORDS = 64
ADDRESS_BITS = 6
CHECKSUM_WORD = 63
CHECKSUM = 0xBABA

# EECD
SK = 1 << 0
CS = 1 << 1
DI = 1 << 2
DO = 1 << 3
FWE = 3 << 4
REQ = 1 << 6
GNT = 1 << 7
PRES = 1 << 8
_DRIVEN = SK | CS | DI | FWE | REQ

# EERD
START = 1 << 0
DONE = 1 << 4

_COMMAND_BITS = 2 + ADDRESS_BITS
_EXTENDED, _WRITE, _READ, _ERASE = range(4)
_EWDS, _WRAL, _ERAL, _EWEN = range(4)

_TEMPLATE = (
    "0000 0000 0000 0000 ffff 0000 0000 0000 3000 1000 6403 0000 8086 0000 8086 3040"
    "0008 2000 7e14 0048 1000 00d8 0000 2700 6cc9 3150 0722 040b 0984 0000 c000 0706"
    "1008 0000 0f04 7fff 4d01 ffff ffff ffff ffff ffff ffff ffff ffff ffff ffff ffff"
    "0100 4000 121c ffff ffff ffff ffff ffff ffff ffff ffff ffff ffff ffff ffff 0000"
)


def contents(mac: bytes, device: int) -> list[int]:
    """Return the words of a new card's EEPROM, checksum included."""
    packed = bytes.fromhex(_TEMPLATE)
    words = [int.from_bytes(packed[at : at + 2], "big") for at in range(0, 2 * WORDS, 2)]
    words[0:3] = [int.from_bytes(mac[at : at + 2], "little") for at in (0, 2, 4)]
    words[11] = words[13] = device
    words[CHECKSUM_WORD] = (CHECKSUM - sum(words)) & 0xFFFF
    return words


class Eeprom:
    """The words, and the Microwire device's state between two writes of EECD."""

    def __init__(self, words: list[int]) -> None:
        self.words = words
        self._pins = 0
        self._out = 1
        self._writable = False
        self._idle()

    def _idle(self) -> None:
        self._started = False
        self._bits = 0
        self._shift = 0
        self._reading = 0

    @property
    def mac(self) -> bytes:
        """The card's address."""
        return b"".join(word.to_bytes(2, "little") for word in self.words[:3])

    # EERD

    def read_register(self, value: int) -> int:
        """Return what EERD holds after ``value`` was written."""
        if not value & START:
            return value & 0xFF00
        address = value >> 8 & 0xFF
        word = self.words[address] if address < WORDS else 0
        return word << 16 | address << 8 | DONE

    # EECD

    def pins(self) -> int:
        """Return EECD."""
        granted = GNT if self._pins & REQ or not self._pins else 0
        return self._pins | granted | PRES | (DO if self._out else 0)

    def drive(self, value: int) -> None:
        """Take a write of EECD."""
        before, self._pins = self._pins, value & _DRIVEN
        if not value & CS:
            if before & CS:
                self._program()
            self._idle()
            return
        if not before & CS:
            self._idle()
            self._out = 1
        if value & SK and not before & SK:
            self._clock(bool(value & DI))

    def _clock(self, bit: bool) -> None:
        """Follow one rising edge."""
        if self._bits >= _COMMAND_BITS and self._command == _READ:
            self._out = self._next_bit()
        elif self._started:
            self._shift = (self._shift << 1 | bit) & 0xFFFFFF
            self._bits += 1
            if self._bits == _COMMAND_BITS:
                self._command = self._shift >> ADDRESS_BITS
                self._address = self._shift & WORDS - 1
                self._out = 0 if self._command == _READ else 1
        else:
            self._started = bit

    def _next_bit(self) -> int:
        word = self.words[(self._address + self._reading // 16) % WORDS]
        bit = word >> 15 - self._reading % 16 & 1
        self._reading = (self._reading + 1) % (16 * WORDS)
        return bit

    _command = 0
    _address = 0

    def _program(self) -> None:
        """Do what the command asks, when CS falls."""
        if self._bits < _COMMAND_BITS:
            return
        extended = self._address >> ADDRESS_BITS - 2 if self._command == _EXTENDED else None
        if extended in (_EWEN, _EWDS):
            self._writable = extended == _EWEN
        if not self._writable:
            return
        data = self._shift & 0xFFFF if self._bits == _COMMAND_BITS + 16 else None
        if self._command == _ERASE:
            self.words[self._address] = 0xFFFF
        elif self._command == _WRITE and data is not None:
            self.words[self._address] = data
        elif extended == _ERAL:
            self.words[:] = [0xFFFF] * WORDS
        elif extended == _WRAL and data is not None:
            self.words[:] = [data] * WORDS

    # State

    def reset(self) -> None:
        """Leave the bus; the words stay, as they do without power."""
        self._pins = 0
        self._out = 1
        self._writable = False
        self._idle()

    _STATE = (
        "_pins", "_out", "_writable", "_started", "_bits", "_shift", "_reading", "_command",
        "_address",
    )  # fmt: skip

    def save(self) -> dict[str, Any]:
        """Return the words and the bus's state."""
        bus = [int(getattr(self, name)) for name in self._STATE]
        return {"words": list(self.words), "bus": bus}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on what ``save`` gave. ValueError if it can't be."""
        words, bus = [int(word) for word in state["words"]], [int(value) for value in state["bus"]]
        if len(words) != WORDS or len(bus) != len(self._STATE):
            raise ValueError("not an EEPROM's state")
        self.words[:] = [word & 0xFFFF for word in words]
        for name, value in zip(self._STATE, bus, strict=True):
            setattr(self, name, value)
