# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The NVM: 64 words behind EERD and EEWR (82574 data sheet, sections 6 and 10.2.2).

EECD says that there is an EEPROM, and that it was read after the reset. A driver that asks for the
bus (REQ) is granted it (GNT); nothing answers on the bus itself, EERD and EEWR do without.
"""

from __future__ import annotations

from typing import Any

WORDS = 64
CHECKSUM_WORD = 63
CHECKSUM = 0xBABA
MAC_WORDS = 3
SUBSYSTEM_WORD, SUBSYSTEM_VENDOR_WORD = 11, 12

# EECD
REQ = 1 << 6
GNT = 1 << 7
PRES = 1 << 8
AUTO_RD = 1 << 9
_DRIVEN = 0x7F

# EERD and EEWR: data in the upper half
START = 1 << 0
DONE = 1 << 1
ADDRESS_SHIFT = 2
ADDRESS_MASK = 0x3FFF

_TEMPLATE = (
    "0000 0000 0000 0420 f746 2010 ffff ffff 0000 0000 026b 10d3 8086 10d3 0000 8058"
    "0000 2001 7e7c ffff 1000 00c8 0000 2704 6cc9 3150 070e 460b 2d84 0100 f000 0706"
    "6000 0080 0f04 7fff 4f01 c600 0000 20ff 0028 0003 0000 0000 0000 0003 0000 ffff"
    "0100 c000 121c c007 ffff ffff ffff ffff ffff ffff ffff ffff 0000 0120 ffff 0000"
)


def contents(mac: bytes) -> list[int]:
    """Return the words of a new card's NVM, checksum included."""
    packed = bytes.fromhex(_TEMPLATE)
    words = [int.from_bytes(packed[at : at + 2], "big") for at in range(0, 2 * WORDS, 2)]
    words[:MAC_WORDS] = [int.from_bytes(mac[at : at + 2], "little") for at in (0, 2, 4)]
    words[CHECKSUM_WORD] = (CHECKSUM - sum(words)) & 0xFFFF
    return words


class Nvm:
    """The words."""

    def __init__(self, words: list[int]) -> None:
        self.words = words

    @property
    def mac(self) -> bytes:
        """The card's address."""
        return b"".join(word.to_bytes(2, "little") for word in self.words[:MAC_WORDS])

    def read_register(self, value: int) -> int:
        """Return what EERD holds after ``value`` was written."""
        if not value & START:
            return value & 0xFFFFFFFC | DONE
        address = value >> ADDRESS_SHIFT & ADDRESS_MASK
        word = self.words[address] if address < WORDS else 0
        return word << 16 | value & ADDRESS_MASK << ADDRESS_SHIFT | DONE

    def write_register(self, value: int) -> int:
        """Return what EEWR holds after ``value`` was written."""
        address = value >> ADDRESS_SHIFT & ADDRESS_MASK
        if value & START and address < WORDS:
            self.words[address] = value >> 16
        return DONE

    @staticmethod
    def control_register(value: int) -> int:
        """Return what EECD holds after ``value`` was written."""
        return value & _DRIVEN | PRES | AUTO_RD | (GNT if value & REQ else 0)

    def save(self) -> list[int]:
        """Return the words."""
        return list(self.words)

    def restore(self, state: Any) -> None:
        """Take on what ``save`` gave. ValueError if it can't be."""
        words = [int(word) & 0xFFFF for word in state]
        if len(words) != WORDS:
            raise ValueError("not an NVM's words")
        self.words[:] = words
