# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""All UDP of a user network (RFC 768, RFC 4787): one host socket for each guest's endpoint.

Theory of operation. The first datagram from a guest's address and port opens a socket of the
host; whatever arrives there from anybody goes back to that guest and port (endpoint-independent
mapping and filtering, as QEMU's). A datagram finds its *path* by twelve bytes of its headers. The
datagrams of a burst gather on their paths, and leave when the burst was seen. Most datagrams look
like one before them but for the IPv4 identification: the headers that passed all checks once are
kept, and whoever has the same ones needs a single look (``receive_known``).

A forward is a listening socket of the host. Who sends to it is remembered as a path of that
listener, so that what the guest answers to that address leaves through the listener, and from the
address of the host that the client had sent to.

Endpoints are forgotten after 240 silent seconds (20, if they only asked name servers). When there
are too many, the guest that has most loses those that were silent longest.

Nothing is ever refused to a guest: what the host's socket has no room for is lost and counted.
Toward the guest, what it has no room for stays in the host's socket; so does, for some seconds,
what is for a guest whose MAC isn't known yet.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from heapq import nsmallest
from itertools import chain
from operator import attrgetter

from vmwire.engine.clock import Timer
from vmwire.engine.loop import ERROR, READ, Loop
from vmwire.netdev.user.datagram_reader import Run, ask_for_local_address, reader
from vmwire.netdev.user.datagrams import Addresses, FrameMaker
from vmwire.netdev.user.host_errors import HostError
from vmwire.netdev.user.output import Output
from vmwire.netdev.user.plan import BROADCAST, Plan, dotted
from vmwire.netdev.user.udp_headers import (
    DATA_AT,
    DATAGRAM,
    HEADER_SIZE,
    LENGTHS,
    VARYING,
    Known,
    checksum_holds,
    first_datagram,
    known_key,
    known_sum,
)
from vmwire.netdev.user.udp_host import (
    DNS_PORT,
    IDLE_S,
    QUERY_IDLE_S,
    Endpoint,
    Path,
    Sender,
    open_socket,
    prepare,
)
from vmwire.wire.frame import GSO_NONE, GSO_UDP_L4, Frame, Offload, View
from vmwire.wire.port import Port

SWEEP_S = 5.0
MAX_PEERS = 256
"""Peers that a guest's endpoint remembers; the others are looked up again."""
MAX_CLIENTS = 1024
"""Clients that a forward remembers."""
MAX_KNOWN = 1024
"""Headers that are kept. All are forgotten when there are more, and every few seconds, so that
what else depends on frames being seen (who has which MAC) can't be late for long."""
MAX_PATHS = 8192
"""Peers and clients of all endpoints together."""
EVICTED_AT_ONCE = 32
"""Entries that make room together, so that looking for them costs little for each."""

_used = attrgetter("used")


class UdpTable:
    """The UDP of one user network. ``unreachable(head, code)`` sends an ICMP error to a guest."""

    def __init__(
        self,
        loop: Loop,
        port: Port,
        output: Output,
        plan: Plan,
        *,
        unreachable: Callable[[bytes, int], None],
        max_flows: int = 2048,
    ) -> None:
        self.loop = loop
        self.now = loop.now
        self.counters: Counter[str] = Counter()
        self.flows: dict[bytes, Endpoint] = {}
        self._port = port
        self._output = output
        self._plan = plan
        self._unreachable = unreachable
        self._max_flows = max_flows
        self._paths: dict[bytes, Path] = {}
        self._listeners: dict[int, Endpoint] = {}
        self._known: dict[bytes, Known] = {}
        self._pending: list[Path] = []
        self._sender = Sender(self.counters, self._path_of, unreachable)
        self._reader = reader()
        self._frames = FrameMaker(port, output, plan)
        self._held: list[Frame] = []
        self._silenced: list[Endpoint] = []
        self._unknown: list[Endpoint] = []
        self._timer: Timer | None = None

    # From the guest

    def receive(self, frame: Frame, head: bytes, transport: int, end: int) -> None:
        """Take one datagram (or a superframe of them): ``head`` is a copy of its first bytes.

        ``transport`` is where the UDP header starts, ``end`` where the IP packet ends.
        """
        room = end - transport
        if room < HEADER_SIZE:
            self.counters["bad length"] += 1
            return
        if transport == 34:
            key, length, checksum = DATAGRAM.unpack_from(head, 26)
        else:
            key = head[26:34] + head[transport : transport + 4]
            length, checksum = LENGTHS.unpack_from(head, transport + 4)
        if not HEADER_SIZE <= length <= room:
            self.counters["bad length"] += 1
            return
        offload = frame.offload
        if checksum and not offload.checked and not checksum_holds(frame, head, transport, length):
            self.counters["bad checksum"] += 1
            return
        path = self._paths.get(key) or self._open(key, head)
        if path is None:
            return
        size = length - HEADER_SIZE
        views = frame.views
        if len(views) == 1:
            views = (views[0][transport + HEADER_SIZE : transport + length],)
        else:
            views = frame.payload(transport + HEADER_SIZE, size)
        if offload.gso_type != GSO_NONE:
            self._superframe(path, frame, head, transport, views, size)
            return
        self._gather(path, head, views[0] if len(views) == 1 else b"".join(views))
        if transport == 34 and room == length and offload.checked:
            self._remember(path, head, end, offload)

    def receive_known(self, frame: Frame, head: bytes) -> bool:
        """Take a frame whose headers, but for identification and IPv4 checksum, passed before.

        False: it has to be looked at as any other.
        """
        known = self._known.get(head[:18] + head[20:24] + head[26:40])
        if known is None or frame.offload is not known.offload:
            return False
        identification, checksum = VARYING.unpack_from(head, 18)
        if (known.sum + identification + checksum) % 0xFFFF:
            return False
        end = known.end
        data = frame.views[0][DATA_AT:end]
        if len(data) != end - DATA_AT:
            return False
        path = known.path
        path.head = head
        if not path.datagrams:
            self._pending.append(path)
        path.datagrams.append(data)
        return True

    def _remember(self, path: Path, head: bytes, end: int, offload: Offload) -> None:
        """Keep headers that passed. Their datagrams need no checksum to be looked at."""
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[known_key(head)] = Known(path, end, known_sum(head), offload)

    def _gather(self, path: Path, head: bytes, data: bytes | View) -> None:
        path.head = head
        if not path.datagrams:
            self._pending.append(path)
        path.datagrams.append(data)

    def end_burst(self) -> None:
        """All frames of a burst were seen: send their data while it is still lent to us."""
        if self._pending:
            pending, self._pending = self._pending, []
            now = self.now()
            for path in pending:
                if path.datagrams:
                    self._sender.flush(path, now)

    def _superframe(
        self,
        path: Path,
        frame: Frame,
        head: bytes,
        transport: int,
        views: Sequence[View],
        size: int,
    ) -> None:
        segment = frame.offload.segment_size
        if frame.offload.gso_type != GSO_UDP_L4 or not segment:
            self.counters["bad superframe"] += 1
            return
        path.head = first_datagram(head, transport, min(segment, size))
        self._sender.superframe(path, views, size, segment, self.now())

    # Opening

    def _open(self, key: bytes, head: bytes) -> Path | None:
        """A guest sends from here to there for the first time in a while."""
        address = self._target(key, head)
        if address is None:
            return None
        flow_key = key[:4] + key[8:10]
        flow = self.flows.get(flow_key) or self._open_flow(flow_key)
        if flow is None:
            return None
        if address[1] != DNS_PORT:
            flow.idle_s = IDLE_S
        return self._add_path(Path(flow, key, address))

    def _target(self, key: bytes, head: bytes) -> tuple[str, int] | None:
        """Where on the host's side a datagram goes; None: nowhere, and the guest was told."""
        plan = self._plan
        guest, destination, port = key[:4], key[4:8], int.from_bytes(key[10:12], "big")
        if not plan.inside(guest) or port == 0 or key[8:10] == b"\0\0":
            self.counters["bad address"] += 1
        elif destination[0] >= 224 or destination in (BROADCAST, plan.broadcast, plan.network):
            self.counters["broadcast or multicast"] += 1
        elif plan.restrict:
            self.counters["restricted"] += 1
        elif (outside := plan.outside(destination)) is not None:
            return dotted(outside), port
        else:
            self.counters["nowhere"] += 1
            self._unreachable(head, 3 if plan.own(destination) else 0)
        return None

    def _open_flow(self, key: bytes) -> Endpoint | None:
        if len(self.flows) >= self._max_flows:
            self._evict()
        sock = self._socket()
        if sock is None:
            self.counters["no socket"] += 1
            return None
        flow = Endpoint(sock, key[:4], int.from_bytes(key[4:], "big"), listening=False)
        flow.idle_s = QUERY_IDLE_S
        flow.used = self.now()
        try:
            self._watch(flow)
        except OSError:
            self.counters["no socket"] += 1
            sock.close()
            return None
        self.flows[key] = flow
        self.counters["opened"] += 1
        return flow

    def adopt(self, key: bytes, sock: socket.socket, idle_s: float) -> None:
        """Go on with a guest's endpoint that another process had."""
        flow = Endpoint(sock, key[:4], int.from_bytes(key[4:], "big"), listening=False)
        flow.idle_s, flow.used = idle_s, self.now()
        self._watch(flow)
        self.flows[key] = flow

    def _socket(self) -> socket.socket | None:
        """Make a socket; when the process has too many files, one goes for it."""
        try:
            return open_socket()
        except OSError as error:
            if error.errno != errno.EMFILE or not self.flows:
                return None
        self._evict()
        try:
            return open_socket()
        except OSError:
            return None

    def _watch(self, endpoint: Endpoint) -> None:
        self.loop.watch(endpoint.fd, READ, partial(self._on_event, endpoint))
        if self._timer is None:
            self._timer = self.loop.call_later(SWEEP_S, self._sweep)

    def _add_path(self, path: Path) -> Path:
        """Remember a path; the endpoint that has too many forgets those that it used least."""
        endpoint = path.endpoint
        if len(endpoint.paths) >= (MAX_CLIENTS if endpoint.listening else MAX_PEERS):
            self._shed(endpoint)
        elif len(self._paths) >= MAX_PATHS:
            everybody = chain(self.flows.values(), self._listeners.values())
            self._shed(max(everybody, key=lambda endpoint: len(endpoint.paths)))
        path.used = self.now()
        previous = self._paths.get(path.key)
        if previous is not None:
            self._forget_path(previous)
        self._paths[path.key] = endpoint.paths[path.key] = path
        return path

    def _shed(self, endpoint: Endpoint) -> None:
        for path in nsmallest(EVICTED_AT_ONCE, endpoint.paths.values(), key=_used):
            self._forget_path(path)

    # Forwards

    def forward(self, sock: socket.socket, guest: bytes, guest_port: int) -> None:
        """Give a guest's port what arrives at ``sock``, which stays the caller's."""
        prepare(sock)
        ask_for_local_address(sock)
        listener = Endpoint(sock, guest, guest_port, listening=True)
        self._listeners[listener.fd] = listener
        self._watch(listener)

    def unforward(self, sock: socket.socket) -> None:
        """Stop serving ``sock``."""
        listener = self._listeners.pop(sock.fileno(), None)
        if listener is not None:
            self._release(listener)

    def _note_client(self, listener: Endpoint, run: Run, source: bytes) -> None:
        """Remember who sent to a forward, and where: answers go back the same way."""
        ports = listener.guest_port.to_bytes(2, "big") + run.port.to_bytes(2, "big")
        key = listener.guest + source + ports
        address = (dotted(run.peer), run.port)
        path = self._paths.get(key)
        if path is None or path.endpoint is not listener or not path.leads(address, run.local):
            path = self._add_path(Path(listener, key, address, run.local))
            self.counters["forwarded"] += 1
        path.used = listener.used

    # Toward the guest

    def _on_event(self, endpoint: Endpoint, events: int) -> None:
        if events & ERROR and not self._sender.read_errors(endpoint):
            endpoint.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # an error of another kind
        if not events & READ:
            return
        if self._held:
            self._silence(endpoint)
            return
        mac = self._output.mac_of(endpoint.guest)
        if mac is None:
            self._wait_for_guest(endpoint)
        else:
            self._move(endpoint, mac)

    def _read(self, endpoint: Endpoint) -> Sequence[Run]:
        """Take one batch off a socket. What is left makes the next event."""
        try:
            runs, endpoint.stride = self._reader.read(endpoint.sock, endpoint.stride)
        except OSError as error:
            number = error.errno or 0
            self.counters[f"receive {errno.errorcode.get(number, str(number))}"] += 1
            return ()
        return runs

    def _move(self, endpoint: Endpoint, mac: bytes) -> None:
        """Move one batch from a socket to its guest."""
        endpoint.used = self.now()
        frames: list[Frame] = []
        for run in self._read(endpoint):
            source = self._plan.seen_as(run.peer)
            if endpoint.listening:
                self._note_client(endpoint, run, source)
            ethernet = mac + self._plan.mac(source)
            to = Addresses(ethernet, source, run.port, endpoint.guest, endpoint.guest_port)
            self.counters["datagrams in"] += self._frames.make(run, to, frames)
        if frames:
            taken = self._port.send(frames)
            if taken < len(frames):
                self._held = [frame.copy() for frame in frames[taken:]]

    def _silence(self, endpoint: Endpoint) -> None:
        """The guest has no room: what comes for it stays in the host's socket."""
        self.loop.change(endpoint.fd, 0)
        self._silenced.append(endpoint)

    def resume(self) -> None:
        """The guest has room again."""
        if self._held:
            del self._held[: self._port.send(self._held)]
            if self._held:
                return
        silenced, self._silenced = self._silenced, []
        for endpoint in silenced:
            if not endpoint.closed:
                self.loop.change(endpoint.fd, READ)

    def _wait_for_guest(self, endpoint: Endpoint) -> None:
        """The guest was asked who it is: what came for it waits in the host's socket."""
        self.loop.change(endpoint.fd, 0)
        self._unknown.append(endpoint)

    def guest_known(self, guest: bytes) -> None:
        """A guest has said who it is: what waits for it can go on."""
        if self._unknown:
            for endpoint in [each for each in self._unknown if each.guest == guest]:
                self._unknown.remove(endpoint)
                self.loop.change(endpoint.fd, READ)

    def _give_up_on_guests(self) -> None:
        """Guests that didn't say who they are lose a batch; the next one asks them again."""
        unknown, self._unknown = self._unknown, []
        for endpoint in unknown:
            self.counters["guest unknown"] += len(self._read(endpoint))
            self.loop.change(endpoint.fd, READ)

    def _path_of(self, endpoint: Endpoint, error: HostError) -> Path | None:
        """Find what an error is about."""
        ports = endpoint.key[4:] + error.port.to_bytes(2, "big")
        return endpoint.paths.get(endpoint.guest + self._plan.seen_as(error.destination) + ports)

    # Ending

    def _sweep(self) -> None:
        """Forget what has been silent for too long."""
        self._known.clear()
        self._give_up_on_guests()
        now = self.now()
        for flow in list(self.flows.values()):
            if flow.used + flow.idle_s <= now:
                self._close_flow(flow)
        for listener in self._listeners.values():
            for path in list(listener.paths.values()):
                if path.used + IDLE_S <= now:
                    self._forget_path(path)
        busy = self.flows or self._listeners
        self._timer = self.loop.call_later(SWEEP_S, self._sweep) if busy else None

    def _evict(self) -> None:
        """Make room: the guest with the most endpoints gives up those it used least."""
        ((greediest, _),) = Counter(flow.guest for flow in self.flows.values()).most_common(1)
        its = (flow for flow in self.flows.values() if flow.guest == greediest)
        for flow in nsmallest(EVICTED_AT_ONCE, its, key=_used):
            self.counters["evicted"] += 1
            self._close_flow(flow)

    def _close_flow(self, flow: Endpoint) -> None:
        del self.flows[flow.key]
        self._release(flow)
        flow.sock.close()

    def _release(self, endpoint: Endpoint) -> None:
        for path in list(endpoint.paths.values()):
            self._forget_path(path)
        endpoint.closed = True
        if endpoint in self._unknown:
            self._unknown.remove(endpoint)
        self.loop.unwatch(endpoint.fd)

    def _forget_path(self, path: Path) -> None:
        if path.datagrams:
            self._sender.flush(path, self.now())
        self._known.clear()
        del path.endpoint.paths[path.key]
        del self._paths[path.key]

    def close(self) -> None:
        """Close the guests' sockets; forget the forwards, whose sockets are the caller's."""
        for flow in list(self.flows.values()):
            self._close_flow(flow)
        for listener in list(self._listeners.values()):
            self._release(listener)
        self._listeners.clear()
        self._held.clear()
        self._pending.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stats(self) -> dict[str, object]:
        """Return numbers of now and counters, as plain data."""
        return {
            "flows": len(self.flows),
            "peers": len(self._paths),
            "forwards": len(self._listeners),
            "counters": dict(self.counters),
        }
