# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Where sockets are: addresses as they are typed, resolved, and shown.

Two spellings. ``HOST:PORT`` (``socket``) is a name, an IPv4 address, an IPv6 address in brackets,
or nothing for all addresses of this machine, and a number. The objects of ``stream`` and ``dgram``
(``addr.type=inet|unix|fd``, as in QEMU's QMP) say more. Resolving is the C library's
(getaddrinfo(3)), and takes as long as name servers do.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vmwire.errors import ConfigError
from vmwire.options.objects import ObjectType
from vmwire.options.table import option
from vmwire.options.values import (
    BOOL,
    LONGEST_SOCKET_PATH,
    STRING,
    UINT16,
    UINT32,
    ParsedType,
    read_int,
)

_HOST_PORT = re.compile(r"(?:\[([^\]]*)\]|([^:]*)):(.*)", re.DOTALL)

PATH_ROOM = 108


# --- HOST:PORT ----------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class HostPort:
    """An address of the internet as a person gives it; an empty host is all addresses."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_host_port(text: str) -> HostPort:
    """``HOST:PORT``. As in QEMU, what follows the port's digits is ignored.

    >>> parse_host_port("[::1]:5000")
    HostPort(host='::1', port=5000)
    """
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise ValueError(f"host address '{text}' doesn't contain ':' separating host from port")
    bracketed, plain, port = match.groups()
    return HostPort(plain if bracketed is None else bracketed, parse_port(port))


def parse_port(text: str) -> int:
    """A port's number. (QEMU takes 70000 for 4464; that is a mistake to be told of.)"""
    try:
        port, _ = read_int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise ValueError(f"port number '{text}' is invalid")
    return port


HOST_PORT = ParsedType(result=HostPort, parse=parse_host_port)


# --- objects ------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class InetAddress:
    """``type=inet``."""

    host: str = option(STRING, required=True, help="name or address; empty for all addresses")
    port: str = option(STRING, required=True, help="number, or name of a service")
    numeric: bool = option(BOOL, default=False, help="on/off, host and port are numbers: no names")
    to: int | None = option(UINT16, help="a server takes the first free port from port= to this")
    ipv4: bool | None = option(BOOL, help="on/off, whether IPv4 may be used")
    ipv6: bool | None = option(BOOL, help="on/off, whether IPv6 may be used")
    keep_alive: bool = option(BOOL, default=False, help="on/off, probe an idle connection")
    keep_alive_count: int = option(UINT32, default=0, help="lost probes that end it")
    keep_alive_idle: int = option(UINT32, default=0, help="seconds before the first probe")
    keep_alive_interval: int = option(UINT32, default=0, help="seconds between probes")
    mptcp: bool = option(BOOL, default=False, help="on/off, multipath TCP")

    def __post_init__(self) -> None:
        if self.ipv4 is False and self.ipv6 is False:
            raise ConfigError("Cannot disable IPv4 and IPv6 at same time")

    @property
    def family(self) -> int:
        """What getaddrinfo is to look for."""
        if self.ipv6 is False or (self.ipv4 and not self.ipv6):
            return socket.AF_INET
        if self.ipv4 is False or (self.ipv6 and not self.ipv4):
            return socket.AF_INET6
        return socket.AF_UNSPEC

    @property
    def protocol(self) -> int:
        """TCP, or its multipath form."""
        return socket.IPPROTO_MPTCP if self.mptcp else 0

    def resolve(self, kind: int, *, passive: bool = False) -> list[Place]:
        """All addresses of it, the best first; raises ``ConfigError``."""
        flags = socket.AI_PASSIVE if passive else 0
        if self.numeric:
            flags |= socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return look_up(self.host or None, self.port, self.family, kind, flags)

    def keep_alive_options(self) -> list[tuple[int, int, int]]:
        """What to set on a socket."""
        if not self.keep_alive:
            return []
        tcp = socket.IPPROTO_TCP
        options = [
            (tcp, socket.TCP_KEEPCNT, self.keep_alive_count),
            (tcp, socket.TCP_KEEPIDLE, self.keep_alive_idle),
            (tcp, socket.TCP_KEEPINTVL, self.keep_alive_interval),
        ]
        on = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return [on, *(each for each in options if each[2])]


@dataclass(slots=True, kw_only=True)
class UnixAddress:
    """``type=unix``."""

    path: str = option(STRING, required=True, help="the socket's file, or its abstract name")
    abstract: bool = option(BOOL, default=False, help="on/off, a name without a file")
    tight: bool = option(
        BOOL, default=True, help="on/off, an abstract name without zeros up to its full length"
    )

    def __post_init__(self) -> None:
        size = len(os.fsencode(self.path))
        if size > LONGEST_SOCKET_PATH - self.abstract:
            raise ConfigError(f"UNIX socket path '{self.path}' is too long")
        if not self.path and not self.abstract:
            raise ConfigError("UNIX socket path must not be empty")

    @property
    def address(self) -> str | bytes:
        """As the socket calls want it."""
        if not self.abstract:
            return self.path
        name = b"\0" + os.fsencode(self.path)
        return name if self.tight else name.ljust(PATH_ROOM, b"\0")

    def resolve(self, kind: int, *, passive: bool = False) -> list[Place]:
        """The one address of it."""
        return [Place(socket.AF_UNIX, self.address)]


@dataclass(slots=True, kw_only=True)
class FdAddress:
    """``type=fd``."""

    fd: str = option(STRING, key="str", required=True, help="a socket that the caller opened")


SocketAddress = InetAddress | UnixAddress | FdAddress
SOCKET_ADDRESS = ObjectType(
    kinds={"inet": InetAddress, "unix": UnixAddress, "fd": FdAddress}, later=("vsock",)
)


# --- resolved -----------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Place:
    """A socket's address, resolved: its family, and the address as the socket calls want it."""

    family: int
    address: Any

    def __str__(self) -> str:
        return shown(self.family, self.address)


def shown(family: int, address: Any) -> str:
    """An address as messages have it."""
    if family != socket.AF_UNIX:
        return str(HostPort(address[0], address[1]))
    text = address.decode(errors="replace") if isinstance(address, bytes) else str(address)
    return f"@{text[1:]}" if text.startswith("\0") else text


def peer_of(sock: socket.socket) -> Place:
    """Whom a socket is connected to; for a Unix socket without a name, where the two met."""
    try:
        return Place(sock.family, sock.getpeername() or sock.getsockname())
    except OSError:  # it has left already
        return Place(sock.family, sock.getsockname())


def described(place: Place) -> dict[str, object]:
    """An address as QMP has it."""
    family, address = place.family, place.address
    if family == socket.AF_UNIX:
        name = address.decode(errors="replace") if isinstance(address, bytes) else str(address)
        if not name.startswith("\0"):
            return {"path": name, "type": "unix"}
        return {"path": name[1:], "type": "unix", "abstract": True}
    version = "ipv6" if family == socket.AF_INET6 else "ipv4"
    return {"port": str(address[1]), version: True, "host": address[0], "type": "inet"}


def look_up(
    host: str | None, port: str | int | None, family: int, kind: int, flags: int
) -> list[Place]:
    """All addresses of a host, in the C library's order; raises ``ConfigError``."""
    try:
        found = socket.getaddrinfo(host, port, family, kind, 0, flags)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else error
        where = f"{host or ''}:{port}" if port is not None else host
        raise ConfigError(f"address resolution failed for {where}: {reason}") from None
    return [Place(entry[0], entry[4]) for entry in found]


def resolve(where: HostPort, kind: int, *, passive: bool = False) -> Place:
    """The address of ``HOST:PORT`` for sockets of ``kind``, IPv4 before IPv6.

    Raises ``ConfigError``.
    """
    host = where.host or "0.0.0.0"  # to connect to, that is this machine
    try:
        places = look_up(host, where.port, 0, kind, socket.AI_PASSIVE if passive else 0)
    except ConfigError:
        raise ConfigError(f"can't resolve host address '{where.host}'") from None
    return prefer_ipv4(places)


def prefer_ipv4(places: Sequence[Place]) -> Place:
    """The first one of IPv4, or just the first."""
    return next((place for place in places if place.family == socket.AF_INET), places[0])


def is_numeric(host: str) -> bool:
    """Whether resolving it asks nobody."""
    try:
        socket.getaddrinfo(host or None, 0, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return False
    return True
