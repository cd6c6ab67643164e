# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Equal datagrams of one burst as one superframe.

A sender of small datagrams costs each box on the way some microseconds for each of them, and the
kernel at the end its whole receive path. Those of one flow and one size, found in one burst, go on
as a UDP superframe (virtio 1.2, 5.1.6.2), which is cut where somebody wants packets: by the
receiving kernel, behind most of its work. Nothing waits for that, and a flow keeps its order.

What may be joined: UDP whose checksum is still to be done, over IPv6, or over IPv4 without options
and with "don't fragment". All headers are the same but for IPv4's identification, which says
nothing in a datagram that is never fragmented (RFC 6864, section 4), and the checksum over it.

A ``Run`` remembers what it was made of, so that the first box in this process that wants packets
gets them back without a checksum or a header being computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct

from vmwire.wire.frame import F_NEEDS_CSUM, GSO_UDP_L4, Frame, Offload, View
from vmwire.wire.protocols.checksum import fold, internet_checksum

U16 = Struct("!H")
ETHERNET = 14
UDP = 8
CHECKSUM_OFFSET = 6
"""Of the checksum in a UDP header."""
MOST_PARTS = 64
"""Datagrams of one run: what older kernels take in a superframe."""
MOST_BYTES = 65507
"""Payload of a run: what fits into one IPv4 packet."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """Datagrams over one version of IP.

    ``version`` is the first byte of the EtherType. ``same`` are the bytes of the headers that all
    have in common (from, to); ``marks`` (place, bytes) say that it is this version, and UDP. IP's
    length field, ``length_at``, counts bytes from ``counted_from`` on.
    """

    version: int
    same: tuple[Span, ...]
    marks: tuple[tuple[int, bytes], ...]
    transport: int
    length_at: int
    counted_from: int

    @property
    def headers(self) -> int:
        """Bytes in front of the payload."""
        return self.transport + UDP

    def fits(self, frame: View) -> bool:
        """Whether a frame may be part of a run."""
        size = len(frame)
        if size <= self.headers or any(frame[at : at + len(b)] != b for at, b in self.marks):
            return False
        (counted,) = U16.unpack_from(frame, self.length_at)
        (length,) = U16.unpack_from(frame, self.transport + 4)
        return bool(counted == size - self.counted_from and length == size - self.transport)

    def header(self, first: View, size: int) -> bytes:
        """The headers of a superframe with ``size`` bytes of payload, from its first datagram's."""
        header = bytearray(first)
        checksum_at, length_at = self.transport + CHECKSUM_OFFSET, self.transport + 4
        (old,) = U16.unpack_from(header, length_at)
        (pseudo,) = U16.unpack_from(header, checksum_at)
        length = UDP + size
        U16.pack_into(header, length_at, length)
        U16.pack_into(header, checksum_at, fold(pseudo + (old ^ 0xFFFF) + length))
        U16.pack_into(header, self.length_at, self.headers + size - self.counted_from)
        if self is IPV4:
            U16.pack_into(header, IPV4_CHECKSUM, 0)
            checksum = internet_checksum(header[ETHERNET : self.transport])
            U16.pack_into(header, IPV4_CHECKSUM, checksum)
        return bytes(header)


IPV4_CHECKSUM = ETHERNET + 10
IPV4 = Kind(
    version=0x08,
    same=((0, 18), (20, 24), (26, 42)),
    marks=((12, b"\x08\x00\x45"), (20, b"\x40\x00"), (23, b"\x11")),
    transport=34,
    length_at=ETHERNET + 2,
    counted_from=ETHERNET,
)
IPV6 = Kind(
    version=0x86,
    same=((0, 62),),
    marks=((12, b"\x86\xdd"), (20, b"\x11")),
    transport=54,
    length_at=ETHERNET + 4,
    counted_from=ETHERNET + 40,
)
KINDS = {IPV4.transport: IPV4, IPV6.transport: IPV6}


def kind_of(frame: Frame) -> Kind | None:
    """The kind of run that a frame in one piece could be part of, if any."""
    offload = frame.offload
    if offload.checksum_offset != CHECKSUM_OFFSET or offload.needs or offload.plain:
        return None
    kind = KINDS.get(offload.checksum_start)
    return kind if kind is not None and kind.fits(frame.views[0]) else None


class Run(Frame):
    """Datagrams as one superframe: ``header`` and their ``payloads``; each of them alone would be
    ``part_header``, its payload, and ``part_offload``."""

    __slots__ = ("_part_header", "_part_offload", "_payloads")

    def __init__(
        self,
        header: View,
        offload: Offload,
        payloads: Sequence[View],
        part_header: View,
        part_offload: Offload,
    ) -> None:
        length = len(header) + offload.segment_size * len(payloads)
        super().__init__((header, *payloads), length, offload)
        self._payloads = payloads
        self._part_header = part_header
        self._part_offload = part_offload

    def parts(self) -> list[Frame]:
        """The datagrams. All have the same identification."""
        header, offload = self._part_header, self._part_offload
        length = len(header) + self.offload.segment_size
        return [Frame((header, each), length, offload) for each in self._payloads]


class Flow:
    """Datagrams that differ in their payloads alone. ``first`` is one of them."""

    __slots__ = ("_header", "_headers", "_kind", "_most", "_offload", "_part_offload", "headers")

    def __init__(self, kind: Kind, first: Frame) -> None:
        size = first.length - kind.headers
        self.headers = kind.headers
        """Bytes in front of the payload."""
        self._kind = kind
        self._header = memoryview(bytes(first.views[0][: kind.headers]))
        self._part_offload = first.offload
        self._offload = Offload(
            F_NEEDS_CSUM, GSO_UDP_L4, kind.headers, size, kind.transport, CHECKSUM_OFFSET
        )
        self._most = min(MOST_PARTS, MOST_BYTES // size)
        self._headers: dict[int, View] = {}
        """Of superframes, by the number of their parts."""

    def frames(self, payloads: Sequence[View]) -> list[Frame]:
        """As few frames as these datagrams can be."""
        most = self._most
        if len(payloads) <= most:
            return [self._frame(payloads)]
        starts = range(0, len(payloads), most)
        return [self._frame(payloads[start : start + most]) for start in starts]

    def _frame(self, payloads: Sequence[View]) -> Frame:
        count = len(payloads)
        size = self._offload.segment_size
        if count == 1:
            return Frame((self._header, payloads[0]), self.headers + size, self._part_offload)
        header = self._headers.get(count)
        if header is None:
            made = self._kind.header(self._header, size * count)
            header = self._headers[count] = memoryview(made)
        return Run(header, self._offload, payloads, self._header, self._part_offload)
