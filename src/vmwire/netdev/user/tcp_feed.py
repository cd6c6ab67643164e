# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Bulk data toward the guests: from readable sockets into guests' memory, flow after flow.

Theory of operation. Flows whose sockets are readable stand in a queue. Each may move
``FLOW_BUDGET`` bytes before the next one has its turn, and ``TURN_BUDGET`` ends the round, so that
other work of the loop isn't starved. Where the guest's end of the wire gives room in its memory and
takes superframes, the socket is read straight into it; elsewhere a buffer of ours is between. When
the guest has no room the queue waits for ``resume``.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable, Sequence

from vmwire.netdev.user.tcp_sender import TcpSender
from vmwire.netdev.user.tcp_speaker import (
    ACK,
    ESTABLISHED,
    FIN,
    HEADERS_SIZE,
    PSH,
)
from vmwire.wire.frame import Frame, View
from vmwire.wire.port import Port

LARGEST_DATA = 65535 - 40
LEAST_CHUNK = 4096
FLOW_BUDGET = 256 << 10
TURN_BUDGET = 1 << 20
READ_FLAGS = socket.MSG_PEEK | socket.MSG_DONTWAIT


class TcpFeeder:
    """Feeds guests through ``port``. ``peek_offset`` tells whether the kernel keeps one for TCP."""

    def __init__(
        self, port: Port, defer: Callable[[Callable[[], None]], None], peek_offset: bool
    ) -> None:
        self._port = port
        self._defer = defer
        self._peek_offset = peek_offset
        self._queue: deque[TcpSender] = deque()
        self._queued: set[TcpSender] = set()
        self._pump_due = False
        self._no_room = False
        self._staging = memoryview(bytearray(HEADERS_SIZE + LARGEST_DATA))
        self._discard = memoryview(bytearray(0))
        self._one_byte = bytearray(1)

    def ready(self, flow: TcpSender) -> None:
        """``flow`` may have data for its guest: it takes its turn."""
        if flow not in self._queued:
            self._queued.add(flow)
            self._queue.append(flow)
            if not self._pump_due and not self._no_room:
                self._pump_due = True
                self._defer(self.pump)

    def forget(self, flow: TcpSender) -> None:
        """``flow`` has ended."""
        if flow in self._queued:
            self._queued.discard(flow)
            self._queue.remove(flow)

    def resume(self) -> None:
        """The guest has room again."""
        self._no_room = False
        self.pump()

    def pump(self) -> None:
        """Move data toward the guest, flow after flow."""
        self._pump_due = False
        budget = TURN_BUDGET
        queue = self._queue
        while queue and budget > 0:
            flow = queue.popleft()
            self._queued.discard(flow)
            moved = self._feed(flow)
            if moved < 0:
                self._no_room = True
                if flow not in self._queued:
                    self._queued.add(flow)
                    queue.appendleft(flow)
                return
            budget -= moved
            if moved >= FLOW_BUDGET and flow not in self._queued:
                self._queued.add(flow)
                queue.append(flow)
        if queue:
            self._pump_due = True
            self._defer(self.pump)

    def _feed(self, flow: TcpSender) -> int:
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

    def _drained(self, flow: TcpSender, count: int) -> None:
        """The socket gave less than asked for: it is empty until its next event.

        Two things have no event to come, so that it is read until nothing comes: an end of file
        that was announced earlier, and what lies behind an urgent byte.
        """
        flow.chunk = max(LEAST_CHUNK, min(2 * count, LARGEST_DATA))
        if count and (flow.peer_closed or flow.urgent):
            return
        flow.readable = flow.urgent = False
        if not count and (flow.peer_closed or flow.failed) and flow.state is ESTABLISHED:
            flow.end()

    def _move_direct(self, flow: TcpSender, size: int) -> int:
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
        last = count < size and flow.peer_closed and self._ends_behind(flow, count)
        first[:HEADERS_SIZE] = self._data_headers(flow, count, last)
        port.commit(
            HEADERS_SIZE + count, flow.gso_offload if count > flow.mss else flow.checksum_offload
        )
        flow.sent(count)
        if last:
            flow.fin_sent()
        return count

    def _move_staged(self, flow: TcpSender, size: int) -> int:
        """The same through memory of ours, for a guest that gives no room."""
        staging = self._staging
        count = self._peek(flow, [staging[HEADERS_SIZE : HEADERS_SIZE + size]])
        if count <= 0:
            return 0
        last = count < size and flow.peer_closed and self._ends_behind(flow, count)
        staging[:HEADERS_SIZE] = self._data_headers(flow, count, last)
        length = HEADERS_SIZE + count
        offload = flow.gso_offload if count > flow.mss else flow.checksum_offload
        if not self._port.send((Frame((staging[:length],), length, offload),)):
            flow.peek_again(flow.peeked_to)
            return -1
        flow.sent(count)
        if last:
            flow.fin_sent()
        return count

    def _data_headers(self, flow: TcpSender, size: int, last: bool) -> bytes:
        flow.ack_owed = False
        flags = ACK | PSH | FIN if last else ACK | PSH
        return flow.pack_headers(size, flow.snd_nxt, flags, flow.promised())

    def _ends_behind(self, flow: TcpSender, count: int) -> bool:
        """Whether nothing comes behind the ``count`` bytes just peeked: a FIN may go with them."""
        if not self._peek_offset or flow.failed or flow.urgent:
            return False
        try:
            more = flow.sock.recv_into(self._one_byte, 0, READ_FLAGS)
        except OSError:
            return False  # a false alarm, or a failure: the next read meets it again
        if more:
            flow.peek_again(flow.peeked_to + count)
            flow.peeked_to -= count
        return not more

    def _peek(self, flow: TcpSender, views: Sequence[View]) -> int:
        """Peek what comes behind the bytes under way; 0: nothing there, or the end, or an error."""
        try:
            if not self._peek_offset and flow.peeked_to:
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

    def _peek_behind(self, flow: TcpSender, views: Sequence[View]) -> int:
        """Without a peek offset: read what is under way once more, into nowhere."""
        under_way = flow.peeked_to
        if len(self._discard) < under_way:
            self._discard = memoryview(bytearray(under_way))
        count = flow.sock.recvmsg_into([self._discard[:under_way], *views], 0, READ_FLAGS)[0]
        return max(0, count - under_way)
