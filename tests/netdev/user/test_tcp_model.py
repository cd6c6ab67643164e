# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""One connection of the user network under any sequence of events, against a simple model.

The model: two byte streams. Whatever is lost, repeated, reordered, forged or late on the wire, and
however slowly either end reads, what an end has received is the beginning of what the other one
sends, and nothing is acknowledged that isn't on its way there. In the end, when the wire behaves,
everything has arrived, both ends have seen the end, and the network has forgotten the connection.
"""

from __future__ import annotations

import socket
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.netdev.user.guest import (
    ACK,
    FIN,
    MASK,
    RST,
    SYN,
    Bench,
    Reassembly,
    TcpPeer,
    listener,
)

from vmwire.netdev.user import tcp_speaker
from vmwire.wire.port import EVERYTHING, PACKETS_ONLY, Accepts
from vmwire.wire.protocols import tcp

WIRES = [
    {"accepts": EVERYTHING},
    {"accepts": EVERYTHING, "direct": True},
    {"accepts": Accepts(checksum=True)},
    {"accepts": PACKETS_ONLY},
]
STREAM = bytes((i * 7 + (i >> 8)) & 0xFF for i in range(1 << 17))
"""No two places look alike nearby, so that a byte from a wrong place shows."""

COUNTS = st.integers(0, 6000)
SIZES = st.sampled_from([0, 1, 2, 100, 1459, 1460, 1461, 3000, 20_000])


class Connection(RuleBasedStateMachine):
    """The guest's side is written by hand here; the network and the host's kernel are real."""

    @initialize(
        wire=st.sampled_from(WIRES),
        guest_start=st.sampled_from([1000, MASK, MASK - 1, MASK - 5000, 1 << 31]),
        our_start=st.sampled_from([1000, MASK, MASK - 1, MASK - 5000, 1 << 31]),
        scale=st.sampled_from([None, 0, 7]),
        sack=st.booleans(),
        mss=st.sampled_from([536, 1460, 9000]),
        buffers=st.sampled_from([None, 4096, 30_000]),
        length=st.sampled_from([0, 1, 5000, 60_000]),
        peek_offset=st.booleans(),
    )
    def open(
        self,
        wire: dict[str, object],
        guest_start: int,
        our_start: int,
        scale: int | None,
        sack: bool,
        mss: int,
        buffers: int | None,
        length: int,
        peek_offset: bool,
    ) -> None:
        self.bench = Bench(**wire)  # type: ignore[arg-type]
        self.table = self.bench.netdev._tcp
        if not peek_offset:
            self.table.peek_offset = self.table._feeder._peek_offset = False
        self.server = listener()
        self.peer = TcpPeer(self.bench, self.server.getsockname()[1])
        self.peer.nxt = guest_start
        with patch.object(tcp_speaker, "getrandbits", return_value=our_start):
            syn_ack = self.peer.open(tcp.Options(mss, scale, sack))
        self.shift = 0 if scale is None else 7
        self.guest_shift = scale or 0
        self.host, _ = self.server.accept()
        self.host.setblocking(False)
        (self.flow,) = self.table.flows.values()
        if buffers:
            self.flow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
            self.host.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        self.start = (guest_start + 1) & MASK
        self.length = length
        self.offered = bytearray(length + 1)
        """Which bytes of the guest's stream, and the end behind them, were ever offered."""
        self.acked = 0
        self.edge = syn_ack.window
        self.guest_ended = False
        self.host_sent = 0
        self.host_ended = False
        self.host_got = b""
        self.saw_end = False
        self.fin_at: int | None = None
        self.in_flight: list[tcp.Segment] = []
        self.reader = Reassembly(self.peer.ack & MASK)
        self.quiet_window()

    def quiet_window(self) -> None:
        self.peer.window = 60_000 >> self.guest_shift

    # What the guest does

    def guest_ack(self) -> int:
        """What the guest acknowledges: all data without a hole, and our FIN behind it."""
        ended = self.fin_at is not None and len(self.reader.data) == self.fin_at
        return self.reader.ack + ended

    def guest_says(self, flags: int, at: int = 0, size: int = 0) -> None:
        """Send ``size`` bytes of the stream from ``at``; a FIN stands where the stream ends."""
        size = max(0, min(size, self.length - at))
        seq = self.start + at
        data = STREAM[at : at + size]
        self.bench.send(self.peer.segment(flags, data, seq=seq, ack=self.guest_ack()))
        self.offered[at : at + size] = b"\1" * size
        if flags & FIN:
            self.offered[self.length] = 1
            self.guest_ended = True
        self.hear()

    @rule(back=st.sampled_from([0, 0, 0, 1, 700, 5000, -1, -3000]), size=SIZES)
    def guest_sends(self, back: int, size: int) -> None:
        """New data, old data, both, or data behind a hole."""
        self.guest_says(ACK, max(0, min(self.acked - back, self.length)), size)

    @rule(size=SIZES)
    def guest_ends(self, size: int) -> None:
        at = max(0, self.length - size)
        self.guest_says(ACK | FIN, at, size)

    @rule(window=st.sampled_from([0, 1, 100, 3000, 65535]))
    def guest_acknowledges(self, window: int) -> None:
        self.peer.window = window >> self.guest_shift
        self.guest_says(ACK, self.position())
        self.quiet_window()

    @rule(count=st.integers(1, 5))
    def guest_repeats_its_acknowledgement(self, count: int) -> None:
        for _ in range(count):
            self.guest_says(ACK, self.position())

    @rule(
        flags=st.sampled_from([SYN, SYN | ACK, RST, RST | ACK, ACK, 0, FIN]),
        seq=st.sampled_from([1 << 30, -(1 << 30), 1 << 31, -2, 3_000_000]),
        ack=st.sampled_from([0, 1 << 30, -(1 << 30), 1 << 31]),
    )
    def somebody_forges(self, flags: int, seq: int, ack: int) -> None:
        """Segments that no honest guest sends now; none may end or change anything."""
        if not self.table.flows:
            return  # it is over: a SYN would open another one
        if flags & ACK and not flags & RST and ack == 0:
            ack = 1 << 30
        before = self.peer.segment(
            flags,
            b"forged",
            seq=self.start + self.position() + seq,
            ack=self.guest_ack() + ack,
        )
        self.bench.send(before)
        self.hear()

    def position(self) -> int:
        """Where an honest guest's next byte stands."""
        return self.acked + (1 if self.saw_all() else 0)

    def saw_all(self) -> bool:
        return self.guest_ended and self.fin_acked

    # What the host does

    @rule(size=st.sampled_from([1, 10, 1460, 5000, 40_000]))
    def host_sends(self, size: int) -> None:
        size = min(size, len(STREAM) - self.host_sent)
        if self.host_ended or not size:
            return
        try:
            self.host_sent += self.host.send(STREAM[self.host_sent : self.host_sent + size])
        except BlockingIOError:
            pass
        self.turn()

    @rule()
    @precondition(lambda self: not self.host_ended)
    def host_ends(self) -> None:
        self.host_ended = True
        self.host.shutdown(socket.SHUT_WR)
        self.turn()

    @rule(size=st.sampled_from([1, 3000, 1 << 20]))
    def host_reads(self, size: int) -> None:
        try:
            got = self.host.recv(size)
        except BlockingIOError:
            return
        self.host_got += got
        self.saw_end = self.saw_end or not got
        self.turn()

    # What the wire does

    @rule(seed=st.integers(0, 1 << 30), loss=st.sampled_from([0, 0, 1, 2, 4]))
    def frames_arrive(self, seed: int, loss: int) -> None:
        """All, or all but some (drawn by the bits of ``seed``); the guest then acknowledges."""
        for number, segment in enumerate(self.in_flight):
            if loss and not (seed >> number % 30) % (2 * loss) >= loss:
                continue
            self.arrive(segment)
        self.in_flight.clear()
        self.guest_says(ACK, self.position())

    @rule()
    def frames_arrive_in_reverse(self) -> None:
        for segment in reversed(self.in_flight):
            self.arrive(segment)
        self.in_flight.clear()
        self.guest_says(ACK, self.position())

    @rule()
    def frames_are_lost(self) -> None:
        self.in_flight.clear()

    @rule()
    def guest_has_no_room_for_a_while(self) -> None:
        self.bench.room = 0
        self.turn()
        self.bench.room = 1 << 30
        self.bench.port.resume()
        self.turn()

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.bench.pass_time(seconds)
        self.hear()

    def arrive(self, segment: tcp.Segment) -> None:
        self.reader.take(segment)
        if segment.flags & FIN:
            at = (segment.seq + len(segment.payload) - self.reader.start) & MASK
            assert self.fin_at in (None, at), "the end moved"
            self.fin_at = at

    def turn(self) -> None:
        self.bench.settle(3)
        self.hear()

    def hear(self) -> None:
        """Judge what the network says; it arrives later, or never."""
        for segment in self.bench.segments():
            if segment.flags & RST and not self.table.flows and self.guest_ended:
                continue  # it is over, and this segment came too late
            assert not segment.flags & (SYN | RST), segment
            acked = (segment.ack - self.start) & MASK
            assert acked < 1 << 31
            self.fin_acked = acked > self.length
            assert 0 not in self.offered[:acked]
            self.acked = max(self.acked, min(acked, self.length))
            edge = acked + (segment.window << self.shift)
            assert edge >= self.edge, "the window was taken back"
            self.edge = edge
            sent = (segment.seq + len(segment.payload) - self.reader.start) & MASK
            assert sent <= self.host_sent + 1 or sent == MASK
            self.in_flight.append(segment)

    fin_acked = False

    # What always holds

    @invariant()
    def streams_are_beginnings_of_what_was_sent(self) -> None:
        if hasattr(self, "reader"):
            assert STREAM.startswith(self.reader.data)
            assert len(self.reader.data) <= self.host_sent
            assert STREAM[: self.length].startswith(self.host_got)
            assert self.fin_at in (None, self.host_sent)
            assert not self.saw_end or len(self.host_got) == self.length
            ahead = self.flow.ahead.size if self.flow.ahead else 0
            assert self.table.backlogs == len(self.flow.backlog) + ahead

    def teardown(self) -> None:
        if not hasattr(self, "reader"):
            return
        try:
            self.finish()
            assert self.reader.data == STREAM[: self.host_sent]
            assert self.host_got == STREAM[: self.length]
            assert not self.table.flows
            self.bench.pass_time(3)
            for left in (self.table._waiting, self.table._pushes, self.table._discards):
                assert not left
            assert not self.table._lingering
            assert self.table._tick_timer is None
            assert not self.table._feeder._queue
        finally:
            self.host.close()
            self.server.close()
            self.bench.close()

    def finish(self) -> None:
        """From now on all behave: everything has to arrive."""
        if not self.host_ended:
            self.host_ends()
        for _ in range(1000):
            if not self.table.flows and self.saw_end:
                return
            if self.table.flows:
                self.frames_arrive(0, 0)
            if not self.fin_acked:
                size = min(1400, max(0, self.edge - self.acked))
                last = self.acked + size >= self.length
                self.guest_says(ACK | FIN if last else ACK, self.acked, size)
            self.host_reads(1 << 20)
            self.bench.loop.turn(0.001)
            self.time_passes(0.05)
        raise AssertionError("the connection did not come to its end")


TestConnection = Connection.TestCase
TestConnection.settings = settings(
    max_examples=80,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
