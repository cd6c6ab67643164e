# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the user network reads in the headers of guests' datagrams (RFC 768)."""

from __future__ import annotations

from struct import Struct

from vmwire.netdev.user.udp_host import Path
from vmwire.wire.frame import Frame, Offload
from vmwire.wire.protocols.checksum import ones_complement_sum

DATAGRAM = Struct("!12sHH")
"""Addresses and ports, length, checksum."""
LENGTHS = Struct("!HH")
VARYING = Struct("!H4xH")
"""In an IPv4 header from byte 4 on: identification and checksum."""
PROTOCOL_UDP = 17
HEADER_SIZE = 8
DATA_AT = 42
"""Where data starts in a frame without VLAN tag and IPv4 options."""


class Known:
    """Where datagrams with certain headers go, and what the rest of those headers adds up to."""

    __slots__ = ("end", "offload", "path", "sum")

    def __init__(self, path: Path, end: int, rest: int, offload: Offload) -> None:
        self.path = path
        self.end = end
        self.sum = rest
        self.offload = offload


def known_key(head: bytes) -> bytes:
    """The headers of a frame without VLAN tag and IPv4 options, but for identification and
    checksums: from the MAC addresses to the UDP length."""
    return head[:18] + head[20:24] + head[26:40]


def known_sum(head: bytes) -> int:
    """What the IPv4 part of those headers adds up to."""
    return ones_complement_sum(head[14:18] + head[20:24] + head[26:34])


def checksum_holds(frame: Frame, head: bytes, transport: int, length: int) -> bool:
    """Verify a datagram's checksum; who has an offload doesn't come here."""
    pseudo = ones_complement_sum(head[26:34], PROTOCOL_UDP + length)
    data = b"".join(frame.payload(transport, length))
    return ones_complement_sum(data, pseudo) == 0xFFFF


def first_datagram(head: bytes, transport: int, size: int) -> bytes:
    """A superframe's first bytes as they would be without segmentation: errors quote them."""
    length = HEADER_SIZE + size
    total = (transport - 14 + length).to_bytes(2, "big")
    lengths = length.to_bytes(2, "big")
    ip = head[:16] + total + head[18 : transport + 4]
    return ip + lengths + head[transport + 6 : transport + length]
