# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes to move in tests and measurements: any length, and each one of them can be checked.

Each MiB starts with its place in the stream, so a lost, doubled or moved piece shows. The rest is
the same noise everywhere, so making and checking cost one pass over the memory.

>>> check = Check()
>>> for piece in pattern(3 * PIECE + 5):
...     view = memoryview(piece)
...     while view:
...         count = min(len(view), len(check.room()))
...         check.room()[:count] = view[:count]
...         check.took(count)
...         view = view[count:]
>>> check.finish(), check.size
(True, 3145733)
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator

PIECE = 1 << 20
_PLACE = struct.Struct("!Q")
_NOISE = random.Random(1).randbytes(PIECE)


def pattern(size: int) -> Iterator[bytes]:
    """The first ``size`` bytes, a MiB at a time."""
    for start in range(0, size, PIECE):
        piece = _PLACE.pack(start) + _NOISE[_PLACE.size :]
        yield piece[: size - start]


def pattern_sha256(size: int, repeat: int = 1) -> str:
    """The checksum of ``repeat`` patterns in a row."""
    digest = hashlib.sha256()
    for _ in range(repeat):
        for piece in pattern(size):
            digest.update(piece)
    return digest.hexdigest()


class Check:
    """Whether what arrives is the pattern: read into ``room()``, then say how much it was."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes that have arrived."""
        self._intact = True
        self._expected = bytearray(_NOISE)
        self._arrived = bytearray(PIECE)  # a comparison of two bytearrays is one memcmp
        self._view = memoryview(self._arrived)

    def room(self) -> memoryview:
        """Where the next bytes go: the rest of this MiB."""
        return self._view[self.size % PIECE :]

    def took(self, count: int) -> None:
        """So many bytes were put there."""
        self.size += count
        if count and self.size % PIECE == 0:
            self._compare(PIECE)

    def finish(self) -> bool:
        """Whether everything was as it should be."""
        if self.size % PIECE:
            self._compare(self.size % PIECE)
        return self._intact

    def _compare(self, length: int) -> None:
        start = (self.size - 1) // PIECE * PIECE
        _PLACE.pack_into(self._expected, 0, start)
        if length == PIECE:
            self._intact &= self._arrived == self._expected
        else:
            self._intact &= self._arrived[:length] == self._expected[:length]
