# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A PCI network card behind a vfio-user socket, in the server's role.

The socket listens for as long as the card exists; one machine at a time is connected. When it goes
the card is reset; when another comes while one is there it is turned away. A machine that an
earlier worker served is taken over (``kept``).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable

from vmwire.attach.listening import Listener
from vmwire.attach.vfio_user.channel import Channel
from vmwire.attach.vfio_user.kept import Keeping
from vmwire.attach.vfio_user.session import Nobody, Session
from vmwire.bus.pci.config import Description
from vmwire.bus.pci.function import ChipFactory, PciFunction
from vmwire.bus.pci.vfio_user import ProtocolError
from vmwire.engine.clock import Timers
from vmwire.engine.host import Host, NoStore
from vmwire.engine.loop import READ
from vmwire.errors import ConfigError

log = logging.getLogger(__name__)

MOST_LAST_TURNS = 64
"""Turns of messages that a machine may leave behind and be noticed to have gone."""


class CardServer:
    """Serves a card at the Unix socket ``path``; knows nothing of its chip.

    The card is made before it is known in which loop it runs: its timers join the loop's later.
    """

    def __init__(
        self,
        name: str,
        path: str | None,
        description: Description,
        factory: ChipFactory,
        rom: bytes = b"",
    ) -> None:
        self.name = name
        self.path = path
        self._timers = Timers()
        self.card = PciFunction(
            description,
            factory,
            machine=Nobody(),
            timers=self._timers,
            defer=self._defer,
            random=os.urandom,
            name=name,
            rom=rom,
        )
        self.port = self.card.port
        self.connections = 0
        """Machines that were served so far."""
        self.protocol_errors = 0
        """Connections that ended because of what the machine sent."""
        self._host: Host | None = None
        self._listener: Listener | None = None
        self._session: Session | None = None

    def _defer(self, function: Callable[[], None]) -> None:
        assert self._host is not None
        self._host.loop.defer(function)

    # Opening and closing

    def open(self, host: Host) -> None:
        """Listen. Raises ``ConfigError`` if the path can't be used."""
        if self.path is None:
            raise ConfigError("a socket is needed: socket=PATH")
        self._host = host
        self._timers.join(host.loop.timers)
        self._listener = Listener(host, self.path, f"vfio-user {self.name}", self._on_connection)
        self._resume(host)

    def close(self) -> None:
        """End the connection and remove the socket."""
        self._hang_up()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    # Machines that come and go

    def _on_connection(self, connection: socket.socket) -> None:
        assert self._host is not None
        self._look_for_its_end()
        if self._session is not None:
            log.warning("%s: a second machine was turned away", self.name)
            connection.close()
            return
        self.connections += 1
        log.info("%s: a machine has connected", self.name)
        session = self._begin(connection)
        if not isinstance(self._host.store, NoStore):  # keeping costs a little at each turn
            keeping = Keeping(self._host.store, self.name)
            session.keep_in(keeping, keeping.connection(connection.fileno()))

    def _look_for_its_end(self) -> None:
        """Serve what a machine has left behind, if it has just gone."""
        for _ in range(MOST_LAST_TURNS):
            if self._session is not None:
                self._on_message(0)

    def _begin(self, connection: socket.socket) -> Session:
        assert self._host is not None
        channel = Channel(connection)
        session = self._session = Session(channel, self._host.loop, self.card)
        session.on_waiting = self._on_waiting
        self._host.loop.watch(channel.fileno(), READ, self._on_message)
        return session

    def _resume(self, host: Host) -> None:
        """Go on with the machine that an earlier worker served, if there is one."""
        keeping = Keeping(host.store, self.name)
        kept = keeping.take()
        if kept is None:
            return
        fd, record = kept
        session = self._begin(socket.socket(fileno=fd))
        try:
            session.resume(keeping, record)
        except (ValueError, OSError, ProtocolError) as error:
            log.error("%s: the machine is lost: %s", self.name, error)
            self._hang_up()
            record.close()
            keeping.drop()
            return
        self.connections += 1
        log.warning("%s: went on with the machine of an earlier worker", self.name)
        if session.channel.waiting:
            host.loop.defer(self._on_waiting)

    def _on_waiting(self) -> None:
        if self._session is not None:
            self._on_message(0)

    def _on_message(self, events: int) -> None:
        assert self._session is not None
        try:
            self._session.on_readable()
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
        session, self._session = self._session, None
        if session is not None and self._host is not None:
            self._host.loop.unwatch(session.channel.fileno())
            session.close()
            self.card.reset()

    def set_link(self, up: bool) -> None:
        """Plug or pull the cable: the guest sees its carrier come and go."""
        self.card.set_link(up)

    def stats(self) -> dict[str, object]:
        """Return counters and states as plain data: the card's, and

        ``connected``, ``connections``, ``protocol_errors``, ``messages`` and ``refused`` (of this
        connection), ``signals`` (interrupts sent), ``memory_bytes`` (what the machine shares) and
        ``memory_sealed`` (whether it can't be shrunk under our hands).
        """
        session = self._session
        return self.card.stats() | {
            "socket": self.path,
            "connected": session is not None,
            "connections": self.connections,
            "protocol_errors": self.protocol_errors,
            "messages": session.served if session else 0,
            "refused": dict(session.refused) if session else {},
            "signals": session.signals.sent if session else 0,
            "memory_bytes": session.memory.size if session else 0,
            "memory_sealed": session.memory.sealed if session else False,
        }
