# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""ICMP for IPv4 (RFC 792; RFC 1191 for the MTU of code 4; RFC 1812 4.3 for errors).

`emit` fills in the checksum; `parse` refuses a message whose checksum is wrong, since nothing
offloads ICMP's.
"""

from dataclasses import dataclass
from struct import Struct

from vmwire.wire.protocols import ipv4
from vmwire.wire.protocols.checksum import Buffer, internet_checksum
from vmwire.wire.protocols.errors import ParseError

HEADER = Struct("!BBH4s")  # type, code, checksum, rest of header
ECHO = Struct("!BBHHH")  # type, code, checksum, identifier, sequence number
assert HEADER.size == 8
assert ECHO.size == 8

ECHO_REPLY = 0
DESTINATION_UNREACHABLE = 3
SOURCE_QUENCH = 4
REDIRECT = 5
ECHO_REQUEST = 8
TIME_EXCEEDED = 11
PARAMETER_PROBLEM = 12
ERRORS = frozenset(
    (DESTINATION_UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER_PROBLEM)
)

# Codes of DESTINATION_UNREACHABLE
NET_UNREACHABLE = 0
HOST_UNREACHABLE = 1
PROTOCOL_UNREACHABLE = 2
PORT_UNREACHABLE = 3
FRAGMENTATION_NEEDED = 4
ADMINISTRATIVELY_PROHIBITED = 13

# Codes of TIME_EXCEEDED
TTL_EXCEEDED = 0
REASSEMBLY_EXCEEDED = 1

# RFC 1812 4.3.2.3: an error message quotes what fits into 576 bytes.
MAXIMUM_QUOTE = 576 - ipv4.HEADER.size - HEADER.size


@dataclass(slots=True)
class Message:
    """One message: `rest` is the header's second word, whose meaning hangs on the type."""

    type: int
    code: int
    rest: bytes
    data: Buffer

    @property
    def ident(self) -> int:
        """The identifier of an echo."""
        return self.rest[0] << 8 | self.rest[1]

    @property
    def sequence(self) -> int:
        """The sequence number of an echo."""
        return self.rest[2] << 8 | self.rest[3]

    @classmethod
    def parse(cls, payload: Buffer) -> "Message":
        if len(payload) < HEADER.size:
            raise ParseError("shorter than an ICMP header")
        if internet_checksum(payload):
            raise ParseError("wrong ICMP checksum")
        kind, code, _, rest = HEADER.unpack_from(payload)
        return cls(kind, code, rest, payload[HEADER.size :])

    def emit(self) -> bytes:
        unsummed = HEADER.pack(self.type, self.code, 0, self.rest) + bytes(self.data)
        checksum = internet_checksum(unsummed)
        return HEADER.pack(self.type, self.code, checksum, self.rest) + unsummed[HEADER.size :]


def echo_reply(request: Message) -> Message:
    return Message(ECHO_REPLY, 0, request.rest, request.data)


def unreachable(code: int, packet: Buffer, mtu: int = 0) -> Message:
    """Destination unreachable about `packet`; `mtu` is for FRAGMENTATION_NEEDED."""
    rest = mtu.to_bytes(4, "big")
    return Message(DESTINATION_UNREACHABLE, code, rest, packet[:MAXIMUM_QUOTE])


def time_exceeded(code: int, packet: Buffer) -> Message:
    return Message(TIME_EXCEEDED, code, bytes(4), packet[:MAXIMUM_QUOTE])


def may_report(header: ipv4.Header, payload: Buffer) -> bool:
    """Whether an error about this packet may be sent (RFC 1122 3.2.2).

    Never about an ICMP error, a later fragment, a packet to more than one host, or one whose
    source is not a single host: such answers could breed answers.
    """
    if header.fragment & ipv4.OFFSET_MASK or ipv4.is_multicast(header.dst):
        return False
    if ipv4.is_multicast(header.src) or header.src[0] == 0:
        return False
    return header.proto != ipv4.PROTO_ICMP or (len(payload) > 0 and payload[0] not in ERRORS)
