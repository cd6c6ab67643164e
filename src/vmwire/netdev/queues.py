# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The size of a socket's queues."""

from __future__ import annotations

import socket

QUEUE_BYTES = 4 << 20
"""What sockets ask for in each direction; the host's limits decide."""
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33


def enlarge(sock: socket.socket) -> None:
    """Ask for larger queues: beyond the host's limit where that is allowed."""
    for option, forced in (
        (socket.SO_RCVBUF, SO_RCVBUFFORCE),
        (socket.SO_SNDBUF, SO_SNDBUFFORCE),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, QUEUE_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, option, QUEUE_BYTES)
