# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The smallest TCP that a guest can live with (RFC 9293; window scale of RFC 7323).

Theory of operation. What was sent and isn't acknowledged stands in ``_unacked``, SYN and FIN like
data, and is all sent again when nothing moves for a while (go-back-N). There is no congestion
control: the way to the card loses nothing, and the peer's window is the only limit. What arrives
in order is kept for the reader and acknowledged once a turn; what arrives out of order is dropped
and acknowledged again, so the sender repeats it. A connection ends for the stack when both sides
have finished, or by a reset; TIME-WAIT is left out.

    opening --SYN-ACK--> established --finish()--> (own half closed)
                                     --their FIN--> (receive() gives b"")
    any     --RST--> reset: everything raises ConnectionResetError
"""

from __future__ import annotations

import secrets
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmwire.wire.protocols import tcp

if TYPE_CHECKING:
    from vmwire.bench.guest import IpGuest

BUFFER_BYTES = 4 << 20
"""How much may arrive before somebody reads it: the widest window."""
WINDOW_SCALE = 7
FIRST_WAIT_S = 0.3
LONGEST_WAIT_S = 3.0
MAX_TRIES = 8
OVERRIDE_S = 0.2
HEADERS = 40
LONGEST_PAYLOAD = 65535 - HEADERS
NOTHING = memoryview(b"")


@dataclass(slots=True)
class _Sent:
    """What takes part of the sequence space and isn't acknowledged yet."""

    seq: int
    flags: int
    data: memoryview
    options: bytes = b""

    @property
    def length(self) -> int:
        return len(self.data) + (1 if self.flags & (tcp.SYN | tcp.FIN) else 0)


