# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Doing what an offload asks: fill in a checksum, cut a superframe into segments.

This is the one place for it. The sending port calls it for the first peer that can't take a frame
as it is. Segmentation follows what a NIC's transmit segmentation does (and RFC 6864 for the IPv4
identification): every segment repeats the headers with its own lengths, checksums, identification
and sequence number; FIN and PSH only on the last one, CWR only on the first (RFC 3168, section 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from vmwire.wire.frame import (
    F_NEEDS_CSUM,
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NO_OFFLOAD,
    Frame,
)
from vmwire.wire.protocols.checksum import ones_complement_sum

U16 = Struct("!H")
U32 = Struct("!I")

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_VLANS = (0x8100, 0x88A8)
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17

FIN = 0x01
PSH = 0x08
CWR = 0x80

MAX_SEGMENTS = 4096
"""A superframe that asks for more segments than this is malformed (1-byte segments of 64 KiB)."""


def finish(frame: Frame) -> list[Frame]:
    """Return ``frame`` as frames with nothing left to do; [] if its offload doesn't hold."""
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
    return Frame.of(data, NO_OFFLOAD)


def fill_checksum(data: bytearray | memoryview, start: int, offset: int) -> None:
    """Complete a checksum whose pseudo-header sum is in place (virtio 1.2, 5.1.6.2)."""
    checksum = ones_complement_sum(memoryview(data)[start:]) ^ 0xFFFF
    # a UDP checksum of zero would mean that there is none; TCP reads 0xffff as the same number
    U16.pack_into(data, start + offset, checksum or 0xFFFF)


def segment(frame: Frame) -> list[Frame]:
    """Cut a superframe into frames with complete checksums; [] if its headers don't hold."""
    data = frame.tobytes()
    layers = _layers(data)
    kind = frame.offload.gso_type & ~GSO_ECN
    if layers is None:
        return []
    network, transport, ethertype, protocol = layers
    wanted = {
        GSO_TCPV4: (ETHERTYPE_IPV4, PROTOCOL_TCP),
        GSO_TCPV6: (ETHERTYPE_IPV6, PROTOCOL_TCP),
    }
    if kind == GSO_UDP_L4:
        if protocol != PROTOCOL_UDP:
            return []
        payload = transport + 8
    elif wanted.get(kind) == (ethertype, protocol):
        if len(data) < transport + 20 or (data[transport + 12] >> 4) < 5:
            return []
        payload = transport + (data[transport + 12] >> 4) * 4
    else:
        return []
    size = frame.offload.segment_size
    if payload > len(data) or (len(data) - payload) > size * MAX_SEGMENTS:
        return []
    starts = range(payload, len(data), size) or range(payload, payload + 1)
    last = starts[-1]
    cutter = _Cutter(data, network, transport, payload)
    return [
        Frame.of(cutter.cut(number, start, size, start == last))
        for number, start in enumerate(starts)
    ]


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


@dataclass(frozen=True, slots=True)
class _Cutter:
    """A superframe's bytes and where its headers lie."""

    data: bytes
    network: int
    transport: int
    payload: int

    def cut(self, number: int, start: int, size: int, last: bool) -> bytearray:
        """Build segment ``number``: the headers, then ``size`` bytes of payload from ``start``."""
        out = bytearray(self.data[: self.payload])
        out += self.data[start : start + size]
        addresses, protocol = self._fix_network(out, number)
        if protocol == PROTOCOL_TCP:
            checksum_at = self._fix_tcp(out, start - self.payload, last)
        else:
            U16.pack_into(out, self.transport + 4, len(out) - self.transport)
            checksum_at = self.transport + 6
        pseudo = ones_complement_sum(addresses, protocol + len(out) - self.transport)
        U16.pack_into(out, checksum_at, pseudo)
        fill_checksum(out, self.transport, checksum_at - self.transport)
        return out

    def _fix_network(self, out: bytearray, number: int) -> tuple[bytes, int]:
        """Correct the IP header; return its addresses and the protocol above."""
        network = self.network
        if out[network] >> 4 == 6:
            U16.pack_into(out, network + 4, len(out) - self.transport)
            return bytes(out[network + 8 : network + 40]), out[network + 6]
        (identification,) = U16.unpack_from(out, network + 4)
        U16.pack_into(out, network + 2, len(out) - network)
        U16.pack_into(out, network + 4, (identification + number) & 0xFFFF)
        U16.pack_into(out, network + 10, 0)
        header_sum = ones_complement_sum(out[network : self.transport])
        U16.pack_into(out, network + 10, header_sum ^ 0xFFFF)
        return bytes(out[network + 12 : network + 20]), out[network + 9]

    def _fix_tcp(self, out: bytearray, index: int, last: bool) -> int:
        """Correct sequence number and flags; return where the checksum stands."""
        transport = self.transport
        (sequence,) = U32.unpack_from(out, transport + 4)
        U32.pack_into(out, transport + 4, (sequence + index) & 0xFFFFFFFF)
        if not last:
            out[transport + 13] &= ~(FIN | PSH) & 0xFF
        if index:
            out[transport + 13] &= ~CWR & 0xFF
        return transport + 16
