# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""All TCP connections of a user network: finding, opening, feeding and ending them.

Theory of operation. A segment of the guest finds its flow by twelve bytes of its headers (both
addresses, both ports). A burst of segments is gathered per flow and pushed once. A SYN opens a
socket of the host; nothing is answered before the host's connect has an outcome, so that the guest
meets what a real network would give it: an answer, a reset, an ICMP error, or silence.

Data for guests flows in turns: flows whose sockets are readable stand in a queue, each may move
``FLOW_BUDGET`` bytes before the next one has its turn, and ``TURN_BUDGET`` ends the round so that
other work of the loop isn't starved. When the guest has no room the queue waits for ``resume``.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct

from vmwire.engine.clock import Timer
from vmwire.engine.loop import EDGE, PEER_CLOSED, READ, WRITE, Loop
from vmwire.netdev.user.output import Output
from vmwire.netdev.user.plan import Plan, dotted
from vmwire.netdev.user.tcp_flow import (
    ACK,
    CLOSED,
    CONNECTING,
    ESTABLISHED,
    FIN,
    HEADERS_SIZE,
    MASK,
    MAX_BACKLOG,
    PSH,
    RST,
    SO_PEEK_OFF,
    SYN,
    SYN_RECEIVED,
    SYN_SENT,
    TcpFlow,
)
from vmwire.wire.frame import Frame, View
from vmwire.wire.port import Port
from vmwire.wire.protocols.checksum import ones_complement_sum, transport_checksum
from vmwire.wire.protocols.errors import ParseError
from vmwire.wire.protocols.tcp import Options

SEGMENT = Struct("!12sIIBBH")
"""Addresses and ports, sequence, acknowledgement, data offset, flags, window."""
TCP_NUMBERS = Struct("!IIBBHHH")
"""A TCP header behind its ports."""

PROTOCOL_TCP = 6
LARGEST_DATA = 65535 - 40
LEAST_CHUNK = 4096
FLOW_BUDGET = 256 << 10
TURN_BUDGET = 1 << 20
ALL_BACKLOGS = 16 << 20
"""Bytes of all flows' backlogs together."""

TICK_S = 0.1
SWEEP_S = 60.0
IDLE_S = 7200.0
LINGER_S = 1.0
MAX_LINGERING = 4096
EVENTS = READ | WRITE | PEER_CLOSED | EDGE
READ_FLAGS = socket.MSG_PEEK | socket.MSG_DONTWAIT

UNREACHABLE_CODE = {
    errno.ENETUNREACH: 0,
    errno.EHOSTUNREACH: 1,
    errno.EACCES: 13,
    errno.EPERM: 13,
}
"""ICMP destination-unreachable codes for what ``connect`` says (RFC 792, RFC 1812 5.2.7.1)."""


