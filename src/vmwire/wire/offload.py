# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Doing what an offload asks: fill in a checksum, cut a superframe into segments.

This is the one place for it. The sending port calls it for the first peer that can't take a frame
as it is. Segmentation follows what a NIC's transmit segmentation does (and RFC 6864 for the IPv4
identification): every segment repeats the headers with its own lengths, checksums, identification
and sequence number; FIN and PSH only on the last one, CWR only on the first (RFC 3168, section 6).
"""

from __future__ import annotations

from struct import Struct

from vmwire.wire.frame import (
    F_DATA_VALID,
    F_NEEDS_CSUM,
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    Frame,
    Offload,
)
from vmwire.wire.protocols.checksum import fold, ones_complement_sum
from vmwire.wire.runs import Run

U16 = Struct("!H")
U32 = Struct("!I")

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_VLANS = (0x8100, 0x88A8)
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17

FINISHED = Offload(F_DATA_VALID)
"""What is done here needs no verification by whoever gets it."""

FIN = 0x01
PSH = 0x08
CWR = 0x80

LONGEST_HEADERS = 14 + 4 + 60 + 60
"""Ethernet with a tag, and the longest that IP and TCP have."""
MAX_SEGMENTS = 4096
"""A superframe that asks for more segments than this is malformed (1-byte segments of 64 KiB)."""


def finish(frame: Frame) -> list[Frame]:
    """Return ``frame`` as frames with nothing left to do; [] if its offload doesn't hold."""
    if isinstance(frame, Run):
        return [done for part in frame.parts() for done in finish(part)]
    offload = frame.offload
    if not offload.known or frame.length < offload.least_length:
        return []
    if offload.gso_type == GSO_NONE:
        return [_with_checksum(frame)]
    return segment(frame)


def _with_checksum(frame: Frame) -> Frame:
    data = bytearray(frame.tobytes())
    offload = frame.offload
    if offload.flags & F_NEEDS_CSUM:
        fill_checksum(data, offload.checksum_start, offload.checksum_offset)
    return Frame.of(data, FINISHED)


def fill_checksum(data: bytearray | memoryview, start: int, offset: int) -> None:
    """Complete a checksum whose pseudo-header sum is in place (virtio 1.2, 5.1.6.2)."""
    checksum = ones_complement_sum(memoryview(data)[start:]) ^ 0xFFFF
    # a UDP checksum of zero would mean that there is none; TCP reads 0xffff as the same number
    U16.pack_into(data, start + offset, checksum or 0xFFFF)


def segment(frame: Frame) -> list[Frame]:
    """Cut a superframe into frames with complete checksums; [] if its headers don't hold."""
    return [Frame.of(part, FINISHED) for part in cut(frame)]


def cut(frame: Frame) -> list[bytearray]:
    """The same for a box that puts the segments somewhere itself: their bytes, longest first."""
    data = frame.tobytes()
    found = _find_payload(data, frame.offload.gso_type & ~GSO_ECN)
    if found is None:
        return []
    network, transport, payload = found
    size = frame.offload.segment_size
    if payload > len(data) or (len(data) - payload) > size * MAX_SEGMENTS:
        return []
    starts = range(payload, len(data), size) or range(payload, payload + 1)
    last = starts[-1]
    cutter = _Cutter(data, network, transport, payload)
    return [cutter.cut(number, start, size, start == last) for number, start in enumerate(starts)]


