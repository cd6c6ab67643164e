# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""DNS messages (RFC 1035 4) as far as a relay looks into them: header and question.

A relay passes messages on as they came, so most of this is peeks and changes of one field. Only
the question is understood. Names are bounded: at most 255 bytes on the wire, and compression
pointers lead strictly backwards, so that no loop can be built from them.
"""

from dataclasses import dataclass
from struct import Struct

from vmwire.wire.protocols.checksum import Buffer
from vmwire.wire.protocols.errors import ParseError

HEADER = Struct("!HHHHHH")  # id, flags, questions, answers, authorities, additionals
QUESTION_TAIL = Struct("!HH")  # type, class
assert HEADER.size == 12
assert QUESTION_TAIL.size == 4

PORT = 53

# The flags word
RESPONSE = 0x8000
OPCODE_MASK = 0x7800
TRUNCATED = 0x0200
RECURSION_DESIRED = 0x0100
RECURSION_AVAILABLE = 0x0080
CHECKING_DISABLED = 0x0010
RCODE_MASK = 0x000F

NOERROR = 0
FORMERR = 1
SERVFAIL = 2
NXDOMAIN = 3
NOTIMP = 4
REFUSED = 5

TYPE_A = 1
TYPE_AAAA = 28
CLASS_IN = 1

MAXIMUM_NAME_LENGTH = 255
MAXIMUM_LABEL_LENGTH = 63
POINTER = 0xC0


@dataclass(slots=True)
class Question:
    """What is asked: `name` in lower case with dots (the root is "."), `wire` as it stood."""

    name: str
    qtype: int
    qclass: int
    wire: bytes

    def matches(self, other: "Question") -> bool:
        """Whether it is the same question but for the case of letters (RFC 4343)."""
        return (self.name, self.qtype, self.qclass) == (other.name, other.qtype, other.qclass)


@dataclass(slots=True)
class Header:
    id: int
    flags: int
    questions: int
    answers: int = 0
    authorities: int = 0
    additionals: int = 0

    @classmethod
    def parse(cls, message: Buffer) -> "Header":
        if len(message) < HEADER.size:
            raise ParseError("shorter than a DNS header")
        return cls(*HEADER.unpack_from(message))

    def emit(self) -> bytes:
        return HEADER.pack(
            self.id, self.flags, self.questions, self.answers, self.authorities, self.additionals
        )

    @property
    def is_response(self) -> bool:
        return bool(self.flags & RESPONSE)

    @property
    def rcode(self) -> int:
        return self.flags & RCODE_MASK


def parse_question(message: Buffer) -> Question:
    """The first question of a message that has one."""
    if Header.parse(message).questions == 0:
        raise ParseError("DNS message without a question")
    name, end = parse_name(message, HEADER.size)
    if end + QUESTION_TAIL.size > len(message):
        raise ParseError("DNS question ends beyond the message")
    qtype, qclass = QUESTION_TAIL.unpack_from(message, end)
    wire = bytes(message[HEADER.size : end + QUESTION_TAIL.size])
    return Question(name, qtype, qclass, wire)


def parse_name(message: Buffer, at: int) -> tuple[str, int]:
    """The name at offset `at`, in lower case, and the offset behind it.

    Bytes that would be ambiguous in a dotted name are written as \\DDD (RFC 1035 5.1).
    """
    labels: list[str] = []
    length = 0
    end = 0
    lowest = at
    while True:
        if at >= len(message):
            raise ParseError("DNS name ends beyond the message")
        size = message[at]
        if size & POINTER == POINTER:
            end = end or at + 2
            at = _follow_pointer(message, at, lowest)
            lowest = at
            continue
        if size > MAXIMUM_LABEL_LENGTH:
            raise ParseError("unknown kind of DNS label")
        label = bytes(message[at + 1 : at + 1 + size])
        length += 1 + size
        if len(label) < size or length > MAXIMUM_NAME_LENGTH:
            raise ParseError("DNS name too long")
        at += 1 + size
        if size == 0:
            return ".".join(labels) or ".", end or at
        labels.append(_printable(label))


def _follow_pointer(message: Buffer, at: int, lowest: int) -> int:
    if at + 1 >= len(message):
        raise ParseError("DNS name ends beyond the message")
    target = (message[at] & ~POINTER) << 8 | message[at + 1]
    if not HEADER.size <= target < lowest:
        raise ParseError("DNS compression pointer that does not lead backwards")
    return target


def _printable(label: bytes) -> str:
    return "".join(
        chr(byte) if 0x21 <= byte <= 0x7E and byte not in b".\\" else f"\\{byte:03d}"
        for byte in label.lower()
    )


def peek_id(message: Buffer) -> int:
    """The id of a message that has a header."""
    return message[0] << 8 | message[1]


def with_id(message: Buffer, ident: int) -> bytes:
    """The message with another id."""
    return ident.to_bytes(2, "big") + bytes(message[2:])


def failure(query: Buffer, rcode: int) -> bytes:
    """The answer to a query that gets none: its question with an error code.

    A query whose question can't be read (FORMERR) is answered with the header alone.
    """
    header = Header.parse(query)
    kept = header.flags & (OPCODE_MASK | RECURSION_DESIRED | CHECKING_DISABLED)
    flags = RESPONSE | RECURSION_AVAILABLE | kept | rcode
    question = _question_bytes(query)
    return Header(header.id, flags, 1 if question else 0).emit() + question


def truncated(answer: Buffer) -> bytes:
    """An answer cut to its question, which tells the asker to come back over TCP."""
    header = Header.parse(answer)
    question = _question_bytes(answer)
    return Header(header.id, header.flags | TRUNCATED, 1 if question else 0).emit() + question


def _question_bytes(message: Buffer) -> bytes:
    try:
        return parse_question(message).wire
    except ParseError:
        return b""
