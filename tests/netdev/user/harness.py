# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A guest's end of the wire for tests of the user network's parts: it sends packets as the stack
would hand them on, and keeps what comes back."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest

from vmwire.engine.loop import Loop
from vmwire.netdev.user.output import Output
from vmwire.netdev.user.plan import Plan, packed
from vmwire.netdev.user.udp import UdpTable
from vmwire.wire.frame import F_NEEDS_CSUM, GSO_UDP_L4, NO_OFFLOAD, Frame, Gso, Offload
from vmwire.wire.offload import finish
from vmwire.wire.port import Accepts, Port
from vmwire.wire.protocols import icmp, ipv4, udp

GUEST = packed("10.0.2.15")
GATEWAY = packed("10.0.2.2")
DNS = packed("10.0.2.3")
GUEST_MAC = bytes.fromhex("525400123456")
GATEWAY_MAC = b"\x52\x55" + GATEWAY

HEAD = 138
CHECKSUM_LEFT = Offload(F_NEEDS_CSUM, checksum_start=34, checksum_offset=6)
GSO = Offload(F_NEEDS_CSUM, GSO_UDP_L4, 42, 8, 34, 6)
SUPERFRAMES = Accepts(checksum=True, gso=Gso.UDP_L4)


@dataclass
class Packet:
    """An IPv4 packet that a guest got."""

    ethernet: bytes
    header: ipv4.Header
    payload: bytes
    offload: Offload

    @property
    def udp(self) -> udp.Datagram:
        assert self.header.proto == ipv4.PROTO_UDP
        return udp.Datagram.parse(self.payload)

    @property
    def icmp(self) -> icmp.Message:
        assert self.header.proto == ipv4.PROTO_ICMP
        return icmp.Message.parse(self.payload)


class Guest:
    """The loop, the wire and the guest's end of it; ``room`` frames are taken before refusal."""

    def __init__(self, plan: Plan | None = None, accepts: Accepts | None = None) -> None:
        self.loop = Loop()
        self.plan = plan or Plan()
        self.frames: list[Frame] = []
        self.room: int | None = None
        self.macs = {GUEST: GUEST_MAC}
        self.port = Port("user", self._ignore)
        self.near = Port("guest", self._take, accepts=accepts or Accepts())
        self.near.connect(self.port)
        self.output = Output(self.port, self.loop.defer, self.macs.get, self.plan)
        self.errors: list[tuple[bytes, int]] = []

    def _ignore(self, frames: Sequence[Frame]) -> int:
        return len(frames)

    def _take(self, frames: Sequence[Frame]) -> int:
        count = len(frames) if self.room is None else min(len(frames), self.room)
        if self.room is not None:
            self.room -= count
        self.frames.extend(frame.copy() for frame in frames[:count])
        return count

    def unreachable(self, head: bytes, code: int) -> None:
        """What a part calls to report an error."""
        self.errors.append((head, code))

    def turn_until(self, condition: Callable[[], object], turns: int = 200) -> None:
        """Turn the loop until ``condition`` holds; fail if it never does."""
        for _ in range(turns):
            if condition():
                return
            self.loop.turn(0.02)
        assert condition(), "it didn't happen"

    def settle(self, turns: int = 3) -> None:
        """Give what is not to happen some turns to happen."""
        for _ in range(turns):
            self.loop.turn(0.01)

    def packets(self) -> list[Packet]:
        """Take what the guest got, superframes as they came; checks all header sums."""
        frames, self.frames = self.frames, []
        return [parse(frame) for frame in frames]

    def datagrams(self) -> list[Packet]:
        """Take what the guest got, as single packets with verified UDP checksums."""
        frames, self.frames = self.frames, []
        parts = [part for frame in frames for part in finish(frame)]
        packets = [parse(part) for part in parts]
        for packet in packets:
            header = packet.header
            if header.proto == ipv4.PROTO_UDP and not header.is_fragment:
                assert udp.checksum_ok(packet.payload, header.src, header.dst)
        return packets


MakeUdp = Callable[..., tuple[Guest, UdpTable]]
"""The fixture ``make_udp``."""


@dataclass
class Forwarded:
    """A guest whose port 53 is reached by datagrams to ``listener``. The fixture ``forwarded``."""

    guest: Guest
    table: UdpTable
    listener: socket.socket

    def question(self, client: socket.socket, address: str = "127.0.0.1") -> None:
        """A client of the host asks."""
        client.sendto(b"question", (address, port_of(self.listener)))

    def asked(self, client: socket.socket, address: str = "127.0.0.1") -> None:
        """A client of the host asks, and the guest has heard it."""
        known = len(self.guest.frames)
        self.question(client, address)
        self.guest.turn_until(lambda: len(self.guest.frames) > known)

    def answer(self, port: int, data: bytes = b"answer", source_port: int = 53) -> None:
        """The guest answers the client that has ``port``."""
        send_burst(self.table, udp_frame(data, port, source_port=source_port))


