# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmwire.netdev.user.fragments import (
    MAX_BYTES,
    MAX_DATAGRAMS,
    TIMEOUT_S,
    Reassembler,
    fragment,
)
from vmwire.wire.protocols import ipv4
from vmwire.wire.protocols.ipv4 import MORE_FRAGMENTS, Header

DATA = json.loads((Path(__file__).parents[2] / "data" / "user_network_frames.json").read_text())
GUEST, PEER = bytes([10, 0, 2, 15]), bytes([192, 0, 2, 7])


def piece(
    start: int, data: bytes, more: bool, ident: int = 7, options: bytes = b""
) -> tuple[Header, bytes]:
    word = start // 8 | (MORE_FRAGMENTS if more else 0)
    header = Header(GUEST, PEER, 17, len(data), ident=ident, fragment=word, options=options)
    return header, data


def numbered(count: int) -> bytes:
    return random.Random(1).randbytes(count)


def test_pieces_in_order_make_the_datagram() -> None:
    whole = Reassembler()
    data = numbered(40)
    assert whole.add(*piece(0, data[:16], True), now=0) is None
    assert whole.add(*piece(16, data[16:32], True), now=0) is None
    header, payload = whole.add(*piece(32, data[32:], False), now=0) or pytest.fail("incomplete")
    assert payload == data
    assert (header.payload_length, header.fragment, header.ident) == (40, 0, 7)
    assert (len(whole), whole.charge, whole.next_deadline()) == (0, 0, None)


@given(st.permutations(range(6)), st.integers(1, 8))
def test_pieces_in_any_order_make_the_datagram(order: list[int], tail: int) -> None:
    data = numbered(40 + tail)
    pieces = [piece(8 * i, data[8 * i : 8 * i + 8], i < 5) for i in range(6)]
    whole = Reassembler()
    results = [whole.add(*pieces[i], now=0) for i in order]
    assert results[:-1] == [None] * 5
    assert results[-1] is not None and results[-1].payload == data


def test_borrowed_payload_is_copied() -> None:
    whole = Reassembler()
    buffer = bytearray(b"01234567")
    whole.add(*piece(0, memoryview(buffer), True), now=0)
    buffer[:] = b"xxxxxxxx"
    done = whole.add(*piece(8, b"89", False), now=0)
    assert done is not None and done.payload == b"0123456789"


def test_options_of_the_first_piece_stay() -> None:
    whole = Reassembler()
    whole.add(*piece(8, b"z", False), now=0)
    done = whole.add(*piece(0, b"01234567", True, options=bytes.fromhex("94040000")), now=0)
    assert done is not None and done.header.options == bytes.fromhex("94040000")


@pytest.mark.parametrize("field", ["src", "dst", "proto", "ident"])
def test_pieces_of_different_datagrams_are_kept_apart(field: str) -> None:
    whole = Reassembler()
    whole.add(*piece(0, b"01234567", True), now=0)
    header, data = piece(8, b"8", False)
    setattr(header, field, {"src": PEER, "dst": GUEST, "proto": 1, "ident": 8}[field])
    assert whole.add(header, data, now=0) is None
    assert len(whole) == 2


def test_exact_duplicate_is_ignored() -> None:
    whole = Reassembler()
    first = piece(0, b"01234567", True)
    whole.add(*first, now=0)
    assert whole.add(*first, now=0) is None
    done = whole.add(*piece(8, b"8", False), now=0)
    assert done is not None and done.payload == b"012345678"
    assert whole.drops == {"fragments: duplicate": 1}


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([(0, 16, True), (8, 16, True)], id="over the one before"),
        pytest.param([(8, 16, True), (0, 16, True)], id="over the one behind"),
        pytest.param([(8, 8, True), (0, 24, True)], id="around another"),
        pytest.param([(0, 24, True), (8, 8, True)], id="within another"),
        pytest.param([(0, 8, True), (0, 16, True)], id="same start, longer"),
        pytest.param([(0, 12, True)], id="middle piece of odd length"),
        pytest.param([(0, 0, True)], id="empty"),
        pytest.param([(16, 8, False), (24, 8, True)], id="behind the end"),
        pytest.param([(16, 8, False), (8, 16, False)], id="second end"),
        pytest.param([(24, 8, True), (8, 8, False)], id="end before what is there"),
        pytest.param([(16, 8, False), (24, 8, False)], id="second, later end"),
        pytest.param([(16, 8, False), (16, 8, True)], id="ends and does not end"),
    ],
)
def test_pieces_that_contradict_spoil_the_datagram(pieces: list[tuple[int, int, bool]]) -> None:
    whole = Reassembler()
    for start, length, more in pieces:
        assert whole.add(*piece(start, bytes([start]) * length, more), now=0) is None
    assert whole.drops == {"fragments: overlap or bad length": 1}
    for start in range(0, 32, 8):
        assert whole.add(*piece(start, b"again !!", start < 24), now=1) is None
    assert whole.drops["fragments: spoilt datagram"] == 4


def test_spoilt_identification_is_usable_again_later() -> None:
    whole = Reassembler()
    whole.add(*piece(0, b"odd", True), now=0)
    whole.add(*piece(0, b"01234567", True), now=TIMEOUT_S)
    assert whole.add(*piece(8, b"8", False), now=TIMEOUT_S) is not None


