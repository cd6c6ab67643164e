# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""TCP segments (RFC 9293) with the options that matter on the way through.

Options: maximum segment size (RFC 9293), window scale and timestamps (RFC 7323), SACK permitted
(RFC 2018). What follows a malformed option is ignored, as the big stacks do; unknown kinds are
kept in `Segment.options`. Sequence numbers compare modulo 2**32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from vmwire.wire.protocols.checksum import (
    Buffer,
    internet_checksum,
    pseudo_header_sum,
    transport_checksum,
)
from vmwire.wire.protocols.errors import ParseError

# source port, destination port, sequence, acknowledgement, data offset/reserved, flags,
# window, checksum, urgent pointer
HEADER = Struct("!HHIIBBHHH")
assert HEADER.size == 20

PROTO = 6
CHECKSUM_OFFSET = 16

FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10
URG = 0x20
ECE = 0x40
CWR = 0x80

OPTION_END = 0
OPTION_NOP = 1
OPTION_MSS = 2
OPTION_WINDOW_SCALE = 3
OPTION_SACK_PERMITTED = 4
OPTION_SACK = 5
OPTION_TIMESTAMPS = 8

DEFAULT_MSS = 536  # RFC 9293 3.7.1: what a peer that names none can take
MAXIMUM_WINDOW_SCALE = 14  # RFC 7323 2.3: larger values are used as 14
MAXIMUM_OPTIONS_LENGTH = 40

_MSS = Struct("!BBH")
_TIMESTAMPS = Struct("!II")
_SEQ_MASK = 0xFFFFFFFF


@dataclass(slots=True)
class Options:
    """The options that a SYN negotiates with; None or False is an option that isn't there."""

    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    timestamps: tuple[int, int] | None = None  # TSval, TSecr

    @classmethod
    def parse(cls, data: Buffer) -> "Options":
        options = cls()
        for kind, value in iter_options(data):
            if kind == OPTION_MSS and len(value) == 2:
                options.mss = value[0] << 8 | value[1]
            elif kind == OPTION_WINDOW_SCALE and len(value) == 1:
                options.window_scale = min(value[0], MAXIMUM_WINDOW_SCALE)
            elif kind == OPTION_SACK_PERMITTED and len(value) == 0:
                options.sack_permitted = True
            elif kind == OPTION_TIMESTAMPS and len(value) == 8:
                options.timestamps = _TIMESTAMPS.unpack(value)
        return options

    def emit(self) -> bytes:
        """The option bytes, each option padded to whole words with NOPs in front."""
        parts = []
        if self.mss is not None:
            parts.append(_MSS.pack(OPTION_MSS, 4, self.mss))
        if self.sack_permitted:
            parts.append(bytes((OPTION_NOP, OPTION_NOP, OPTION_SACK_PERMITTED, 2)))
        if self.timestamps is not None:
            head = bytes((OPTION_NOP, OPTION_NOP, OPTION_TIMESTAMPS, 10))
            parts.append(head + _TIMESTAMPS.pack(*self.timestamps))
        if self.window_scale is not None:
            parts.append(bytes((OPTION_NOP, OPTION_WINDOW_SCALE, 3, self.window_scale)))
        return b"".join(parts)


@dataclass(slots=True)
class Segment:
    src_port: int
    dst_port: int
    seq: int
    ack: int
    flags: int
    window: int
    payload: Buffer = b""
    options: bytes = b""
    urgent: int = 0
    reserved: int = 0  # the four bits beside the data offset

    @property
    def sequence_length(self) -> int:
        """How much of the sequence space the segment takes: SYN and FIN count one each."""
        return len(self.payload) + (self.flags & SYN) // SYN + (self.flags & FIN)

    @classmethod
    def parse(cls, segment: Buffer) -> "Segment":
        """Read an IP payload. The checksum is `checksum_ok`'s business: it may be left to do."""
        if len(segment) < HEADER.size:
            raise ParseError("shorter than a TCP header")
        src_port, dst_port, seq, ack, offset, flags, window, _, urgent = HEADER.unpack_from(segment)
        length = (offset >> 4) * 4
        if not HEADER.size <= length <= len(segment):
            raise ParseError("TCP data offset disagrees with the packet's length")
        return cls(
            src_port,
            dst_port,
            seq,
            ack,
            flags,
            window,
            segment[length:],
            bytes(segment[HEADER.size : length]),
            urgent,
            offset & 0x0F,
        )

    def emit(self, src: Buffer, dst: Buffer) -> bytes:
        """The segment with its checksum for a packet from `src` to `dst` (4 or 16 bytes)."""
        body = self.options + bytes(-len(self.options) % 4) + bytes(self.payload)
        checksum = transport_checksum(src, dst, PROTO, self._pack(0) + body)
        return self._pack(checksum) + body

    def _pack(self, checksum: int) -> bytes:
        words = (HEADER.size + len(self.options) + 3) // 4
        return HEADER.pack(
            self.src_port,
            self.dst_port,
            self.seq,
            self.ack,
            words << 4 | self.reserved,
            self.flags,
            self.window,
            checksum,
            self.urgent,
        )


def iter_options(data: Buffer) -> Iterator[tuple[int, Buffer]]:
    """Each option's kind and value, up to the end marker or the first malformed one."""
    at, end = 0, len(data)
    while at < end and (kind := data[at]) != OPTION_END:
        if kind == OPTION_NOP:
            at += 1
            continue
        length = data[at + 1] if at + 1 < end else 0
        if length < 2 or at + length > end:
            return
        yield kind, data[at + 2 : at + length]
        at += length


def checksum_ok(segment: Buffer, src: Buffer, dst: Buffer) -> bool:
    return internet_checksum(segment, pseudo_header_sum(src, dst, PROTO, len(segment))) == 0


def seq_add(seq: int, count: int) -> int:
    return (seq + count) & _SEQ_MASK


def seq_diff(left: int, right: int) -> int:
    """How far `left` is ahead of `right`: negative when it is behind."""
    return ((left - right + 0x80000000) & _SEQ_MASK) - 0x80000000
