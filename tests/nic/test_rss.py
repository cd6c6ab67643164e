# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The Toeplitz hash gives what its definition's test suite says (Microsoft, "Verifying the RSS Hash
Calculation")."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from vmwire.nic.rss import Hasher, toeplitz

KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)
SUITE = [
    ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323E8FC2, 0x51CCC178),
    ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xD718262A, 0xC626B0EA),
    ("24.19.198.95", 12898, "12.22.207.184", 38024, 0xD2D0A5DE, 0x5C2B394A),
    ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2CC18CD5, 0x40207D3D),
    ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0F0C461C, 0xDDE51BBF),
]


@pytest.mark.parametrize(("source", "from_", "to", "port", "addresses", "all_of_it"), SUITE)
def test_suite(source: str, from_: int, to: str, port: int, addresses: int, all_of_it: int) -> None:
    data = ip_address(source).packed + ip_address(to).packed
    assert toeplitz(KEY, data) == addresses
    assert toeplitz(KEY, data + from_.to_bytes(2, "big") + port.to_bytes(2, "big")) == all_of_it


def test_a_new_key_is_heeded_once_the_old_one_is_forgotten() -> None:
    keys = [KEY, bytes(40)]
    hasher = Hasher(lambda: keys[0])
    data = bytes(range(12))
    first = hasher.of(data)
    keys.pop(0)
    assert hasher.of(data) == first
    hasher.forget()
    assert hasher.of(data) == 0


def test_what_is_remembered_is_bounded() -> None:
    hasher = Hasher(lambda: KEY)
    for number in range(5000):
        hasher.of(number.to_bytes(8, "big"))
    assert len(hasher._known) <= 1024
