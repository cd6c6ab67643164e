# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a TCP connection sends to its guest, and sends again (RFC 9293, RFC 6582).

``TcpSender`` keeps account of what is under way to the guest; there is no copy of it: what isn't
acknowledged stays in the host's socket and is peeked again. ``vmwire.netdev.user.tcp_flow`` tells
how all of a connection works together.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod

from vmwire.netdev.user.tcp_speaker import (
    ACK,
    FIN,
    HALF,
    MASK,
    SO_PEEK_OFF,
    SYN,
    SYN_SENT,
    WINDOW_SHIFT,
    TcpSpeaker,
)
from vmwire.wire.frame import Frame

DUPLICATES_FOR_RETRANSMIT = 3
FIRST_SEGMENTS = 10
"""Segments under way after a loss (RFC 6928 starts a connection with as many)."""
trash = memoryview(bytearray(1 << 20))
"""Where bytes go that nobody wants."""


class TcpSender(TcpSpeaker, ABC):
    """Sends what ``TcpFeeder`` moves, and repeats what is lost."""

    __slots__ = ()

    @abstractmethod
    def on_host_error(self, error: int) -> None:
        """The host's socket failed, with this errno."""

    @abstractmethod
    def on_timeout(self) -> None:
        """``rto_at`` has come."""

    # Handshake

    def send_syn(self) -> None:
        """Send SYN (forwarded connection) or SYN-ACK, with our options."""
        flags = SYN if self.state == SYN_SENT else SYN | ACK
        options = b"\x02\x04" + (self.table.plan.mtu - 40).to_bytes(2, "big")
        if flags == SYN or self.guest_shift >= 0:
            options += b"\x01\x03\x03" + bytes((WINDOW_SHIFT,))
        if flags == SYN or self.sack:
            options += b"\x01\x01\x04\x02"
        # the socket is fresh, so its buffer is empty; the window of a SYN is never scaled
        window = min(self._buffer() * 3 // 4, 0xFFFF)
        if self.guest_shift >= 0:
            window &= -1 << WINDOW_SHIFT  # what comes next can say the same in its own scale
        self.last_edge = (self.rcv_nxt + window) & MASK
        self.enough = window - (window >> 2)
        headers = self.pack_headers(0, self.snd_una, flags, window, options)
        self.table.output.frame(Frame.of(headers))
        self.snd_nxt = self.snd_max = (self.snd_una + 1) & MASK
        self._arm()

    def wait_for_mac(self) -> None:
        """The guest has been asked for its MAC; the SYN follows its answer."""
        self._arm()

    # Data

    def sendable(self) -> int:
        """Return how many bytes the guest's window leaves."""
        window = self.guest_window if self.guest_window < self.cap else self.cap
        return window - ((self.snd_nxt - self.snd_una) & MASK)

    def sent(self, size: int) -> None:
        """``size`` bytes have just gone to the guest."""
        self.snd_nxt = (self.snd_nxt + size) & MASK
        self.peeked_to += size
        if (self.snd_nxt - self.snd_max) & MASK < HALF:
            self.snd_max = self.snd_nxt
        if not self.rto_at:
            self._arm()

    def fin_sent(self) -> None:
        """Our FIN has just gone to the guest, by itself or with the last data."""
        self.fin_at = self.snd_nxt
        self.fin_out = True
        self.snd_nxt = (self.snd_nxt + 1) & MASK
        if (self.snd_nxt - self.snd_max) & MASK < HALF:
            self.snd_max = self.snd_nxt
        self._arm()

    def end(self) -> None:
        """All data is out and the host has ended its direction, or the connection failed."""
        if self.failed:
            self.on_host_error(self.failed)
            return
        headers = self.pack_headers(0, self.snd_nxt, FIN | ACK, self.window_now())
        self.table.output.frame(Frame.of(headers))
        self.fin_sent()

    def discard(self) -> None:
        """Discard in the socket what the guest has acknowledged; once a burst is enough."""
        count, self.acknowledged = self.acknowledged, 0
        self.peeked_to = max(0, self.peeked_to - count)
        receive = self.sock.recv_into
        while count > 0:
            try:
                taken = receive(trash, min(count, len(trash)), socket.MSG_TRUNC)
            except OSError:
                return  # the socket failed; its event tells
            if not taken:
                return
            count -= taken

    def peek_again(self, offset: int) -> None:
        """Have the next peek start ``offset`` bytes behind what was discarded."""
        self.peeked_to = offset
        if self.table.peek_offset:
            self.sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, offset)

    # Losses

    def _recover(self, ack: int, acked: int) -> None:
        """After a loss: let more be under way again, slowly while the guest still has holes."""
        if self.recover is None:
            self.cap += acked
        elif ack != self.recover and (ack - self.recover) & MASK < HALF:
            self.recover = None
        else:
            self.cap += min(acked, 2 * self.mss)

    def _on_duplicate_ack(self) -> None:
        self.dup_acks += 1
        if self.dup_acks == DUPLICATES_FOR_RETRANSMIT and self.recover is None:
            self.table.counters["fast retransmit"] += 1
            self._go_back()

    def _go_back(self) -> None:
        """Send again from the first byte that isn't acknowledged."""
        self.recover = self.snd_max
        self.cap = FIRST_SEGMENTS * self.mss
        self.snd_nxt = self.snd_una
        self.fin_out = False
        self.discard()
        self.peek_again(0)
        self.readable = True
        self.table.ready(self)
        self._arm()

    # Time

    def _arm(self) -> None:
        self.rto_at = self.table.now() + self.rto
        self.table.wait_for(self)

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

    def keep_alive(self) -> None:
        """Nothing was heard for hours: ask, and count it as a first try."""
        self.retries = 1
        self.probe()

    def probe(self) -> None:
        """Send what the guest has already: it answers with its window (RFC 9293, 3.8.4)."""
        before = (self.snd_una - 1) & MASK
        headers = self.pack_headers(0, before, ACK, self.window())
        self.table.output.frame(Frame.of(headers))
        self._arm()