class TcpConnection:
    """One connection. ``IpGuest.connect`` and ``Listener.accept`` make them."""

    def __init__(self, guest: IpGuest, port: int, remote: bytes, remote_port: int) -> None:
        self._guest = guest
        self.port = port
        self.remote = remote
        self.remote_port = remote_port
        self.established = False
        self.reset = False
        self.ended = False
        """The other side has finished, and everything before that has arrived."""
        self.resent = 0
        """How often something had to be sent again."""
        self._mss = guest.mtu - HEADERS
        self._next = secrets.randbits(32)
        self._unacked: deque[_Sent] = deque()
        self._finished = False
        self._peer_window = 0
        self._peer_scale = 0
        self._scaled = False
        self._expected = 0
        self._arrived: deque[memoryview] = deque()
        self._arrived_bytes = 0
        self._told_window = 0
        self._owes_ack = False
        self._waiting_for_room = False
        self._moved = time.monotonic()
        self._patience_s = FIRST_WAIT_S
        self._tries = 0

    @property
    def key(self) -> tuple[int, bytes, int]:
        """What the stack knows it by."""
        return self.port, self.remote, self.remote_port

    @property
    def peer(self) -> tuple[str, int]:
        """The other side's address and port."""
        return socket.inet_ntoa(self.remote), self.remote_port

    # For the user

    def send(self, data: bytes | memoryview, timeout_s: float = 10.0) -> None:
        """Send all of it; returns when it is on its way (not when it has arrived)."""
        rest = memoryview(data)
        while rest:
            self._wait_for_room(min(self._mss, len(rest)), timeout_s)
            size = min(self._room(), self._burst(), len(rest))
            last = tcp.PSH if size == len(rest) else 0
            self._queue(tcp.ACK | last, rest[:size])
            rest = rest[size:]

    def _wait_for_room(self, size: int, timeout_s: float) -> None:
        """Wait until the peer has room for so much; after a while, for anything at all.

        RFC 9293, section 3.8.6.2.1: small segments are avoided, but not for ever.
        """
        override = time.monotonic() + OVERRIDE_S

        def enough() -> bool:
            return self._room() >= (size if time.monotonic() < override else 1)

        self._waiting_for_room = True
        self._until(enough, timeout_s, "room at the peer")
        self._waiting_for_room = False

    def receive(self, size: int = 65536, timeout_s: float = 10.0) -> bytes:
        """At least one byte and at most ``size``; nothing at the end."""
        room = bytearray(size)
        return bytes(room[: self.receive_into(memoryview(room), timeout_s)])

    def receive_into(self, room: memoryview, timeout_s: float = 10.0) -> int:
        """The same, into memory; how many bytes."""
        self._until(lambda: bool(self._arrived) or self.ended, timeout_s, "data")
        filled = 0
        while self._arrived and filled < len(room):
            piece = self._arrived.popleft()
            part = piece[: len(room) - filled]
            room[filled : filled + len(part)] = part
            filled += len(part)
            if len(part) < len(piece):
                self._arrived.appendleft(piece[len(part) :])
        self._arrived_bytes -= filled
        if self._window() - self._told_window >= BUFFER_BYTES // 2:
            self._owes_ack = True
        return filled

    def receive_all(self, timeout_s: float = 10.0) -> bytes:
        """Everything up to the end."""
        parts = []
        while part := self.receive(timeout_s=timeout_s):
            parts.append(part)
        return b"".join(parts)

    def finish(self, timeout_s: float = 10.0) -> None:
        """Say that nothing more is coming; returns when the other side knows."""
        if not self._finished:
            self._finished = True
            self._queue(tcp.FIN | tcp.ACK, NOTHING)
        self._until(lambda: not self._unacked, timeout_s, "the acknowledgement of everything")

    def abort(self) -> None:
        """End it at once, by a reset."""
        if not self.reset:
            self._emit(self._next, tcp.RST | tcp.ACK)
        self._forget()

    def close(self) -> None:
        """Finish if the other side has, else abort."""
        if self.ended and not self.reset:
            self.finish()
            self._guest.turn()
            self._forget()
        else:
            self.abort()

    def __enter__(self) -> TcpConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _until(self, true: Callable[[], object], timeout_s: float, what: str) -> None:
        def done() -> object:
            if self.reset:
                raise ConnectionResetError("the other side has reset the connection")
            return true()

        self._guest.until(done, timeout_s, what)

    def _forget(self) -> None:
        self._guest.connections.pop(self.key, None)

    # Opening

    def open(self) -> None:
        """Send a SYN."""
        self._queue(tcp.SYN, NOTHING, self._options().emit())

    def open_answering(self, syn: tcp.Segment) -> None:
        """Answer a SYN."""
        self._learn(syn)
        self._queue(tcp.SYN | tcp.ACK, NOTHING, self._options().emit())

    def wait_established(self, timeout_s: float) -> None:
        """Return when the other side has answered. ConnectionRefusedError: it said no."""
        try:
            self._until(lambda: self.established, timeout_s, f"{self.peer[0]}'s answer to a SYN")
        except ConnectionResetError:
            address, port = self.peer
            raise ConnectionRefusedError(f"{address} refuses port {port}") from None
        finally:
            if not self.established:
                self._forget()

    def _options(self) -> tcp.Options:
        return tcp.Options(mss=self._guest.mtu - HEADERS, window_scale=WINDOW_SCALE)

    def _learn(self, syn: tcp.Segment) -> None:
        options = tcp.Options.parse(syn.options)
        self._mss = min(self._mss, options.mss or tcp.DEFAULT_MSS)
        self._peer_scale = options.window_scale or 0
        self._peer_window = syn.window
        self._expected = tcp.seq_add(syn.seq, 1)
        self._scaled = options.window_scale is not None

    # Sending

    def _in_flight(self) -> int:
        return sum(sent.length for sent in self._unacked)

    def _room(self) -> int:
        return max(0, self._peer_window - self._in_flight())

    def _burst(self) -> int:
        if not self._guest.superframes:
            return self._mss
        return LONGEST_PAYLOAD // self._mss * self._mss

    def _queue(self, flags: int, data: memoryview, options: bytes = b"") -> None:
        if not self._unacked:
            self._moved = time.monotonic()
        sent = _Sent(self._next, flags, data, options)
        self._unacked.append(sent)
        self._next = tcp.seq_add(self._next, sent.length)
        self._emit(sent.seq, flags, data, options)

    def _emit(self, seq: int, flags: int, data: memoryview = NOTHING, options: bytes = b"") -> None:
        window = self._told_window = min(self._window(), 0xFFFF << WINDOW_SCALE)
        shown = min(window, 0xFFFF) if flags & tcp.SYN else window >> self._own_scale
        ack = self._expected if flags & tcp.ACK else 0
        segment = tcp.Segment(
            self.port, self.remote_port, seq, ack, flags, min(shown, 0xFFFF), data, options
        )
        self._owes_ack = False
        self._guest.send_tcp(self.remote, segment, self._mss)

    @property
    def _own_scale(self) -> int:
        return WINDOW_SCALE if self._scaled else 0

    def _window(self) -> int:
        return BUFFER_BYTES - self._arrived_bytes

    # Segments that arrive

    def take(self, segment: tcp.Segment) -> None:
        """Take one."""
        if segment.flags & tcp.RST:
            if not self.established or segment.seq == self._expected:
                self.reset = True
                self._forget()
            return
        if segment.flags & tcp.SYN:
            self._take_syn(segment)
            return
        if not segment.flags & tcp.ACK:
            return
        self._take_ack(segment)
        self._take_data(segment)

    def _take_syn(self, segment: tcp.Segment) -> None:
        if self.established or not self._unacked:
            self._owes_ack = True  # ours was lost, or theirs came twice
            return
        if segment.flags & tcp.ACK and segment.ack == self._next:
            self._learn(segment)
            self._unacked.clear()
            self.established = True
            self._owes_ack = True

    def _take_ack(self, segment: tcp.Segment) -> None:
        new = tcp.seq_diff(segment.ack, self._next)
        if new > 0:
            self._owes_ack = True
            return
        while self._unacked and self._is_acked(self._unacked[0], segment.ack):
            self._unacked.popleft()
            self._moved, self._patience_s, self._tries = time.monotonic(), FIRST_WAIT_S, 0
            self.established = True
        self._peer_window = segment.window << self._peer_scale

    def _is_acked(self, sent: _Sent, ack: int) -> bool:
        """Whether all of it is; an acknowledged front part is cut off."""
        beyond = tcp.seq_diff(ack, sent.seq)
        if 0 < beyond < sent.length:
            sent.seq, sent.data = ack, sent.data[beyond:]
        return beyond >= sent.length

    def _take_data(self, segment: tcp.Segment) -> None:
        data = memoryview(segment.payload)
        known = tcp.seq_diff(self._expected, segment.seq)
        if known < 0 or known > len(data):
            self._owes_ack = self._owes_ack or bool(segment.sequence_length) or known > 0
            return
        fresh = data[known : known + self._window()]
        if fresh:
            self._arrived.append(fresh)
            self._arrived_bytes += len(fresh)
            self._expected = tcp.seq_add(self._expected, len(fresh))
            self._owes_ack = True
        elif data:
            self._owes_ack = True
        if segment.flags & tcp.FIN and known + len(fresh) == len(data) and not self.ended:
            self._expected = tcp.seq_add(self._expected, 1)
            self.ended = self._owes_ack = True

    # Time

    def end_of_turn(self) -> None:
        """Acknowledge what came, and repeat what was lost."""
        now = time.monotonic()
        if now - self._moved > self._patience_s and (self._unacked or self._waiting_for_room):
            self._repeat(now)
        if self._owes_ack:
            self._emit(self._next, tcp.ACK)

    def _repeat(self, now: float) -> None:
        self._moved = now
        self._patience_s = min(2 * self._patience_s, LONGEST_WAIT_S)
        self._tries += 1
        if self._tries > MAX_TRIES:
            self.abort()
            self.reset = True
            return
        if not self._unacked:  # a closed window: ask by something that must be answered
            self._emit(tcp.seq_add(self._next, -1), tcp.ACK)
            return
        self.resent += 1
        for sent in self._unacked:
            self._emit(sent.seq, sent.flags, sent.data, sent.options)


class Listener:
    """Takes connections to one port of the guest."""

    def __init__(self, guest: IpGuest, port: int) -> None:
        self._guest = guest
        self.port = port
        self._opening: deque[TcpConnection] = deque()

    def take(self, remote: bytes, syn: tcp.Segment) -> TcpConnection:
        """Answer a SYN."""
        connection = TcpConnection(self._guest, self.port, remote, syn.src_port)
        connection.open_answering(syn)
        self._opening.append(connection)
        return connection

    def accept(self, timeout_s: float = 5.0) -> TcpConnection:
        """The next connection that stands."""
        self._guest.until(
            lambda: bool(self._opening) and self._opening[0].established, timeout_s, "a connection"
        )
        return self._opening.popleft()

    def close(self) -> None:
        """Take no more."""
        self._guest.listeners.pop(self.port, None)
