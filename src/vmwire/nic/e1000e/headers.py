# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the receiver knows of a frame by its headers (82574 data sheet, sections 7.1.3 to 7.1.8).

Offsets are found, not trusted: whatever doesn't fit the frame's length isn't there.
"""

from __future__ import annotations

from dataclasses import dataclass

IPV4, IPV6 = 4, 6
TCP, UDP = 6, 17
_ETHERTYPES = {b"\x08\x00": IPV4, b"\x86\xdd": IPV6}
_VLAN = b"\x81\x00"
_EXTENSIONS = frozenset((0, 43, 60))  # hop-by-hop, routing, destination options
_FRAGMENT_HEADER = 44
_MOST_EXTENSIONS = 8
_ACK_ONLY = 0x3F, 0x10  # of the TCP flags: all but the two of congestion; ACK


@dataclass(frozen=True, slots=True)
class Headers:
    """A frame's IP header and what follows. ``version`` 0: no IP.

    ``protocol`` is TCP or UDP where such a header is there whole, else 0; ``end`` is where the last
    header known ends. ``extended``: IPv6 with extension headers.
    """

    version: int = 0
    start: int = 0
    transport: int = 0
    protocol: int = 0
    end: int = 0
    fragment: bool = False
    extended: bool = False


_NONE = Headers()


def parse(data: bytes, *, extensions: bool = True) -> Headers:
    """Look at a frame. Without ``extensions`` IPv6's extension headers aren't followed."""
    start = 18 if data[12:14] == _VLAN else 14
    version = _ETHERTYPES.get(data[start - 2 : start])
    if version == IPV4:
        return _parse_ipv4(data, start)
    if version == IPV6:
        return _parse_ipv6(data, start, extensions)
    return _NONE


def _parse_ipv4(data: bytes, start: int) -> Headers:
    if len(data) < start + 20 or data[start] >> 4 != 4:
        return _NONE
    transport = start + (data[start] & 0x0F) * 4
    total = data[start + 2] << 8 | data[start + 3]
    if transport < start + 20 or not transport <= start + total <= len(data):
        return _NONE
    if data[start + 6] & 0x3F or data[start + 7]:
        return Headers(IPV4, start, transport, 0, transport, fragment=True)
    return _with_transport(data, start + total, IPV4, start, transport, data[start + 9], False)


def _parse_ipv6(data: bytes, start: int, extensions: bool) -> Headers:
    if len(data) < start + 40 or data[start] >> 4 != 6:
        return _NONE
    at, following = start + 40, data[start + 6]
    limit = at + (data[start + 4] << 8 | data[start + 5])
    if limit > len(data):
        return _NONE
    extended = False
    for _ in range(_MOST_EXTENSIONS if extensions else 0):
        if following not in _EXTENSIONS or at + 8 > limit:
            break
        following, at = data[at], at + (data[at + 1] + 1) * 8
        extended = True
        if at > limit:
            return Headers(IPV6, start, start + 40, 0, start + 40, extended=True)
    if following == _FRAGMENT_HEADER:
        return Headers(IPV6, start, at, 0, at, fragment=True, extended=True)
    return _with_transport(data, limit, IPV6, start, at, following, extended)


def _with_transport(
    data: bytes, limit: int, version: int, start: int, at: int, protocol: int, extended: bool
) -> Headers:
    end = 0
    if protocol == TCP and at + 20 <= limit:
        end = at + (data[at + 12] >> 4) * 4
        if end < at + 20 or end > limit:
            end = 0
    elif protocol == UDP and at + 8 <= limit:
        end = at + 8
    if not end:
        return Headers(version, start, at, 0, at, extended=extended)
    return Headers(version, start, at, protocol, end, extended=extended)


def is_acknowledgement(data: bytes, headers: Headers, with_data: bool) -> bool:
    """Whether it is a TCP segment that says nothing but ACK, and has no data unless allowed to."""
    if headers.protocol != TCP:
        return False
    mask, wanted = _ACK_ONLY
    if data[headers.transport + 13] & mask != wanted:
        return False
    start = headers.start
    if headers.version == IPV4:
        end = start + (data[start + 2] << 8 | data[start + 3])
    else:
        end = start + 40 + (data[start + 4] << 8 | data[start + 5])
    return with_data or end == headers.end
