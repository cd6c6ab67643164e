# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmwire.wire.frame import (
    F_DATA_VALID,
    F_NEEDS_CSUM,
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    GSO_UDP_L4,
    HEADER,
    NO_OFFLOAD,
    Frame,
    Gso,
    Offload,
    total_length,
)

HEADER_BYTES = bytes.fromhex("01 81 4200 dc05 2200 1000".replace(" ", ""))


def test_header_bytes_are_read_and_written_as_virtio_lays_them_out() -> None:
    offload = Offload.unpack(HEADER_BYTES)
    assert offload == Offload(F_NEEDS_CSUM, GSO_TCPV4 | GSO_ECN, 66, 1500, 34, 16)
    assert offload.packed == HEADER_BYTES
    assert offload.needs == Gso.TCPV4 | Gso.ECN
    assert offload.least_length == 52


def test_same_header_gives_the_same_object() -> None:
    assert Offload.unpack(HEADER_BYTES) is Offload.unpack(bytes(bytearray(HEADER_BYTES)))


def test_memory_of_seen_headers_is_bounded() -> None:
    from vmwire.wire import frame

    for number in range(3000):
        Offload.unpack(HEADER.pack(1, 0, 0, 0, number, 16))
    assert len(frame._seen) <= frame._SEEN_LIMIT


@pytest.mark.parametrize(
    ("offload", "plain", "known"),
    [
        (NO_OFFLOAD, True, True),
        (Offload(F_DATA_VALID), True, True),
        (Offload(F_NEEDS_CSUM, checksum_start=34, checksum_offset=16), False, True),
        (Offload(F_NEEDS_CSUM, GSO_TCPV4, 0, 1448, 34, 16), False, True),
        (Offload(F_NEEDS_CSUM, GSO_TCPV6, 0, 1448, 54, 16), False, True),
        (Offload(F_NEEDS_CSUM, GSO_UDP_L4, 0, 1448, 34, 6), False, True),
        (Offload(F_NEEDS_CSUM, GSO_TCPV4, 0, 0, 34, 16), False, False),  # no segment size
        (Offload(0, GSO_TCPV4, 0, 1448), False, False),  # no checksum to do
        (Offload(F_NEEDS_CSUM, GSO_UDP, 0, 1448, 34, 6), False, False),
        (Offload(F_NEEDS_CSUM, 77, 0, 1448, 34, 6), False, False),
    ],
)
def test_offload_knows_whether_it_makes_sense(offload: Offload, plain: bool, known: bool) -> None:
    assert (offload.plain, offload.known) == (plain, known)


def test_checked_means_that_nobody_needs_to_verify() -> None:
    assert Offload(F_DATA_VALID).checked
    assert Offload(F_NEEDS_CSUM).checked
    assert not NO_OFFLOAD.checked


@given(st.binary(min_size=10, max_size=10))
def test_any_header_is_read_and_written_back(header: bytes) -> None:
    assert Offload.unpack(header).packed == header


def scattered(data: bytes, cuts: list[int]) -> Frame:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    view = memoryview(data)
    views = [view[a:b] for a, b in itertools.pairwise(edges)]
    return Frame(views, len(data))


@given(st.binary(max_size=80), st.lists(st.integers(0, 99), max_size=5), st.integers(0, 90),
       st.integers(-1, 90))  # fmt: skip
def test_scattered_frame_reads_as_its_bytes(
    data: bytes, cuts: list[int], start: int, size: int
) -> None:
    frame = scattered(data, cuts)
    assert frame.tobytes() == data
    assert b"".join(frame.payload(start, size)) == data[start : start + max(0, size)]
    assert frame.head(max(0, size)) == data[: max(0, size)]


def test_copy_has_memory_of_its_own() -> None:
    buffer = bytearray(b"before")
    frame = Frame.of(buffer, Offload(F_NEEDS_CSUM))
    kept = frame.copy()
    buffer[:] = b"after!"
    assert kept.tobytes() == b"before"
    assert kept.offload is frame.offload


def test_empty_frame_is_empty() -> None:
    frame = Frame((), 0)
    assert (frame.tobytes(), frame.head(4), frame.payload(0)) == (b"", b"", [])


def test_total_length_adds_frames() -> None:
    assert total_length([Frame.of(b"abc"), Frame.of(b"de")]) == 5
