# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""UDP (RFC 768) over IPv4 and IPv6: addresses are 4 or 16 bytes and only enter the checksum."""

from dataclasses import dataclass
from struct import Struct

from vmwire.wire.protocols.checksum import (
    Buffer,
    internet_checksum,
    pseudo_header_sum,
    transport_checksum,
)
from vmwire.wire.protocols.errors import ParseError

HEADER = Struct("!HHHH")  # source port, destination port, length, checksum
assert HEADER.size == 8

PROTO = 17
LENGTH_OFFSET = 4
CHECKSUM_OFFSET = 6
MAXIMUM_PAYLOAD = 0xFFFF - 20 - HEADER.size  # in an IPv4 packet without options


@dataclass(slots=True)
class Datagram:
    src_port: int
    dst_port: int
    payload: Buffer

    @classmethod
    def parse(cls, segment: Buffer) -> "Datagram":
        """Read an IP payload; bytes behind the datagram's own length are cut off.

        The checksum is `checksum_ok`'s business: it may be left to do.
        """
        if len(segment) < HEADER.size:
            raise ParseError("shorter than a UDP header")
        src_port, dst_port, length, _ = HEADER.unpack_from(segment)
        if not HEADER.size <= length <= len(segment):
            raise ParseError("UDP length disagrees with the packet's")
        return cls(src_port, dst_port, segment[HEADER.size : length])

    def emit(self, src: Buffer, dst: Buffer) -> bytes:
        """The datagram with its checksum for a packet from `src` to `dst`."""
        length = HEADER.size + len(self.payload)
        body = bytes(self.payload)
        unsummed = HEADER.pack(self.src_port, self.dst_port, length, 0) + body
        # A computed 0 is sent as all ones: 0 on the wire says that there is no checksum.
        checksum = transport_checksum(src, dst, PROTO, unsummed) or 0xFFFF
        return HEADER.pack(self.src_port, self.dst_port, length, checksum) + body


def checksum_ok(segment: Buffer, src: Buffer, dst: Buffer) -> bool:
    """Whether a datagram that `parse` accepts is unharmed, or has no checksum (IPv4 only)."""
    _, _, length, checksum = HEADER.unpack_from(segment)
    if not checksum:
        return len(src) == 4
    return internet_checksum(segment[:length], pseudo_header_sum(src, dst, PROTO, length)) == 0
