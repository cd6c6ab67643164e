# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A PCI network card behind a vfio-user socket, in the server's role (``attach.one_machine``).

When the machine goes the card is reset. A machine that an earlier worker served is taken over
(``kept``).
"""

from __future__ import annotations

import os
import socket

from vmwire.attach.one_machine import OneMachine
from vmwire.attach.vfio_user.channel import Channel
from vmwire.attach.vfio_user.kept import Keeping
from vmwire.attach.vfio_user.lasting import Lasting
from vmwire.attach.vfio_user.session import Nobody, Session
from vmwire.bus.pci.config import Description
from vmwire.bus.pci.function import ChipFactory, PciFunction
from vmwire.engine.clock import Timers
from vmwire.engine.host import Host, NoStore


class CardServer(OneMachine[Session]):
    """Serves a card at the Unix socket ``path``; knows nothing of its chip.

    The card is made before it is known in which loop it runs: its timers join the loop's later. It
    has no ROM BAR without ``rom``: a machine that boots from it brings its own (``romfile=``).
    """

    def __init__(
        self,
        name: str,
        path: str | None,
        description: Description,
        factory: ChipFactory,
        rom: bytes = b"",
    ) -> None:
        super().__init__("vfio-user", name, path)
        self._timers = Timers()
        self.card = PciFunction(
            description if rom else description.with_rom(b""),
            factory,
            machine=Nobody(),
            timers=self._timers,
            defer=self._defer,
            random=os.urandom,
            name=name,
            rom=rom,
        )
        self.port = self.card.port

    @property
    def register_chip(self) -> object:
        """The card's chip."""
        return self.card.chip

    def open(self, host: Host) -> None:
        """Listen. Raises ``ConfigError`` if the path can't be used."""
        self._timers.join(host.loop.timers)
        super().open(host)

    def _begin(self, connection: socket.socket) -> Session:
        session = Session(Channel(connection), self.host.loop, self.card)
        session.on_waiting = self._on_waiting
        return session

    def _begun(self, session: Session) -> None:
        store = self.host.store
        if not isinstance(store, NoStore):  # keeping costs a little at each turn
            keeping = Keeping(store, self.name)
            Lasting(session, keeping, keeping.connection(session.fileno())).begin()

    def _ended(self) -> None:
        self.card.reset()

    def _resume(self) -> None:
        keeping = Keeping(self.host.store, self.name)
        kept = keeping.take_connection()
        if kept is None:
            return
        fd, record = kept

        def restore(session: Session) -> None:
            session.lasting = Lasting(session, keeping, record)
            session.lasting.resume()
            if session.channel.waiting:
                self._defer(self._on_waiting)

        self._go_on_with(fd, restore)

    def hand_over(self) -> None:
        """Put down what the connection is like for a successor."""
        if self._session is not None and self._session.lasting is not None:
            self._session.lasting.hand_over()

    def go_on(self) -> None:
        """Nothing was given away."""

    def _on_waiting(self) -> None:
        if self._session is not None:
            self._on_message(0)

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
        return (
            self.card.stats()
            | self._connection_stats()
            | {
                "messages": session.served if session else 0,
                "refused": dict(session.refused) if session else {},
                "signals": session.signals.sent if session else 0,
                "memory_bytes": session.memory.size if session else 0,
                "memory_sealed": session.memory.sealed if session else False,
            }
        )
