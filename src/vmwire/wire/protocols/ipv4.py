# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The IPv4 header (RFC 791), with options kept as bytes.

`Header.parse` checks every length once; afterwards `payload()` and the peeks can't fail. The
header checksum is a question of its own (`checksum_ok`), because a quoted header in an ICMP
message is worth reading even where a router has changed it.
"""

from dataclasses import dataclass
from struct import Struct

from vmwire.wire.protocols.checksum import Buffer, internet_checksum
from vmwire.wire.protocols.errors import ParseError

# version/IHL, TOS, total length, identification, flags/offset, TTL, protocol, checksum, src, dst
HEADER = Struct("!BBHHHBBH4s4s")
assert HEADER.size == 20

PROTO_ICMP = 1
PROTO_IGMP = 2
PROTO_TCP = 6
PROTO_UDP = 17

DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000
OFFSET_MASK = 0x1FFF
FRAGMENT_MASK = MORE_FRAGMENTS | OFFSET_MASK  # not zero: this packet is a piece

TOTAL_LENGTH_OFFSET = 2
PROTO_OFFSET = 9
CHECKSUM_OFFSET = 10
SRC = slice(12, 16)
DST = slice(16, 20)

MAXIMUM_LENGTH = 0xFFFF
MINIMUM_MTU = 68
DEFAULT_TTL = 64

BROADCAST = b"\xff" * 4


@dataclass(slots=True)
class Header:
    """One packet's header; `fragment` is the flags-and-offset word as it stands on the wire.

    >>> header = Header(bytes([10, 0, 2, 2]), bytes([10, 0, 2, 15]), PROTO_UDP, payload_length=8)
    >>> Header.parse(header.emit() + bytes(8)) == header
    True
    """

    src: bytes
    dst: bytes
    proto: int
    payload_length: int
    ttl: int = DEFAULT_TTL
    ident: int = 0
    fragment: int = 0
    tos: int = 0
    options: bytes = b""

    @property
    def length(self) -> int:
        return HEADER.size + len(self.options)

    @property
    def is_fragment(self) -> bool:
        return bool(self.fragment & FRAGMENT_MASK)

    @property
    def offset_bytes(self) -> int:
        """Where this piece begins in the whole datagram's payload."""
        return (self.fragment & OFFSET_MASK) * 8

    @classmethod
    def parse(cls, packet: Buffer, *, quoted: bool = False) -> "Header":
        """Read a packet's header; `quoted` packets (in ICMP errors) may be cut behind it."""
        if len(packet) < HEADER.size:
            raise ParseError("shorter than an IPv4 header")
        version_ihl, tos, total, ident, fragment, ttl, proto, _, src, dst = HEADER.unpack_from(
            packet
        )
        length = (version_ihl & 0x0F) * 4
        if version_ihl >> 4 != 4 or length < HEADER.size:
            raise ParseError("not an IPv4 header")
        if total < length or len(packet) < (length if quoted else total):
            raise ParseError("IPv4 length disagrees with the packet's")
        options = bytes(packet[HEADER.size : length])
        return cls(src, dst, proto, total - length, ttl, ident, fragment, tos, options)

    def payload(self, packet: Buffer) -> Buffer:
        """The slice behind the header, without what the wire padded."""
        return packet[self.length : self.length + self.payload_length]

    def emit(self) -> bytes:
        """The header with its checksum; options are padded to whole words."""
        options = self.options + bytes(-len(self.options) % 4)
        length = HEADER.size + len(options)
        header = self._pack(length, 0) + options
        return self._pack(length, internet_checksum(header)) + options

    def _pack(self, length: int, checksum: int) -> bytes:
        return HEADER.pack(
            0x40 | length >> 2,
            self.tos,
            length + self.payload_length,
            self.ident,
            self.fragment,
            self.ttl,
            self.proto,
            checksum,
            self.src,
            self.dst,
        )


def checksum_ok(packet: Buffer) -> bool:
    """Whether the header of a packet that `Header.parse` accepts arrived unharmed."""
    return internet_checksum(packet[: (packet[0] & 0x0F) * 4]) == 0


def is_multicast(address: Buffer) -> bool:
    """Whether the address is a group's (224.0.0.0/4) or above: never one host's."""
    return address[0] >= 224
