# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What travels on the wire: a frame, and what is still to be done to it.

A *frame* is an Ethernet frame without preamble and FCS, as scattered views of somebody's memory,
and an *offload*: the meaning of virtio's net header (virtio 1.2, section 5.1.6). A superframe is a
frame with a GSO kind: up to 64 KiB that stay whole until the last box before something that can't
take them (``vmwire.wire.offload``).

A frame is *borrowed* for the duration of the call that carries it: whoever wants it longer copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from struct import Struct

HEADER = Struct("<BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
assert HEADER.size == 10

F_NEEDS_CSUM = 1
F_DATA_VALID = 2

GSO_NONE = 0
GSO_TCPV4 = 1
GSO_UDP = 3
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
GSO_ECN = 0x80

ETHERNET_HEADER = 14
MAX_FRAME = 65535 + ETHERNET_HEADER + 4
"""The largest frame on any wire: the largest IP packet, an Ethernet header and a VLAN tag."""

View = memoryview


class Gso(IntFlag):
    """Kinds of superframe that a port can take."""

    NONE = 0
    TCPV4 = 1
    TCPV6 = 2
    ECN = 4
    UDP_L4 = 8


_KIND = {GSO_TCPV4: Gso.TCPV4, GSO_TCPV6: Gso.TCPV6, GSO_UDP_L4: Gso.UDP_L4}


@dataclass(frozen=True, slots=True)
class Offload:
    """What is still to be done to a frame: virtio's net header without its buffer count.

    ``checksum_start`` and ``checksum_offset`` (bytes; the second from the first) hold when
    ``F_NEEDS_CSUM`` is in ``flags``: the 16-bit ones' complement sum from ``checksum_start`` to the
    end is to be put, complemented, at ``checksum_start + checksum_offset``, where the pseudo-header
    sum stands already. ``segment_size`` is the payload bytes per segment of a superframe.
    ``header_length`` is the sender's hint and is trusted by nobody.
    """

    flags: int = 0
    gso_type: int = GSO_NONE
    header_length: int = 0
    segment_size: int = 0
    checksum_start: int = 0
    checksum_offset: int = 0
    packed: bytes = field(init=False, repr=False, compare=False)
    """The ten bytes of virtio's net header, little-endian."""
    needs: int = field(init=False, repr=False, compare=False)
    """What a port must accept to take such a frame whole: ``Gso`` as a plain number (an ``IntFlag``
    is too slow for each frame), 0 if this is no superframe."""
    least_length: int = field(init=False, repr=False, compare=False)
    """The shortest frame that this offload fits."""
    plain: bool = field(init=False, repr=False, compare=False)
    """Nothing is left to do: any port can take the frame if it isn't too long."""
    known: bool = field(init=False, repr=False, compare=False)
    """Whether the fields make sense together; a frame whose offload doesn't is dropped."""

    def __post_init__(self) -> None:
        kind = self.gso_type & ~GSO_ECN
        needs = _KIND.get(kind, Gso.NONE)
        if self.gso_type & GSO_ECN:
            needs |= Gso.ECN
        needs_checksum = bool(self.flags & F_NEEDS_CSUM)
        known = kind in (GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4)
        if kind != GSO_NONE:
            known = known and self.segment_size > 0 and needs_checksum
        least = self.checksum_start + self.checksum_offset + 2 if needs_checksum else 0
        put = object.__setattr__
        put(self, "packed", HEADER.pack(
            self.flags, self.gso_type, self.header_length, self.segment_size,
            self.checksum_start, self.checksum_offset,
        ))  # fmt: skip
        put(self, "needs", int(needs))
        put(self, "least_length", max(least, ETHERNET_HEADER))
        put(self, "plain", not needs_checksum and kind == GSO_NONE)
        put(self, "known", known)

    @property
    def needs_checksum(self) -> bool:
        """Whether the transport checksum is still to be filled in."""
        return bool(self.flags & F_NEEDS_CSUM)

    @property
    def checked(self) -> bool:
        """Whether nobody needs to verify the transport checksum."""
        return bool(self.flags & (F_NEEDS_CSUM | F_DATA_VALID))

    @staticmethod
    def unpack(header: bytes) -> Offload:
        """Read ten bytes of virtio's net header. The same bytes give the same object."""
        offload = _seen.get(header)
        if offload is None:
            offload = Offload(*HEADER.unpack(header))
            if len(_seen) >= _SEEN_LIMIT:
                _seen.clear()
            _seen[header] = offload
        return offload


_SEEN_LIMIT = 1024
_seen: dict[bytes, Offload] = {}

NO_OFFLOAD = Offload()


class Frame:
    """One Ethernet frame: ``views`` of it in order, its ``length`` in bytes, its ``offload``.

    ``length`` is the sum of the views' lengths; whoever builds the frame knows it already.
    """

    __slots__ = ("length", "offload", "views")

    def __init__(self, views: Sequence[View], length: int, offload: Offload = NO_OFFLOAD) -> None:
        self.views = views
        self.length = length
        self.offload = offload

    @classmethod
    def of(cls, data: bytes | bytearray | View, offload: Offload = NO_OFFLOAD) -> Frame:
        """Make a frame of one buffer."""
        return cls((memoryview(data),), len(data), offload)

    def head(self, size: int) -> bytes:
        """Return a copy of the first ``size`` bytes (fewer if the frame is shorter)."""
        first = self.views[0] if self.views else b""
        if len(first) >= size:
            return bytes(first[:size])
        return b"".join(self.payload(0, size))

    def payload(self, start: int, size: int = MAX_FRAME) -> list[View]:
        """Return views of ``size`` bytes from ``start`` on (fewer if the frame ends before)."""
        found: list[View] = []
        for view in self.views:
            length = len(view)
            if start >= length:
                start -= length
                continue
            if size <= 0:
                break
            part = view[start : start + size] if start or size < length else view
            found.append(part)
            size -= len(part)
            start = 0
        return found

    def tobytes(self) -> bytes:
        """Return a copy of the whole frame."""
        views = self.views
        return bytes(views[0]) if len(views) == 1 else b"".join(views)

    def copy(self) -> Frame:
        """Return a frame with memory of its own, to be kept after the call."""
        return Frame.of(self.tobytes(), self.offload)

    def __repr__(self) -> str:
        return f"Frame({self.length} bytes, {self.offload!r})"


def total_length(frames: Iterable[Frame]) -> int:
    """Return the bytes of all ``frames``."""
    return sum([frame.length for frame in frames])
