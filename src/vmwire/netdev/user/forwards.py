# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Host forwards: ports of the host that lead to ports of a guest (``hostfwd=``).

The listening sockets are kept in the fd store, so that a port stays taken, and clients wait
instead of being refused, while a crashed worker is replaced.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from vmwire.engine.host import Host
from vmwire.engine.loop import READ
from vmwire.errors import ConfigError

BACKLOG = 128
ACCEPTS_PER_TURN = 32


@dataclass(frozen=True, slots=True)
class Forward:
    """One rule: what arrives at ``host_address:host_port`` goes to the guest's address and port.

    ``protocol`` is ``tcp`` or ``udp``; addresses are dotted quads, ``""`` for every address of the
    host. ``text`` is the rule as it was typed.
    """

    protocol: str
    host_address: str
    host_port: int
    guest_address: str
    guest_port: int
    text: str = ""

    @property
    def name(self) -> str:
        """Its name in the fd store."""
        return f"hostfwd:{self.protocol}:{self.host_address}:{self.host_port}"


def open_socket(host: Host, rule: Forward, owner: str) -> socket.socket:
    """Take the rule's socket from the store, or bind one.

    Raises ConfigError, naming port and ``owner``, when the port can't be had.
    """
    name = f"{owner}:{rule.name}"
    kept = host.store.take(name)
    if kept is not None:
        return socket.socket(fileno=kept)
    kind = socket.SOCK_STREAM if rule.protocol == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if rule.protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((rule.host_address, rule.host_port))
        if rule.protocol == "tcp":
            sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        where = f"{rule.protocol} port {rule.host_port} of {rule.host_address or 'the host'}"
        raise ConfigError(
            f"Could not set up host forwarding rule '{rule.text}': {where}, asked for by "
            f"netdev '{owner}': {os.strerror(error.errno or 0)}"
        ) from None
    host.store.keep(name, sock.fileno())
    return sock


class TcpListener:
    """One listening socket; ``on_client(sock, address, port)`` takes each connection."""

    def __init__(
        self,
        host: Host,
        sock: socket.socket,
        on_client: Callable[[socket.socket, str, int], None],
    ) -> None:
        self._loop = host.loop
        self.sock = sock
        self._on_client = on_client
        self._loop.watch(sock.fileno(), READ, self._on_readable)

    def _on_readable(self, events: int) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                client, (address, port) = self.sock.accept()
            except BlockingIOError:
                return
            except OSError:
                # out of descriptors, or a client that has left: look again a little later, since
                # the listener stays readable
                self._loop.change(self.sock.fileno(), 0)
                self._loop.call_later(0.1, self._again)
                return
            client.setblocking(False)
            self._on_client(client, address, port)

    def _again(self) -> None:
        if self.sock.fileno() >= 0:
            self._loop.change(self.sock.fileno(), READ)

    def close(self) -> None:
        """Stop listening. Harmless when called twice."""
        if self.sock.fileno() >= 0:
            self._loop.unwatch(self.sock.fileno())
            self.sock.close()
