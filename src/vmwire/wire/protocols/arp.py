# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""ARP for IPv4 over Ethernet (RFC 826, RFC 5227): the 28 bytes behind the Ethernet header.

Other hardware or protocol types are a ParseError here: on our wires they name nothing.
"""

from dataclasses import dataclass
from struct import Struct

from vmwire.wire.protocols.checksum import Buffer
from vmwire.wire.protocols.errors import ParseError

PACKET = Struct("!HHBBH6s4s6s4s")
assert PACKET.size == 28

HARDWARE_ETHERNET = 1
PROTOCOL_IPV4 = 0x0800
_KIND = (HARDWARE_ETHERNET, PROTOCOL_IPV4, 6, 4)

REQUEST = 1
REPLY = 2

NO_MAC = bytes(6)
NO_ADDRESS = bytes(4)


@dataclass(slots=True)
class Packet:
    """One ARP message; operations other than request and reply are kept as they are."""

    operation: int
    sender_mac: bytes
    sender_address: bytes
    target_mac: bytes
    target_address: bytes

    @classmethod
    def parse(cls, payload: Buffer) -> "Packet":
        """Read an Ethernet payload; what follows the message (padding) is ignored."""
        if len(payload) < PACKET.size:
            raise ParseError("shorter than an ARP message")
        hardware, protocol, mac_size, address_size, *fields = PACKET.unpack_from(payload)
        if (hardware, protocol, mac_size, address_size) != _KIND:
            raise ParseError("not ARP for IPv4 over Ethernet")
        return cls(*fields)

    def emit(self) -> bytes:
        return PACKET.pack(
            *_KIND,
            self.operation,
            self.sender_mac,
            self.sender_address,
            self.target_mac,
            self.target_address,
        )
