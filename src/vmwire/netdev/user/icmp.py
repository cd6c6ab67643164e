# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""ICMP of the user network (RFC 792, RFC 1122 3.2.2, RFC 5508): pings, and errors about others.

The network's own addresses answer pings themselves. Other pings go out through a socket of the
host, one for each guest and identifier; identifier, sequence number, hop limit and data are kept,
so that ``ping`` and ``traceroute -I`` tell what they would tell elsewhere. Each request is
remembered until its first answer: a second one, or one that nobody waits for, does not reach the
guest. Where the host allows neither ping sockets nor raw
ones, the guest is told that pings are prohibited (code 13) rather than left waiting.

Errors come from the gateway, but for "port unreachable" and its like, which only the destination
itself can say. They are limited in rate, and never about what must not be answered (RFC 1122
3.2.2). Other messages of guests are counted and dropped: none has a way to the outside.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from functools import partial

from vmwire.engine.clock import Timer
from vmwire.engine.loop import ERROR, READ, Loop
from vmwire.netdev.user.datagrams import send_packet
from vmwire.netdev.user.echo_socket import EchoSocket, open_echo_socket
from vmwire.netdev.user.host_errors import HostError, read_errors
from vmwire.netdev.user.output import Output
from vmwire.netdev.user.plan import Plan, dotted
from vmwire.wire.frame import Frame
from vmwire.wire.protocols import icmp, ipv4
from vmwire.wire.protocols.checksum import internet_checksum
from vmwire.wire.protocols.errors import ParseError

IP_AT = 14
OWN_TTL = 255
ERROR_TOS = 0xC0
"""Internetwork control (RFC 1812 4.3.2.5), as QEMU sends them."""

MAX_FLOWS = 64
MAX_WAITED_FOR = 512
"""Requests that one socket remembers."""
IDLE_S = 60.0
"""RFC 5508 3.2 asks for a minute at least."""
SWEEP_S = 10.0
ERRORS_PER_S = 200.0
ERRORS_AT_ONCE = 50

UNREACHABLE_CODE = {
    errno.ENETUNREACH: icmp.NET_UNREACHABLE,
    errno.EHOSTUNREACH: icmp.HOST_UNREACHABLE,
    errno.EACCES: icmp.ADMINISTRATIVELY_PROHIBITED,
    errno.EPERM: icmp.ADMINISTRATIVELY_PROHIBITED,
}
FULL = frozenset((errno.EAGAIN, errno.ENOBUFS))
SAID_BY_DESTINATION = frozenset((icmp.PROTOCOL_UNREACHABLE, icmp.PORT_UNREACHABLE))


class EchoFlow:
    """The pings of one guest with one identifier."""

    __slots__ = ("echo", "guest", "ident", "used", "waited_for")

    def __init__(self, echo: EchoSocket, guest: bytes, ident: int) -> None:
        self.echo = echo
        self.guest = guest
        self.ident = ident
        self.used = 0.0
        self.waited_for: dict[tuple[bytes, int], bytes] = {}
        """(peer, sequence number) of unanswered requests: the beginning of the guest's frame."""

    @property
    def key(self) -> bytes:
        return self.guest + self.ident.to_bytes(2, "big")

    def wait_for(self, peer: bytes, sequence: int, head: bytes) -> None:
        """A request goes out; too many unanswered ones push out the oldest."""
        waited_for = self.waited_for
        waited_for.pop((peer, sequence), None)
        waited_for[peer, sequence] = head
        if len(waited_for) > MAX_WAITED_FOR:
            del waited_for[next(iter(waited_for))]


