# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Chardevs that are sockets: ``-chardev socket,id=C,...``, for whoever has one (filters,
``vhost-user``, qtest and QMP).

    socket,id=C,host=HOST,port=PORT     or   path=PATH[,abstract=on]   or   fd=N
        [,server=on[,wait=off]]         take peers, one after the other
        [,reconnect-ms=N]               otherwise: connect again N ms after the peer has gone

``-chardev stdio`` is for qtest and QMP alone.

A network doesn't stand still until somebody calls, so it refuses ``wait=on``; a machine that is
started by whom it talks to may (``attach.chardev``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from vmwire.errors import ConfigError
from vmwire.netdev import inherited
from vmwire.netdev.addresses import FdAddress, InetAddress, SocketAddress, UnixAddress
from vmwire.netdev.connections import Source
from vmwire.netdev.stream import StreamOptions
from vmwire.options.table import option, record
from vmwire.options.values import BOOL, IDENTIFIER, STRING, UINT16, UINT32


@record(
    "chardev",
    "socket",
    later=(
        "nodelay", "delay", "telnet", "tn3270", "websocket", "logfile", "logappend",
        "tls-creds", "tls-authz",
    ),
)  # fmt: skip
@dataclass(slots=True, kw_only=True)
class SocketChardevOptions:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)
    host: str | None = option(STRING, help="name or address; empty for all addresses")
    port: str | None = option(STRING, help="number, or name of a service")
    to: int | None = option(UINT16, help="a server takes the first free port from port= to this")
    ipv4: bool | None = option(BOOL, help="on/off, whether IPv4 may be used")
    ipv6: bool | None = option(BOOL, help="on/off, whether IPv6 may be used")
    path: str | None = option(STRING, help="a Unix socket")
    abstract: bool = option(BOOL, default=False, help="on/off, a name without a file")
    tight: bool = option(BOOL, default=True, help="on/off, without zeros up to its full length")
    fd: str | None = option(STRING, help="a socket that the caller opened")
    server: bool = option(BOOL, default=False, help="on/off, wait for peers")
    wait: bool | None = option(BOOL, help="off: nothing stands still until a peer is there")
    reconnect: int | None = option(UINT32, help="the same in seconds, as in older versions")
    reconnect_ms: int | None = option(UINT32, help="connect again after so many milliseconds")
    mux: bool = option(BOOL, default=False, help="off: there is one user")

    def __post_init__(self) -> None:
        if self.mux:
            raise ConfigError("'mux' is not served")
        if sum(each is not None for each in (self.host or self.port, self.path, self.fd)) != 1:
            raise ConfigError("one of host= and port=, path= or fd= is required")
        self.stream()

    def claim(self) -> tuple[SocketChardevOptions, dict[str, int]]:
        """The same with descriptors named and a path from the root, for another process."""
        if self.fd is not None:
            name, fd = inherited.claimed(self.fd, self.id)
            return replace(self, fd=name), {name: fd}
        if self.path is not None and not self.abstract:
            return replace(self, path=os.path.abspath(self.path)), {}
        return self, {}

    def stream(self) -> StreamOptions:
        """Say the same as ``-netdev stream`` does."""
        return StreamOptions(
            id=self.id,
            addr=self._address(),
            server=self.server,
            reconnect=self.reconnect,
            reconnect_ms=self.reconnect_ms,
        )

    @property
    def reconnects(self) -> bool:
        """Whether it says when to connect again, or is connected to."""
        return bool(self.server or self.fd is not None or self.stream().interval_s)

    def source(self) -> Source:
        """Return where a network's connections come from."""
        if (reason := self.unanswered()) is not None:
            raise ConfigError(reason)
        return self.stream().source()

    def unanswered(self) -> str | None:
        """Why a network can't have it."""
        return (
            "'wait=on' is not served: a network doesn't wait for its peers" if self.wait else None
        )

    def _address(self) -> SocketAddress:
        if self.path is not None:
            return UnixAddress(path=self.path, abstract=self.abstract, tight=self.tight)
        if self.fd is not None:
            return FdAddress(fd=self.fd)
        if self.port is None:
            raise ConfigError("Parameter 'port' is missing")
        return InetAddress(
            host=self.host or "", port=self.port, to=self.to, ipv4=self.ipv4, ipv6=self.ipv6
        )


@record("chardev", "stdio", later=("logfile", "logappend"))
@dataclass(slots=True, kw_only=True)
class StdioChardevOptions:
    """Standard input and output, as they are: no signals are made or held back."""

    id: str = option(IDENTIFIER, required=True)
    signal: bool = option(BOOL, default=True, help="on/off: either way the terminal stays as it is")
    mux: bool = option(BOOL, default=False, help="off: there is one user")

    def __post_init__(self) -> None:
        if self.mux:
            raise ConfigError("'mux' is not served")

    def unanswered(self) -> str | None:
        """Why a network can't have it."""
        return "standard input and output are not for networks"


ChardevOptions = SocketChardevOptions | StdioChardevOptions
