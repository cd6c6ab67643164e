# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A guest for tests of the user network's protocols: sends segments by hand, reads what comes.

The network's side is real: real loop, real sockets on the host's loopback. Only the clock is by
hand, so that retransmissions happen when a test says so.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from vmwire.engine.clock import ManualClock
from vmwire.engine.host import Host
from vmwire.engine.loop import Loop
from vmwire.netdev.user.netdev import UserNetdev
from vmwire.netdev.user.options import UserOptions
from vmwire.netdev.user.tcp_flow import TcpFlow
from vmwire.options.table import table_of
from vmwire.wire.frame import Frame, Gso, Offload, View
from vmwire.wire.port import EVERYTHING, PACKETS_ONLY, Accepts, Port, Room
from vmwire.wire.protocols import tcp
from vmwire.wire.protocols.ipv4 import Header

MAC = bytes.fromhex("525400123456")
GATEWAY_MAC = bytes.fromhex("52550a000202")
GUEST = bytes((10, 0, 2, 15))
GATEWAY = bytes((10, 0, 2, 2))
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
MASK = 0xFFFFFFFF

PEERS: dict[str, dict[str, object]] = {
    "superframes": {"accepts": EVERYTHING},
    "superframes in guest memory": {"accepts": EVERYTHING, "direct": True},
    "checksums only": {"accepts": Accepts(checksum=True, gso=Gso.NONE)},
    "packets only": {"accepts": PACKETS_ONLY},
}
every_peer = pytest.mark.parametrize("bench", PEERS.values(), ids=PEERS.keys(), indirect=True)
"""Has the fixture ``bench`` made for each kind of guest."""


class Bench:
    """A user network with a hand-driven guest on its port.

    ``room`` is how many frames the guest has room for; ``direct`` offers reservations.
    """

    def __init__(
        self, *, accepts: Accepts = EVERYTHING, direct: bool = False, **options: object
    ) -> None:
        self.clock = ManualClock()
        self.loop = Loop(self.clock)
        record = table_of(UserOptions).from_kwargs(id="u", **options)
        self.netdev = UserNetdev(record)
        self.netdev.open(Host(self.loop))
        self.frames: list[bytes] = []
        self.offloads: list[Offload] = []
        self.room = 1 << 30
        self._reserved = bytearray()
        room = Room(self._reserve, self._commit, self._cancel) if direct else None
        self.port = Port("guest", self._receive, accepts=accepts, room=room)
        self.port.connect(self.netdev.port)

    def close(self) -> None:
        self.netdev.close()
        self.loop.close()

    # The guest's end of the wire

    def _receive(self, frames: Sequence[Frame]) -> int:
        taken = frames[: self.room]
        self.room -= len(taken)
        for frame in taken:
            self._keep(frame.tobytes(), frame.offload)
        return len(taken)

    def _keep(self, data: bytes, offload: Offload) -> None:
        self.frames.append(data)
        self.offloads.append(offload)

    def _reserve(self, length: int) -> Sequence[View] | None:
        if not self.room:
            return None
        self._reserved = bytearray(length)
        # two views, the first of which is no longer than a port has to give
        views = memoryview(self._reserved)
        return [views[:138], views[138:]] if length > 138 else [views]

    def _commit(self, length: int, offload: Offload) -> None:
        self.room -= 1
        self._keep(bytes(self._reserved[:length]), offload)

    def _cancel(self) -> None:
        self._reserved = bytearray()

    def send(self, *frames: bytes) -> None:
        """Send frames in one burst, and let the network do what follows at once."""
        assert self.port.send([Frame.of(frame) for frame in frames]) == len(frames)
        self.settle()

    def ipv4(self, destination: bytes, proto: int, payload: bytes, **header: Any) -> bytes:
        head = Header(GUEST, destination, proto, len(payload), **header)
        return GATEWAY_MAC + MAC + b"\x08\x00" + head.emit() + payload

    # Time and waiting

    def settle(self, turns: int = 6) -> None:
        """Run the loop until it has nothing to do, and is idle."""
        for _ in range(turns):
            self.loop.turn(0)
        self.loop.idle()

    def wait_until(self, true: Callable[[], object]) -> None:
        """Run the loop until ``true``; the kernel's loopback takes a moment."""
        for _ in range(2000):
            if true():
                return
            self.loop.turn(0.001)
            self.loop.idle()
        raise AssertionError("it did not happen")

    def pass_time(self, seconds: float) -> None:
        """Move the clock, with timers at their moments."""
        end = self.clock.now() + seconds
        while self.clock.now() < end:
            self.clock.advance(min(0.05, end - self.clock.now() + 1e-9))
            self.loop.turn(0)
        self.settle()

    def segments(self) -> list[tcp.Segment]:
        """Take the TCP segments that came, checked, and forget all frames."""
        found = []
        for data in self.frames:
            if data[12:14] == b"\x08\x00" and data[23] == 6:
                header = Header.parse(data[14:])
                body = data[14 + header.length : 14 + header.length + header.payload_length]
                found.append(tcp.Segment.parse(body))
        self.frames.clear()
        self.offloads.clear()
        return found


