# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a TCP connection tells its guest: headers, acknowledgements, windows (RFC 9293, RFC 7323).

``TcpSpeaker`` holds a connection's state and speaks; ``vmwire.netdev.user.tcp_flow`` listens, and
tells how both work together.
"""

from __future__ import annotations

import socket
from fcntl import ioctl
from functools import lru_cache
from random import getrandbits
from struct import Struct
from typing import TYPE_CHECKING

from vmwire.netdev.user.tcp_ahead import Ahead
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
"""More than is ever under way."""
DEFAULT_MSS = 536
"""RFC 9293, 3.7.1: what a guest that says nothing takes."""
LEAST_MSS = 48
"""Below this a guest's MSS is an attack on our time."""

FIRST_CHUNK = 16384
CHECKSUM_LEFT = Offload(F_NEEDS_CSUM, checksum_start=34, checksum_offset=16)

MAX_BACKLOG = 1 << 20
"""Bytes that one flow may have waiting for its socket beyond what the kernel took; and again as
many that came too early."""

FIRST_RTO = 0.25
NO_CAP = 1 << 30

SIOCOUTQ = 0x5411
SO_PEEK_OFF = 42
LEAST_OF_BUFFER = 12
"""The part of a socket's send buffer below which a guest waits. At 3/4 - 1/12 = 2/3 of the buffer
in use the kernel says that a socket takes no more: so whoever waits will be told."""

BLOCK = Struct("!II")
MAX_BLOCKS = 4
"""As many as fit into the options (RFC 2018, 3)."""

_number = Struct("i")


@lru_cache(maxsize=64)
def gso_offload(mss: int) -> Offload:
    """Return the offload of superframes with segments of ``mss`` bytes."""
    return Offload(F_NEEDS_CSUM, GSO_TCPV4, HEADERS_SIZE, mss, 34, 16)


def fold(number: int) -> int:
    """Fold a sum of 16-bit words to 16 bits."""
    return number % 0xFFFF or 0xFFFF


