# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A card behind a listening Unix socket: one machine at a time, and what becomes of others.

The socket listens for as long as the card exists. Each connection is a *session* of the protocol
that the card is served by. A machine that comes while another is there is turned away, unless the
other one has just gone. How a session begins and what its end means to the card is the subclass's.
"""

from __future__ import annotations

import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from vmwire.attach.listening import Listener
from vmwire.bus.protocol import ProtocolError
from vmwire.engine.host import Host
from vmwire.engine.loop import READ
from vmwire.engine.memory import MappingError
from vmwire.errors import ConfigError

log = logging.getLogger(__name__)

MOST_LAST_TURNS = 64
"""Turns of messages that a machine may leave behind and be noticed to have gone."""


class Session(Protocol):
    """One connection."""

    def fileno(self) -> int:
        """The connection's descriptor."""

    def on_readable(self) -> None:
        """Serve what has come. Raises EOFError, OSError, ProtocolError at the connection's end."""

    def close(self) -> None:
        """Give everything back that came over the connection, and close it."""


S = TypeVar("S", bound=Session)


class OneMachine(ABC, Generic[S]):
    """Serves the card ``name`` at the Unix socket ``path``; ``protocol`` is its name in the store.

    A subclass gives ``_begin``, which makes a session of a connection, and may give ``_resume``,
    ``_begun`` and ``_ended``.
    """

    def __init__(self, protocol: str, name: str, path: str | None) -> None:
        self.name = name
        self.path = path
        self.connections = 0
        """Machines that were served so far."""
        self.protocol_errors = 0
        """Connections that ended because of what the machine sent."""
        self._protocol = protocol
        self._host: Host | None = None
        self._listener: Listener | None = None
        self._session: S | None = None

    @property
    def host(self) -> Host:
        """The host's side; there from ``open`` on."""
        assert self._host is not None
        return self._host

    def _defer(self, function: Callable[[], None]) -> None:
        self.host.loop.defer(function)

    # For the subclass

    @abstractmethod
    def _begin(self, connection: socket.socket) -> S:
        """Make the session of a connection."""

    def _resume(self) -> None:
        """Go on with the machine that an earlier worker served, if that can be."""

    def _go_on_with(self, fd: int, restore: Callable[[S], None]) -> None:
        """Serve the machine behind a connection that an earlier worker had.

        ``restore`` brings a session back; ValueError, OSError, ProtocolError, MappingError say that
        it can't. On trial that is an error (``ConfigError``), else the machine is lost.
        """
        session = self._attend(socket.socket(fileno=fd))
        try:
            restore(session)
        except (ValueError, OSError, ProtocolError, MappingError) as error:
            if self.host.store.on_trial:
                raise ConfigError(f"{self.name} can't be taken over: {error}") from None
            log.error("%s: the machine is lost: %s", self.name, error)
            self._hang_up()
            return
        self.connections += 1
        if not self.host.store.on_trial:
            log.warning("%s: went on with the machine of an earlier worker", self.name)

    def _begun(self, session: S) -> None:
        """A new machine's session has begun."""

    def _ended(self) -> None:
        """The session is closed, the machine has gone."""

    # Opening and closing

    def open(self, host: Host) -> None:
        """Listen. Raises ``ConfigError`` if the path can't be used."""
        if self.path is None:
            raise ConfigError("a socket is needed: socket=PATH")
        self._host = host
        store_name = f"{self._protocol} {self.name}"
        self._listener = Listener(host, self.path, store_name, self._on_connection)
        self._resume()

    def close(self) -> None:
        """End the connection and remove the socket."""
        self._hang_up()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    # Machines that come and go

    def _on_connection(self, connection: socket.socket) -> None:
        self._look_for_its_end()
        if self._session is not None:
            log.warning("%s: a second machine was turned away", self.name)
            connection.close()
            return
        self.connections += 1
        log.info("%s: a machine has connected", self.name)
        self._begun(self._attend(connection))

    def _look_for_its_end(self) -> None:
        """Serve what a machine has left behind, if it has just gone."""
        for _ in range(MOST_LAST_TURNS):
            if self._session is not None:
                self._on_message(0)

    def _attend(self, connection: socket.socket) -> S:
        """Begin a session and listen to it."""
        session = self._session = self._begin(connection)
        self.host.loop.watch(session.fileno(), READ, self._on_message)
        return session

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
        if session is not None:
            self.host.loop.unwatch(session.fileno())
            session.close()
            self._ended()

    def _connection_stats(self) -> dict[str, object]:
        """``socket``, ``connected``, ``connections`` and ``protocol_errors``."""
        return {
            "socket": self.path,
            "connected": self._session is not None,
            "connections": self.connections,
            "protocol_errors": self.protocol_errors,
        }
