# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct

import pytest

from vmwire.nic.e1000.checksums import IPCS, IPE, IXSM, TCPCS, TCPE, judge, packet_checksum
from vmwire.nic.e1000.registers import RXCSUM_IPOFL, RXCSUM_IPV6OFL, RXCSUM_TUOFL
from vmwire.wire.protocols.checksum import internet_checksum, transport_checksum

BOTH = RXCSUM_IPOFL | RXCSUM_TUOFL
ALL = BOTH | RXCSUM_IPV6OFL


def udp(source: bytes, destination: bytes, payload: bytes = b"payload") -> bytes:
    head = struct.pack("!HHHH", 1000, 2000, 8 + len(payload), 0)
    checksum = transport_checksum(source, destination, 17, head + payload)
    return head[:6] + struct.pack("!H", checksum) + payload


def ipv4(fragment: int = 0, options: bytes = b"", tag: bytes = b"") -> bytes:
    body = udp(b"\x0a\0\0\1", b"\x0a\0\0\2")
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 20 + len(options) + len(body), 1, fragment,
        64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2",
    ) + options  # fmt: skip
    head = head[:10] + struct.pack("!H", internet_checksum(head)) + head[12:]
    return (bytes(12) + tag + b"\x08\0" + head + body).ljust(60, b"\0")


def ipv6() -> bytes:
    body = udp(bytes(16), bytes(range(16)))
    head = struct.pack("!IHBB16s16s", 6 << 28, len(body), 17, 64, bytes(16), bytes(range(16)))
    return bytes(12) + b"\x86\xdd" + head + body


def broken(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("data", "rxcsum", "verdict"),
    [
        (ipv4(), 0, (IXSM, 0)),
        (ipv4(), RXCSUM_IPOFL, (IPCS, 0)),
        (ipv4(), RXCSUM_TUOFL, (TCPCS, 0)),
        (ipv4(), BOTH, (IPCS | TCPCS, 0)),
        (ipv4(options=bytes(8)), BOTH, (IPCS | TCPCS, 0)),
        (ipv4(tag=b"\x81\0\0\5"), BOTH, (IPCS | TCPCS, 0)),
        (ipv4(fragment=0x2000), BOTH, (IPCS, 0)),
        (ipv4(fragment=0x0001), RXCSUM_TUOFL, (IXSM, 0)),
        (broken(ipv4(), 22), BOTH, (IPCS, IPE)),
        (broken(ipv4(), 45), BOTH, (IPCS | TCPCS, TCPE)),
        (ipv6(), BOTH, (IXSM, 0)),
        (ipv6(), ALL, (TCPCS, 0)),
        (broken(ipv6(), 65), ALL, (TCPCS, TCPE)),
        (bytes(12) + b"\x88\xb5" + bytes(46), ALL, (IXSM, 0)),
    ],
)
def test_a_descriptor_says_what_was_checked_and_what_is_wrong(
    data: bytes, rxcsum: int, verdict: tuple[int, int]
) -> None:
    assert judge(data, rxcsum, False) == verdict


def test_a_frame_that_is_vouched_for_is_not_summed() -> None:
    for data in (ipv4(), broken(ipv4(), 45), ipv4(options=bytes(4)), ipv4(tag=b"\x81\0\0\5")):
        assert judge(data, RXCSUM_TUOFL, True) == (TCPCS, 0)
    for data in (ipv4(fragment=0x2000), ipv4(fragment=0x0001)):
        assert judge(data, RXCSUM_TUOFL, True) == judge(data, RXCSUM_TUOFL, False)


@pytest.mark.parametrize("cut", range(14, 60, 3))
@pytest.mark.parametrize("data", [ipv4(), ipv6()])
def test_packets_that_are_cut_off_are_judged_without_harm(data: bytes, cut: int) -> None:
    short = data[:cut].ljust(60, b"\0")
    for trusted in (False, True):
        judge(short, ALL, trusted)
    lying = data[:16] + b"\xff\xff" + data[18:]
    assert judge(lying, BOTH, False)[1] in (0, IPE)


def test_the_packet_checksum_covers_what_is_behind_its_start() -> None:
    assert packet_checksum(bytes(14) + b"\x12\x34\x00\x01", 14) == 0xFFFF ^ 0x1235
    assert packet_checksum(b"short", 200) == 0xFFFF
