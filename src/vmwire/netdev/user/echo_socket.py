# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The host's side of a guest's pings: sockets that send echo requests and hear the answers.

An ordinary user has *ping sockets* where the host's ``net.ipv4.ping_group_range`` lets them
(icmp(7)): the kernel owns the identifier and delivers only what answers to it. With the right to
raw sockets there is another way: we choose an identifier, and a socket filter keeps everybody
else's answers away. Where neither is allowed nothing can be done.
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Collection, Iterator
from random import randrange
from struct import Struct
from typing import NamedTuple

from vmwire.netdev.user.host_errors import ask_for_errors
from vmwire.wire.protocols.checksum import internet_checksum

IP_TTL = 2
IP_RECVTTL = 12
SO_ATTACH_FILTER = 26
SOL_RAW = 255
ICMP_FILTER = 1
NUMBER = Struct("=i")
ALL_BUT_ECHO_REPLY = Struct("=I").pack(0xFFFFFFFE)
FILTER_PROGRAM = Struct("@HP")
INSTRUCTION = Struct("=HBBI")

ECHO_HEADER = 8
LARGEST = 65535
AT_ONCE = 32
DEFAULT_TTL = 64
FLAGS = socket.MSG_DONTWAIT


class Answer(NamedTuple):
    """An echo reply as the host got it."""

    peer: bytes
    sequence: int
    data: bytes
    ttl: int


class EchoSocket:
    """A socket for the echoes of one guest and identifier."""

    def __init__(self, sock: socket.socket, ident: int | None) -> None:
        """``ident``: ours, on a raw socket; None: the kernel's, on a ping socket."""
        self.sock = sock
        self.ident = ident
        self.fd = sock.fileno()

    def send(self, address: str, message: bytes, ttl: int) -> None:
        """Send an echo request; its identifier and checksum are put right. Raises ``OSError``.

        ``message`` has zeros for both.
        """
        if self.ident is not None:
            message = _with_identifier(message, self.ident)
        hops = (socket.IPPROTO_IP, IP_TTL, NUMBER.pack(ttl))
        self.sock.sendmsg((message,), (hops,), FLAGS, (address, 0))

    def answers(self) -> Iterator[Answer]:
        """Take what has arrived, a bounded number. Ends early on an error of the socket."""
        for _ in range(AT_ONCE):
            try:
                packet, ancillary, _, (host, _) = self.sock.recvmsg(LARGEST, 64, FLAGS)
            except OSError:
                return
            ttl = DEFAULT_TTL
            if self.ident is not None:
                ttl, packet = packet[8], packet[(packet[0] & 15) * 4 :]
                if packet[4:6] != self.ident.to_bytes(2, "big"):
                    continue
            for level, kind, value in ancillary:
                if level == socket.IPPROTO_IP and kind == IP_TTL:
                    (ttl,) = NUMBER.unpack_from(value)
            if len(packet) >= ECHO_HEADER and packet[0] == 0:
                sequence = packet[6] << 8 | packet[7]
                yield Answer(socket.inet_aton(host), sequence, packet[ECHO_HEADER:], ttl)

    def close(self) -> None:
        """Give the socket back."""
        self.sock.close()


def open_echo_socket(taken: Collection[int]) -> EchoSocket | None:
    """Open what the host allows; None: nothing. ``taken``: identifiers of other raw sockets."""
    kind = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | kind, socket.IPPROTO_ICMP)
    except OSError:
        return _open_raw(kind, taken)
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    ask_for_errors(sock)
    return EchoSocket(sock, None)


def _open_raw(kind: int, taken: Collection[int]) -> EchoSocket | None:
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW | kind, socket.IPPROTO_ICMP)
    except OSError:
        return None
    ident = randrange(1, 0x10000)
    while ident in taken:
        ident = randrange(1, 0x10000)
    sock.setsockopt(SOL_RAW, ICMP_FILTER, ALL_BUT_ECHO_REPLY)
    _keep_only(sock, ident)
    ask_for_errors(sock)
    return EchoSocket(sock, ident)


def _keep_only(sock: socket.socket, ident: int) -> None:
    """Let a raw socket hear only echoes with ``ident`` (a classic BPF program)."""
    program = b"".join(
        INSTRUCTION.pack(*instruction)
        for instruction in (
            (0xB1, 0, 0, 0),  # x = length of the IPv4 header
            (0x48, 0, 0, 4),  # a = the identifier behind it
            (0x15, 0, 1, ident),
            (0x06, 0, 0, 0xFFFFFFFF),  # all of it
            (0x06, 0, 0, 0),  # nothing
        )
    )
    memory = ctypes.create_string_buffer(program, len(program))
    described = FILTER_PROGRAM.pack(len(program) // INSTRUCTION.size, ctypes.addressof(memory))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, described)


def _with_identifier(message: bytes, ident: int) -> bytes:
    unsummed = message[:2] + b"\0\0" + ident.to_bytes(2, "big") + message[6:]
    return message[:2] + internet_checksum(unsummed).to_bytes(2, "big") + unsummed[4:]
