# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A virtio network card behind a vhost-user socket, in the server's role (``attach.one_machine``).

Each connection starts anew. The listening socket is kept in the fd store, so that a restarted
worker takes it back and the machine's next attempt finds it.
"""

from __future__ import annotations

import socket

from vmwire.attach.one_machine import OneMachine
from vmwire.attach.vhost_user.backend import Backend
from vmwire.attach.vhost_user.channel import Channel
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

    def stats(self) -> dict[str, object]:
        """Return counters and states as plain data: the card's, and

        ``connected``, ``connections``, ``protocol_errors``, ``memory_bytes`` (what the machine
        shares) and ``memory_sealed`` (whether it can't be shrunk under our hands).
        """
        backend = self._session
        return (
            self.chip.stats()
            | self._connection_stats()
            | {
                "memory_bytes": backend.memory.size if backend else 0,
                "memory_sealed": backend.memory.sealed if backend else False,
            }
        )
