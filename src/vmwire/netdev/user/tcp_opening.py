# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""How TCP connections of a user network begin (RFC 9293, 3.5).

Theory of operation. A guest's SYN opens a socket of the host; nothing is answered before the host's
connect has an outcome, so that the guest meets what a real network would give it: an answer, a
reset, an ICMP error, or silence. A client of a forwarded port is there already; its guest is sent a
SYN, once its MAC is known.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmwire.engine.loop import EDGE, PEER_CLOSED, READ, URGENT, WRITE
from vmwire.netdev.user.plan import dotted
from vmwire.netdev.user.tcp_flow import TcpFlow
from vmwire.netdev.user.tcp_speaker import (
    ACK,
    CONNECTING,
    MASK,
    RST,
    SO_PEEK_OFF,
    SYN_RECEIVED,
    SYN_SENT,
)
from vmwire.wire.protocols.errors import ParseError
from vmwire.wire.protocols.tcp import Options

if TYPE_CHECKING:
    from vmwire.netdev.user.tcp import TcpTable

MAX_CONNECTING = 2048
"""Connections whose host side is not yet there. A guest that asks for more of what doesn't answer
loses the oldest ones; if it still wants them, it asks again."""
EVENTS = READ | PEER_CLOSED | URGENT | EDGE
"""What a connected socket is watched for; room besides while something waits for it."""

UNREACHABLE_CODE = {
    errno.ENETUNREACH: 0,
    errno.EHOSTUNREACH: 1,
    errno.EACCES: 13,
    errno.EPERM: 13,
}
"""ICMP destination-unreachable codes for what ``connect`` says (RFC 792, RFC 1812 5.2.7.1)."""


@dataclass(slots=True)
class Segment:
    """What the demultiplexer found in a TCP segment's headers."""

    key: bytes
    sequence: int
    ack: int
    flags: int
    window: int
    data_at: int
    """Where its data starts in the frame."""
    size: int
    """Bytes of data."""


