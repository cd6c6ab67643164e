# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a receive descriptor says about a frame's checksums (manual, 3.2.9 and 13.5.15).

The status says which checksums were looked at, the errors which of them are wrong. A frame that its
sender vouches for (``Offload.checked``) isn't summed again. The packet checksum is computed where
RXCSUM.PCSS names a place to start from, which drivers that look at it do.
"""

from __future__ import annotations

from struct import Struct

from vmwire.nic.e1000.registers import RXCSUM_IPOFL, RXCSUM_IPV6OFL, RXCSUM_TUOFL
from vmwire.wire.protocols.checksum import ones_complement_sum, pseudo_header_sum

U16 = Struct("!H")

IXSM = 0x04
TCPCS = 0x20
IPCS = 0x40
TCPE = 0x20
IPE = 0x40

_TCP, _UDP = 6, 17
_FRAGMENT = 0x3FFF
_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN = 0x8100
_PLAIN_IPV4 = b"\x08\x00\x45"
_TRANSPORTS = (_TCP, _UDP)


def judge(data: bytes, rxcsum: int, trusted: bool) -> tuple[int, int]:
    """Return status and error bits for a frame."""
    wanted = rxcsum & (RXCSUM_IPOFL | RXCSUM_TUOFL)
    if not wanted:
        return IXSM, 0
    if trusted and wanted == RXCSUM_TUOFL and _is_ordinary(data):
        return TCPCS, 0  # most of what comes in a stream
    start, kind = 14, data[12] << 8 | data[13]
    if kind == _VLAN and len(data) >= 18:
        start, kind = 18, data[16] << 8 | data[17]
    if kind == _IPV4:
        return _judge_ipv4(data, start, rxcsum, trusted)
    if kind == _IPV6 and rxcsum & RXCSUM_IPV6OFL and rxcsum & RXCSUM_TUOFL:
        return _judge_ipv6(data, start, trusted)
    return IXSM, 0


def _is_ordinary(data: bytes) -> bool:
    """Whether it is TCP or UDP over IPv4 without options, and no fragment."""
    plain = data[12:15] == _PLAIN_IPV4 and data[23] in _TRANSPORTS
    return plain and not data[20] & 0x3F and not data[21]


def _judge_ipv4(data: bytes, start: int, rxcsum: int, trusted: bool) -> tuple[int, int]:
    if len(data) < start + 20:
        return IXSM, 0
    transport = start + (data[start] & 0x0F) * 4
    (total,) = U16.unpack_from(data, start + 2)
    end = start + total
    if data[start] >> 4 != 4 or transport < start + 20 or not transport <= end <= len(data):
        return IXSM, 0
    status = errors = 0
    if rxcsum & RXCSUM_IPOFL:
        status |= IPCS
        if ones_complement_sum(data[start:transport]) != 0xFFFF:
            return status, IPE
    (fragment,) = U16.unpack_from(data, start + 6)
    if rxcsum & RXCSUM_TUOFL and not fragment & _FRAGMENT:
        addresses = slice(start + 12, start + 20)
        more, errors = _judge_transport(data, data[start + 9], addresses, transport, end, trusted)
        status |= more
    return status or IXSM, errors


def _judge_ipv6(data: bytes, start: int, trusted: bool) -> tuple[int, int]:
    transport = start + 40
    if len(data) < transport:
        return IXSM, 0
    (length,) = U16.unpack_from(data, start + 4)
    if transport + length > len(data):
        return IXSM, 0
    addresses, end = slice(start + 8, start + 40), transport + length
    status, errors = _judge_transport(data, data[start + 6], addresses, transport, end, trusted)
    return status or IXSM, errors


def _judge_transport(
    data: bytes, protocol: int, addresses: slice, start: int, end: int, trusted: bool
) -> tuple[int, int]:
    if protocol == _TCP:
        if end < start + 20:
            return 0, 0
    elif protocol != _UDP or end < start + 8 or data[start + 6 : start + 8] == b"\0\0":
        return 0, 0
    if trusted:
        return TCPCS, 0
    pseudo = pseudo_header_sum(data[addresses], b"", protocol, end - start)
    right = ones_complement_sum(data[start:end], pseudo) == 0xFFFF
    return TCPCS, 0 if right else TCPE


def packet_checksum(data: bytes, start: int) -> int:
    """Return the complement of the sum from ``start`` to the end, as a descriptor holds it."""
    return ones_complement_sum(data[start:]) ^ 0xFFFF
