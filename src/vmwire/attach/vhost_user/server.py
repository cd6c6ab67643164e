# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A virtio network card behind a vhost-user socket, in the server's role (``attach.one_machine``).

Each connection starts anew, but for one that an earlier worker served: that one goes on (``kept``).
The listening socket is kept, too, so that a machine's next attempt finds a restarted worker.
"""

from __future__ import annotations

import socket
from functools import partial

from vmwire.attach.one_machine import OneMachine
from vmwire.attach.vhost_user import lasting
from vmwire.attach.vhost_user.backend import Backend
from vmwire.attach.vhost_user.channel import Channel
from vmwire.attach.vhost_user.kept import LIVED_S, MOST_DEATHS, Keeping
from vmwire.engine.host import NoStore
from vmwire.nic.options import VirtioNetOptions, VirtioNetPciOptions
from vmwire.nic.virtio_net import FEATURES, VirtioNet


class VhostUserNic(OneMachine[Backend]):
    """A card that a machine reaches through the Unix socket ``options.socket``.

    >>> from vmwire.engine.host import Host
    >>> from vmwire.engine.loop import Loop
    >>> nic = VhostUserNic(VirtioNetPciOptions(id="n0", socket="/tmp/vmwire-example.sock"))
    >>> nic.open(Host(Loop()))
    >>> nic.close()
    """

    OPTIONS = VirtioNetPciOptions

    def __init__(self, options: VirtioNetOptions) -> None:
        super().__init__("vhost-user", options.id or "virtio-net", options.socket)
        self.options = options
        self.chip = VirtioNet(self.name, self._defer, offered=options.features(FEATURES))
        self.port = self.chip.port

    def set_link(self, up: bool) -> None:
        """Plug or pull the cable. The wire's other end sees it; the guest can't be told."""
        self.chip.set_link(up)

    def _begin(self, connection: socket.socket) -> Backend:
        return Backend(Channel(connection), self.host.loop, self.chip, self.options.queue_pairs)

    def _begun(self, session: Backend) -> None:
        store = self.host.store
        if not isinstance(store, NoStore):
            session.keeping = Keeping(store, self.name)
            session.keeping.connection(session.fileno())
            session.keep()

    def _resume(self) -> None:
        keeping = Keeping(self.host.store, self.name)
        fd = keeping.take("connection")
        if fd is not None:
            self._go_on_with(fd, partial(self._restore, keeping))

    def _restore(self, keeping: Keeping, session: Backend) -> None:
        session.keeping = keeping
        record = keeping.take_record()
        if not self.host.store.on_trial:  # the worker before has died
            if record.serving:
                raise ValueError("a message was being served")
            if record.deaths >= MOST_DEATHS:
                raise ValueError("too many workers have died of it")
            record.deaths += 1
            self.host.loop.call_later(LIVED_S, partial(self._has_lived, session))
        lasting.restore(session, record.read(), keeping)
        session.handing.review()

    def _has_lived(self, session: Backend) -> None:
        if session is self._session and session.keeping is not None:
            session.keeping.has_lived()

    def hand_over(self) -> None:
        """Put down what the connection is like for a successor."""
        if self._session is not None:
            self._session.hand_over()

    def go_on(self) -> None:
        """Nothing was given away; chains that were let go are taken again."""
        if self._session is not None:
            self._session.handing.go_on()

    def stats(self) -> dict[str, object]:
        """Return counters and states as plain data: the card's, and

        ``connected``, ``connections``, ``protocol_errors``, ``memory_bytes`` (what the machine
        shares), ``memory_sealed`` (whether it can't be shrunk under our hands) and ``handed_on``
        (who serves the rings, where it isn't us; their frames aren't counted here).
        """
        backend = self._session
        return (
            self.chip.stats()
            | self._connection_stats()
            | {
                "memory_bytes": backend.memory.size if backend else 0,
                "memory_sealed": backend.memory.sealed if backend else False,
                "handed_on": backend.handing.stats() if backend else None,
            }
        )
