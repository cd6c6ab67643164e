# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""One TCP connection of a guest, moved through one socket of the host (RFC 9293).

Theory of operation
-------------------
The host's kernel is the TCP. It retransmits, paces and controls congestion toward the outside;
toward the guest there is only a wire that rarely loses anything, so this end needs sequence
numbers, windows and a retransmission for the rare loss, but no copy of the data:

* *To the guest.* Data is **peeked** from the socket straight into the guest's memory and stays in
  the socket until the guest acknowledges it; then it is discarded there. A retransmission is a
  second peek. The guest's window limits how much is under way.
* *From the guest.* Data goes from the guest's memory to ``sendmsg`` and is acknowledged when the
  kernel has taken it. The window that is advertised is the room in the socket's send buffer. What
  the kernel takes only in part is held in a *backlog*, which is not acknowledged before it is
  gone.

States: ``CONNECTING`` (the guest's SYN is here, the host's connect is under way), ``SYN_RECEIVED``
(SYN-ACK sent to the guest), ``SYN_SENT`` (a forwarded connection: SYN sent to the guest),
``ESTABLISHED`` (until both directions have ended; which of them has is in ``guest_fin``,
``fin_at`` and ``fin_acked``), ``CLOSED``.

===============  ==========================  ================================================
state            guest says                  host says
===============  ==========================  ================================================
CONNECTING       SYN: ignored (it repeats)   connected: SYN-ACK; refused: RST; else ICMP
SYN_RECEIVED     ACK: ESTABLISHED            data waits in the socket
SYN_SENT         SYN-ACK: ESTABLISHED        closed: RST to the guest
ESTABLISHED      data, ACK, FIN, RST         data, end of file, error
===============  ==========================  ================================================

A half-closed direction passes through: the host's end of file becomes a FIN behind the last data,
the guest's FIN becomes ``shutdown`` behind the last data that the kernel took.

Sequence numbers are 32-bit and compared modulo 2**32. ``snd`` is toward the guest.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from fcntl import ioctl
from random import getrandbits
from struct import Struct
from typing import TYPE_CHECKING

from vmwire.engine.loop import ERROR, HANGUP, PEER_CLOSED, READ, WRITE
from vmwire.wire.frame import F_NEEDS_CSUM, GSO_TCPV4, Frame, Offload, View

if TYPE_CHECKING:
    from vmwire.netdev.user.tcp import TcpTable

CONNECTING = "connecting"
SYN_RECEIVED = "syn received"
SYN_SENT = "syn sent"
ESTABLISHED = "established"
CLOSED = "closed"

FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10

MASK = 0xFFFFFFFF
HALF = 0x80000000

HEADERS = Struct("!12sHBBHHHBBH8sHHIIBBHHH")
"""Ethernet, IPv4 and TCP headers without options."""
HEADERS_SIZE = 54
assert HEADERS.size == HEADERS_SIZE
DONT_FRAGMENT = 0x4000

WINDOW_SHIFT = 7
MAX_WINDOW = 0xFFFF << WINDOW_SHIFT
DEFAULT_MSS = 536
"""RFC 9293, 3.7.1: what a guest that says nothing takes."""
LEAST_MSS = 48
"""Below this a guest's MSS is an attack on our time."""

FIRST_CHUNK = 16384
CHECKSUM_LEFT = Offload(F_NEEDS_CSUM, checksum_start=34, checksum_offset=16)

MAX_BACKLOG = 1 << 20
"""Bytes that one flow may have waiting for its socket beyond what the kernel took."""

FIRST_RTO = 0.25
LONGEST_RTO = 30.0
MAX_RETRIES = 10
SYN_RETRIES = 5
DUPLICATES_FOR_RETRANSMIT = 3

SIOCOUTQ = 0x5411
SO_PEEK_OFF = 42
LINGER_RESET = Struct("ii").pack(1, 0)

_trash = memoryview(bytearray(1 << 20))
_number = Struct("i")


def fold(number: int) -> int:
    """Fold a sum of 16-bit words to 16 bits."""
    return number % 0xFFFF or 0xFFFF


