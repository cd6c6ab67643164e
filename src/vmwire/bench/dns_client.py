# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Asking a name server for addresses (RFC 1035), without sockets: one message out, one in.

>>> message = query("example.org", ident=1)
>>> dns.parse_question(message).name
'example.org'
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from struct import Struct

from vmwire.wire.protocols import dns
from vmwire.wire.protocols.errors import ParseError

RECORD_TAIL = Struct("!HHIH")  # type, class, time to live, length
RCODES = {
    dns.NOERROR: "NOERROR",
    dns.FORMERR: "FORMERR",
    dns.SERVFAIL: "SERVFAIL",
    dns.NXDOMAIN: "NXDOMAIN",
    dns.NOTIMP: "NOTIMP",
    dns.REFUSED: "REFUSED",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a name server said."""

    ident: int
    code: str
    """``NOERROR``, ``NXDOMAIN`` and so on."""
    addresses: list[str]


def query(name: str, ident: int, qtype: int = dns.TYPE_A) -> bytes:
    """The question for a name's addresses. ValueError: it isn't a name."""
    labels = [label.encode("idna") for label in name.rstrip(".").split(".")]
    if not all(1 <= len(label) <= dns.MAXIMUM_LABEL_LENGTH for label in labels):
        raise ValueError(f"{name!r} is not a domain name")
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    header = dns.Header(ident, dns.RECURSION_DESIRED, questions=1)
    return header.emit() + wire + dns.QUESTION_TAIL.pack(qtype, dns.CLASS_IN)


def read_reply(message: bytes) -> Reply:
    """Read a reply. ParseError: it is none."""
    header = dns.Header.parse(message)
    if not header.is_response:
        raise ParseError("a question instead of an answer")
    at = dns.HEADER.size
    for _ in range(header.questions):
        at = dns.parse_name(message, at)[1] + dns.QUESTION_TAIL.size
    addresses = []
    for _ in range(header.answers):
        at = dns.parse_name(message, at)[1]
        if at + RECORD_TAIL.size > len(message):
            raise ParseError("DNS record ends beyond the message")
        kind, _, _, length = RECORD_TAIL.unpack_from(message, at)
        at += RECORD_TAIL.size
        data = message[at : at + length]
        if len(data) < length:
            raise ParseError("DNS record ends beyond the message")
        at += length
        if kind == dns.TYPE_A and len(data) == 4:
            addresses.append(socket.inet_ntoa(data))
    code = RCODES.get(header.rcode, f"code {header.rcode}")
    return Reply(header.id, code, addresses)
