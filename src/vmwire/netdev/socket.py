# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Frames over a socket to another VM, to a harness, to whoever: ``-netdev socket``.

    socket,id=ID,fd=N                           a connected stream socket that the caller opened
    socket,id=ID,listen=[HOST]:PORT             wait for a peer; the next one when that leaves
    socket,id=ID,connect=HOST:PORT              connect to a peer, again and again until it is there

The bytes are those of ``netdev/framing.py``.
"""

from __future__ import annotations

import dataclasses
import socket
from dataclasses import dataclass

from vmwire.errors import ConfigError
from vmwire.netdev import inherited
from vmwire.netdev.addresses import HOST_PORT, HostPort, is_numeric, resolve
from vmwire.netdev.binding import listen_at
from vmwire.netdev.connections import Connecting, Given, Listening, Source
from vmwire.netdev.stream_line import StreamLine
from vmwire.options.table import option, record
from vmwire.options.values import IDENTIFIER, STRING

RETRY_S = 1.0
"""How often ``connect=`` tries while nobody listens. (QEMU tries once.)"""


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

    def claim(self) -> tuple[SocketOptions, dict[str, int]]:
        """The same with descriptors named, for a network in another process (``inherited``)."""
        if self.fd is None:
            return self, {}
        name, fd = inherited.claimed(self.fd, self.id)
        return dataclasses.replace(self, fd=name), {name: fd}

    def source(self) -> Source:
        """Where its connections come from."""
        if self.fd is not None:
            return Given(self.fd)
        if self.listen is not None:
            where = self.listen
            return Listening(lambda: listen_at(where))
        assert self.connect is not None
        there = self.connect
        return Connecting(
            lambda: [resolve(there, socket.SOCK_STREAM)], RETRY_S, fixed=is_numeric(there.host)
        )


class SocketNetdev(StreamLine):
    """The box."""

    OPTIONS = SocketOptions

    def __init__(self, options: SocketOptions) -> None:
        super().__init__(options.id, options.source())
