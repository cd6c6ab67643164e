# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from hypothesis import given
from hypothesis import strategies as st

from vmwire.wire.protocols import checksum

IP_HEADER = bytes.fromhex("451002400000000040116c9c0a000202ffffffff")
UDP_SEGMENT = bytes.fromhex("0035c0000010a1b2") + b"payload!"


def slow_sum(data: bytes, initial: int = 0) -> int:
    """The definition: add words, carry around."""
    total = initial
    for at in range(0, len(data), 2):
        total += data[at] << 8 | (data[at + 1] if at + 1 < len(data) else 0)
        total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


@given(st.binary(max_size=200), st.integers(0, 0xFFFF))
def test_sum_is_that_of_the_definition(data: bytes, initial: int) -> None:
    assert checksum.ones_complement_sum(data, initial) == slow_sum(data, initial)


@given(st.binary(max_size=100).filter(lambda b: len(b) % 2 == 0), st.binary(max_size=99))
def test_sums_of_pieces_chain(head: bytes, tail: bytes) -> None:
    chained = checksum.ones_complement_sum(tail, checksum.ones_complement_sum(head))
    assert chained == checksum.ones_complement_sum(head + tail)


def test_sum_of_zeros_is_zero_and_of_ones_is_all_ones() -> None:
    assert checksum.ones_complement_sum(bytes(20)) == 0
    assert checksum.ones_complement_sum(b"\xff" * 20) == 0xFFFF
    assert checksum.ones_complement_sum(b"") == 0
    assert checksum.internet_checksum(bytes(20)) == 0xFFFF


def test_rfc_1071_example() -> None:
    assert checksum.ones_complement_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


def test_odd_length_is_padded_on_the_right() -> None:
    assert checksum.ones_complement_sum(b"\x12") == 0x1200
    assert checksum.ones_complement_sum(b"\x12\x34\x56") == 0x1234 + 0x5600


def test_header_with_its_checksum_sums_to_all_ones() -> None:
    assert checksum.ones_complement_sum(IP_HEADER) == 0xFFFF
    assert checksum.internet_checksum(IP_HEADER) == 0
    cleared = IP_HEADER[:10] + bytes(2) + IP_HEADER[12:]
    assert checksum.internet_checksum(memoryview(cleared)) == 0x6C9C


def test_pseudo_header_sum_of_ipv4() -> None:
    src, dst = bytes([10, 0, 2, 2]), bytes([10, 0, 2, 15])
    assert checksum.pseudo_header_sum(src, dst, 6, 20) == slow_sum(
        src + dst + bytes([0, 6]) + (20).to_bytes(2, "big")
    )


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_pseudo_header_sum_of_ipv6(src: bytes, dst: bytes) -> None:
    wanted = slow_sum(src + dst + (70000).to_bytes(4, "big") + (17).to_bytes(4, "big"))
    assert checksum.pseudo_header_sum(src, dst, 17, 70000) == wanted


@given(st.binary(min_size=20, max_size=60), st.integers(0, 9), st.integers(0, 0xFFFF))
def test_updated_checksum_still_verifies(data: bytes, word: int, new: int) -> None:
    data = data[: len(data) & ~1]
    before = checksum.internet_checksum(data)
    old = int.from_bytes(data[2 * word : 2 * word + 2], "big")
    changed = data[: 2 * word] + new.to_bytes(2, "big") + data[2 * word + 2 :]
    after = checksum.update_checksum(before, old, new)
    if any(changed):
        assert checksum.internet_checksum(changed + after.to_bytes(2, "big")) == 0


def test_transport_checksum_verifies_with_its_pseudo_header() -> None:
    src, dst = bytes([10, 0, 2, 3]), bytes([10, 0, 2, 15])
    cleared = UDP_SEGMENT[:6] + bytes(2) + UDP_SEGMENT[8:]
    value = checksum.transport_checksum(src, dst, 17, cleared)
    filled = cleared[:6] + value.to_bytes(2, "big") + cleared[8:]
    pseudo = checksum.pseudo_header_sum(src, dst, 17, len(filled))
    assert checksum.internet_checksum(filled, pseudo) == 0
