# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Frames over a socket to another VM, to a harness, to whoever: ``-netdev socket``.

    socket,id=ID,fd=N                           a connected stream socket that the caller opened
    socket,id=ID,listen=[HOST]:PORT             wait for a peer; the next one when that leaves
    socket,id=ID,connect=HOST:PORT              connect to a peer, again and again until it is there

The bytes are those of ``netdev/framing.py``.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from vmwire.errors import ConfigError
from vmwire.netdev.addresses import HOST_PORT, HostPort, Place, resolve
from vmwire.netdev.connections import Connecting, Given, Listening, Source
from vmwire.netdev.stream_line import StreamLine
from vmwire.options.table import option, record
from vmwire.options.values import IDENTIFIER, STRING

RETRY_S = 1.0
"""How often ``connect=`` tries while nobody listens. (QEMU tries once.)"""
BACKLOG = 1


@record("netdev", "socket", later=("mcast", "udp", "localaddr"))
@dataclass(slots=True, kw_only=True)
class SocketOptions:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)
    fd: str | None = option(STRING, help="a connected stream socket that the caller opened")
    listen: HostPort | None = option(HOST_PORT, help="[HOST]:PORT to wait at for a peer")
    connect: HostPort | None = option(HOST_PORT, help="HOST:PORT where a peer listens")

    def __post_init__(self) -> None:
        modes = (self.fd, self.listen, self.connect)
        if sum(mode is not None for mode in modes) != 1:
            raise ConfigError("exactly one of listen=, connect=, mcast= or udp= is required")

    def source(self) -> Source:
        """Where its connections come from."""
        if self.fd is not None:
            return Given(self.fd)
        if self.listen is not None:
            where = self.listen
            return Listening(lambda: listen_at(where))
        assert self.connect is not None
        there = self.connect
        return Connecting(lambda: resolve(there, socket.SOCK_STREAM), RETRY_S)


def listen_at(where: HostPort) -> socket.socket:
    """A listening socket; ``ConfigError`` if that can't be."""
    place = resolve(where, socket.SOCK_STREAM, passive=True)
    sock = socket.socket(place.family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place.address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _cant_bind(place, error) from None
    return sock


def _cant_bind(place: Place, error: OSError) -> ConfigError:
    return ConfigError(f"can't bind ip={place.address[0]} to socket: {error.strerror}")


class SocketNetdev(StreamLine):
    """The box."""

    OPTIONS = SocketOptions

    def __init__(self, options: SocketOptions) -> None:
        super().__init__(options.id, options.source())
