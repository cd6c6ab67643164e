# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Receive side scaling: the Toeplitz hash over a flow's addresses and ports.

Each bit of the input that is set adds (XOR) the 32 bits of the key that begin at its place.
"""

from __future__ import annotations

from collections.abc import Callable

KEY_BYTES = 40
_REMEMBERED = 1024


def toeplitz(key: bytes, data: bytes) -> int:
    """Return the hash of ``data``, for which the key must be 4 bytes longer.

    >>> hex(toeplitz(bytes.fromhex("6d5a56da255b0ec2"), bytes.fromhex("80000001")))
    '0x7ff7d1bb'
    """
    window, bits = int.from_bytes(key, "big"), len(key) * 8
    value, number = int.from_bytes(data, "big"), len(data) * 8
    result = 0
    while value:
        low = value & -value
        place = number - low.bit_length()
        result ^= window >> bits - 32 - place & 0xFFFFFFFF
        value ^= low
    return result


class Hasher:
    """The hash by a key that seldom changes: what it gave for an input is remembered."""

    def __init__(self, key: Callable[[], bytes]) -> None:
        self._key = key
        self._known: dict[bytes, int] = {}

    def forget(self) -> None:
        """The key changed."""
        self._known.clear()

    def of(self, data: bytes) -> int:
        """Return the hash of ``data``."""
        found = self._known.get(data)
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = self._known[data] = toeplitz(self._key(), data)
        return found
