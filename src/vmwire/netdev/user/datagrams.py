# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Toward the guests: datagrams as frames, runs of them as superframes.

What fits the MTU has "don't fragment" set and an identification of zero (RFC 6864 lets atomic
datagrams have any), so that the frames of a run share one header. What doesn't fit is fragmented.
"""

from __future__ import annotations

from struct import Struct

from vmwire.netdev.user.datagram_reader import HEADERS, MAX_RUN, MAX_SEGMENTS, Run
from vmwire.netdev.user.output import ETHERNET_MINIMUM, TTL, Output
from vmwire.netdev.user.plan import Plan
from vmwire.wire.frame import F_NEEDS_CSUM, GSO_UDP_L4, NO_OFFLOAD, Frame, Offload, View
from vmwire.wire.port import Port
from vmwire.wire.protocols.checksum import fold, ones_complement_sum

HEADER = Struct("!12sHBBHHHBBH8sHHHH")
"""Ethernet, IPv4 and UDP headers."""
assert HEADER.size == HEADERS
UDP_HEADER = Struct("!HHHH")
ETHERTYPE_IPV4 = 0x0800
DONT_FRAGMENT = 0x4000
PROTOCOL_UDP = 17
IP_SIZE = 20
IP_WORDS = 0x4500 + DONT_FRAGMENT + (TTL << 8 | PROTOCOL_UDP)
"""The words of the IPv4 header that are the same in all, added up."""

CHECKSUM_LEFT = Offload(F_NEEDS_CSUM, checksum_start=34, checksum_offset=6)
MAX_OFFLOADS = 64
JOINED = 512
"""Up to here a copy into one piece costs less than a second piece does."""


def send_packet(
    output: Output, plan: Plan, source: bytes, guest: bytes, protocol: int, payload: bytes,
    *, tos: int = 0, ttl: int = TTL, mac: bytes | None = None,
) -> None:  # fmt: skip
    """Send an IPv4 packet to a guest, in fragments if it is longer than the MTU."""
    output.ipv4(source, guest, protocol, payload, mac=mac, tos=tos, ttl=ttl)


class Addresses:
    """Where the frames of a run come from and go to."""

    __slots__ = (
        "_header",
        "_size",
        "ethernet",
        "guest",
        "guest_port",
        "ip",
        "port",
        "source",
        "sum",
    )

    def __init__(
        self, ethernet: bytes, source: bytes, port: int, guest: bytes, guest_port: int
    ) -> None:
        self.ethernet = ethernet
        self.source = source
        self.port = port
        self.guest = guest
        self.guest_port = guest_port
        self.ip = source + guest
        self.sum = fold(int.from_bytes(self.ip, "big"))
        self._size = -1
        self._header = b""

    def header(self, size: int) -> bytes:
        """The headers of a datagram of ``size`` bytes, with the UDP checksum left to do."""
        if size == self._size:
            return self._header
        length = 8 + size
        total = IP_SIZE + length
        self._size = size
        self._header = HEADER.pack(
            self.ethernet, ETHERTYPE_IPV4, 0x45, 0, total, 0, DONT_FRAGMENT, TTL, PROTOCOL_UDP,
            fold(IP_WORDS + total + self.sum) ^ 0xFFFF, self.ip,
            self.port, self.guest_port, length, fold(self.sum + PROTOCOL_UDP + length),
        )  # fmt: skip
        return self._header

    def checksum(self, payload: View) -> int:
        """The UDP checksum of a datagram, as it stands in the header."""
        length = 8 + len(payload)
        header = self.port + self.guest_port + length
        initial = self.sum + PROTOCOL_UDP + length + header
        # a computed 0 is sent as all ones: 0 says that there is no checksum
        return (ones_complement_sum(payload, initial) ^ 0xFFFF) or 0xFFFF


class FrameMaker:
    """Makes frames of what the host's sockets gave."""

    def __init__(self, port: Port, output: Output, plan: Plan) -> None:
        self._port = port
        self._output = output
        self._plan = plan
        self._offloads: dict[int, Offload] = {}

    def make(self, run: Run, to: Addresses, frames: list[Frame]) -> int:
        """Add the frames of ``run``; return how many datagrams it holds.

        The frames borrow the run's memory. Fragments go their own way, through the output.
        """
        payload, size = run.payload, run.size
        total = len(payload)
        accepts = self._port.peer_accepts
        if size > self._plan.mtu - IP_SIZE - 8:
            return self._fragmented(run, to)
        if total > size and accepts.takes(self._offload(size)):
            return self._superframes(run, to, frames)
        if run.framed is not None and total == size >= ETHERNET_MINIMUM - HEADERS:
            self._framed(run.framed, size, to, accepts.checksum, frames)
            return 1
        for at in range(0, total, size) if size else (0,):
            self._single(payload[at : at + size], to, accepts.checksum, frames)
        return len(range(0, total, size)) if size else 1

    def _framed(
        self, framed: View, size: int, to: Addresses, offload: bool, frames: list[Frame]
    ) -> None:
        """A single datagram with room in front of it: nothing is copied."""
        framed[:HEADERS] = to.header(size)
        if not offload:
            framed[40:42] = to.checksum(framed[HEADERS:]).to_bytes(2, "big")
        frames.append(Frame((framed,), HEADERS + size, CHECKSUM_LEFT if offload else NO_OFFLOAD))

    def _single(self, payload: View, to: Addresses, offload: bool, frames: list[Frame]) -> None:
        size = len(payload)
        header = to.header(size)
        if not offload:
            header = header[:40] + to.checksum(payload).to_bytes(2, "big")
        left = CHECKSUM_LEFT if offload else NO_OFFLOAD
        if size > JOINED:
            frames.append(Frame((memoryview(header), payload), HEADERS + size, left))
        else:
            frames.append(Frame.of((header + payload).ljust(ETHERNET_MINIMUM, b"\0"), left))

    def _superframes(self, run: Run, to: Addresses, frames: list[Frame]) -> int:
        """As few superframes as hold the run; a last single datagram is one too."""
        payload, size = run.payload, run.size
        offload = self._offload(size)
        step = size * min(MAX_SEGMENTS, MAX_RUN // size)
        for at in range(0, len(payload), step):
            part = payload[at : at + step]
            header = to.header(len(part))
            if at == 0 and run.framed is not None:
                framed = run.framed[: HEADERS + len(part)]
                framed[:HEADERS] = header
                frames.append(Frame((framed,), len(framed), offload))
            elif len(part) <= size:
                self._single(part, to, True, frames)
            else:
                frames.append(Frame((memoryview(header), part), HEADERS + len(part), offload))
        return -(-len(payload) // size)

    def _offload(self, size: int) -> Offload:
        offload = self._offloads.get(size)
        if offload is None:
            if len(self._offloads) >= MAX_OFFLOADS:
                self._offloads.clear()
            offload = self._offloads[size] = Offload(
                F_NEEDS_CSUM, GSO_UDP_L4, HEADERS, size, checksum_start=34, checksum_offset=6
            )
        return offload

    def _fragmented(self, run: Run, to: Addresses) -> int:
        payload, size = run.payload, run.size
        starts = range(0, len(payload), size)
        for at in starts:
            part = payload[at : at + size]
            header = UDP_HEADER.pack(to.port, to.guest_port, 8 + len(part), to.checksum(part))
            send_packet(
                self._output, self._plan, to.source, to.guest, PROTOCOL_UDP, header + bytes(part),
                mac=to.ethernet[:6],
            )  # fmt: skip
        return len(starts)
