# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A network namespace as a guest: a tap in it is the card.

    net.add_netdev("user", id="u")
    net.add_netns(id="g", netdev="u", address="10.0.2.15/24", gateway="10.0.2.2", dns="10.0.2.3")
    net.devices["g"].box.start(["curl", "http://10.0.2.2:8000/"])

Without more said, a new namespace is made (``vmwire.attach.namespace`` says what that takes);
``pid`` or ``path`` name one that is there. A tap that is in the fd store under ``ID.tap`` is taken
as it is: it was made by somebody else, or by this box before its process was replaced.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from socket import inet_ntoa
from typing import Any

from vmwire.attach.namespace import (
    Guest,
    Interface,
    create_beside,
    parse_address,
    start_inside,
)
from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.netdev.tap_port import TapPort, stored_tap
from vmwire.options.table import option, record
from vmwire.options.values import (
    IDENTIFIER,
    STRING,
    UINT16,
    UINT32,
    ParsedType,
    parse_ipv4,
    said,
)

IPV4 = ParsedType(
    result=bytes, parse=said(parse_ipv4, "'{value}' is not an IPv4 address"), written=inet_ntoa
)


@record("device", "netns")
@dataclass(slots=True, kw_only=True)
class NetnsOptions:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)
    netdev: str | None = option(STRING)
    pid: int = option(UINT32, default=0, ours=True, help="put the interface where process PID is")
    path: str = option(STRING, default="", ours=True, help="or into the namespace behind PATH")
    ifname: str = option(STRING, default="eth0", ours=True, help="the interface's name")
    address: str | None = option(
        ParsedType(result=str, parse=parse_address), ours=True, help="as 10.0.2.15/24"
    )
    gateway: bytes | None = option(IPV4, ours=True, help="the default route")
    dns: bytes | None = option(IPV4, ours=True, help="the name server, in a new namespace")
    mtu: int = option(UINT16, default=1500, ours=True)
    mac: str = option(STRING, default="", ours=True, help="instead of one by chance")

    def __post_init__(self) -> None:
        if self.pid and self.path:
            raise ConfigError("'pid' and 'path' can't be used together")

    def interface(self) -> Interface:
        """What the interface is to be given."""
        return Interface(
            name=self.ifname,
            address=self.address,
            gateway=None if self.gateway is None else inet_ntoa(self.gateway),
            mtu=self.mtu,
            mac=self.mac or None,
            nameservers=[] if self.dns is None else [inet_ntoa(self.dns)],
        )


class NetnsNic:
    """The box: a tap, and the namespaces if they were made here."""

    OPTIONS = NetnsOptions

    def __init__(self, options: NetnsOptions) -> None:
        self._options = options
        self._tap = TapPort(options.id)
        self._guest: Guest | None = None
        self.port = self._tap.port

    def open(self, host: Host) -> None:
        """Take the tap from the store, or make it, and leave a copy in the store."""
        name = stored_tap(self._options.id)
        fd = host.store.take(name)
        if fd is None:
            self._guest = create_beside(
                self._options.interface(), pid=self._options.pid, path=self._options.path
            )
            fd = self._guest.tap
            host.store.keep(name, fd)
        self._tap.take([fd], host.loop)

    def close(self) -> None:
        """Take the interface away; the namespace goes when its last process does."""
        self._tap.close()
        if self._guest is not None:
            self._guest.close_namespaces()
            self._guest = None

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command in the namespace; ``options`` as of ``subprocess.Popen``."""
        if self._guest is None:
            raise ConfigError("the namespace was made by somebody else: enter it by its owner")
        return start_inside(self._guest, command, **options)

    def stats(self) -> dict[str, object]:
        """Return the counters as plain data."""
        return self._tap.stats()