def peek_offset_works() -> bool:
    """Whether this kernel keeps a peek offset for TCP sockets (Linux 6.9)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
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
        self.backlogs = 0
        self.flows: dict[bytes, TcpFlow] = {}
        self._port = port
        self._resolver = resolver
        self._unreachable = unreachable
        self._max_flows = max_flows
        self._connecting: dict[TcpFlow, bytes] = {}
        self._lingering: OrderedDict[bytes, tuple[float, TcpFlow]] = OrderedDict()
        self._pushes: dict[TcpFlow, None] = {}
        self._acks: dict[TcpFlow, None] = {}
        self._discards: dict[TcpFlow, None] = {}
        self._ready: deque[TcpFlow] = deque()
        self._queued: set[TcpFlow] = set()
        self._pump_due = False
        self._no_room = False
        self._staging = memoryview(bytearray(HEADERS_SIZE + LARGEST_DATA))
        self._discard = memoryview(bytearray(0))
        self._waiting: dict[TcpFlow, None] = {}
        self._tick_timer: Timer | None = None
        self._sweep_timer = loop.call_later(SWEEP_S, self._sweep)

    # Segments from the guest

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
        if flow is None or (flow.state is not ESTABLISHED and flags & SYN):
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
            discards, self._discards = self._discards, {}
            for flow in discards:
                flow.discard()
        if self._acks:
            acks, self._acks = self._acks, {}
            for flow in acks:
                if flow.state is ESTABLISHED:
                    flow.send_ack()

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
        """A segment that no established flow takes: an opening, or a stray."""
        flow = self.flows.get(segment.key)
        if segment.flags & (SYN | ACK | RST | FIN) == SYN:
            if flow is None:
                self._open(segment, head)
            elif flow.state is SYN_RECEIVED:
                flow.send_syn()
            return
        if flow is not None and flow.state is SYN_SENT and segment.flags & SYN:
            self._on_syn_ack(flow, segment, head)
            return
        if flow is None and not segment.flags & RST:
            self._on_stray(segment, head)

    def _on_stray(self, segment: Segment, head: bytes) -> None:
        """Nobody knows this connection (RFC 9293, 3.10.7.1); perhaps it has just ended."""
        lingering = self._lingering.get(segment.key)
        if lingering is not None and segment.flags & FIN:
            lingering[1].send_final_ack()
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
        header = port + guest_port + TCP_NUMBERS.pack(sequence, ack, 0x50, flags, 0, 0, 0)
        self._send(key[4:8], key[:4], header, mac)

    def send_segment(
        self, flow: TcpFlow, sequence: int, flags: int, window: int, options: bytes
    ) -> None:
        """Send a segment with options and no data."""
        options += bytes(-len(options) % 4)
        key = flow.key
        header = key[10:12] + key[8:10] + TCP_NUMBERS.pack(
            sequence, flow.rcv_nxt if flags & ACK else 0, (20 + len(options)) << 2, flags,
            window, 0, 0,
        )  # fmt: skip
        self._send(key[4:8], key[:4], header + options, flow.ethernet[:6])

    def _send(self, source: bytes, guest: bytes, segment: bytes, mac: bytes) -> None:
        checksum = transport_checksum(source, guest, PROTOCOL_TCP, segment)
        segment = segment[:16] + checksum.to_bytes(2, "big") + segment[18:]
        self.output.ipv4(source, guest, PROTOCOL_TCP, segment, mac=mac)

    # Opening

    def _open(self, segment: Segment, head: bytes) -> None:
        """A guest's SYN: connect on the host's side first."""
        target = None if self.plan.restrict else self._target(segment.key)
        if target is None:
            self.counters["refused"] += 1
            if self.plan.restrict or self.plan.own(segment.key[4:8]):
                self.reset(segment, head)
            else:
                self._unreachable(head, 0)
            return
        if len(self.flows) >= self._max_flows:
            self.counters["too many flows"] += 1
            return
        try:
            sock = self._socket()
        except OSError:
            self.counters["no socket"] += 1
            return
        flow = TcpFlow(self, segment.key, sock, head[6:12], CONNECTING)
        flow.rcv_nxt = flow.last_edge = (segment.sequence + 1) & MASK
        _learn(flow, head)
        flow.guest_window = segment.window
        self._connect(flow, target, head)

    def _target(self, key: bytes) -> tuple[str, int] | None:
        """Where on the host's side a guest's connection goes; None: nowhere."""
        port = int.from_bytes(key[10:12], "big")
        address = key[4:8]
        if address == self.plan.dns:
            return self._resolver() if port == 53 else None
        outside = self.plan.outside(address)
        return None if outside is None or port == 0 else (dotted(outside), port)

    def _socket(self) -> socket.socket:
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        sock = socket.socket(socket.AF_INET, kind)
        self._prepare(sock)
        return sock

    def _prepare(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        if self.peek_offset:
            sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)

    def _connect(self, flow: TcpFlow, target: tuple[str, int], head: bytes) -> None:
        sock = flow.sock
        error = sock.connect_ex(target)
        if error == errno.EINPROGRESS:
            # on the same machine the handshake is over by now, and the second call says so
            error = sock.connect_ex(target)
        self.flows[flow.key] = flow
        self._connecting[flow] = head
        if error in (0, errno.EISCONN):
            self._watch(flow)
            self._opened(flow)
        elif error in (errno.EALREADY, errno.EINPROGRESS):
            self._watch(flow)
        else:
            self._refused(flow, error)

    def _watch(self, flow: TcpFlow) -> None:
        self.loop.watch(flow.fd, EVENTS, flow.on_event)

    def watch_again(self, flow: TcpFlow) -> None:
        """Have the kernel report the readiness of ``flow``'s socket anew."""
        self.loop.change(flow.fd, EVENTS)

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
        del self._connecting[flow]
        flow.state = SYN_RECEIVED
        self.counters["opened"] += 1
        flow.send_syn()

    def _refused(self, flow: TcpFlow, error: int) -> None:
        """Give the guest what a real network would."""
        head = self._connecting.pop(flow)
        self.counters[f"connect {errno.errorcode.get(error, str(error))}"] += 1
        code = UNREACHABLE_CODE.get(error)
        if code is not None:
            self._unreachable(head, code)
        elif error != errno.ETIMEDOUT:
            flow.send_reset()
        self.forget(flow)

    # Forwarded connections

    def open_forwarded(
        self, sock: socket.socket, source: bytes, source_port: int, guest: bytes, guest_port: int
    ) -> None:
        """A client of the host wants a guest's port: send the guest a SYN."""
        mac = self.output.mac_of(guest)
        ports = guest_port.to_bytes(2, "big") + source_port.to_bytes(2, "big")
        key = guest + source + ports
        if key in self.flows or len(self.flows) >= self._max_flows:
            self.counters["forward refused"] += 1
            sock.close()
            return
        self._prepare(sock)
        flow = TcpFlow(self, key, sock, mac or bytes(6), SYN_SENT)
        self.flows[key] = flow
        self._watch(flow)
        self.counters["forwarded"] += 1
        if mac is None:
            flow.wait_for_mac()  # the guest has been asked; its answer wakes the flow
        else:
            flow.send_syn()

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

    def _on_syn_ack(self, flow: TcpFlow, segment: Segment, head: bytes) -> None:
        if not segment.flags & ACK or segment.ack != flow.snd_nxt:
            if segment.flags & ACK:
                self.reset(segment, head)
            return
        if segment.flags & RST:
            return
        _learn(flow, head)
        flow.rcv_nxt = (segment.sequence + 1) & MASK
        flow.last_edge = (flow.last_edge + flow.rcv_nxt) & MASK
        flow.readable = True
        flow.established(segment.window)
        flow.send_ack()

    # Data toward the guest

    def ready(self, flow: TcpFlow) -> None:
        """``flow`` may have data for its guest: it takes its turn."""
        if flow not in self._queued:
            self._queued.add(flow)
            self._ready.append(flow)
            if not self._pump_due and not self._no_room:
                self._pump_due = True
                self.loop.defer(self.pump)

    def resume(self) -> None:
        """The guest has room again."""
        self._no_room = False
        self.pump()

    def pump(self) -> None:
        """Move data toward the guest, flow after flow."""
        self._pump_due = False
        budget = TURN_BUDGET
        queue = self._ready
        while queue and budget > 0:
            flow = queue.popleft()
            moved = self._feed(flow)
            if moved < 0:
                queue.appendleft(flow)
                self._no_room = True
                return
            budget -= moved
            if moved >= FLOW_BUDGET:
                queue.append(flow)
            else:
                self._queued.discard(flow)
        if queue:
            self._pump_due = True
            self.loop.defer(self.pump)

    def _feed(self, flow: TcpFlow) -> int:
        """Give ``flow`` one turn; return the bytes moved, or -1 when the guest has no room.

        A turn that used up its budget returns at least ``FLOW_BUDGET``.
        """
        moved = 0
        mss = flow.mss
        direct = self._port.reserves and self._port.peer_accepts.takes(flow.gso_offload)
        move = self._move_direct if direct else self._move_staged
        while moved < FLOW_BUDGET:
            if flow.state is not ESTABLISHED or flow.fin_out or not flow.readable:
                return moved
            size = flow.sendable()
            if size < mss and (flow.snd_nxt != flow.snd_una or size <= 0):
                # a closed window, or a silly one (RFC 9293, 3.8.6.2.1)
                flow.probe_later()
                return moved
            size = min(size, LARGEST_DATA, flow.chunk)
            if size > mss:
                size -= size % mss
            count = move(flow, size)
            if count < 0:
                return -1
            moved += count
            if count < size:
                self._drained(flow, count)
            elif flow.chunk < LARGEST_DATA:
                flow.chunk = min(flow.chunk * 4, LARGEST_DATA)
        return moved

    def _drained(self, flow: TcpFlow, count: int) -> None:
        """The socket gave less than asked for: it is empty until its next event.

        Only an end of file that was announced earlier has no event to come: it is read as 0.
        """
        flow.chunk = max(LEAST_CHUNK, min(2 * count, LARGEST_DATA))
        if flow.state is not ESTABLISHED:
            return
        if not flow.peer_closed:
            flow.readable = False
        elif not count:
            flow.readable = False
            flow.send_fin()

    def _move_direct(self, flow: TcpFlow, size: int) -> int:
        """Peek ``size`` bytes into the guest's memory; return how many came, -1 without room."""
        port = self._port
        views = port.reserve(HEADERS_SIZE + size)
        if views is None:
            return -1
        first = views[0]
        count = self._peek(flow, [first[HEADERS_SIZE:], *views[1:]])
        if count <= 0:
            port.cancel()
            return 0
        first[:HEADERS_SIZE] = self._data_headers(flow, count)
        port.commit(
            HEADERS_SIZE + count, flow.gso_offload if count > flow.mss else flow.checksum_offload
        )
        flow.sent(count)
        return count

    def _move_staged(self, flow: TcpFlow, size: int) -> int:
        """The same through memory of ours, for a guest that gives no room."""
        staging = self._staging
        count = self._peek(flow, [staging[HEADERS_SIZE : HEADERS_SIZE + size]])
        if count <= 0:
            return 0
        staging[:HEADERS_SIZE] = self._data_headers(flow, count)
        length = HEADERS_SIZE + count
        offload = flow.gso_offload if count > flow.mss else flow.checksum_offload
        if not self._port.send((Frame((staging[:length],), length, offload),)):
            flow.peek_again(flow.peeked_to)
            return -1
        flow.sent(count)
        return count

    def _data_headers(self, flow: TcpFlow, size: int) -> bytes:
        return flow.pack_headers(size, flow.snd_nxt, ACK | PSH, flow.last_window)

    def _peek(self, flow: TcpFlow, views: Sequence[View]) -> int:
        """Peek what comes behind the bytes under way; 0: nothing there, or the end, or an error."""
        try:
            if not self.peek_offset and flow.peeked_to:
                return self._peek_behind(flow, views)
            if len(views) == 1:
                return flow.sock.recv_into(views[0], 0, READ_FLAGS)
            return flow.sock.recvmsg_into(views, 0, READ_FLAGS)[0]
        except BlockingIOError:
            # an end of file that was announced would have been read: a false alarm
            flow.peer_closed = False
            return 0
        except OSError as error:
            flow.on_host_error(error.errno or errno.EIO)
            return 0

    def _peek_behind(self, flow: TcpFlow, views: Sequence[View]) -> int:
        """Without a peek offset: read what is under way once more, into nowhere."""
        under_way = flow.peeked_to
        if len(self._discard) < under_way:
            self._discard = memoryview(bytearray(under_way))
        count = flow.sock.recvmsg_into([self._discard[:under_way], *views], 0, READ_FLAGS)[0]
        return max(0, count - under_way)

    def backlog_room(self, flow: TcpFlow) -> int:
        """Return how large ``flow``'s backlog may be now."""
        return min(MAX_BACKLOG, len(flow.backlog) + ALL_BACKLOGS - self.backlogs)

    # Ending

    def finished(self, flow: TcpFlow) -> None:
        """Both directions have ended in good order."""
        self.counters["closed"] += 1
        self.forget(flow)
        if len(self._lingering) < MAX_LINGERING:
            self._lingering[flow.key] = (self.now() + LINGER_S, flow)
            self._tick_later()

    def forget(self, flow: TcpFlow) -> None:
        """Give back everything of ``flow``. What the guest is told is the caller's business."""
        if flow.state is CLOSED:
            return
        flow.state = CLOSED
        self.flows.pop(flow.key, None)
        self._connecting.pop(flow, None)
        self._waiting.pop(flow, None)
        self._pushes.pop(flow, None)
        self._acks.pop(flow, None)
        self._discards.pop(flow, None)
        self.backlogs -= len(flow.backlog)
        flow.backlog.clear()
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

    def wait_for(self, flow: TcpFlow) -> None:
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
                flow.probe()


def _learn(flow: TcpFlow, head: bytes) -> None:
    """Take the options of a SYN; a malformed list counts as none."""
    transport = 14 + (head[14] & 15) * 4
    try:
        options = Options.parse(head[transport + 20 : transport + (head[transport + 12] >> 4) * 4])
    except ParseError:
        options = Options()
    flow.learn_options(options.mss, options.window_scale)


def _checksum_holds(frame: Frame, head: bytes, transport: int, end: int) -> bool:
    """Verify a segment's checksum; frames with an offload don't come here."""
    pseudo = ones_complement_sum(head[26:34], PROTOCOL_TCP + end - transport)
    data = b"".join(frame.payload(transport, end - transport))
    return ones_complement_sum(data, pseudo) == 0xFFFF
