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

from vmwire.engine.host import Host
from vmwire.engine.loop import READ
from vmwire.errors import ConfigError
from vmwire.netdev.user.options import ForwardRule
from vmwire.netdev.user.plan import dotted

BACKLOG = 128
ACCEPTS_PER_TURN = 32


def open_socket(host: Host, rule: ForwardRule, owner: str) -> socket.socket:
    """Take the rule's socket from the store, or bind one.

    Raises ConfigError, naming port and ``owner``, when the port can't be had.
    """
    address, name = dotted(rule.host_address), _store_name(rule, owner)
    kept = host.store.take(name)
    if kept is not None:
        return socket.socket(fileno=kept)
    kind = socket.SOCK_STREAM if rule.protocol == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if rule.protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, rule.host_port))
        if rule.protocol == "tcp":
            sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"Could not set up host forwarding rule '{rule}' of netdev '{owner}': "
            f"{rule.protocol} port {rule.host_port}: {os.strerror(error.errno or 0)}"
        ) from None
    host.store.keep(name, sock.fileno())
    return sock


def give_back(host: Host, rule: ForwardRule, owner: str) -> None:
    """Let the port go, for others to have. What is on trial is still somebody else's."""
    if not host.store.on_trial:
        host.store.drop(_store_name(rule, owner))


def _store_name(rule: ForwardRule, owner: str) -> str:
    return f"hostfwd:{owner}:{rule.protocol}:{dotted(rule.host_address)}:{rule.host_port}"


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
