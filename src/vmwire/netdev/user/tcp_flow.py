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
  kernel has taken it: ``taken_to`` is how far that is, ``rcv_nxt`` how far the guest's data has
  come. The window that is advertised is the room in the socket's send buffer. What the kernel
  takes only in part is held in a *backlog*, which is not acknowledged before it is gone.

What comes behind a loss of the guest's data is kept *ahead*, and neither acknowledged nor pushed
before the hole is mended; the guest hears of it by selective acknowledgements, if it wants them.
A loss toward the guest is answered by going back to the first byte that it misses, with little
under way at first (``cap``), so that most of what it has already isn't sent again: its next
acknowledgement jumps to the next hole.

States: ``CONNECTING`` (the guest's SYN is here, the host's connect is under way), ``SYN_RECEIVED``
(SYN-ACK sent to the guest), ``SYN_SENT`` (a forwarded connection: SYN sent to the guest),
``ESTABLISHED`` (until both directions have ended; which of them has is in ``guest_fin``,
``fin_at`` and ``fin_acked``), ``CLOSED``.

===============  ==========================  ================================================
state            guest says                  host says
===============  ==========================  ================================================
CONNECTING       SYN: waits                  connected: SYN-ACK; refused: RST; else ICMP
SYN_RECEIVED     ACK: ESTABLISHED            data waits in the socket
SYN_SENT         SYN-ACK: ESTABLISHED        closed: RST to the guest
ESTABLISHED      data, ACK, FIN, RST         data, end of file, error
===============  ==========================  ================================================

A SYN inside an established connection, and a RST that isn't exactly at the expected sequence
number, are challenged by an ACK (RFC 5961): a guest that has forgotten the connection answers that
by a RST that is.

A half-closed direction passes through: the host's end of file becomes a FIN behind the last data,
the guest's FIN becomes ``shutdown`` behind the last data that the kernel took. A connection that
the outside resets is reset behind the data that came before.

Sequence numbers are 32-bit and compared modulo 2**32. ``snd`` is toward the guest.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from struct import Struct

from vmwire.engine.loop import ERROR, HANGUP, PEER_CLOSED, READ, URGENT, WRITE
from vmwire.netdev.user.tcp_ahead import Ahead
from vmwire.netdev.user.tcp_sender import DUPLICATES_FOR_RETRANSMIT, TcpSender, trash
from vmwire.netdev.user.tcp_speaker import (
    ACK,
    CLOSED,
    CONNECTING,
    ESTABLISHED,
    FIN,
    FIRST_RTO,
    HALF,
    MASK,
    MAX_WINDOW,
    NO_CAP,
    RST,
    SYN,
    SYN_RECEIVED,
    SYN_SENT,
)
from vmwire.wire.frame import View

LONGEST_RTO = 30.0
MAX_RETRIES = 15
"""About five minutes: a guest that is paused for a while keeps its connections."""
SYN_RETRIES = 5
LINGER_RESET = Struct("ii").pack(1, 0)
MAX_DISCARDS = 64
"""Reads of unwanted data at a reset; a sender faster than that is cut off."""