class TcpPeer:
    """A guest's end of one connection, with its sequence numbers in view."""

    def __init__(self, bench: Bench, port: int, destination: bytes = GATEWAY) -> None:
        self.bench = bench
        self.port = port
        self.own_port = 40000
        self.destination = destination
        self.nxt = 1000
        self.ack = 0
        self.window = 65535
        self.data = b""

    def segment(
        self,
        flags: int,
        data: bytes = b"",
        *,
        seq: int | None = None,
        ack: int | None = None,
        options: tcp.Options | None = None,
    ) -> bytes:
        """Build a segment; sequence and acknowledgement default to where the connection is."""
        segment = tcp.Segment(
            src_port=self.own_port,
            dst_port=self.port,
            seq=(self.nxt if seq is None else seq) & 0xFFFFFFFF,
            ack=(self.ack if ack is None else ack) & 0xFFFFFFFF,
            flags=flags,
            window=self.window,
            payload=data,
            options=options.emit() if options else b"",
        )
        return self.bench.ipv4(self.destination, 6, segment.emit(GUEST, self.destination))

    def open(self, options: tcp.Options | None = None) -> tcp.Segment:
        """Do the handshake; return the SYN-ACK."""
        self.bench.send(self.segment(SYN, options=options or tcp.Options(mss=1460)))
        self.bench.wait_until(lambda: self.bench.frames)
        (syn_ack,) = self.bench.segments()
        assert syn_ack.flags == SYN | ACK
        self.nxt += 1
        self.ack = syn_ack.seq + 1
        self.bench.send(self.segment(ACK))
        return syn_ack

    def write(self, data: bytes) -> None:
        """Send data, whatever comes back."""
        self.bench.send(self.segment(ACK | PSH, data))
        self.nxt += len(data)

    def read(self, size: int) -> bytes:
        """Receive ``size`` bytes in sequence, acknowledging each burst."""
        start = len(self.data)
        while len(self.data) - start < size:
            self.bench.wait_until(lambda: self.bench.frames)
            self.take()
        return self.data[start:]

    def take(self) -> list[tcp.Segment]:
        """Take what came, keep what is in sequence, acknowledge it."""
        segments = self.bench.segments()
        for segment in segments:
            if segment.seq == self.ack & 0xFFFFFFFF:
                self.data += bytes(segment.payload)
                self.ack += len(segment.payload) + bool(segment.flags & FIN)
        if any(segment.payload or segment.flags & FIN for segment in segments):
            self.bench.send(self.segment(ACK))
        return segments


class Reassembly:
    """A guest's receiving side that keeps what comes out of order, as real ones do."""

    def __init__(self, ack: int) -> None:
        self.start = ack
        self._bytes = bytearray()
        self._have = bytearray()
        self.data = b""

    @property
    def ack(self) -> int:
        """The next sequence number that is missing."""
        return self.start + len(self.data)

    def take(self, segment: tcp.Segment) -> None:
        at = (segment.seq - self.start) & 0xFFFFFFFF
        if at >= 1 << 31:
            return  # a probe of before the beginning
        size = len(segment.payload)
        missing = at + size - len(self._bytes)
        if missing > 0:
            self._bytes += bytes(missing)
            self._have += bytes(missing)
        self._bytes[at : at + size] = segment.payload
        self._have[at : at + size] = b"\1" * size
        hole = self._have.find(0, len(self.data))
        end = len(self._have) if hole < 0 else hole
        self.data += self._bytes[len(self.data) : end]


def listener() -> socket.socket:
    """A server on the host's loopback."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(5)
    return server


def connect(
    bench: Bench, server: socket.socket, *, start: int = 1000, own_port: int = 40000
) -> tuple[TcpPeer, socket.socket]:
    """Connect a guest with a server of the host; return both ends."""
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.nxt = start
    peer.own_port = own_port
    peer.open(tcp.Options(mss=1460, window_scale=7))
    host, _ = server.accept()
    host.settimeout(5)
    return peer, host


def the_flow(bench: Bench) -> TcpFlow:
    """The only connection."""
    (flow,) = bench.netdev._tcp.flows.values()
    return flow


def refuse_sends(patch: pytest.MonkeyPatch) -> None:
    """Let the kernel take nothing of what guests send."""

    def full(self: socket.socket, *rest: object) -> int:
        raise BlockingIOError

    patch.setattr(socket.socket, "send", full)
    patch.setattr(socket.socket, "sendmsg", full)


def cut_next_send(patch: pytest.MonkeyPatch, size: int) -> None:
    """Let the kernel take only ``size`` bytes of what a guest sends next."""
    send, sendmsg = socket.socket.send, socket.socket.sendmsg

    def cut(self: socket.socket, data: View | list[View], *rest: Any) -> int:
        patch.setattr(socket.socket, "send", send)
        patch.setattr(socket.socket, "sendmsg", sendmsg)
        return send(self, (data[0] if isinstance(data, list) else data)[:size])

    patch.setattr(socket.socket, "send", cut)
    patch.setattr(socket.socket, "sendmsg", cut)


def take_until_closed(bench: Bench, peer: TcpPeer) -> None:
    """Acknowledge what comes until there is no connection any more."""
    bench.wait_until(lambda: peer.take() is None or not bench.netdev._tcp.flows)
    bench.settle()
    bench.segments()


def forwarded_port(bench: Bench) -> int:
    """The host's port of the first forward."""
    forwards = bench.netdev.stats()["forwards"]
    assert isinstance(forwards, list)
    return int(forwards[0].split("-")[0].rsplit(":", 1)[1])


def pattern(size: int) -> bytes:
    """Bytes in which a lost or doubled piece shows."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]
