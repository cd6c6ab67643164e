# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A virtio network card behind a vhost-user socket, in the server's role.

The socket listens for as long as the card exists; one machine at a time is connected, and each
connection starts anew. A machine that comes while another is there is turned away, unless the other
one has just gone. The listening socket is kept in the fd store, so that a restarted worker takes it
back and the machine's next attempt finds it.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from vmwire.attach.listening import Listener
from vmwire.attach.vhost_user.backend import Backend
from vmwire.attach.vhost_user.channel import Channel
from vmwire.bus.virtio.vhost_user import ProtocolError
from vmwire.engine.host import Host
from vmwire.engine.loop import READ
from vmwire.errors import ConfigError
from vmwire.nic.options import VirtioNetOptions, VirtioNetPciOptions
from vmwire.nic.virtio_net import FEATURES, VirtioNet

log = logging.getLogger(__name__)


class VhostUserNic:
    """A card that a machine reaches through the Unix socket ``options.socket``.

    >>> from vmwire.engine.loop import Loop
    >>> nic = VhostUserNic(VirtioNetPciOptions(id="n0", socket="/tmp/vmwire-example.sock"))
    >>> nic.open(Host(Loop()))
    >>> nic.close()
    """

    OPTIONS = VirtioNetPciOptions

    def __init__(self, options: VirtioNetOptions) -> None:
        self.options = options
        self.name = options.id or "virtio-net"
        self.chip = VirtioNet(self.name, self._defer, offered=options.features(FEATURES))
        self.port = self.chip.port
        self.connections = 0
        """Machines that were served so far."""
        self.protocol_errors = 0
        """Connections that ended because of what the machine sent."""
        self._host: Host | None = None
        self._listener: Listener | None = None
        self._backend: Backend | None = None

    def _defer(self, function: Callable[[], None]) -> None:
        assert self._host is not None
        self._host.loop.defer(function)

    # Opening and closing

    def open(self, host: Host) -> None:
        """Listen. Raises ``ConfigError`` if the path can't be used."""
        path = self.options.socket
        if path is None:
            raise ConfigError("a socket is needed: socket=PATH")
        self._host = host
        name = f"vhost-user {self.name}"
        self._listener = Listener(host, path, name, self._on_connection)

    def close(self) -> None:
        """End the connection and remove the socket."""
        self._hang_up()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def set_link(self, up: bool) -> None:
        """Plug or pull the cable. The wire's other end sees it; the guest can't be told."""
        self.chip.set_link(up)

    # Machines that come and go

    def _on_connection(self, connection: socket.socket) -> None:
        assert self._host is not None
        if self._backend is not None:
            self._on_message(0)  # which sees whether the other one has just gone
        if self._backend is not None:
            log.warning("%s: a second machine was turned away", self.name)
            connection.close()
            return
        self.connections += 1
        log.info("%s: a machine has connected", self.name)
        channel = Channel(connection)
        self._backend = Backend(channel, self._host.loop, self.chip, self.options.queue_pairs)
        self._host.loop.watch(channel.fileno(), READ, self._on_message)

    def _on_message(self, events: int) -> None:
        assert self._backend is not None
        try:
            self._backend.on_readable()
        except EOFError:
            log.info("%s: the machine has gone", self.name)
            self._hang_up()
        except ProtocolError as error:
            self.protocol_errors += 1
            log.warning("%s: connection closed: %s", self.name, error)
            self._hang_up()
        except OSError as error:
            log.warning("%s: connection lost: %s", self.name, error)
            self._hang_up()

    def _hang_up(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None and self._host is not None:
            self._host.loop.unwatch(backend.channel.fileno())
            backend.close()

    def stats(self) -> dict[str, object]:
        """Return counters and states as plain data: the card's, and

        ``connected``, ``connections``, ``protocol_errors``, ``memory_bytes`` (what the machine
        shares) and ``memory_sealed`` (whether it can't be shrunk under our hands).
        """
        backend = self._backend
        return self.chip.stats() | {
            "socket": self.options.socket,
            "connected": backend is not None,
            "connections": self.connections,
            "protocol_errors": self.protocol_errors,
            "memory_bytes": backend.memory.size if backend else 0,
            "memory_sealed": backend.memory.sealed if backend else False,
        }
