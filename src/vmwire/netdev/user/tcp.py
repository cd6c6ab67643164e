# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""All TCP connections of a user network: finding, feeding and ending them.

Theory of operation. A segment of the guest finds its flow by twelve bytes of its headers (both
addresses, both ports). A burst of segments is gathered per flow and pushed once. A flow that has
ended in good order is remembered for a moment (*lingering*), for a guest that did not hear the last
acknowledgement.

Connections are opened by ``TcpOpening``; data for guests is moved by ``TcpFeeder``.
"""

from __future__ import annotations

import socket
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from struct import Struct

from vmwire.engine.clock import Timer
from vmwire.engine.loop import WRITE, Loop
from vmwire.netdev.user.output import Output
from vmwire.netdev.user.plan import Plan
from vmwire.netdev.user.tcp_feed import TcpFeeder
from vmwire.netdev.user.tcp_flow import TcpFlow
from vmwire.netdev.user.tcp_opening import EVENTS, Segment, TcpOpening
from vmwire.netdev.user.tcp_sender import TcpSender
from vmwire.netdev.user.tcp_speaker import (
    ACK,
    CLOSED,
    DONT_FRAGMENT,
    ESTABLISHED,
    FIN,
    MASK,
    MAX_BACKLOG,
    RST,
    SO_PEEK_OFF,
    SYN,
    SYN_SENT,
    TcpSpeaker,
)
from vmwire.wire.frame import Frame, View
from vmwire.wire.port import Port
from vmwire.wire.protocols.checksum import ones_complement_sum, transport_checksum

SEGMENT = Struct("!12sIIBBH")
"""Addresses and ports, sequence, acknowledgement, data offset, flags, window."""
WHOLE = Struct("!12xHBxHxxHBBxx12xIIBBH")
"""Ethernet, IPv4 without options and TCP as far as its window: EtherType, version and header
length, total length, fragment, TTL, protocol; then as in ``SEGMENT`` behind its key."""
FRAGMENT = 0xFFFF & ~DONT_FRAGMENT
"""Bits that aren't set in the fragment word of a whole packet."""
TCP_NUMBERS = Struct("!IIBBHHH")
"""A TCP header behind its ports."""

PROTOCOL_TCP = 6
ALL_BACKLOGS = 16 << 20
"""Bytes of all flows' backlogs together."""

LARGE_DISCARD = 64 << 10
"""Acknowledged bytes that are not kept in the socket until there is time to discard them."""

TICK_S = 0.1
SWEEP_S = 60.0
IDLE_S = 7200.0
LINGER_S = 1.0
MAX_LINGERING = 4096


