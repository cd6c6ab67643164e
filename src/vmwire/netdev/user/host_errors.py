# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the host learns about datagrams that didn't arrive: a socket's error queue (ip(7), recv(2)).

With ``IP_RECVERR`` the kernel keeps each ICMP error about what an unconnected socket sent, with
the address that the datagram was for and the one who complained. Unread errors keep the socket
"ready" and fail its next call, so they are read where they are noticed.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

IP_RECVERR = 11
EXTENDED_ERROR = Struct("=IBBBBII")
"""struct sock_extended_err: errno, origin, type, code, pad, info, data."""
OFFENDER = Struct("=HH4s")
"""The start of the sockaddr behind it."""
ORIGIN_ICMP = 2

MAX_AT_ONCE = 32
QUOTE = 128
FLAGS = socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT


class HostError(NamedTuple):
    """An error about one datagram: ``type`` and ``code`` are ICMP's, or 0 if it is local."""

    errno: int
    type: int
    code: int
    destination: bytes
    port: int
    offender: bytes
    quote: bytes
    """What was sent (its beginning), from the transport's header or payload on."""


def ask_for_errors(sock: socket.socket) -> None:
    """Have the kernel keep errors about what ``sock`` sends."""
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)


def read_errors(sock: socket.socket) -> Iterator[HostError]:
    """Take errors off the queue, a bounded number of them."""
    for _ in range(MAX_AT_ONCE):
        try:
            quote, ancillary, _, name = sock.recvmsg(QUOTE, 128, FLAGS)
        except OSError:  # empty
            return
        for level, kind, data in ancillary:
            whole = EXTENDED_ERROR.size + OFFENDER.size
            if level == socket.IPPROTO_IP and kind == IP_RECVERR and len(data) >= whole:
                yield _parse(data, quote, name)


def _parse(data: bytes, quote: bytes, name: tuple[str, int]) -> HostError:
    number, origin, type_, code, _, _, _ = EXTENDED_ERROR.unpack_from(data)
    _, _, offender = OFFENDER.unpack_from(data, EXTENDED_ERROR.size)
    if origin != ORIGIN_ICMP:
        type_ = code = 0
    destination = socket.inet_aton(name[0]) if name else bytes(4)
    port = name[1] if name else 0
    return HostError(number, type_, code, destination, port, offender, quote)
