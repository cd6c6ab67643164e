# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Frames over a stream socket of any kind: ``-netdev stream``, QEMU's since 7.2.

    stream,id=ID,addr.type=inet,addr.host=HOST,addr.port=PORT[,...]
    stream,id=ID,addr.type=unix,addr.path=PATH[,addr.abstract=on]
    stream,id=ID,addr.type=fd,addr.str=N
        [,server=on]            wait for peers, one after the other
        [,reconnect-ms=N]       otherwise: connect again N milliseconds after the peer has gone

The bytes are those of ``netdev/framing.py``. The connection's begin and end are told as events,
``NETDEV_STREAM_CONNECTED`` and ``NETDEV_STREAM_DISCONNECTED``, as in QEMU's QMP. A client with
``reconnect-ms`` may start before its server.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable
from dataclasses import dataclass

from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.netdev import inherited
from vmwire.netdev.addresses import (
    SOCKET_ADDRESS,
    FdAddress,
    Place,
    SocketAddress,
    UnixAddress,
    described,
    is_numeric,
    peer_of,
)
from vmwire.netdev.binding import listen_on
from vmwire.netdev.connections import Connecting, Given, Listening, Source
from vmwire.netdev.stream_line import StreamLine
from vmwire.options.table import option, record
from vmwire.options.values import BOOL, IDENTIFIER, UINT32


@record("netdev", "stream", nested=True)
@dataclass(slots=True, kw_only=True)
class StreamOptions:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)
    addr: SocketAddress = option(SOCKET_ADDRESS, required=True)
    server: bool = option(BOOL, default=False, help="on/off, wait for peers")
    reconnect: int | None = option(UINT32, help="the same in seconds, as in older versions")
    reconnect_ms: int | None = option(UINT32, help="connect again after so many milliseconds")

    def __post_init__(self) -> None:
        if self.reconnect is not None and self.reconnect_ms is not None:
            raise ConfigError("'reconnect' and 'reconnect-ms' are mutually exclusive")
        if self.server and (self.reconnect is not None or self.reconnect_ms is not None):
            name = "reconnect" if self.reconnect_ms is None else "reconnect-ms"
            raise ConfigError(f"'{name}' option is incompatible with socket in server mode")

    @property
    def interval_s(self) -> float:
        """How long after an end to connect again; 0: never."""
        return float(self.reconnect or 0) or (self.reconnect_ms or 0) / 1000

    def claim(self) -> tuple[StreamOptions, dict[str, int]]:
        """The same for a network in another process and folder, and the descriptors that go there
        with it (``inherited``)."""
        addr, fds = inherited.claim_address(self.addr, self.id)
        return dataclasses.replace(self, addr=addr), fds

    def source(self) -> Source:
        """Where its connections come from."""
        address = self.addr
        if isinstance(address, FdAddress):
            return Given(address.fd, listening=self.server)
        if self.server:
            return Listening(lambda: listen_on(address))
        find: Callable[[], list[Place]] = lambda: address.resolve(socket.SOCK_STREAM)  # noqa: E731
        if isinstance(address, UnixAddress):
            return Connecting(find, self.interval_s, fixed=True)
        return Connecting(
            find,
            self.interval_s,
            fixed=is_numeric(address.host),
            protocol=address.protocol,
            settings=address.keep_alive_options(),
        )


class StreamNetdev(StreamLine):
    """The box."""

    OPTIONS = StreamOptions

    def __init__(self, options: StreamOptions) -> None:
        super().__init__(options.id, options.source(), self._tell)
        self._options = options

    def open(self, host: Host) -> None:
        """Begin; raises ``ConfigError``."""
        self._emit = host.emit
        super().open(host)

    def _tell(self, sock: socket.socket | None) -> None:
        name = {"netdev-id": self._options.id}
        if sock is None:
            self._emit("NETDEV_STREAM_DISCONNECTED", name)
            return
        self._emit("NETDEV_STREAM_CONNECTED", {**name, "addr": described(peer_of(sock))})

    @property
    def info(self) -> str:
        """What ``info network`` says."""
        if self.connection is None:
            return self.waiting
        peer = peer_of(self.connection)
        return f"unix:{peer}" if peer.family == socket.AF_UNIX else f"tcp:{peer}"