def peek_offset_works() -> bool:
    """Whether this kernel keeps a peek offset for TCP sockets (Linux 6.9)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
        except OSError:
            return False
    return True


class TcpTable:
    """The connections of one user network.

    ``resolver()`` gives the host's DNS server (address, port) for connections to the network's
    DNS address. ``unreachable(head, code)`` sends an ICMP error about a frame of the guest.
    """

    def __init__(
        self,
        loop: Loop,
        port: Port,
        output: Output,
        plan: Plan,
        *,
        resolver: Callable[[], tuple[str, int] | None],
        unreachable: Callable[[bytes, int], None],
        max_flows: int = 4096,
    ) -> None:
        self.loop = loop
        self.now = loop.now
        self.output = output
        self.plan = plan
        self.counters: Counter[str] = Counter()
        self.peek_offset = peek_offset_works()
        feeder = self._feeder = TcpFeeder(port, loop.defer, self.peek_offset)
        self.ready = feeder.ready
        """Says that a flow may have data for its guest."""
        self.resume = feeder.resume
        """Says that guests have room again."""
        opening = self._opening = TcpOpening(
            self, resolver=resolver, unreachable=unreachable, max_flows=max_flows
        )
        self.open_forwarded = opening.open_forwarded
        self.on_connected = opening.on_connected
        self.backlogs = 0
        self.flows: dict[bytes, TcpFlow] = {}
        self._lingering: OrderedDict[bytes, tuple[float, TcpFlow]] = OrderedDict()
        self._pushes: dict[TcpFlow, None] = {}
        self._acks: dict[TcpFlow, None] = {}
        self._discards: dict[TcpFlow, None] = {}
        self._late_acks: dict[TcpFlow, None] = {}
        self._idle_due = False
        self._waiting: dict[TcpSender, None] = {}
        self._tick_timer: Timer | None = None
        self._sweep_timer = loop.call_later(SWEEP_S, self._sweep)

    # Segments from the guest

    def receive_known(self, frame: Frame, head: bytes) -> bool:
        """Take a segment of a known connection if nothing is odd about it; else say False.

        All that ``Stack`` and ``receive`` look at for one segment after the other, in one go: most
        segments are of this kind.
        """
        flow = self.flows.get(head[26:38])
        if flow is None or len(head) < WHOLE.size:
            return False
        (
            ethertype, version, total, fragment, ttl, protocol,
            sequence, ack, offset, flags, window,
        ) = WHOLE.unpack_from(head)  # fmt: skip
        data_at = 34 + (offset >> 4) * 4
        end = 14 + total
        if (
            head[6:12] + head[:6] != flow.ethernet
            or ethertype != 0x0800
            or version != 0x45
            or fragment & FRAGMENT
            or ttl < 2
            or protocol != PROTOCOL_TCP
            or flags & SYN
            or not 54 <= data_at <= end <= frame.length
            or not frame.offload.checked
            or int.from_bytes(head[14:34], "big") % 0xFFFF
        ):
            return False
        size = end - data_at
        views: Sequence[View] = ()
        if size:
            lent = frame.views
            views = (lent[0][data_at:end],) if len(lent) == 1 else frame.payload(data_at, size)
        flow.on_segment(sequence, ack, flags, window, views, size)
        return True

    def receive(self, frame: Frame, head: bytes, transport: int, end: int) -> None:
        """Take one TCP segment: ``head`` is a copy of its first bytes, headers included.

        ``transport`` is where the TCP header starts, ``end`` where the IP packet ends.
        """
        if transport == 34:
            key, sequence, ack, offset, flags, window = SEGMENT.unpack_from(head, 26)
        else:
            ports = head[transport : transport + 4]
            _, sequence, ack, offset, flags, window = SEGMENT.unpack_from(head, transport - 8)
            key = head[26:34] + ports
        data_at = transport + (offset >> 4) * 4
        if data_at < transport + 20 or data_at > end:
            self.counters["bad header"] += 1
            return
        if not frame.offload.checked and not _checksum_holds(frame, head, transport, end):
            self.counters["bad checksum"] += 1
            return
        flow = self.flows.get(key)
        size = end - data_at
        if flow is None or flags & SYN:
            self._receive_other(Segment(key, sequence, ack, flags, window, data_at, size), head)
            return
        views: Sequence[View] = ()
        if size:
            lent = frame.views
            views = (lent[0][data_at:end],) if len(lent) == 1 else frame.payload(data_at, size)
        flow.on_segment(sequence, ack, flags, window, views, size)

    def end_burst(self) -> None:
        """All frames of a burst were seen: push their data while it is still lent to us."""
        if self._pushes:
            pushes, self._pushes = self._pushes, {}
            for flow in pushes:
                self._acks.pop(flow, None)
                flow.push()
        if self._discards:
            for flow in [flow for flow in self._discards if flow.acknowledged >= LARGE_DISCARD]:
                del self._discards[flow]
                flow.discard()
            self._put_off()
        if self._acks:
            acks, self._acks = self._acks, {}
            for flow in acks:
                if flow.state is ESTABLISHED:
                    flow.send_ack()

    def _put_off(self) -> None:
        if not self._idle_due:
            self._idle_due = True
            self.loop.put_off(self._on_idle)

    def _on_idle(self) -> None:
        """Nothing else is to be done: do what had time."""
        self._idle_due = False
        late, self._late_acks = self._late_acks, {}
        for flow in late:
            if flow.ack_owed and flow.state is ESTABLISHED:
                flow.send_late_ack()
        discards, self._discards = self._discards, {}
        for flow in discards:
            flow.discard()

    def ack_later(self, flow: TcpFlow) -> None:
        """``flow`` owes its guest an acknowledgement that data may carry in a moment."""
        self._late_acks[flow] = None
        self._put_off()

    def owe_discard(self, flow: TcpFlow) -> None:
        """``flow`` was acknowledged data in this burst."""
        self._discards[flow] = None

    def owe_push(self, flow: TcpFlow) -> None:
        """``flow`` has taken data of this burst."""
        self._pushes[flow] = None

    def owe_ack(self, flow: TcpFlow) -> None:
        """``flow`` has something to say at the end of this burst."""
        if flow in self._acks:
            # each duplicate counts for the guest's fast retransmit
            flow.send_ack()
        self._acks[flow] = None

    def _receive_other(self, segment: Segment, head: bytes) -> None:
        """A segment without a flow, or a SYN."""
        flow = self.flows.get(segment.key)
        flags = segment.flags
        if head[0] & 1 or self.plan.for_many(segment.key[4:8]):
            self.counters["broadcast"] += 1  # TCP has two ends (RFC 1122, 4.2.3.10)
        elif flow is None:
            if flags & (SYN | ACK | RST | FIN) == SYN:
                self._opening.open(segment, head)
            elif not flags & RST:
                self._on_stray(segment, head)
        elif flow.state is SYN_SENT:
            self._opening.on_syn_ack(flow, segment, head)
        elif flow.state is ESTABLISHED:
            if not flags & RST:
                # a guest that has begun anew answers this challenge by a RST (RFC 5961, 4.2)
                flow.ethernet = head[6:12] + flow.ethernet[6:]
                flow.send_ack()
        elif flags & (SYN | ACK | RST | FIN) == SYN:
            self._opening.on_syn_again(flow, segment, head)

    def _on_stray(self, segment: Segment, head: bytes) -> None:
        """Nobody knows this connection (RFC 9293, 3.10.7.1); perhaps it has just ended."""
        lingering = self._lingering.get(segment.key)
        if lingering is not None and not segment.flags & SYN:
            if segment.flags & FIN:
                lingering[1].send_final_ack()
                return
            if not segment.size:
                return
        self.counters["stray"] += 1
        self.reset(segment, head)

    def reset(self, segment: Segment, head: bytes) -> None:
        """Answer a segment with RST (RFC 9293, 3.5.2)."""
        if segment.flags & ACK:
            self.send_reset(segment.key, segment.ack, 0, RST, head[6:12])
        else:
            length = segment.size + bool(segment.flags & SYN) + bool(segment.flags & FIN)
            ack = (segment.sequence + length) & MASK
            self.send_reset(segment.key, 0, ack, RST | ACK, head[6:12])

    def send_reset(self, key: bytes, sequence: int, ack: int, flags: int, mac: bytes) -> None:
        """Send RST for a connection that has no flow, or whose flow does not answer for it."""
        guest_port, port = key[8:10], key[10:12]
        segment = port + guest_port + TCP_NUMBERS.pack(sequence, ack, 0x50, flags, 0, 0, 0)
        checksum = transport_checksum(key[4:8], key[:4], PROTOCOL_TCP, segment)
        segment = segment[:16] + checksum.to_bytes(2, "big") + segment[18:]
        self.output.ipv4(key[4:8], key[:4], PROTOCOL_TCP, segment, mac=mac)

    def watch_again(self, flow: TcpSpeaker) -> None:
        """Have the kernel report the readiness of ``flow``'s socket anew, for writing too."""
        self.loop.change(flow.fd, EVENTS | WRITE)

    def ethernet_of(self, flow: TcpFlow) -> bytes | None:
        """Return the MACs for ``flow``'s frames; None (and the guest is asked) if unknown."""
        mac = self.output.mac_of(flow.key[:4])
        return None if mac is None else mac + self.plan.mac(flow.key[4:8])

    def guest_known(self, guest: bytes, mac: bytes) -> None:
        """A guest's MAC became known: forwarded connections that wait for it go on."""
        for flow in list(self._waiting):
            unknown = flow.ethernet[:6] == bytes(6)
            if unknown and flow.state is SYN_SENT and flow.key[:4] == guest:
                flow.ethernet = mac + flow.ethernet[6:]
                flow.send_syn()

    def backlog_room(self, flow: TcpFlow) -> int:
        """Return how large ``flow``'s backlog may be now."""
        return min(MAX_BACKLOG, len(flow.backlog) + ALL_BACKLOGS - self.backlogs)

    def ahead_room(self, kept: int) -> int:
        """Return how much more a flow that has ``kept`` of what came too early may keep now."""
        return min(MAX_BACKLOG - kept, ALL_BACKLOGS - self.backlogs)

    # Ending

    def finished(self, flow: TcpFlow) -> None:
        """Both directions have ended in good order."""
        self.counters["closed"] += 1
        self.forget(flow)
        if len(self._lingering) < MAX_LINGERING:
            self._lingering[flow.key] = (self.now() + LINGER_S, flow)
            self._lingering.move_to_end(flow.key)
            self._tick_later()

    def forget(self, flow: TcpFlow) -> None:
        """Give back everything of ``flow``. What the guest is told is the caller's business."""
        if flow.state is CLOSED:
            return
        flow.state = CLOSED
        self.flows.pop(flow.key, None)
        self._opening.connecting.pop(flow, None)
        self._waiting.pop(flow, None)
        self._pushes.pop(flow, None)
        self._acks.pop(flow, None)
        self._discards.pop(flow, None)
        self._late_acks.pop(flow, None)
        self._feeder.forget(flow)
        self.backlogs -= len(flow.backlog)
        flow.let_go()
        self.loop.unwatch(flow.fd)
        flow.sock.close()

    def close(self) -> None:
        """End all connections, silently toward the guest (the network is going away)."""
        for flow in list(self.flows.values()):
            self.forget(flow)
        for timer in (self._tick_timer, self._sweep_timer):
            if timer is not None:
                timer.cancel()

    # Time

    def wait_for(self, flow: TcpSender) -> None:
        """``flow`` has a deadline."""
        self._waiting[flow] = None
        if self._tick_timer is None:
            self._tick_later()

    def _tick_later(self) -> None:
        if self._tick_timer is None:
            self._tick_timer = self.loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._tick_timer = None
        now = self.now()
        for flow in list(self._waiting):
            if not flow.rto_at:
                self._waiting.pop(flow, None)
            elif flow.rto_at <= now:
                flow.on_timeout()
        lingering = self._lingering
        while lingering and next(iter(lingering.values()))[0] <= now:
            lingering.popitem(last=False)
        if self._waiting or lingering:
            self._tick_later()

    def _sweep(self) -> None:
        """Ask guests about connections that have been silent for hours (RFC 9293, 3.8.4)."""
        self._sweep_timer = self.loop.call_later(SWEEP_S, self._sweep)
        silent_since = self.now() - IDLE_S
        for flow in list(self.flows.values()):
            if flow.last_heard < silent_since and flow.state is ESTABLISHED and not flow.rto_at:
                flow.keep_alive()


def _checksum_holds(frame: Frame, head: bytes, transport: int, end: int) -> bool:
    """Verify a segment's checksum; frames with an offload don't come here."""
    pseudo = ones_complement_sum(head[26:34], PROTOCOL_TCP + end - transport)
    data = b"".join(frame.payload(transport, end - transport))
    return ones_complement_sum(data, pseudo) == 0xFFFF
