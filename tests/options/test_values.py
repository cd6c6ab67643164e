# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Values as QEMU reads them."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmwire.options import values


@pytest.mark.parametrize("text", ["on", "yes", "true", "y"])
def test_words_for_on(text: str) -> None:
    assert values.parse_bool(text) is True


@pytest.mark.parametrize("text", ["off", "no", "false", "n"])
def test_words_for_off(text: str) -> None:
    assert values.parse_bool(text) is False


@pytest.mark.parametrize("text", ["", "On", "TRUE", "1", "0", "auto", " on"])
def test_other_words_are_no_switch(text: str) -> None:
    with pytest.raises(ValueError):
        values.parse_bool(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("42", 42), ("-1", -1), ("+7", 7), ("0x5dc", 1500), ("0X10", 16), ("010", 8),
     (" 5", 5), ("-0x1", -1)],
)  # fmt: skip
def test_numbers_are_read_as_c_reads_them(text: str, number: int) -> None:
    assert values.parse_int(text) == number


@pytest.mark.parametrize("text", ["", "x", "08", "0x", "1 ", "1.5", "1-3", "--1", "1_000", "٣"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        values.parse_int(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", 512), ("4096b", 4096), ("4k", 4096), ("4K", 4096), ("1.5G", 3 << 29), ("1.G", 1 << 30),
     (".5G", 1 << 29), ("0x200", 512), ("0x40M", 64 << 20), ("+64M", 64 << 20), (" 1M", 1 << 20),
     ("1.1k", 1126), ("2T", 2 << 40), ("1P", 1 << 50), ("15E", 15 << 60), ("3.0", 3), ("0", 0),
     ("0x1E", 30)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert values.parse_size(text) == size


def test_bare_sizes_are_counted_in_the_options_unit() -> None:
    assert values.parse_size("128", unit=1 << 20) == 128 << 20
    assert values.parse_size("128k", unit=1 << 20) == 128 << 10


@pytest.mark.parametrize(
    "text", ["", "x", "1e2", "256Mb", "256MiB", "3.5x", "0x1.8k", "0.1", "-1", "1 M", "16E", "k"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        values.parse_size(text)


@pytest.mark.parametrize("text", ["52:54:00:12:34:56", "52-54-00-12-34-56", "52:54:00-12:34:56"])
def test_mac_addresses_have_colons_or_dashes(text: str) -> None:
    assert values.parse_mac(text) == bytes.fromhex("525400123456")


@pytest.mark.parametrize(
    "text",
    ["", "zz", "525400123456", "52:54:00:12:34", "52:54:00:12:34:56:78", "5:4:0:2:4:6",
     "52:54:00:12:34:5g", "52:54:00:12:34:56 "],
)  # fmt: skip
def test_what_is_no_mac_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        values.parse_mac(text)


@given(st.binary(min_size=6, max_size=6))
def test_mac_addresses_come_back(mac: bytes) -> None:
    assert values.parse_mac(values.format_mac(mac)) == mac


@pytest.mark.parametrize("text", ["a", "user1", "a_b-c.d", "A9"])
def test_ids(text: str) -> None:
    assert values.is_id(text)


@pytest.mark.parametrize("text", ["", "1x", "_a", ".a", "a b", "a,b", "ä", "a\n"])
def test_what_is_no_id(text: str) -> None:
    assert not values.is_id(text)


def libc_reads(text: str) -> bytes | None:
    try:
        return socket.inet_aton(text)
    except OSError:
        return None


def we_read(text: str) -> bytes | None:
    try:
        return values.parse_ipv4(text)
    except ValueError:
        return None


@given(st.text(alphabet="0123456789.x aF-", max_size=16).filter(lambda text: "\0" not in text))
def test_ipv4_addresses_are_read_as_the_c_library_reads_them(text: str) -> None:
    assert we_read(text) == libc_reads(text)


PARTS = st.integers(0, 1 << 33).flatmap(lambda n: st.sampled_from([str(n), hex(n), f"0{n:o}"]))


@given(st.lists(PARTS, min_size=1, max_size=5))
def test_ipv4_addresses_of_any_parts_are_read_as_the_c_library_reads_them(
    parts: list[str],
) -> None:
    text = ".".join(parts)
    assert we_read(text) == libc_reads(text)