def parse(frame: Frame) -> Packet:
    """Read a frame as an IPv4 packet."""
    data = frame.tobytes()
    assert data[12:14] == b"\x08\x00"
    header = ipv4.Header.parse(data[14:])
    assert ipv4.checksum_ok(data[14:])
    assert len(data) >= 60 or frame.offload.needs
    return Packet(data[:12], header, bytes(header.payload(data[14:])), frame.offload)


def ip_frame(
    payload: bytes,
    destination: bytes = GATEWAY,
    protocol: int = ipv4.PROTO_UDP,
    *,
    source: bytes = GUEST,
    offload: Offload = NO_OFFLOAD,
    options: bytes = b"",
    ttl: int = 64,
    pieces: Sequence[int] = (),
    padded: bool = True,
) -> tuple[Frame, bytes, int, int]:
    """A guest's packet, with what the stack hands on: frame, head, transport, end.

    ``pieces``: where the frame's memory is cut.
    """
    header = ipv4.Header(
        source, destination, protocol, len(payload), ttl=ttl, ident=0x1234, options=options
    )
    data = GATEWAY_MAC + GUEST_MAC + b"\x08\x00" + header.emit() + payload
    end = len(data)
    if padded:
        data = data.ljust(60, b"\0")
    bounds = [0, *pieces, len(data)]
    views = [memoryview(data)[a:b] for a, b in pairwise(bounds)]
    transport = 14 + header.length
    return Frame(views, len(data), offload), data[:HEAD], transport, end


def udp_frame(
    payload: bytes,
    port: int,
    destination: bytes = GATEWAY,
    *,
    source: bytes = GUEST,
    source_port: int = 4000,
    **how: object,
) -> tuple[Frame, bytes, int, int]:
    """A guest's datagram, as ``ip_frame`` gives it."""
    datagram = udp.Datagram(source_port, port, payload).emit(source, destination)
    return ip_frame(datagram, destination, source=source, **how)  # type: ignore[arg-type]


def superframe(payload: bytes, size: int, port: int) -> tuple[Frame, bytes, int, int]:
    """A guest's UDP superframe with segments of ``size`` bytes."""
    offload = Offload(F_NEEDS_CSUM, GSO_UDP_L4, 42, size, 34, 6)
    return udp_frame(payload, port, offload=offload)


def echo_frame(
    data: bytes,
    destination: bytes = GATEWAY,
    *,
    ident: int = 0x1122,
    sequence: int = 1,
    **how: object,
) -> tuple[Frame, bytes, int, int]:
    """A guest's ping, as ``ip_frame`` gives it."""
    rest = ident.to_bytes(2, "big") + sequence.to_bytes(2, "big")
    message = icmp.Message(icmp.ECHO_REQUEST, 0, rest, data).emit()
    return ip_frame(message, destination, ipv4.PROTO_ICMP, **how)  # type: ignore[arg-type]


def send_burst(table: UdpTable, *frames: tuple[Frame, bytes, int, int]) -> None:
    """One burst of the guest."""
    for frame in frames:
        table.receive(*frame)
    table.end_burst()


def opened(table: UdpTable, server: socket.socket, source_port: int = 4000) -> tuple[str, int]:
    """Have the guest say something to ``server``; return where answers go."""
    send_burst(table, udp_frame(b"open", port_of(server), source_port=source_port))
    client: tuple[str, int] = server.recvfrom(100)[1]
    return client


def watch_no_more(loop: Loop, patch: pytest.MonkeyPatch) -> list[int]:
    """Have ``loop`` refuse what it isn't watching yet, as at the limit of the host's user."""
    refused: list[int] = []

    def refuse(fd: int, events: int, handler: object) -> None:
        refused.append(fd)
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(loop, "watch", refuse)
    return refused


def host_socket(address: str = "127.0.0.1") -> socket.socket:
    """A UDP socket of the host, bound to a free port."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 0))
    sock.settimeout(2)
    return sock


def port_of(sock: socket.socket) -> int:
    """The port that a socket is bound to."""
    port: int = sock.getsockname()[1]
    return port


def waiting(sock: socket.socket) -> list[bytes]:
    """Take all datagrams that a socket has."""
    found = []
    sock.setblocking(False)
    try:
        while True:
            found.append(sock.recv(65535))
    except BlockingIOError:
        return found