class TcpFlow(TcpSender):
    """One connection. Made by ``TcpTable``, which finds it for each segment of the guest."""

    __slots__ = ()

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
        bare = size == 0 and not flags & FIN
        if not self._on_ack(ack, window << self.shift, bare) or self.state is not ESTABLISHED:
            return
        if not bare:
            self._on_data(offset, flags, views, size)
        elif offset >= HALF:
            self.table.owe_ack(self)  # a keep-alive, or a probe of our window (RFC 9293, 3.8.4)

    def _on_odd_segment(self, sequence: int, ack: int, flags: int) -> None:
        """A RST counts if it is this connection's and no forgery or latecomer (RFC 5961, 3.2)."""
        if not flags & RST:
            return
        if self.state is SYN_SENT:
            counts = flags & ACK and ack == self.snd_nxt
        else:
            counts = sequence in (self.rcv_nxt, self.taken_to)
        if counts:
            self.table.counters["guest reset"] += 1
            self.abort_host()
            self.table.forget(self)
        elif self.state is ESTABLISHED:
            window = (self.last_edge - self.taken_to) & MASK
            if (sequence - self.taken_to) & MASK <= window:
                self.send_ack()

    def _finish_handshake(self, ack: int, window: int) -> None:
        if self.state is CONNECTING:
            return
        if ack != self.snd_nxt:
            # of a connection that this end has forgotten: so should the guest
            self.table.send_reset(self.key, ack, 0, RST, self.ethernet[:6])
        elif self.state is SYN_RECEIVED:
            self.established(window << self.shift)

    def established(self, window: int) -> None:
        """Both handshakes are done: let data flow. ``window`` is in bytes."""
        self.state = ESTABLISHED
        self.snd_una = self.snd_nxt
        self.guest_window = window
        self._disarm()
        if self.readable:
            self.table.ready(self)

    def _on_ack(self, ack: int, window: int, bare: bool) -> bool:
        """Take an acknowledgement; False if it can't be one of this connection."""
        acked = (ack - self.snd_una) & MASK
        under_way = (self.snd_max - self.snd_una) & MASK
        if acked > under_way:
            if acked < HALF or MASK + 1 - acked > MAX_WINDOW:
                self.send_ack()  # of what was never sent, or too long ago (RFC 5961, 5.2)
                return False
            return True
        grown = window > self.guest_window
        if acked:
            self._acknowledged(ack, acked)
        elif bare and under_way and window == self.guest_window:
            self._on_duplicate_ack()
        self.guest_window = window
        if (acked or grown) and self.readable and self.state is ESTABLISHED:
            self.table.ready(self)
        return True

    def _acknowledged(self, ack: int, acked: int) -> None:
        """The guest has ``acked`` more bytes (or our FIN) than it had."""
        data = acked
        if self.fin_at is not None and ack == (self.fin_at + 1) & MASK:
            self.fin_acked = self.fin_out = True  # even if it was about to be sent again
            data -= 1
        self.snd_una = ack
        overtaken = (self.snd_nxt - ack) & MASK >= HALF
        self.dup_acks = 0
        if self.cap < NO_CAP:
            self._recover(ack, acked)
        self.rto = FIRST_RTO
        self.retries = 0
        if data:
            self.acknowledged += data
            self.table.owe_discard(self)
        if overtaken:  # a retransmission turned out to be needless: go on behind what it has
            self.snd_nxt = ack
            self.discard()
        if self.snd_una == self.snd_max:
            self._disarm()
        else:
            self._arm()
        self._close_if_done()

    def _on_data(self, offset: int, flags: int, views: Sequence[View], size: int) -> None:
        """Take what comes next in sequence; answer the rest with what we expect."""
        if self.guest_fin or (offset and offset < HALF):
            self._on_early_data(offset, flags, views, size)
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
        if self.ahead is not None:
            self._on_mended_hole(self.ahead)
        self.table.owe_push(self)

    def _on_early_data(self, offset: int, flags: int, views: Sequence[View], size: int) -> None:
        """Keep what lies behind a hole, or let the guest repeat it; what is behind a FIN is none.

        The guest learns of the hole by repeated acknowledgements: one for each segment, or as many
        as it needs for the segments of a superframe.
        """
        self.table.counters["out of order"] += 1
        self._keep_early(offset, flags & FIN, views, size)
        for _ in range(min(size // self.mss, DUPLICATES_FOR_RETRANSMIT) or 1):
            self.table.owe_ack(self)

    def _keep_early(self, offset: int, fin: int, views: Sequence[View], size: int) -> None:
        ahead = self.ahead or Ahead()
        before = ahead.size
        fits = offset + size <= (self.last_edge - self.rcv_nxt) & MASK
        if self.guest_fin or not fits or size > self.table.ahead_room(before):
            return
        at = (self.rcv_nxt + offset) & MASK
        ahead.put(at, views)
        self.table.backlogs += ahead.size - before
        if fin:
            ahead.fin_at = (at + size) & MASK
        self.ahead = ahead

    def _on_mended_hole(self, ahead: Ahead) -> None:
        """Take on what came before its time and is next now."""
        before = ahead.size
        data = ahead.take(self.rcv_nxt)
        if data is not None:
            self.pending.append(data)
            self.pending_bytes += len(data)
            self.rcv_nxt = (self.rcv_nxt + len(data)) & MASK
        if ahead.fin_at == self.rcv_nxt:
            self.guest_fin = True
            self.rcv_nxt = (self.rcv_nxt + 1) & MASK
        self.table.backlogs += ahead.size - before
        if self.guest_fin or (not ahead.runs and ahead.fin_at is None):
            self._forget_early(ahead)

    def _forget_early(self, ahead: Ahead) -> None:
        self.table.backlogs -= ahead.size
        self.ahead = None

    def push(self) -> None:
        """Hand the burst's data to the kernel, acknowledge what it took."""
        size, self.pending_bytes = self.pending_bytes, 0
        views, self.pending = self.pending, []
        if size:
            self._push_data(views, size)
        if self.state is not ESTABLISHED:
            return
        if self.guest_fin and not self.backlog and not self.shut:
            self._shut_down()
        if self.state is not ESTABLISHED:
            return
        late = size < 2 * self.mss and self.ahead is None
        if late and not self.fin_acked and not self.backlog:
            # the answer may carry the acknowledgement; else it goes out when nothing comes
            self.ack_owed = True
            self.table.ack_later(self)
            return
        self.send_ack()
        self._close_if_done()

    def _push_data(self, views: list[View], size: int) -> None:
        taken = 0
        if not self.backlog:
            try:
                if len(views) == 1:
                    taken = self.sock.send(views[0], _SEND_FLAGS)
                else:
                    taken = self.sock.sendmsg(views[:1024], (), _SEND_FLAGS)
            except BlockingIOError:
                pass
            except OSError as error:
                self.on_host_error(error.errno or errno.EIO)
                return
            self.taken_to = (self.taken_to + taken) & MASK
        if taken == size:
            return
        if len(self.backlog) + size - taken > self.table.backlog_room(self):
            # not acknowledged, so the guest sends it again, and the FIN behind it
            self.rcv_nxt = (self.taken_to + len(self.backlog)) & MASK
            self.guest_fin = False
            self.table.counters["host socket full"] += 1
            self._hold_back()
            return
        self.table.backlogs += size - taken
        for view in _skip(views, taken):
            self.backlog += view
        self._hold_back()

    def _shut_down(self) -> None:
        self.shut = True
        self.taken_to = self.rcv_nxt
        if self.fin_acked:
            return  # both directions have ended: closing the socket says it
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.on_host_error(error.errno or errno.EIO)

    # The host's side

    def on_event(self, events: int) -> None:
        """Take the socket's (edge-triggered) readiness."""
        if events & INCOMING:
            self.readable = True
            if events & ENDING:
                self.peer_closed = True
            if events & URGENT:
                self.urgent = True
        if self.state is CONNECTING:
            if events & (WRITE | ERROR | HANGUP):
                self.table.on_connected(self)
            return
        if events & ERROR:
            error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._on_failure(error)
                return
        if events & INCOMING and self.state is ESTABLISHED:
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
            self.taken_to = (self.taken_to + taken) & MASK
            if not self.backlog and self.guest_fin and not self.shut:
                self._shut_down()
        if self.state is ESTABLISHED:
            self.send_ack()
            self._close_if_done()

    def _on_failure(self, error: int) -> None:
        """The socket failed; what came before is still there for the guest."""
        if self.state is not ESTABLISHED or self.fin_out:
            self.on_host_error(error)
            return
        self.failed = error
        self.readable = self.peer_closed = True
        self.table.ready(self)

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
            if not self.unsent():
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            else:
                for _ in range(MAX_DISCARDS):
                    if not self.sock.recv_into(trash, len(trash), socket.MSG_TRUNC):
                        break
        except OSError:
            pass  # nothing more to discard, or the socket has failed by itself

    def let_go(self) -> None:
        """Let go of what is held, a burst's lent views above all: others may keep the flow."""
        self.backlog.clear()
        if self.ahead is not None:
            self._forget_early(self.ahead)
        self.pending.clear()
        self.pending_bytes = 0
        self.rto_at = 0.0

    def _close_if_done(self) -> None:
        if self.fin_acked and self.shut and not self.backlog:
            self.discard()  # a close with data in the socket would reset the host's side
            self.table.finished(self)

    # Time

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
        self.ethernet = self.table.ethernet_of(self) or self.ethernet  # it may have moved
        if self.ethernet[:6] == bytes(6):
            self._arm()
        elif self.state in (SYN_RECEIVED, SYN_SENT):
            self.table.counters["retransmit"] += 1
            self.send_syn()
        elif self.snd_una != self.snd_max and self.guest_window:
            self.table.counters["retransmit"] += 1
            self._go_back()
        else:
            self.probe()


INCOMING = READ | PEER_CLOSED | HANGUP | URGENT
ENDING = PEER_CLOSED | HANGUP
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
