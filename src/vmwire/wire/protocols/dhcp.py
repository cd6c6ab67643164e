# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""BOOTP (RFC 951) and DHCP (RFC 2131) messages, with options as numbers and bytes (RFC 2132).

A message without the magic cookie, or without a message type, is BOOTP. An option that ends
beyond its field is a ParseError. Options that come several times are one value in pieces (RFC
3396), and a message may go on with options in its `file` and `sname` fields (option 52).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from struct import Struct

from vmwire.wire.protocols.checksum import Buffer
from vmwire.wire.protocols.errors import ParseError

# op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file
HEADER = Struct("!BBBBIHH4s4s4s4s16s64s128s")
assert HEADER.size == 236

SERVER_PORT = 67
CLIENT_PORT = 68
MAGIC = bytes.fromhex("63825363")
NO_ADDRESS = bytes(4)

BOOTREQUEST = 1
BOOTREPLY = 2
HARDWARE_ETHERNET = 1

DISCOVER = 1
OFFER = 2
REQUEST = 3
DECLINE = 4
ACK = 5
NAK = 6
RELEASE = 7
INFORM = 8

OPTION_PAD = 0
OPTION_SUBNET_MASK = 1
OPTION_ROUTER = 3
OPTION_DNS = 6
OPTION_HOST_NAME = 12
OPTION_DOMAIN_NAME = 15
OPTION_MTU = 26
OPTION_REQUESTED_ADDRESS = 50
OPTION_LEASE_TIME = 51
OPTION_OVERLOAD = 52
OPTION_MESSAGE_TYPE = 53
OPTION_SERVER_ID = 54
OPTION_MESSAGE = 56
OPTION_MAXIMUM_SIZE = 57
OPTION_CLIENT_ID = 61
OPTION_TFTP_SERVER_NAME = 66
OPTION_DOMAIN_SEARCH = 119  # RFC 3397
OPTION_END = 255

OVERLOAD_FILE = 1
OVERLOAD_SNAME = 2
MAXIMUM_OPTION_LENGTH = 255


@dataclass(slots=True)
class Message:
    """One message; `options` maps a number to its whole value, in the order of appearance."""

    op: int
    xid: int
    chaddr: bytes
    options: dict[int, bytes] = field(default_factory=dict)
    ciaddr: bytes = NO_ADDRESS
    yiaddr: bytes = NO_ADDRESS
    siaddr: bytes = NO_ADDRESS
    giaddr: bytes = NO_ADDRESS
    flags: int = 0
    secs: int = 0
    hops: int = 0
    htype: int = HARDWARE_ETHERNET
    sname: bytes = b""
    file: bytes = b""

    @property
    def type(self) -> int | None:
        """The DHCP message type; None is BOOTP."""
        value = self.options.get(OPTION_MESSAGE_TYPE, b"")
        return value[0] if len(value) == 1 else None

    def address(self, code: int) -> bytes | None:
        """An option's value if it is one IPv4 address."""
        value = self.options.get(code, b"")
        return value if len(value) == 4 else None

    @classmethod
    def parse(cls, payload: Buffer) -> "Message":
        """Read a UDP payload; BOOTP's vendor area of a form of its own gives no options."""
        if len(payload) < HEADER.size:
            raise ParseError("shorter than a BOOTP message")
        op, htype, hlen, hops, xid, secs, flags, *rest = HEADER.unpack_from(payload)
        ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file = rest
        if hlen > len(chaddr):
            raise ParseError("hardware address longer than its field")
        options = _parse_vendor_area(bytes(payload[HEADER.size :]), sname, file)
        overload = int.from_bytes(options.get(OPTION_OVERLOAD, b""), "big")
        return cls(
            op=op,
            xid=xid,
            chaddr=chaddr[:hlen],
            options=options,
            ciaddr=ciaddr,
            yiaddr=yiaddr,
            siaddr=siaddr,
            giaddr=giaddr,
            flags=flags,
            secs=secs,
            hops=hops,
            htype=htype,
            sname=b"" if overload & OVERLOAD_SNAME else sname.split(b"\0", 1)[0],
            file=b"" if overload & OVERLOAD_FILE else file.split(b"\0", 1)[0],
        )

    def emit(self, minimum_length: int = 0) -> bytes:
        """The message with its options and end mark, padded with zeros."""
        header = HEADER.pack(
            self.op,
            self.htype,
            len(self.chaddr),
            self.hops,
            self.xid,
            self.secs,
            self.flags,
            self.ciaddr,
            self.yiaddr,
            self.siaddr,
            self.giaddr,
            self.chaddr,
            self.sname,
            self.file,
        )
        options = b"".join(emit_option(code, value) for code, value in self.options.items())
        return (header + MAGIC + options + bytes((OPTION_END,))).ljust(minimum_length, b"\0")


def emit_option(code: int, value: bytes) -> bytes:
    """One option, in pieces where it is longer than a length byte can say (RFC 3396)."""
    step = MAXIMUM_OPTION_LENGTH
    pieces = [value[at : at + step] for at in range(0, len(value), step)] or [b""]
    return b"".join(bytes((code, len(piece))) + piece for piece in pieces)


def _parse_vendor_area(area: bytes, sname: bytes, file: bytes) -> dict[int, bytes]:
    options: dict[int, bytes] = {}
    if area[: len(MAGIC)] != MAGIC:
        return options
    _parse_options(area[len(MAGIC) :], options)
    overload = int.from_bytes(options.get(OPTION_OVERLOAD, b""), "big")
    if overload & OVERLOAD_FILE:
        _parse_options(file, options)
    if overload & OVERLOAD_SNAME:
        _parse_options(sname, options)
    return options


def _parse_options(area: bytes, options: dict[int, bytes]) -> None:
    at = 0
    while at < len(area) and area[at] != OPTION_END:
        if area[at] == OPTION_PAD:
            at += 1
            continue
        end = at + 2 + area[at + 1] if at + 1 < len(area) else len(area) + 1
        if end > len(area):
            raise ParseError("DHCP option ends beyond its field")
        options[area[at]] = options.get(area[at], b"") + area[at + 2 : end]
        at = end


def emit_search_list(domains: Iterable[str]) -> bytes:
    """The value of OPTION_DOMAIN_SEARCH (RFC 3397): names that share their ends by pointers.

    Raises ValueError for what isn't a domain name: an empty or overlong label or name.
    """
    out = bytearray()
    places: dict[tuple[bytes, ...], int] = {}
    for domain in domains:
        labels = split_domain(domain)
        while labels and labels not in places:
            if len(out) < 0x4000:  # what a pointer's 14 bits reach
                places[labels] = len(out)
            out += bytes((len(labels[0]),)) + labels[0]
            labels = labels[1:]
        out += (0xC000 | places[labels]).to_bytes(2, "big") if labels else b"\0"
    return bytes(out)


def split_domain(domain: str) -> tuple[bytes, ...]:
    """A domain name's labels; a final dot is allowed. ValueError if it isn't one (RFC 1035)."""
    try:
        labels = tuple(domain.removesuffix(".").encode("ascii").split(b"."))
    except UnicodeEncodeError:
        raise ValueError(f"domain name {domain!r} is not ASCII") from None
    if not all(1 <= len(label) <= 63 for label in labels):
        raise ValueError(f"domain name {domain!r} has a label that is empty or above 63 bytes")
    if sum(len(label) + 1 for label in labels) > 254:
        raise ValueError(f"domain name {domain!r} is longer than 253 bytes")
    return labels