def test_datagram_longer_than_ipv4_allows_is_spoilt() -> None:
    whole = Reassembler()
    whole.add(*piece(65528, b"1234567", False), now=0)
    assert whole.drops == {"fragments: overlap or bad length": 1}
    whole.add(*piece(0, bytes(65520), True, ident=8), now=0)
    assert whole.add(*piece(65520, bytes(8), False, ident=8), now=0) is None


def test_options_that_make_the_whole_too_long_spoil_it() -> None:
    whole = Reassembler()
    whole.add(*piece(65504, b"12345678901", False), now=0)
    assert not whole.drops
    whole.add(*piece(0, bytes(65504), True, options=bytes.fromhex("94040000")), now=0)
    assert whole.drops == {"fragments: overlap or bad length": 1}


def test_largest_datagram_passes() -> None:
    whole = Reassembler()
    data = numbered(65515)
    header = Header(GUEST, PEER, 17, len(data), ident=3)
    for head, part in fragment(header, data, 1500):
        done = whole.add(Header.parse(head, quoted=True), part, now=0)
    assert done is not None and done.payload == data


def test_gap_never_filled_times_out() -> None:
    whole = Reassembler()
    whole.add(*piece(0, b"01234567", True), now=5)
    assert whole.next_deadline() == 5 + TIMEOUT_S
    whole.expire(now=34.9)
    assert len(whole) == 1
    whole.expire(now=35)
    assert (len(whole), whole.charge) == (0, 0)
    assert whole.drops == {"fragments: timed out": 1}


def test_time_begins_with_the_first_piece() -> None:
    whole = Reassembler()
    whole.add(*piece(0, b"01234567", True), now=0)
    whole.add(*piece(8, b"01234567", True), now=29)
    assert whole.next_deadline() == TIMEOUT_S


def test_thousands_of_halves_leave_room_for_a_whole() -> None:
    whole = Reassembler()
    for ident in range(5000):
        whole.add(*piece(8, b"01234567", True, ident), now=0)
        assert len(whole) <= MAX_DATAGRAMS
    whole.add(*piece(0, b"01234567", True, 60000), now=0)
    assert whole.add(*piece(8, b"8", False, 60000), now=0) is not None
    assert whole.drops["fragments: no room"] >= 5000 - MAX_DATAGRAMS


@pytest.mark.parametrize("size", [8, 1480, 65000])
def test_memory_is_bounded_whatever_the_size_of_pieces(size: int) -> None:
    whole = Reassembler()
    for ident in range(40):
        for start in range(8, 65000 - size, max(size, 64)):
            whole.add(*piece(start, bytes(size), True, ident), now=0)
            assert whole.charge <= MAX_BYTES
    for ident in range(40):
        whole.add(*piece(8, bytes(65000), True, 100 + ident), now=0)
        assert whole.charge <= MAX_BYTES


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 6),
            st.integers(0, 20),
            st.booleans(),
            st.integers(0, 1),
            st.integers(0, 3),
        ),
        max_size=40,
    )
)
def test_any_pieces_keep_the_books_right(steps: list[tuple[int, int, bool, int, int]]) -> None:
    whole = Reassembler()
    now = 0.0
    for start, length, more, ident, pause in steps:
        now += pause * 9
        done = whole.add(*piece(8 * start, bytes(length), more, ident), now=now)
        assert done is None or len(done.payload) == done.header.payload_length
    whole.expire(now + TIMEOUT_S)
    assert (len(whole), whole.charge) == (0, 0)


def test_cut_is_as_recorded() -> None:
    header = Header(PEER, GUEST, 17, 3008, ident=0x19)
    heads = [head for head, _ in fragment(header, bytes(3008), 1500)]
    words = [[int.from_bytes(h[2:4], "big"), h[6:8].hex()] for h in heads]
    assert words == DATA["fragments of 3008 bytes"]


@given(st.integers(0, 4000), st.integers(68, 1600))
def test_pieces_fit_and_come_together_again(size: int, mtu: int) -> None:
    data = numbered(size)
    parts = list(fragment(Header(PEER, GUEST, 17, size, ident=1, tos=4), memoryview(data), mtu))
    assert all(len(head) + len(part) <= mtu for head, part in parts)
    assert all(ipv4.checksum_ok(head) for head, _ in parts)
    assert b"".join(part for _, part in parts) == data
    whole = Reassembler()
    results = [whole.add(Header.parse(h + bytes(p)), p, now=0) for h, p in parts]
    assert len(parts) == 1 or (results[-1] is not None and results[-1].payload == data)


def test_packet_that_fits_stays_whole() -> None:
    header = Header(PEER, GUEST, 17, 1480, fragment=ipv4.DONT_FRAGMENT)
    [(head, part)] = fragment(header, bytes(1480), 1500)
    assert head == header.emit() and len(part) == 1480


def test_mtu_below_ipv4s_least_is_our_own_fault() -> None:
    with pytest.raises(ValueError):
        list(fragment(Header(PEER, GUEST, 17, 10), bytes(10), 60))