class TcpSpeaker:
    """A connection's state, and the segments without data that it sends."""

    __slots__ = (
        "ack_owed",
        "acknowledged",
        "addresses",
        "addresses_sum",
        "ahead",
        "backlog",
        "cap",
        "checksum_offload",
        "chunk",
        "dup_acks",
        "enough",
        "ethernet",
        "failed",
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
        "sack",
        "shut",
        "snd_max",
        "snd_nxt",
        "snd_una",
        "sock",
        "state",
        "table",
        "taken_to",
        "urgent",
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
        self.taken_to = 0
        """What is acknowledged: the guest's sequence number up to which the kernel has it."""
        self.last_edge = 0
        """The right edge of the window that the guest knows (a sequence number)."""
        self.enough = 0
        """Bytes of window that have to be left for a late acknowledgement not to ask the socket."""
        self.ack_owed = False
        """Whether something was taken that the guest hasn't heard of."""
        self.pending: list[View] = []
        self.pending_bytes = 0
        self.backlog = bytearray()
        self.ahead: Ahead | None = None
        """What came too early, if there is such."""
        self.sack = False
        """Whether the guest wants to know what came too early (RFC 2018)."""
        self.readable = False
        self.acknowledged = 0
        """Bytes that the guest has and that are still to be discarded in the socket."""
        self.peeked_to = 0
        """Bytes behind the socket's peek offset: under way and not yet acknowledged."""
        self.held_back = False
        """Whether the guest was told of less window than it may soon have."""
        self.peer_closed = False
        """The host has ended its direction; what it sent before is still to be read."""
        self.failed = 0
        """The socket's error (errno), for the guest when it has what came before."""
        self.urgent = False
        """The kernel ends reads at an urgent byte: a short one says nothing about the rest."""
        self.fin_at: int | None = None
        """Sequence number of our FIN, once it was sent."""
        self.fin_out = self.fin_acked = False
        self.chunk = FIRST_CHUNK
        """Bytes that the next peek asks for: as much as seems to be there."""
        self.guest_fin = self.shut = False
        self.dup_acks = 0
        self.recover: int | None = None
        """What had been sent when a loss was noticed; until it is acknowledged, and something
        new, repeated acknowledgements are about that loss (RFC 6582, 3.2)."""
        self.cap = NO_CAP
        """After a loss: how much may be under way."""
        self.rto = FIRST_RTO
        self.rto_at = 0.0
        self.retries = 0
        self.last_heard = table.now()
        self.gso_offload = self.checksum_offload = CHECKSUM_LEFT

    # What the guest and the host agreed on

    def learn_options(self, mss: int | None, shift: int | None, sack: bool) -> None:
        """Take the options of the guest's SYN (RFC 9293 3.7.1, RFC 7323 2.2, RFC 2018 2)."""
        self.sack = sack
        limit = self.table.plan.mtu - 40
        self.mss = min(max(DEFAULT_MSS if mss is None else mss, LEAST_MSS), limit)
        self.guest_shift = -1 if shift is None else min(shift, 14)
        self.gso_offload = gso_offload(self.mss)

    def start_at(self, sequence: int) -> None:
        """Take the sequence number of the guest's SYN."""
        self.rcv_nxt = self.taken_to = (sequence + 1) & MASK

    @property
    def shift(self) -> int:
        """How many bits to shift the guest's window (none, unless both sides scale)."""
        return max(self.guest_shift, 0)

    # Segments toward the guest

    def pack_headers(
        self, size: int, sequence: int, flags: int, window: int, options: bytes = b""
    ) -> bytes:
        """Return the headers, 54 bytes and ``options``, of a segment with ``size`` bytes of data.

        With data, the TCP checksum holds the pseudo-header's sum, for an offload to complete;
        without, it is complete.
        """
        header = 20 + len(options)
        length = 20 + header + size
        acknowledged = self.taken_to if flags & ACK else 0
        ip_sum = fold(0x4500 + length + DONT_FRAGMENT + 0x4006 + self.addresses_sum)
        total = self.addresses_sum + 6 + header + size
        if not size:
            total += (
                self.port + self.guest_port
                + (sequence >> 16) + (sequence & 0xFFFF)
                + (acknowledged >> 16) + (acknowledged & 0xFFFF)
                + (header << 10) + flags + window
                + int.from_bytes(options, "big")
            )  # fmt: skip
        checksum = fold(total)
        return HEADERS.pack(
            self.ethernet, 0x0800, 0x45, 0, length, 0, DONT_FRAGMENT, 64, 6, ip_sum ^ 0xFFFF,
            self.addresses, self.port, self.guest_port, sequence, acknowledged,
            header << 2, flags, window, checksum if size else checksum ^ 0xFFFF, 0,
        ) + options  # fmt: skip

    def send_ack(self) -> None:
        """Tell the guest what has been taken and how much more may come."""
        if self.ahead is not None and self.sack:
            self._send_selective_ack(self.ahead)
            return
        headers = self.pack_headers(0, self.snd_nxt, ACK, self.window())
        self.table.output.frame(Frame.of(headers))

    def _send_selective_ack(self, ahead: Ahead) -> None:
        """The same, and what is there behind the holes."""
        blocks = ahead.blocks(MAX_BLOCKS)
        options = b"\x01\x01\x05" + bytes((2 + 8 * len(blocks),)) if blocks else b""
        options += b"".join([BLOCK.pack(*block) for block in blocks])
        headers = self.pack_headers(0, self.snd_nxt, ACK, self.window(), options)
        self.table.output.frame(Frame.of(headers))

    def send_late_ack(self) -> None:
        """The same for a few bytes, without asking the socket while the window is wide open."""
        if self.ahead is not None:
            self.send_ack()
            return
        headers = self.pack_headers(0, self.snd_nxt, ACK, self.window_now())
        self.table.output.frame(Frame.of(headers))

    def window_now(self) -> int:
        """Return the window field without asking the socket, while the window is wide open."""
        left = (self.last_edge - self.taken_to) & MASK
        if self.shut or self.enough < left < HALF:
            self.ack_owed = False
            return self.promised()
        return self.window()

    def send_final_ack(self) -> None:
        """After the end: the guest did not hear that its FIN was."""
        headers = self.pack_headers(0, self.snd_nxt, ACK, self.promised())
        self.table.output.frame(Frame.of(headers))

    def window(self) -> int:
        """Measure the socket's room and return it as the header's window field."""
        self.ack_owed = False
        left = (self.last_edge - self.taken_to) & MASK
        buffer, room = self._measure()
        least = min(2 * self.mss, buffer // LEAST_OF_BUFFER)
        if self.shut or room < least >> 1:
            room = 0
        # never take back what was promised (RFC 9293, 3.8.6)
        scaled = max(self._scaled_down(room), self._scaled_up(left) if left < HALF else 0)
        open_for = scaled << (WINDOW_SHIFT if self.guest_shift >= 0 else 0)
        self.last_edge = (self.taken_to + open_for) & MASK
        self.enough = open_for - (open_for >> 2)
        if room < least and open_for < least and not self.shut:
            self._hold_back()
        return scaled

    def promised(self) -> int:
        """Return the window field that promises (next to) nothing new."""
        left = (self.last_edge - self.taken_to) & MASK
        return self._scaled_up(left) if left < HALF else 0

    def _scaled_up(self, left: int) -> int:
        """Scale what was promised; rounded up, so that the edge doesn't move back."""
        if self.guest_shift < 0:
            return min(left, 0xFFFF)
        scaled = min((left + (1 << WINDOW_SHIFT) - 1) >> WINDOW_SHIFT, 0xFFFF)
        self.last_edge = (self.taken_to + (scaled << WINDOW_SHIFT)) & MASK
        return scaled

    def _scaled_down(self, window: int) -> int:
        return min(window >> (WINDOW_SHIFT if self.guest_shift >= 0 else 0), 0xFFFF)

    def _hold_back(self) -> None:
        """The guest has next to no window: have the socket tell when it takes more.

        Its event is edge-triggered and would not come again after a write that went through, so
        the kernel is asked anew.
        """
        self.held_back = True
        self.table.watch_again(self)

    def _measure(self) -> tuple[int, int]:
        """Return the size of the socket's send buffer, and what it would take now, cautiously."""
        buffer = self._buffer()
        return buffer, max(0, buffer * 3 // 4 - self.unsent())

    def _buffer(self) -> int:
        return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def unsent(self) -> int:
        """Return the bytes in the socket that the host's peer has not acknowledged."""
        queued: int = _number.unpack(ioctl(self.fd, SIOCOUTQ, b"\0\0\0\0"))[0]
        return queued

    def send_reset(self) -> None:
        """Tell the guest that the connection is gone."""
        flags = RST if self.state == SYN_SENT else RST | ACK
        self.table.output.frame(Frame.of(self.pack_headers(0, self.snd_nxt, flags, 0)))
