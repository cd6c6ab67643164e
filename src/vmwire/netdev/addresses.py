# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Where sockets are: ``HOST:PORT`` as it is typed, resolved, and shown.

The host is a name, an IPv4 address, an IPv6 address in brackets, or nothing for all addresses of
this machine. Resolving is the C library's (getaddrinfo(3)) and may take as long as name servers do.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import Any

from vmwire.errors import ConfigError
from vmwire.options.values import ParsedType, read_int

_HOST_PORT = re.compile(r"(?:\[([^\]]*)\]|([^:]*)):(.*)", re.DOTALL)

Address = tuple[Any, ...]


@dataclass(slots=True, frozen=True)
class HostPort:
    """An address of the internet as a person gives it; an empty host is all addresses."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(slots=True, frozen=True)
class Place:
    """A socket's address, resolved: its family, and the address as the socket calls want it."""

    family: int
    address: Any

    def __str__(self) -> str:
        return shown(self.family, self.address)


def shown(family: int, address: Any) -> str:
    """An address as messages have it."""
    if family == socket.AF_UNIX:
        text = address.decode(errors="replace") if isinstance(address, bytes) else str(address)
        return f"@{text[1:]}" if text.startswith("\0") else text
    return str(HostPort(address[0], address[1]))


def parse_host_port(text: str) -> HostPort:
    """``HOST:PORT``. As in QEMU, what follows the port's digits is ignored.

    >>> parse_host_port("[::1]:5000")
    HostPort(host='::1', port=5000)
    """
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise ValueError("host address '{value}' doesn't contain ':' separating host from port")
    bracketed, plain, port = match.groups()
    return HostPort(plain if bracketed is None else bracketed, _port(port))


def _port(text: str) -> int:
    try:
        port, _ = read_int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise ValueError(f"port number '{text}' is invalid")
    return port


HOST_PORT = ParsedType(result=HostPort, parse=parse_host_port)


def resolve(where: HostPort, kind: int, *, passive: bool = False) -> Place:
    """The first address of a host for sockets of ``kind``, IPv4 before IPv6.

    Raises ``ConfigError``.
    """
    flags = socket.AI_PASSIVE if passive else 0
    host = where.host or ("0.0.0.0" if passive else "127.0.0.1")
    try:
        found = socket.getaddrinfo(host, where.port, type=kind, flags=flags)
    except (socket.gaierror, UnicodeError):
        raise ConfigError(f"can't resolve host address '{where.host}'") from None
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    family, _, _, _, address = found[0]
    return Place(family, address)
