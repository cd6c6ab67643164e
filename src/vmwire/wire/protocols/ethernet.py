# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ethernet II frames (IEEE 802.3-2018 clause 3) with at most one VLAN tag peeled (802.1Q 9.6).

Frames here carry neither preamble nor frame check sequence. A second tag, if there is one,
is left in the payload with its tag protocol identifier as the ethertype.
"""

from dataclasses import dataclass
from struct import Struct

from vmwire.wire.protocols.checksum import Buffer
from vmwire.wire.protocols.errors import ParseError

HEADER = Struct("!6s6sH")  # destination, source, ethertype
TAGGED_HEADER = Struct("!6s6sHHH")  # destination, source, TPID, TCI, ethertype
assert HEADER.size == 14
assert TAGGED_HEADER.size == 18

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_VLAN = 0x8100  # customer tag (C-VLAN)
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_SERVICE_VLAN = 0x88A8  # service tag (S-VLAN)
TAG_PROTOCOLS = frozenset((ETHERTYPE_VLAN, ETHERTYPE_SERVICE_VLAN))

BROADCAST = b"\xff" * 6
MINIMUM_LENGTH = 60  # what a wire pads to, without the frame check sequence

VLAN_ID_MASK = 0x0FFF


@dataclass(slots=True)
class Tag:
    """A VLAN tag: `tci` is priority (3 bits), drop eligible (1 bit), VLAN id (12 bits)."""

    tci: int
    tpid: int = ETHERTYPE_VLAN

    @property
    def vlan(self) -> int:
        return self.tci & VLAN_ID_MASK


@dataclass(slots=True)
class Header:
    """The addresses and type in front of a frame's payload."""

    dst: bytes
    src: bytes
    ethertype: int
    tag: Tag | None = None

    @property
    def length(self) -> int:
        return TAGGED_HEADER.size if self.tag else HEADER.size

    @classmethod
    def parse(cls, frame: Buffer) -> "Header":
        if len(frame) < HEADER.size:
            raise ParseError("frame is shorter than an Ethernet header")
        dst, src, ethertype = HEADER.unpack_from(frame)
        if ethertype not in TAG_PROTOCOLS:
            return cls(dst, src, ethertype)
        if len(frame) < TAGGED_HEADER.size:
            raise ParseError("frame ends within its VLAN tag")
        dst, src, tpid, tci, ethertype = TAGGED_HEADER.unpack_from(frame)
        return cls(dst, src, ethertype, Tag(tci, tpid))

    def emit(self) -> bytes:
        if self.tag is None:
            return HEADER.pack(self.dst, self.src, self.ethertype)
        return TAGGED_HEADER.pack(self.dst, self.src, self.tag.tpid, self.tag.tci, self.ethertype)


def is_multicast(mac: Buffer) -> bool:
    """Whether a frame to `mac` is for more than one station (broadcast included)."""
    return bool(mac[0] & 1)


def is_station(mac: Buffer) -> bool:
    """Whether `mac` can be the address of one station: neither a group's nor all zeros."""
    return not is_multicast(mac) and any(mac)


def padded(frame: bytes) -> bytes:
    """The frame with zeros up to the shortest that a wire carries."""
    return frame.ljust(MINIMUM_LENGTH, b"\0")


def format_mac(mac: Buffer) -> str:
    return bytes(mac).hex(":")