def weigh(frame: Frame) -> tuple[int, int]:
    """How many segments a superframe would be cut to, and their bytes; (0, 0) for what isn't one.

    Only its headers are looked at.
    """
    found = _find_payload(frame.head(LONGEST_HEADERS), frame.offload.gso_type & ~GSO_ECN)
    size = frame.offload.segment_size
    if found is None or not size or frame.length < found[2]:
        return 0, 0
    headers = found[2]
    count = max(1, -(-(frame.length - headers) // size))
    return count, frame.length + headers * (count - 1)


def _find_payload(data: bytes, kind: int) -> tuple[int, int, int] | None:
    """Where the headers of a superframe of this kind and its payload begin: (network, transport,
    payload); None if it is none."""
    layers = _layers(data)
    if layers is None:
        return None
    network, transport, ethertype, protocol = layers
    wanted = {
        GSO_TCPV4: (ETHERTYPE_IPV4, PROTOCOL_TCP),
        GSO_TCPV6: (ETHERTYPE_IPV6, PROTOCOL_TCP),
    }
    if kind == GSO_UDP_L4:
        return (network, transport, transport + 8) if protocol == PROTOCOL_UDP else None
    if wanted.get(kind) != (ethertype, protocol):
        return None
    if len(data) < transport + 20 or (data[transport + 12] >> 4) < 5:
        return None
    return network, transport, transport + (data[transport + 12] >> 4) * 4


def _layers(data: bytes) -> tuple[int, int, int, int] | None:
    """Find (network header, transport header, EtherType, protocol), or None."""
    network = 14
    if len(data) < network + 20:
        return None
    (ethertype,) = U16.unpack_from(data, 12)
    if ethertype in ETHERTYPE_VLANS:
        (ethertype,) = U16.unpack_from(data, 16)
        network += 4
    if ethertype == ETHERTYPE_IPV4:
        transport = network + (data[network] & 0x0F) * 4
        if transport < network + 20 or len(data) < transport + 8:
            return None
        return network, transport, ethertype, data[network + 9]
    if ethertype == ETHERTYPE_IPV6 and len(data) >= network + 48:
        return network, network + 40, ethertype, data[network + 6]
    return None


class _Cutter:
    """A superframe's bytes, where its headers lie, and the sums of what all segments share."""

    def __init__(self, data: bytes, network: int, transport: int, payload: int) -> None:
        self._data = data
        self._network, self._transport, self._payload = network, transport, payload
        header = self._header = bytearray(data[:payload])
        self._ipv6 = header[network] >> 4 == 6
        self._tcp = header[network + (6 if self._ipv6 else 9)] == PROTOCOL_TCP
        self._flags = header[transport + 13] if self._tcp else 0
        self._sequence: int = U32.unpack_from(header, transport + 4)[0] if self._tcp else 0
        self._checksum_at = transport + (16 if self._tcp else 6)
        self._clear()

    def _clear(self) -> None:
        """Zero what differs between segments, and sum the rest."""
        header, network, transport = self._header, self._network, self._transport
        if self._ipv6:
            U16.pack_into(header, network + 4, 0)
            addresses = header[network + 8 : network + 40]
        else:
            (self._identification,) = U16.unpack_from(header, network + 4)
            U32.pack_into(header, network + 2, 0)
            U16.pack_into(header, network + 10, 0)
            addresses = header[network + 12 : network + 20]
            self._network_sum = ones_complement_sum(header[network:transport])
        U16.pack_into(header, self._checksum_at, 0)
        if self._tcp:
            U32.pack_into(header, transport + 4, 0)
            header[transport + 13] = 0
        else:
            U16.pack_into(header, transport + 4, 0)
        protocol = PROTOCOL_TCP if self._tcp else PROTOCOL_UDP
        rest = ones_complement_sum(header[transport:], protocol)
        self._transport_sum = ones_complement_sum(addresses, rest)

    def cut(self, number: int, start: int, size: int, last: bool) -> bytearray:
        """Build segment ``number``: the headers, then ``size`` bytes of payload from ``start``."""
        payload = self._data[start : start + size]
        header, network, transport = self._header, self._network, self._transport
        total = len(header) - network + len(payload)
        if self._ipv6:
            U16.pack_into(header, network + 4, total - 40)
        else:
            identification = (self._identification + number) & 0xFFFF
            U32.pack_into(header, network + 2, total << 16 | identification)
            checksum = fold(self._network_sum + total + identification) ^ 0xFFFF
            U16.pack_into(header, network + 10, checksum)
        length = len(header) - transport + len(payload)
        # twice in a UDP segment: in its header, and in the pseudo-header
        fields = self._fix_tcp(start - self._payload, last) if self._tcp else length
        if not self._tcp:
            U16.pack_into(header, transport + 4, length)
        checksum = ones_complement_sum(payload, self._transport_sum + length + fields) ^ 0xFFFF
        U16.pack_into(header, self._checksum_at, checksum or 0xFFFF)
        return header + payload

    def _fix_tcp(self, index: int, last: bool) -> int:
        """Put sequence number and flags in; return their sum."""
        flags = self._flags
        if not last:
            flags &= ~(FIN | PSH)
        if index:
            flags &= ~CWR
        sequence = (self._sequence + index) & 0xFFFFFFFF
        U32.pack_into(self._header, self._transport + 4, sequence)
        self._header[self._transport + 13] = flags
        return (sequence >> 16) + (sequence & 0xFFFF) + flags
