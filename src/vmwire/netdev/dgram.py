# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Frames in datagrams, one in each: ``-netdev dgram``, QEMU's since 7.2.

    dgram,id=ID,local.type=inet,local.host=..,local.port=..,remote.type=inet,remote.host=..,remote.port=..
    dgram,id=ID,local.type=unix,local.path=PATH,remote.type=unix,remote.path=PATH
    dgram,id=ID,remote.type=inet,remote.host=GROUP,remote.port=PORT[,local.type=inet,local.host=..]
    dgram,id=ID,local.type=fd,local.str=N

The third joins everybody who listens to a multicast group; ``local.host`` is then the address of
the interface to use. Frames of others than the peer are taken only with ``strangers=on`` (vmwire's
own option; see ``netdev/datagram_sockets.py``).
"""

from __future__ import annotations

import dataclasses
import socket
from dataclasses import dataclass

from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.netdev import datagram_sockets, inherited
from vmwire.netdev.addresses import (
    SOCKET_ADDRESS,
    FdAddress,
    HostPort,
    InetAddress,
    SocketAddress,
    UnixAddress,
    parse_port,
)
from vmwire.netdev.datagram_line import DatagramLine, Wire
from vmwire.options.table import option, record
from vmwire.options.values import BOOL, IDENTIFIER


@record("netdev", "dgram", nested=True)
@dataclass(slots=True, kw_only=True)
class DgramOptions:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)
    local: SocketAddress | None = option(SOCKET_ADDRESS)
    remote: SocketAddress | None = option(SOCKET_ADDRESS)
    strangers: bool = option(
        BOOL, default=False, ours=True, help="on/off, take frames of others than the peer"
    )

    def __post_init__(self) -> None:
        local, remote = self.local, self.remote
        if self.group is not None:
            if local is not None and not isinstance(local, InetAddress):
                raise ConfigError("local must be an address of an interface: local.type=inet")
        elif local is None:
            raise ConfigError("dgram requires local= parameter")
        elif isinstance(local, FdAddress):
            if remote is not None:
                raise ConfigError("don't set remote with local.fd")
        elif remote is None:
            raise ConfigError("type=inet or type=unix requires remote parameter")
        elif type(local) is not type(remote):
            raise ConfigError("remote and local types must be the same")
        for address in (local, remote):
            if isinstance(address, InetAddress):
                _host_port(address)

    @property
    def group(self) -> HostPort | None:
        """The multicast group, if that is what ``remote`` is."""
        if not isinstance(self.remote, InetAddress):
            return None
        where = _host_port(self.remote)
        try:
            first = socket.inet_aton(where.host)[0]
        except OSError:
            return None
        return where if first >> 4 == 0xE else None

    def claim(self) -> tuple[DgramOptions, dict[str, int]]:
        """The same for a network in another process and folder, and the descriptors that go there
        with it (``inherited``)."""
        local, fds = inherited.claim_address(self.local, self.id)
        remote, _ = inherited.claim_address(self.remote, self.id)
        return dataclasses.replace(self, local=local, remote=remote), fds

    def wire(self, host: Host) -> Wire:
        """Open the socket."""
        local, remote, group = self.local, self.remote, self.group
        if group is not None:
            interface = local.host if isinstance(local, InetAddress) else None
            return datagram_sockets.multicast(group, interface)
        if isinstance(local, FdAddress):
            return datagram_sockets.given(local.fd, host)
        if isinstance(local, UnixAddress) and isinstance(remote, UnixAddress):
            return datagram_sockets.unix(local, remote, host, self.id)
        assert isinstance(local, InetAddress)
        assert isinstance(remote, InetAddress)
        here, there = _host_port(local), _host_port(remote)
        return datagram_sockets.udp(here, there, strangers=self.strangers)


def _host_port(address: InetAddress) -> HostPort:
    """With a number for the port, as everywhere with datagrams."""
    try:
        return HostPort(address.host, parse_port(address.port))
    except ValueError as error:
        raise ConfigError(str(error)) from None


class DgramNetdev(DatagramLine):
    """The box."""

    OPTIONS = DgramOptions

    def __init__(self, options: DgramOptions) -> None:
        super().__init__(options.id, options.wire)