class Icmp:
    """The ICMP of one user network."""

    def __init__(self, loop: Loop, output: Output, plan: Plan) -> None:
        self.loop = loop
        self.now = loop.now
        self.counters: Counter[str] = Counter()
        self.flows: dict[bytes, EchoFlow] = {}
        self._output = output
        self._plan = plan
        self._timer: Timer | None = None
        self._errors_left = float(ERRORS_AT_ONCE)
        self._errors_since = loop.now()

    # From the guest

    def receive(self, frame: Frame, head: bytes, transport: int, end: int) -> None:
        """Take one message, whole, from ``transport`` to ``end`` of the frame."""
        data = b"".join(frame.payload(transport, end - transport))
        if len(data) < icmp.HEADER.size:
            self.counters["short"] += 1
        elif not frame.offload.checked and internet_checksum(data):
            self.counters["bad checksum"] += 1
        elif data[0] != icmp.ECHO_REQUEST or data[1]:
            self.counters["not an echo request"] += 1
        else:
            self._on_echo(head, data)

    def _on_echo(self, head: bytes, data: bytes) -> None:
        plan = self._plan
        guest, destination = head[26:30], head[30:34]
        if plan.own(destination):
            self.counters["answered"] += 1
            self._reply(destination, guest, data[4:], OWN_TTL, head[6:12])
        elif not self._is_pair(guest, destination):
            self.counters["bad address"] += 1
        elif plan.restrict:
            self.counters["restricted"] += 1
        elif (outside := plan.outside(destination)) is None:
            self.counters["nowhere"] += 1
            self.unreachable(head, icmp.NET_UNREACHABLE)
        else:
            self._send_out(head, outside, data)

    def _is_pair(self, guest: bytes, destination: bytes) -> bool:
        """Whether a guest sends to one host: who answers others breeds answers."""
        plan = self._plan
        if not plan.inside(guest) or ipv4.is_multicast(destination):
            return False
        return destination not in (plan.broadcast, plan.network)

    def _reply(self, source: bytes, guest: bytes, rest: bytes, ttl: int, mac: bytes | None) -> None:
        """Send an echo reply; ``rest`` is identifier, sequence number and data."""
        reply = icmp.Message(icmp.ECHO_REPLY, 0, rest[:4], rest[4:]).emit()
        send_packet(
            self._output, self._plan, source, guest, ipv4.PROTO_ICMP, reply, ttl=ttl, mac=mac
        )

    # Outside

    def _send_out(self, head: bytes, peer: bytes, data: bytes) -> None:
        flow = self.flows.get(head[26:30] + data[4:6]) or self._open(head[26:30], data[4:6])
        if flow is None:
            self.unreachable(head, icmp.ADMINISTRATIVELY_PROHIBITED)
            return
        flow.used = self.now()
        flow.wait_for(peer, data[6] << 8 | data[7], head)
        message = data[:2] + bytes(4) + data[6:]
        hops = max(1, head[22] - 1)
        error = _try_to_send(flow, dotted(peer), message, hops)
        if error and error not in FULL and self._read_errors(flow):
            error = _try_to_send(flow, dotted(peer), message, hops)
        self.counters["echo out"] += not error
        if error:
            self.counters[f"send {errno.errorcode.get(error, str(error))}"] += 1
        if error in UNREACHABLE_CODE:
            self.unreachable(head, UNREACHABLE_CODE[error])

    def _open(self, guest: bytes, ident: bytes) -> EchoFlow | None:
        if len(self.flows) >= MAX_FLOWS:
            self.counters["evicted"] += 1
            self._close_flow(min(self.flows.values(), key=lambda flow: flow.used))
        taken = {flow.echo.ident for flow in self.flows.values() if flow.echo.ident is not None}
        echo = open_echo_socket(taken)
        if echo is None:
            self.counters["ping not permitted"] += 1
            return None
        flow = EchoFlow(echo, guest, int.from_bytes(ident, "big"))
        try:
            self.loop.watch(echo.fd, READ, partial(self._on_event, flow))
        except OSError:
            self.counters["no socket"] += 1
            echo.close()
            return None
        self.flows[flow.key] = flow
        if self._timer is None:
            self._timer = self.loop.call_later(SWEEP_S, self._sweep)
        return flow

    def _on_event(self, flow: EchoFlow, events: int) -> None:
        if events & ERROR and not self._read_errors(flow):
            flow.echo.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not events & READ:
            return
        for answer in flow.echo.answers():
            head = flow.waited_for.pop((answer.peer, answer.sequence), None)
            if head is None:
                self.counters["unexpected answer"] += 1
                continue
            self.counters["echo in"] += 1
            rest = flow.key[4:] + answer.sequence.to_bytes(2, "big") + answer.data
            source = self._plan.seen_as(answer.peer)
            self._reply(source, flow.guest, rest, max(1, answer.ttl - 1), None)

    def _read_errors(self, flow: EchoFlow) -> int:
        """Pass on what hosts and routers say about this guest's pings."""
        count = 0
        for error in read_errors(flow.echo.sock):
            count += 1
            self._pass_on(flow, error)
        return count

    def _pass_on(self, flow: EchoFlow, error: HostError) -> None:
        if error.type not in icmp.ERRORS or len(error.quote) < icmp.HEADER.size:
            return
        if error.type == icmp.DESTINATION_UNREACHABLE and error.code == icmp.FRAGMENTATION_NEEDED:
            return  # the host fragments from now on
        sequence = int.from_bytes(error.quote[6:8], "big")
        head = flow.waited_for.pop((error.destination, sequence), None)
        if head is not None:
            source = self._plan.seen_as(error.offender)
            self._report(error.type, error.code, head, source)

    # Errors

    def unreachable(self, head: bytes, code: int) -> None:
        """Tell a guest that its packet can't be delivered; ``head`` is the frame's beginning."""
        source = head[30:34] if code in SAID_BY_DESTINATION else self._plan.gateway
        self._report(icmp.DESTINATION_UNREACHABLE, code, head, source)

    def time_exceeded(self, head: bytes) -> None:
        """Tell a guest that its packet's hops were used up here. A restricted one isn't told."""
        if self._plan.restrict:
            self.counters["restricted"] += 1
        else:
            self._report(icmp.TIME_EXCEEDED, icmp.TTL_EXCEEDED, head, self._plan.gateway)

    def _report(self, kind: int, code: int, head: bytes, source: bytes) -> None:
        try:
            header = ipv4.Header.parse(head[IP_AT:], quoted=True)
        except ParseError:
            self.counters["bad header"] += 1
            return
        quote = head[IP_AT : IP_AT + header.length + header.payload_length]
        for_many = head[0] & 1 or self._plan.for_many(header.dst)
        if (
            for_many
            or not self._plan.inside(header.src)
            or not icmp.may_report(header, quote[header.length :])
        ):
            self.counters["not to be answered"] += 1
            return
        if not self._allowed():
            self.counters["errors limited"] += 1
            return
        self.counters["errors"] += 1
        message = icmp.Message(kind, code, bytes(4), quote[: icmp.MAXIMUM_QUOTE]).emit()
        send_packet(
            self._output, self._plan, source, header.src, ipv4.PROTO_ICMP, message,
            tos=ERROR_TOS, ttl=OWN_TTL, mac=head[6:12],
        )  # fmt: skip

    def _allowed(self) -> bool:
        """Whether one more error may be sent now (a token bucket, RFC 1812 4.3.2.8)."""
        now = self.now()
        earned = (now - self._errors_since) * ERRORS_PER_S
        self._errors_left = min(float(ERRORS_AT_ONCE), self._errors_left + earned)
        self._errors_since = now
        if self._errors_left < 1:
            return False
        self._errors_left -= 1
        return True

    # Ending

    def _sweep(self) -> None:
        silent_since = self.now() - IDLE_S
        for flow in list(self.flows.values()):
            if flow.used <= silent_since:
                self._close_flow(flow)
        self._timer = self.loop.call_later(SWEEP_S, self._sweep) if self.flows else None

    def _close_flow(self, flow: EchoFlow) -> None:
        del self.flows[flow.key]
        self.loop.unwatch(flow.echo.fd)
        flow.echo.close()

    def close(self) -> None:
        """Close the sockets."""
        for flow in list(self.flows.values()):
            self._close_flow(flow)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stats(self) -> dict[str, object]:
        """Return numbers of now and counters, as plain data."""
        return {"flows": len(self.flows), "counters": dict(self.counters)}


def _try_to_send(flow: EchoFlow, address: str, message: bytes, hops: int) -> int:
    """Return 0, or the error's number."""
    try:
        flow.echo.send(address, message, hops)
    except OSError as error:
        return error.errno or errno.EIO
    return 0