class TcpOpening:
    """Opens the connections of a ``TcpTable``; the parameters are as there."""

    def __init__(
        self,
        table: TcpTable,
        *,
        resolver: Callable[[], tuple[str, int] | None],
        unreachable: Callable[[bytes, int], None],
        max_flows: int,
    ) -> None:
        self._table = table
        self._counters = table.counters
        self._resolver = resolver
        self._unreachable = unreachable
        self.max_flows = max_flows
        self.connecting: dict[TcpFlow, bytes] = {}
        """Flows whose connect has no outcome yet, each with the head of the guest's SYN."""

    # The guest's connections

    def open(self, segment: Segment, head: bytes) -> None:
        """A guest's SYN: connect on the host's side first."""
        target = None if self._table.plan.restrict else self._target(segment.key)
        if target is None:
            self._counters["refused"] += 1
            if self._table.plan.restrict or self._table.plan.own(segment.key[4:8]):
                self._table.reset(segment, head)
            else:
                self._unreachable(head, 0)
            return
        if len(self._table.flows) >= self.max_flows:
            self._counters["too many flows"] += 1
            return
        try:
            sock = self._socket()
        except OSError:
            self._counters["no socket"] += 1
            return
        flow = TcpFlow(self._table, segment.key, sock, head[6:12], CONNECTING)
        self._take_syn(flow, segment, head)
        self._connect(flow, target, head)

    def _target(self, key: bytes) -> tuple[str, int] | None:
        """Where on the host's side a guest's connection goes; None: nowhere."""
        port = int.from_bytes(key[10:12], "big")
        address = key[4:8]
        if address == self._table.plan.dns:
            return self._resolver() if port == 53 else None
        outside = self._table.plan.outside(address)
        return None if outside is None or port == 0 else (dotted(outside), port)

    def _socket(self) -> socket.socket:
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        return socket.socket(socket.AF_INET, kind)

    def _prepare(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        if self._table.peek_offset:
            sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)

    def _connect(self, flow: TcpFlow, target: tuple[str, int], head: bytes) -> None:
        sock = flow.sock
        error = sock.connect_ex(target)
        if error == errno.EINPROGRESS:
            # on the same machine the handshake is over by now, and the second call says so
            error = sock.connect_ex(target)
        self._table.flows[flow.key] = flow
        self.connecting[flow] = head
        if error in (0, errno.EISCONN):
            self._opened(flow)
            self._table.output.flush()  # the guest can go on while the rest is done
            self._prepare(sock)
            if not self._watch(flow):
                flow.send_reset()  # it has been answered already
                self._table.forget(flow)
        elif error in (errno.EALREADY, errno.EINPROGRESS):
            self._prepare(sock)
            if not self._watch(flow, WRITE):
                self._table.forget(flow)
            elif len(self.connecting) > MAX_CONNECTING:
                self._counters["too many connecting"] += 1
                self._table.forget(next(iter(self.connecting)))
        else:
            self._refused(flow, error)

    def _watch(self, flow: TcpFlow, room: int = 0) -> bool:
        """Have the loop watch a new flow's socket; False if the host watches no more."""
        try:
            self._table.loop.watch(flow.fd, EVENTS | room, flow.on_event)
        except OSError:
            self._counters["no socket"] += 1
            return False
        return True

    def on_connected(self, flow: TcpFlow) -> None:
        """The host's connect has an outcome."""
        error = flow.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._refused(flow, error)
            return
        try:
            flow.sock.getpeername()
        except OSError:
            return  # an early event: the outcome is still to come
        self._opened(flow)
        flow.readable = True

    def _opened(self, flow: TcpFlow) -> None:
        del self.connecting[flow]
        flow.state = SYN_RECEIVED
        self._counters["opened"] += 1
        flow.send_syn()

    def _refused(self, flow: TcpFlow, error: int) -> None:
        """Give the guest what a real network would."""
        head = self.connecting.pop(flow)
        self._counters[f"connect {errno.errorcode.get(error, str(error))}"] += 1
        code = UNREACHABLE_CODE.get(error)
        if code is not None:
            self._unreachable(head, code)
        elif error != errno.ETIMEDOUT:
            flow.send_reset()
        self._table.forget(flow)

    def on_syn_again(self, flow: TcpFlow, segment: Segment, head: bytes) -> None:
        """The guest repeats its SYN; with another number it has begun anew."""
        if flow.rcv_nxt != (segment.sequence + 1) & MASK:
            self._take_syn(flow, segment, head)
        if flow.state is SYN_RECEIVED:
            flow.send_syn()

    def _take_syn(self, flow: TcpFlow, segment: Segment, head: bytes) -> None:
        flow.start_at(segment.sequence)
        flow.last_edge = flow.rcv_nxt
        flow.guest_window = segment.window
        flow.ethernet = head[6:12] + flow.ethernet[6:]
        _learn(flow, head)
        if flow in self.connecting:
            self.connecting[flow] = head

    # Forwarded connections

    def open_forwarded(
        self, sock: socket.socket, source: bytes, source_port: int, guest: bytes, guest_port: int
    ) -> None:
        """A client of the host wants a guest's port: send the guest a SYN."""
        mac = self._table.output.mac_of(guest)
        ports = guest_port.to_bytes(2, "big") + source_port.to_bytes(2, "big")
        key = guest + source + ports
        if key in self._table.flows or len(self._table.flows) >= self.max_flows:
            self._counters["forward refused"] += 1
            sock.close()
            return
        self._prepare(sock)
        flow = TcpFlow(self._table, key, sock, mac or bytes(6), SYN_SENT)
        self._table.flows[key] = flow
        if not self._watch(flow):
            self._table.forget(flow)
            return
        self._counters["forwarded"] += 1
        if mac is None:
            flow.wait_for_mac()  # the guest has been asked; its answer wakes the flow
        else:
            flow.send_syn()

    def on_syn_ack(self, flow: TcpFlow, segment: Segment, head: bytes) -> None:
        if not segment.flags & ACK or segment.ack != flow.snd_nxt:
            if segment.flags & ACK:
                self._table.reset(segment, head)
            return
        if segment.flags & RST:
            return
        _learn(flow, head)
        flow.start_at(segment.sequence)
        flow.last_edge = (flow.last_edge + flow.rcv_nxt) & MASK
        flow.readable = True
        flow.established(segment.window)
        flow.send_ack()


def _learn(flow: TcpFlow, head: bytes) -> None:
    """Take the options of a SYN; a malformed list counts as none."""
    transport = 14 + (head[14] & 15) * 4
    try:
        options = Options.parse(head[transport + 20 : transport + (head[transport + 12] >> 4) * 4])
    except ParseError:
        options = Options()
    flow.learn_options(options.mss, options.window_scale, options.sack_permitted)
