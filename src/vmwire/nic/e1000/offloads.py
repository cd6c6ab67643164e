# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a driver asks to be done to a frame on its way out (manual, 3.3.6, 3.3.7 and 3.5).

``assemble`` makes one frame of a packet's pieces. Its headers are copied, so that they can be
changed; its data stays where it is. A packet to be segmented stays whole: the IP header gets the
lengths that a single packet of that size would have, and the wire's ``Offload`` says the rest.
What makes no sense gives None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct

from vmwire.wire.frame import (
    F_NEEDS_CSUM,
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    MAX_FRAME,
    NO_OFFLOAD,
    Frame,
    Offload,
    View,
)
from vmwire.wire.offload import CWR, fill_checksum
from vmwire.wire.protocols.checksum import fold, internet_checksum, ones_complement_sum

U16 = Struct("!H")

# A context descriptor's TUCMD
TUCMD_TCP = 1 << 0
TUCMD_IP = 1 << 1
TUCMD_TSE = 1 << 2

MAX_IP_PACKET = 65535
_REMEMBERED = 1024
_offloads: dict[tuple[int, int, int, int], Offload] = {}


@dataclass(frozen=True, slots=True)
class Context:
    """A context descriptor."""

    ip_start: int = 0
    ip_offset: int = 0
    ip_end: int = 0
    transport_start: int = 0
    transport_offset: int = 0
    transport_end: int = 0
    command: int = 0
    header_length: int = 0
    segment_size: int = 0

    @classmethod
    def parse(cls, low: int, lower: int, upper: int) -> Context:
        """Read one; ``low`` is its first 64 bits."""
        return cls(
            low & 0xFF,
            low >> 8 & 0xFF,
            low >> 16 & 0xFFFF,
            low >> 32 & 0xFF,
            low >> 40 & 0xFF,
            low >> 48 & 0xFFFF,
            lower >> 24 & 0xFF,
            upper >> 8 & 0xFF,
            upper >> 16,
        )


@dataclass(frozen=True, slots=True)
class Request:
    """What one packet's descriptors ask for besides being sent."""

    context: Context
    segment: bool = False
    ip_checksum: bool = False
    transport_checksum: bool = False
    tag: bytes = b""


def legacy(start: int, offset: int, tag: bytes) -> Request:
    """Return what a legacy descriptor with IC asks for: a sum from ``start`` to the end."""
    context = Context(transport_start=start, transport_offset=offset)
    return Request(context, transport_checksum=True, tag=tag)


def assemble(views: Sequence[View], length: int, request: Request) -> Frame | None:
    """Make a frame of ``views``."""
    frame = Frame(views, length)
    context = request.context
    if request.segment:
        found = _superframe(frame, context, request)
    elif request.ip_checksum or request.transport_checksum:
        found = _checksummed(frame, context, request)
    else:
        found = frame
    return _tagged(found, request.tag) if found is not None and request.tag else found


def _superframe(frame: Frame, context: Context, request: Request) -> Frame | None:
    """TSO: fix the headers of the whole."""
    size, start = context.header_length, context.transport_start
    least = start + (20 if context.command & TUCMD_TCP else 8)
    if not context.segment_size or size < least or size >= frame.length:
        return None
    if context.ip_start < 14 or start < context.ip_start + 20:
        return None
    if frame.length - context.ip_start > MAX_IP_PACKET or context.transport_offset + 2 > size:
        return None
    header = bytearray(frame.head(size))
    kind = _fix_ip(header, frame.length, context, request.ip_checksum)
    if kind is None:
        return None
    single = frame.length - size <= context.segment_size
    transport_length = frame.length - start
    if context.command & TUCMD_TCP:
        if header[start + 13] & CWR:
            kind |= GSO_ECN
    else:
        kind = GSO_UDP_L4
        U16.pack_into(header, start + 4, transport_length)
    at = context.transport_offset
    if at < start:
        return None
    (partial,) = U16.unpack_from(header, at)
    U16.pack_into(header, at, fold(partial + transport_length))
    mss = 0 if single else context.segment_size
    offload = _offload(0 if single else kind, mss, start, at - start)
    return Frame((memoryview(header), *frame.payload(size)), frame.length, offload)


def _fix_ip(header: bytearray, length: int, context: Context, checksum: bool) -> int | None:
    """Correct an IP header's length and checksum; return the kind of superframe for TCP."""
    start = context.ip_start
    if not context.command & TUCMD_IP:
        if len(header) < start + 40:
            return None
        U16.pack_into(header, start + 4, length - start - 40)
        return GSO_TCPV6
    U16.pack_into(header, start + 2, length - start)
    if checksum and not _put_ip_checksum(header, context):
        return None
    return GSO_TCPV4


def _put_ip_checksum(header: bytearray, context: Context) -> bool:
    start, at = context.ip_start, context.ip_offset
    end = context.ip_end + 1
    if at + 2 > len(header) or end > len(header) or not start <= at < end - 1:
        return False
    U16.pack_into(header, at, 0)
    U16.pack_into(header, at, internet_checksum(memoryview(header)[start:end]))
    return True


def _checksummed(frame: Frame, context: Context, request: Request) -> Frame | None:
    """Checksum insertion without segmentation. Offsets outside of the frame ask for nothing."""
    if request.ip_checksum and context.ip_end < frame.length:
        size = max(context.ip_end + 1, context.ip_offset + 2)
        header = bytearray(frame.head(size))
        if not _put_ip_checksum(header, context):
            return None
        frame = Frame((memoryview(header), *frame.payload(len(header))), frame.length)
    if not request.transport_checksum:
        return frame
    start, at, end = context.transport_start, context.transport_offset, context.transport_end
    if at + 2 > frame.length or start >= frame.length:
        return None
    if at >= start and (end == 0 or end + 1 == frame.length):
        return Frame(frame.views, frame.length, _offload(0, 0, start, at - start))
    return _summed_here(frame, start, at, end)


def _summed_here(frame: Frame, start: int, at: int, end: int) -> Frame | None:
    """A sum that the wire has no words for: over a part, or put in front of it."""
    data = bytearray(frame.tobytes())
    if end == 0:
        fill_checksum(data, start, at - start)
    elif start <= end < len(data):
        value = ones_complement_sum(memoryview(data)[start : end + 1]) ^ 0xFFFF
        U16.pack_into(data, at, value or 0xFFFF)
    else:
        return None
    return Frame.of(data)


def _tagged(frame: Frame, tag: bytes) -> Frame:
    """Put a VLAN tag behind the addresses."""
    offload = frame.offload
    if offload is not NO_OFFLOAD:
        start = offload.checksum_start + len(tag)
        offload = _offload(offload.gso_type, offload.segment_size, start, offload.checksum_offset)
    addresses = memoryview(frame.head(12) + tag)
    return Frame((addresses, *frame.payload(12)), frame.length + len(tag), offload)


def _offload(kind: int, size: int, start: int, offset: int) -> Offload:
    """Return an offload; those of a flow are alike, and making one is slow."""
    key = (kind, size, start, offset)
    found = _offloads.get(key)
    if found is None:
        if len(_offloads) >= _REMEMBERED:
            _offloads.clear()
        found = _offloads[key] = Offload(F_NEEDS_CSUM, kind, 0, size, start, offset)
    return found


assert MAX_FRAME >= MAX_IP_PACKET + 14
