# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Frames over a socket to another VM, to a harness, to whoever: ``-netdev socket``.

    socket,id=ID,fd=N                           a connected stream socket that the caller opened
    socket,id=ID,listen=[HOST]:PORT             wait for a peer; the next one when that leaves
    socket,id=ID,connect=HOST:PORT              connect to a peer, again and again until it is there
    socket,id=ID,udp=HOST:PORT,localaddr=HOST:PORT      a datagram for each frame, to one peer
    socket,id=ID,mcast=GROUP:PORT[,localaddr=ADDRESS]   the same, to all who listen to the group

The bytes are those of ``netdev/framing.py`` and ``netdev/datagram_line.py``. With ``mcast``,
``localaddr`` is the address of the interface to use. ``strangers=on`` (vmwire's own) has ``udp``
take frames of others than its peer, as QEMU does.
"""

from __future__ import annotations

import dataclasses
import socket
from dataclasses import dataclass

from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.netdev import datagram_sockets, inherited
from vmwire.netdev.addresses import (
    HOST_PORT,
    HostPort,
    is_numeric,
    parse_host_port,
    peer_of,
    resolve,
)
from vmwire.netdev.binding import listen_at
from vmwire.netdev.connections import Connecting, Given, Listening, Source
from vmwire.netdev.datagram_line import DatagramLine, Wire
from vmwire.netdev.stream_line import StreamLine
from vmwire.options.table import option, record
from vmwire.options.values import BOOL, IDENTIFIER, STRING, parse_ipv4

RETRY_S = 1.0
"""How often ``connect=`` tries while nobody listens. (QEMU tries once.)"""


@record("netdev", "socket")
@dataclass(slots=True, kw_only=True)
class SocketOptions:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)
    fd: str | None = option(STRING, help="a connected stream socket that the caller opened")
    listen: HostPort | None = option(HOST_PORT, help="[HOST]:PORT to wait at for a peer")
    connect: HostPort | None = option(HOST_PORT, help="HOST:PORT where a peer listens")
    mcast: HostPort | None = option(HOST_PORT, help="GROUP:PORT of a multicast group")
    localaddr: str | None = option(STRING, help="HOST:PORT for udp=, an interface's for mcast=")
    udp: HostPort | None = option(HOST_PORT, help="HOST:PORT where a peer takes datagrams")
    strangers: bool = option(
        BOOL, default=False, ours=True, help="on/off, udp= takes frames of others than its peer"
    )

    def __post_init__(self) -> None:
        modes = (self.fd, self.listen, self.connect, self.mcast, self.udp)
        if sum(mode is not None for mode in modes) != 1:
            raise ConfigError("exactly one of listen=, connect=, mcast= or udp= is required")
        if self.udp is not None:
            self._local_port()
        elif self.localaddr is None:
            return
        elif self.mcast is None:
            raise ConfigError("localaddr= is only valid with mcast= or udp=")
        else:
            self._interface()

    def _local_port(self) -> HostPort:
        if self.localaddr is None:
            raise ConfigError("localaddr= is mandatory with udp=")
        try:
            return parse_host_port(self.localaddr)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def _interface(self) -> str | None:
        try:
            return None if self.localaddr is None else socket.inet_ntoa(parse_ipv4(self.localaddr))
        except ValueError:
            raise ConfigError(f"localaddr '{self.localaddr}' is not a valid IPv4 address") from None

    def line(self) -> StreamLine | DatagramLine:
        """The line that it is."""
        if self.udp is None and self.mcast is None:
            return StreamLine(self.id, self.source())
        return DatagramLine(self.id, self._wire)

    def _wire(self, host: Host) -> Wire:
        if self.udp is not None:
            return datagram_sockets.udp(self._local_port(), self.udp, strangers=self.strangers)
        assert self.mcast is not None
        return datagram_sockets.multicast(self.mcast, self._interface())

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


class SocketNetdev:
    """The box: a line over a stream or over datagrams."""

    OPTIONS = SocketOptions

    def __init__(self, options: SocketOptions) -> None:
        self.line = options.line()
        self.port = self.line.port
        self._options = options

    def open(self, host: Host) -> None:
        """Begin; raises ``ConfigError``."""
        self.line.open(host)

    def close(self) -> None:
        """End. Harmless when called twice."""
        self.line.close()

    def hand_over(self) -> None:
        """Put a connection down for a successor."""
        if isinstance(self.line, StreamLine):
            self.line.hand_over()

    def go_on(self) -> None:
        """Nobody took over."""
        if isinstance(self.line, StreamLine):
            self.line.go_on()

    def set_link(self, up: bool) -> None:
        """Pull or plug the cable."""
        self.line.set_link(up)

    def stats(self) -> dict[str, object]:
        """Return the counters as plain data."""
        return self.line.stats()

    @property
    def info(self) -> str:
        """What ``info network`` says."""
        options = self._options
        if isinstance(self.line, DatagramLine):
            kind, where = ("udp", options.udp) if options.udp else ("mcast", options.mcast)
            return f"socket: {kind}={where}"
        if self.line.connection is None:
            return ""
        peer = peer_of(self.line.connection)
        if options.fd is not None:
            return f"socket: fd={self.line.connection.fileno()}"
        way = "connect to" if options.connect is not None else "connection from"
        return f"socket: {way} {peer}"
