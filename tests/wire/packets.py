# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Packets for tests, built and checked without the code under test."""

from __future__ import annotations

import struct

from vmwire.wire.frame import (
    F_NEEDS_CSUM,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    Frame,
    Offload,
)

MACS = bytes.fromhex("525400123456 525500020202".replace(" ", ""))
V4 = bytes([10, 0, 2, 15]) + bytes([10, 0, 2, 2])
V6 = bytes(15) + b"\x0f" + bytes(15) + b"\x02"


def slow_sum(data: bytes) -> int:
    """RFC 1071 by the letter."""
    total = 0
    for word in struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) & 1)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ethernet(ethertype: int, payload: bytes, vlan: bool = False) -> bytes:
    tag = b"\x81\x00\x00\x07" if vlan else b""
    return MACS + tag + struct.pack("!H", ethertype) + payload


def ipv4(
    protocol: int, payload: bytes, identification: int = 0x1234, options: bytes = b""
) -> bytes:
    words = 5 + len(options) // 4
    header = bytearray(
        struct.pack("!BBHHHBBH", 0x40 | words, 0, words * 4 + len(payload), 0x1234, 0x4000,
                    64, protocol, 0) + V4 + options
    )  # fmt: skip
    struct.pack_into("!H", header, 10, slow_sum(bytes(header)) ^ 0xFFFF)
    return bytes(header) + payload


def ipv6(protocol: int, payload: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + V6 + payload


def tcp(flags: int, payload: bytes, sequence: int = 1000, options: bytes = b"") -> bytes:
    words = 5 + len(options) // 4
    return (
        struct.pack("!HHIIBBHHH", 4000, 80, sequence, 7, words << 4, flags, 512, 0, 0)
        + options
        + payload
    )


def udp(payload: bytes) -> bytes:
    return struct.pack("!HHHH", 4000, 53, 8 + len(payload), 0) + payload


def pseudo(addresses: bytes, protocol: int, length: int) -> bytes:
    return addresses + struct.pack("!II", length, protocol)


def unfinished(transport: bytes, addresses: bytes, protocol: int) -> bytes:
    """The transport segment with the pseudo-header sum where its checksum belongs."""
    at = 16 if protocol == 6 else 6
    out = bytearray(transport)
    struct.pack_into("!H", out, at, slow_sum(pseudo(addresses, protocol, len(transport))))
    return bytes(out)


def superframe_tcp4(
    payload: bytes, size: int, flags: int = 0x18, *, vlan: bool = False, sequence: int = 1000,
    gso: int = GSO_TCPV4, options: bytes = b"", ip_options: bytes = b"",
) -> Frame:  # fmt: skip
    segment = unfinished(tcp(flags, payload, sequence, options), V4, 6)
    data = ethernet(0x0800, ipv4(6, segment, options=ip_options), vlan)
    start = len(data) - len(segment)
    return Frame.of(data, Offload(F_NEEDS_CSUM, gso, start + 20, size, start, 16))


def superframe_tcp6(payload: bytes, size: int) -> Frame:
    segment = unfinished(tcp(0x18, payload), V6, 6)
    data = ethernet(0x86DD, ipv6(6, segment))
    return Frame.of(data, Offload(F_NEEDS_CSUM, GSO_TCPV6, 74, size, 54, 16))


def superframe_udp4(payload: bytes, size: int) -> Frame:
    segment = unfinished(udp(payload), V4, 17)
    data = ethernet(0x0800, ipv4(17, segment))
    return Frame.of(data, Offload(F_NEEDS_CSUM, GSO_UDP_L4, 42, size, 34, 6))


def transport_checks(frame: bytes) -> bool:
    """Whether lengths and checksums of an IPv4 or IPv6 packet with TCP or UDP hold."""
    at = 18 if frame[12:14] == b"\x81\x00" else 14
    if frame[at] >> 4 == 4:
        words = frame[at] & 15
        (total,) = struct.unpack_from("!H", frame, at + 2)
        if slow_sum(frame[at : at + words * 4]) != 0xFFFF or total != len(frame) - at:
            return False
        addresses, protocol, start = frame[at + 12 : at + 20], frame[at + 9], at + words * 4
    else:
        (length,) = struct.unpack_from("!H", frame, at + 4)
        addresses, protocol, start = frame[at + 8 : at + 40], frame[at + 6], at + 40
        if length != len(frame) - start:
            return False
    segment = frame[start:]
    if protocol == 17 and struct.unpack_from("!H", segment, 4)[0] != len(segment):
        return False
    return slow_sum(pseudo(addresses, protocol, len(segment)) + segment) == 0xFFFF
