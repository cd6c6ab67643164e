# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The pattern is checked to the byte, in whatever pieces it comes."""

from __future__ import annotations

import hashlib

import pytest

from vmwire.bench.pattern import PIECE, Check, pattern, pattern_sha256

SIZE = 2 * PIECE + 12345


def checked(data: bytes, step: int) -> Check:
    """What is found when ``data`` comes in pieces of at most ``step`` bytes."""
    check, rest = Check(), memoryview(data)
    while rest:
        count = min(step, len(rest), len(check.room()))
        check.room()[:count] = rest[:count]
        check.took(count)
        rest = rest[count:]
    return check


@pytest.mark.parametrize("step", [1 << 30, 65536, 99999])
def test_pattern_is_found_intact(step: int) -> None:
    check = checked(b"".join(pattern(SIZE)), step)
    assert check.finish()
    assert check.size == SIZE


@pytest.mark.parametrize("place", [0, PIECE - 1, PIECE, 2 * PIECE + 3, SIZE - 1])
def test_one_wrong_byte_is_found(place: int) -> None:
    data = bytearray(b"".join(pattern(SIZE)))
    data[place] ^= 1
    assert not checked(bytes(data), 65536).finish()


def test_swapped_and_lost_pieces_are_found() -> None:
    first, second, *rest = pattern(SIZE)
    assert not checked(b"".join([second, first, *rest]), PIECE).finish()
    assert not checked(b"".join([first, *rest]), PIECE).finish()


def test_nothing_is_intact() -> None:
    assert Check().finish()


def test_checksum_is_that_of_the_bytes() -> None:
    data = b"".join(pattern(SIZE))
    assert pattern_sha256(SIZE) == hashlib.sha256(data).hexdigest()
    assert pattern_sha256(SIZE, repeat=2) == hashlib.sha256(2 * data).hexdigest()
