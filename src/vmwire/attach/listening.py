# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A listening Unix socket for machines that connect to a card.

It is kept in the fd store, so that a restarted worker takes it back and whoever connects meanwhile
waits in its queue. What a dead process left at its path is replaced.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections.abc import Callable

from vmwire.engine.host import Host
from vmwire.engine.loop import READ
from vmwire.errors import ConfigError
from vmwire.netdev.binding import remove_file
from vmwire.options.values import LONGEST_SOCKET_PATH

log = logging.getLogger(__name__)

ACCEPT_AGAIN_S = 0.5
"""How long to leave the listening socket alone after accepting has failed."""


class Listener:
    """Listens at ``path`` and hands each connection to ``on_connection``.

    ``store_name`` names the socket in the fd store. Raises ``ConfigError`` if the path can't be
    used.
    """

    def __init__(
        self, host: Host, path: str, store_name: str, on_connection: Callable[[socket.socket], None]
    ) -> None:
        self._host = host
        self._path = path
        self._store_name = store_name
        self._on_connection = on_connection
        self._closed = False
        kept = host.store.take(store_name)
        if kept is not None:
            self.socket = socket.socket(fileno=kept)
            self.socket.setblocking(False)
        else:
            self.socket = listen(path)
            host.store.keep(store_name, self.socket.fileno())
        host.loop.watch(self.socket.fileno(), READ, self._on_ready)

    def close(self) -> None:
        """Stop listening and remove the socket's file."""
        self._closed = True
        self._host.loop.unwatch(self.socket.fileno())
        self.socket.close()
        self._host.store.drop(self._store_name)
        remove_file(self._path)

    def _on_ready(self, events: int) -> None:
        try:
            connection, _ = self.socket.accept()
        except OSError as error:
            self._accept_later(error)
            return
        self._on_connection(connection)

    def _accept_later(self, error: OSError) -> None:
        """The machine has gone again, or there are no descriptors left: don't ask all the time."""
        log.warning("%s: accept: %s", self._store_name, error)
        loop = self._host.loop
        loop.change(self.socket.fileno(), 0)

        def watch_again() -> None:
            if not self._closed:
                loop.change(self.socket.fileno(), READ)

        loop.call_later(ACCEPT_AGAIN_S, watch_again)


def listen(path: str) -> socket.socket:
    """Make a listening Unix socket that only its owner can connect to.

    What a dead process left at ``path`` is replaced. Raises ``ConfigError``.
    """
    size = len(os.fsencode(path))
    if size > LONGEST_SOCKET_PATH:
        raise ConfigError(
            f"socket path of {size} bytes is too long (at most {LONGEST_SOCKET_PATH}): {path}"
        )
    _clear_the_way(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(listener.fileno(), 0o600)  # a socket file is made with its socket's mode
        listener.bind(path)
        listener.listen(4)
    except OSError as error:
        listener.close()
        raise ConfigError(f"can't listen on {path}: {error.strerror}") from error
    return listener


def _clear_the_way(path: str) -> None:
    """Remove a socket that nobody listens on any more."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:  # nothing there, or bind will say what is wrong
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"can't listen on {path}: something else than a socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        result = probe.connect_ex(path)
    if result != errno.ECONNREFUSED:
        raise ConfigError(f"can't listen on {path}: another process does")
    remove_file(path)
