# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What comes too early is kept, in order, without touching runs, and within bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmwire.netdev.user.tcp_ahead import MAX_RUNS, Ahead

MASK = 0xFFFFFFFF
STREAM = bytes((i * 7 + (i >> 8)) & 0xFF for i in range(4096))


def put(ahead: Ahead, start: int, data: bytes) -> None:
    ahead.put(start & MASK, [memoryview(data)])


def taken(ahead: Ahead, expected: int) -> bytes | None:
    data = ahead.take(expected)
    return None if data is None else bytes(data)


def test_runs_that_touch_become_one() -> None:
    ahead = Ahead()
    put(ahead, 10, b"abc")
    put(ahead, 16, b"ghi")
    put(ahead, 13, b"def")
    assert ahead.blocks(4) == [(10, 19)]
    assert taken(ahead, 10) == b"abcdefghi"
    assert ahead.size == 0


def test_the_run_that_changed_last_is_told_first() -> None:
    ahead = Ahead()
    for start in (10, 20, 30, 40, 50):
        put(ahead, start, b"x")
    put(ahead, 21, b"x")
    assert ahead.blocks(3)[0] == (20, 22)
    assert len(ahead.blocks(3)) == 3


def test_a_run_that_was_taken_is_not_told_any_more() -> None:
    ahead = Ahead()
    put(ahead, 20, b"xx")
    put(ahead, 10, b"xx")
    assert taken(ahead, 10) == b"xx"
    assert ahead.blocks(4) == [(20, 22)]


def test_what_is_behind_is_dropped() -> None:
    ahead = Ahead()
    put(ahead, 10, b"old")
    put(ahead, 20, b"half")
    assert taken(ahead, 15) is None
    assert taken(ahead, 22) == b"lf"
    assert not ahead.runs


def test_the_number_of_holes_is_bounded() -> None:
    ahead = Ahead()
    for start in range(0, 10_000, 2):
        put(ahead, start, b"x")
    assert len(ahead.runs) == MAX_RUNS
    assert ahead.size == MAX_RUNS


@given(
    base=st.sampled_from([0, 1000, MASK, MASK - 700, 1 << 31]),
    pieces=st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 300)), max_size=60),
    takes=st.integers(1, 9),
)
def test_any_pieces_give_the_stream_back(
    base: int, pieces: list[tuple[int, int]], takes: int
) -> None:
    ahead = Ahead()
    have: set[int] = set()
    done = 0
    for number, (start, size) in enumerate(pieces):
        if start > done:
            put(ahead, base + start, STREAM[start : start + size])
            have.update(range(start, start + size))
        if number % takes == 0:
            done += 37  # a hole was mended up to here
            while (data := ahead.take((base + done) & MASK)) is not None:
                assert data == STREAM[done : done + len(data)]
                done += len(data)
            have = {at for at in have if at >= done}
        assert ahead.size == sum(len(run.data) for run in ahead.runs) == len(have)
        covered: set[int] = set()
        for run_start, run_end in ahead.blocks(1000):
            first = (run_start - base) & MASK
            covered.update(range(first, first + ((run_end - run_start) & MASK)))
        assert covered == have