class TcpFlow:
    """One connection. Made by ``TcpTable``, which finds it for each segment of the guest."""

    __slots__ = (
        "acknowledged",
        "addresses",
        "addresses_sum",
        "backlog",
        "checksum_offload",
        "chunk",
        "dup_acks",
        "ethernet",
        "fd",
        "fin_acked",
        "fin_at",
        "fin_out",
        "gso_offload",
        "guest_fin",
        "guest_port",
        "guest_shift",
        "guest_window",
        "held_back",
        "key",
        "last_edge",
        "last_heard",
        "last_window",
        "mss",
        "peeked_to",
        "peer_closed",
        "pending",
        "pending_bytes",
        "port",
        "rcv_nxt",
        "readable",
        "recover",
        "retries",
        "rto",
        "rto_at",
        "shut",
        "snd_max",
        "snd_nxt",
        "snd_una",
        "sock",
        "state",
        "table",
    )

    def __init__(
        self,
        table: TcpTable,
        key: bytes,
        sock: socket.socket,
        guest_mac: bytes,
        state: str,
    ) -> None:
        """``key`` is guest address, remote address, guest port, remote port in network order."""
        self.table = table
        self.key = key
        self.sock = sock
        self.fd = sock.fileno()
        self.state = state
        guest, remote = key[:4], key[4:8]
        self.guest_port = int.from_bytes(key[8:10], "big")
        self.port = int.from_bytes(key[10:12], "big")
        self.addresses = remote + guest
        self.addresses_sum = fold(int.from_bytes(self.addresses, "big"))
        self.ethernet = guest_mac + table.plan.mac(remote)
        self.mss = DEFAULT_MSS
        self.guest_shift = 0
        self.guest_window = 0
        self.snd_una = self.snd_nxt = self.snd_max = getrandbits(32)
        self.rcv_nxt = 0
        self.last_edge = 0
        """The right edge of the window that the guest knows (a sequence number)."""
        self.last_window = 0
        """The header's window field as it was last sent."""
        self.pending: list[View] = []
        self.pending_bytes = 0
        self.backlog = bytearray()
        self.readable = False
        self.acknowledged = 0
        """Bytes that the guest has and that are still to be discarded in the socket."""
        self.peeked_to = 0
        """Bytes behind the socket's peek offset: under way and not yet acknowledged."""
        self.held_back = False
        """Whether the guest was told of less window than it may soon have."""
        self.peer_closed = False
        """The host has ended its direction; what it sent before is still to be read."""
        self.fin_at: int | None = None
        """Sequence number of our FIN, once it was sent."""
        self.fin_out = self.fin_acked = False
        self.chunk = FIRST_CHUNK
        """Bytes that the next peek asks for: as much as seems to be there."""
        self.guest_fin = self.shut = False
        self.dup_acks = 0
        self.recover: int | None = None
        self.rto = FIRST_RTO
        self.rto_at = 0.0
        self.retries = 0
        self.last_heard = table.now()
        self.gso_offload = self.checksum_offload = CHECKSUM_LEFT

    # What the guest and the host agreed on

    def learn_options(self, mss: int | None, shift: int | None) -> None:
        """Take the options of the guest's SYN (RFC 9293 3.7.1, RFC 7323 2.2)."""
        limit = self.table.plan.mtu - 40
        self.mss = min(max(DEFAULT_MSS if mss is None else mss, LEAST_MSS), limit)
        self.guest_shift = -1 if shift is None else min(shift, 14)
        self.gso_offload = Offload(F_NEEDS_CSUM, GSO_TCPV4, HEADERS_SIZE, self.mss, 34, 16)

    @property
    def shift(self) -> int:
        """How many bits to shift the guest's window (none, unless both sides scale)."""
        return max(self.guest_shift, 0)

    # Segments toward the guest

    def pack_headers(self, size: int, sequence: int, flags: int, window: int) -> bytes:
        """Return the 54 bytes of headers of a segment with ``size`` bytes of data.

        With data, the TCP checksum holds the pseudo-header's sum, for an offload to complete;
        without, it is complete.
        """
        length = 40 + size
        acknowledged = (self.rcv_nxt - len(self.backlog)) & MASK
        ip_sum = fold(0x4500 + length + DONT_FRAGMENT + 0x4006 + self.addresses_sum)
        total = self.addresses_sum + 6 + 20 + size
        if not size:
            total += (
                self.port + self.guest_port
                + (sequence >> 16) + (sequence & 0xFFFF)
                + (acknowledged >> 16) + (acknowledged & 0xFFFF)
                + 0x5000 + flags + window
            )  # fmt: skip
        checksum = fold(total)
        return HEADERS.pack(
            self.ethernet, 0x0800, 0x45, 0, length, 0, DONT_FRAGMENT, 64, 6, ip_sum ^ 0xFFFF,
            self.addresses, self.port, self.guest_port, sequence, acknowledged, 0x50, flags,
            window, checksum if size else checksum ^ 0xFFFF, 0,
        )  # fmt: skip

    def send_ack(self) -> None:
        """Tell the guest what has been taken and how much more may come."""
        headers = self.pack_headers(0, self.snd_nxt, ACK, self.window())
        self.table.output.frame(Frame.of(headers))

    def send_final_ack(self) -> None:
        """After the end: the guest did not hear that its FIN was."""
        headers = self.pack_headers(0, self.snd_nxt, ACK, self.last_window)
        self.table.output.frame(Frame.of(headers))

    def window(self) -> int:
        """Measure the socket's room and return it as the header's window field."""
        room = 0 if self.shut else self.room() - len(self.backlog)
        if room < self.mss and not self.backlog:
            room = 0
        shift = WINDOW_SHIFT if self.guest_shift >= 0 else 0
        scaled = min(max(room, 0) >> shift, 0xFFFF)
        edge = (self.rcv_nxt - len(self.backlog) + (scaled << shift)) & MASK
        if (edge - self.last_edge) & MASK >= HALF:
            # never take back what was promised (RFC 9293, 3.8.6)
            owed = (self.last_edge - self.rcv_nxt + len(self.backlog)) & MASK
            scaled = min(owed >> shift, 0xFFFF)
        else:
            self.last_edge = edge
        self.last_window = scaled
        if scaled << shift < 2 * self.mss:
            self._hold_back()
        return scaled

    def _hold_back(self) -> None:
        """The guest has next to no window: have the socket tell when it takes more.

        Its event is edge-triggered and would not come again after a write that went through, so
        the kernel is asked anew.
        """
        self.held_back = True
        if not self.shut:
            self.table.watch_again(self)

    def room(self) -> int:
        """Return the bytes that the socket would take now, cautiously."""
        buffer = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        queued = _number.unpack(ioctl(self.fd, SIOCOUTQ, b"\0\0\0\0"))[0]
        return int(buffer * 3 // 4 - queued)

    def send_syn(self) -> None:
        """Send SYN (forwarded connection) or SYN-ACK, with our options."""
        flags = SYN if self.state == SYN_SENT else SYN | ACK
        options = b"\x02\x04" + (self.table.plan.mtu - 40).to_bytes(2, "big")
        if flags == SYN or self.guest_shift >= 0:
            options += b"\x01\x03\x03" + bytes((WINDOW_SHIFT,))
        window = min(self.room(), 0xFFFF)  # the window of a SYN is never scaled
        self.last_edge = (self.rcv_nxt + window) & MASK
        self.table.send_segment(self, self.snd_una, flags, window, options)
        self.snd_nxt = self.snd_max = (self.snd_una + 1) & MASK
        self._arm()

    def send_reset(self) -> None:
        """Tell the guest that the connection is gone."""
        flags = RST if self.state == SYN_SENT else RST | ACK
        self.table.output.frame(Frame.of(self.pack_headers(0, self.snd_nxt, flags, 0)))

    # The guest's segments

    def on_segment(
        self, sequence: int, ack: int, flags: int, window: int, views: Sequence[View], size: int
    ) -> None:
        """Take one segment of an established connection; data is kept until ``push``.

        Called for each segment of a burst; ``push`` follows before the frames are given back.
        """
        self.last_heard = self.table.now()
        if self.retries and self.state is ESTABLISHED:
            self._heard_again()
        if flags & (SYN | RST) or not flags & ACK:
            self._on_odd_segment(sequence, ack, flags)
            return
        if self.state is not ESTABLISHED:
            self._finish_handshake(ack, window)
            if self.state is not ESTABLISHED:
                return
        offset = (sequence - self.rcv_nxt) & MASK
        self._on_ack(ack, window << self.shift, size == 0 and not flags & FIN)
        if self.state is ESTABLISHED and (size or flags & FIN):
            self._on_data(offset, flags, views, size)

    def _on_odd_segment(self, sequence: int, ack: int, flags: int) -> None:
        if flags & RST:
            if self._reset_counts(sequence, ack):
                self.table.counters["guest reset"] += 1
                self.abort_host()
                self.table.forget(self)
        elif flags & SYN and self.state is SYN_RECEIVED:
            self.send_syn()
        elif flags & SYN and self.state is ESTABLISHED:
            self.send_ack()  # RFC 5961, section 4: a challenge

    def _reset_counts(self, sequence: int, ack: int) -> bool:
        """Whether a RST is this connection's and no forgery or latecomer (RFC 9293, 3.10.7)."""
        if self.state is SYN_SENT:
            return ack == self.snd_nxt
        start = self.rcv_nxt - len(self.backlog)
        return (sequence - start) & MASK <= (self.last_edge - start) & MASK

    def _finish_handshake(self, ack: int, window: int) -> None:
        if self.state is SYN_RECEIVED:
            if ack != self.snd_nxt:
                self.table.send_reset(self.key, ack, 0, RST, self.ethernet[:6])
                return
            self.established(window << self.shift)

    def established(self, window: int) -> None:
        """Both handshakes are done: let data flow. ``window`` is in bytes."""
        self.state = ESTABLISHED
        self.snd_una = self.snd_nxt
        self.guest_window = window
        self._disarm()
        if self.readable:
            self.table.ready(self)

    def _on_ack(self, ack: int, window: int, bare: bool) -> None:
        acked = (ack - self.snd_una) & MASK
        under_way = (self.snd_max - self.snd_una) & MASK
        if acked > under_way:
            if acked < HALF:
                self.send_ack()  # it acknowledges what was never sent
            return
        grown = window > self.guest_window
        if acked:
            self._acknowledged(ack, acked)
            if self.state is CLOSED:
                return
        elif bare and under_way and window == self.guest_window:
            self._on_duplicate_ack()
        self.guest_window = window
        if (acked or grown) and self.readable:
            self.table.ready(self)

    def _acknowledged(self, ack: int, acked: int) -> None:
        """The guest has ``acked`` more bytes (or our FIN) than it had."""
        data = acked
        if self.fin_at is not None and ack == (self.fin_at + 1) & MASK:
            self.fin_acked = True
            data -= 1
        self.snd_una = ack
        if (self.snd_nxt - ack) & MASK >= HALF:  # a retransmission turned out to be needless
            self.snd_nxt = ack
        self.dup_acks = 0
        if self.recover is not None and (ack - self.recover) & MASK < HALF:
            self.recover = None
        self.rto = FIRST_RTO
        self.retries = 0
        if data:
            self.acknowledged += data
            self.table.owe_discard(self)
        if self.snd_una == self.snd_max:
            self._disarm()
        else:
            self._arm()
        self._close_if_done()

    def discard(self) -> None:
        """Discard in the socket what the guest has acknowledged; once a burst is enough."""
        count, self.acknowledged = self.acknowledged, 0
        self.peeked_to = max(0, self.peeked_to - count)
        receive = self.sock.recv_into
        while count > 0:
            try:
                taken = receive(_trash, min(count, len(_trash)), socket.MSG_TRUNC)
            except OSError:
                return  # the socket failed; its event tells
            if not taken:
                return
            count -= taken

    def _on_duplicate_ack(self) -> None:
        self.dup_acks += 1
        if self.dup_acks == DUPLICATES_FOR_RETRANSMIT and self.recover is None:
            self.table.counters["fast retransmit"] += 1
            self._go_back()

    def _go_back(self) -> None:
        """Send again from the first byte that isn't acknowledged."""
        self.recover = self.snd_max
        self.snd_nxt = self.snd_una
        self.fin_out = False
        self.discard()
        self.peek_again(0)
        self.readable = True
        self.table.ready(self)
        self._arm()

    def peek_again(self, offset: int) -> None:
        """Have the next peek start ``offset`` bytes behind what was discarded."""
        self.peeked_to = offset
        if self.table.peek_offset:
            self.sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, offset)

    def _on_data(self, offset: int, flags: int, views: Sequence[View], size: int) -> None:
        """Take what comes next in sequence; answer the rest with what we expect."""
        if self.guest_fin or (offset and offset < HALF):
            # beyond its own FIN, or a hole before it: the guest sends it again
            self.table.counters["out of order"] += 1
            self.table.owe_ack(self)
            return
        fin = flags & FIN
        if offset:
            known = (-offset) & MASK
            self.table.owe_ack(self)
            if known >= size + (1 if fin else 0):
                return
            views = _skip(views, known)
            size -= known
        if size:
            self.pending.extend(views)
            self.pending_bytes += size
            self.rcv_nxt = (self.rcv_nxt + size) & MASK
        if fin:
            self.rcv_nxt = (self.rcv_nxt + 1) & MASK
            self.guest_fin = True
        self.table.owe_push(self)

    def push(self) -> None:
        """Hand the burst's data to the kernel, acknowledge what it took."""
        size, self.pending_bytes = self.pending_bytes, 0
        views, self.pending = self.pending, []
        if self.state is not ESTABLISHED:
            return
        if size:
            self._push_data(views, size)
        if self.guest_fin and not self.backlog and not self.shut:
            self._shut_down()
        if self.state is ESTABLISHED:
            self.send_ack()
            self._close_if_done()

    def _push_data(self, views: list[View], size: int) -> None:
        taken = 0
        if not self.backlog:
            try:
                taken = self.sock.sendmsg(views[:1024], (), _SEND_FLAGS)
            except BlockingIOError:
                pass
            except OSError as error:
                self.on_host_error(error.errno or errno.EIO)
                return
        if taken == size:
            return
        if len(self.backlog) + size - taken > self.table.backlog_room(self):
            # not acknowledged, so the guest sends it again
            self.rcv_nxt = (self.rcv_nxt - (size - taken) - self._unsay_fin()) & MASK
            self.table.counters["host socket full"] += 1
            self._hold_back()
            return
        self.table.backlogs += size - taken
        for view in _skip(views, taken):
            self.backlog += view
        self._hold_back()

    def _unsay_fin(self) -> int:
        """Data before the FIN was refused: the FIN wasn't heard either."""
        fin, self.guest_fin = self.guest_fin and not self.shut, False
        return 1 if fin else 0

    def _shut_down(self) -> None:
        self.shut = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.on_host_error(error.errno or errno.EIO)

    # The host's side

    def on_event(self, events: int) -> None:
        """Take the socket's (edge-triggered) readiness."""
        if self.state is CONNECTING:
            if events & (WRITE | ERROR | HANGUP):
                self.table.on_connected(self)
            return
        if events & ERROR:
            error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self.on_host_error(error)
                return
        if events & (READ | PEER_CLOSED | HANGUP):
            self.readable = True
            if events & (PEER_CLOSED | HANGUP):
                self.peer_closed = True
            if self.state is ESTABLISHED:
                self.table.ready(self)
        if events & WRITE and self.state is ESTABLISHED and (self.backlog or self.held_back):
            self._on_room()

    def _on_room(self) -> None:
        """The socket takes more: empty the backlog, then tell the guest."""
        self.held_back = False
        if self.backlog:
            try:
                taken = self.sock.send(self.backlog, _SEND_FLAGS)
            except BlockingIOError:
                return
            except OSError as error:
                self.on_host_error(error.errno or errno.EIO)
                return
            del self.backlog[:taken]
            self.table.backlogs -= taken
            if not self.backlog and self.guest_fin and not self.shut:
                self._shut_down()
        if self.state is ESTABLISHED:
            self.send_ack()
            self._close_if_done()

    def on_host_error(self, error: int) -> None:
        """The socket failed: the guest's connection is reset."""
        self.table.counters[f"host {errno.errorcode.get(error, str(error))}"] += 1
        if self.state is not CLOSED:
            self.send_reset()
            self.table.forget(self)

    def abort_host(self) -> None:
        """The guest reset the connection: so does the host, behind what was acknowledged.

        A reset throws away what the kernel has not sent yet; data that the guest knows to be
        acknowledged must not be lost by it, so then the connection ends as a close.
        """
        try:
            if not _number.unpack(ioctl(self.fd, SIOCOUTQ, b"\0\0\0\0"))[0]:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            else:
                while self.sock.recv_into(_trash, len(_trash), socket.MSG_TRUNC):
                    pass
        except OSError:
            pass  # nothing more to discard, or the socket has failed by itself

    def _close_if_done(self) -> None:
        if self.fin_acked and self.shut and not self.backlog:
            self.discard()  # a close with data in the socket would reset the host's side
            self.table.finished(self)

    # Bulk toward the guest; ``TcpTable.pump`` calls this in turns

    def sendable(self) -> int:
        """Return how many bytes the guest's window leaves."""
        return self.guest_window - ((self.snd_nxt - self.snd_una) & MASK)

    def sent(self, size: int) -> None:
        """``size`` bytes have just gone to the guest."""
        self.snd_nxt = (self.snd_nxt + size) & MASK
        self.peeked_to += size
        if (self.snd_nxt - self.snd_max) & MASK < HALF:
            self.snd_max = self.snd_nxt
        if not self.rto_at:
            self._arm()

    def send_fin(self) -> None:
        """All data is out and the host has ended its direction."""
        window = self.window()
        headers = self.pack_headers(0, self.snd_nxt, FIN | ACK, window)
        self.table.output.frame(Frame.of(headers))
        self.fin_at = self.snd_nxt
        self.fin_out = True
        self.snd_nxt = (self.snd_nxt + 1) & MASK
        if (self.snd_nxt - self.snd_max) & MASK < HALF:
            self.snd_max = self.snd_nxt
        self._arm()

    # Time

    def _arm(self) -> None:
        self.rto_at = self.table.now() + self.rto
        self.table.wait_for(self)

    def wait_for_mac(self) -> None:
        """The guest has been asked for its MAC; the SYN follows its answer."""
        self._arm()

    def _disarm(self) -> None:
        self.rto_at = 0.0

    def _heard_again(self) -> None:
        """A probe was answered."""
        self.retries = 0
        if self.snd_una == self.snd_max:
            self._disarm()
            if self.readable:
                self.table.ready(self)

    def probe_later(self) -> None:
        """The guest's window is closed while data waits: ask again later."""
        if not self.rto_at:
            self._arm()

    def on_timeout(self) -> None:
        """Nothing was heard for too long: send again, or give up."""
        self.rto_at = 0.0
        self.retries += 1
        limit = MAX_RETRIES if self.state is ESTABLISHED else SYN_RETRIES
        if self.retries > limit:
            self.table.counters["guest silent"] += 1
            self.abort_host()
            if self.state is ESTABLISHED:
                self.send_reset()
            self.table.forget(self)
            return
        self.rto = min(self.rto * 2, LONGEST_RTO)
        if self.state in (SYN_RECEIVED, SYN_SENT):
            self.table.counters["retransmit"] += 1
            self.ethernet = self.table.ethernet_of(self) or self.ethernet
            self.send_syn()
        elif self.snd_una != self.snd_max:
            self.table.counters["retransmit"] += 1
            self._go_back()
        else:
            self.probe()

    def probe(self) -> None:
        """Send what the guest has already: it answers with its window (RFC 9293, 3.8.4)."""
        before = (self.snd_una - 1) & MASK
        headers = self.pack_headers(0, before, ACK, self.window())
        self.table.output.frame(Frame.of(headers))
        self._arm()


_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


def _skip(views: Sequence[View], count: int) -> list[View]:
    """Return ``views`` without their first ``count`` bytes."""
    left: list[View] = []
    for view in views:
        if count >= len(view):
            count -= len(view)
            continue
        left.append(view[count:] if count else view)
        count = 0
    return left
