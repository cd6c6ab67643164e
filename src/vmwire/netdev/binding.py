# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Sockets of our own at an address: listening ones, and the files of Unix sockets.

What a dead process left at a Unix socket's path is replaced; what somebody listens at is not (QEMU
takes the path away from whoever has it). All of this raises ``ConfigError``.
"""

from __future__ import annotations

import errno
import os
import socket
import stat

from vmwire.errors import ConfigError
from vmwire.netdev.addresses import HostPort, InetAddress, Place, UnixAddress, resolve

BACKLOG = 1
"""Clients that wait while there is one."""


def listen_at(where: HostPort) -> socket.socket:
    """A listening socket at ``HOST:PORT``."""
    return _listen([resolve(where, socket.SOCK_STREAM, passive=True)], 0)


def listen_on(address: InetAddress | UnixAddress) -> socket.socket:
    """A listening socket at an address; the first port of a range that is free."""
    if isinstance(address, UnixAddress):
        return _listen(address.resolve(socket.SOCK_STREAM), 0)
    places = address.resolve(socket.SOCK_STREAM, passive=True)
    if not address.host and address.family == socket.AF_UNSPEC:  # one that hears both
        places.sort(key=lambda place: place.family != socket.AF_INET6)
    return _listen(
        [place for each in places for place in _ports(each, address.to)], address.protocol,
        only_ipv6=address.family == socket.AF_INET6,
    )  # fmt: skip


def _ports(place: Place, last: int | None) -> list[Place]:
    host, port, *rest = place.address
    if last is None:
        return [place]
    if last < port:
        raise ConfigError(f"'to' is less than the port {port}")
    return [Place(place.family, (host, number, *rest)) for number in range(port, last + 1)]


def _listen(places: list[Place], protocol: int, *, only_ipv6: bool = False) -> socket.socket:
    """Listen at the first of ``places`` that is free."""
    failure: OSError | None = None
    for place in places:
        try:
            return _try_to_listen(place, protocol, only_ipv6)
        except OSError as error:
            failure = failure or error
    assert failure is not None
    raise _cant_bind(places[0], failure) from None


def _try_to_listen(place: Place, protocol: int, only_ipv6: bool) -> socket.socket:
    sock = socket.socket(place.family, socket.SOCK_STREAM, protocol)
    try:
        if place.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6)
        if place.family == socket.AF_UNIX:
            clear_the_way(place.address, socket.SOCK_STREAM)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place.address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _cant_bind(place: Place, error: OSError) -> ConfigError:
    where = f"unix={place}" if place.family == socket.AF_UNIX else f"ip={place.address[0]}"
    return ConfigError(f"can't bind {where} to socket: {error.strerror}")


def clear_the_way(path: str | bytes, kind: int) -> None:
    """Remove a socket's file that belongs to nobody any more, or an empty one that only holds the
    name (what mkstemp left)."""
    if path[:1] in (b"\0", "\0", b"", ""):
        return  # an abstract name
    try:
        found = os.lstat(path)
    except OSError:  # nothing there, or bind will say what is wrong
        return
    if stat.S_ISREG(found.st_mode) and not found.st_size:
        remove_file(path)
    if stat.S_ISSOCK(found.st_mode):
        with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
            if probe.connect_ex(path) == errno.ECONNREFUSED:
                remove_file(path)


def remove_file(path: str | bytes) -> None:
    """Remove a socket's file, unless it has gone already."""
    try:
        os.unlink(path)
    except OSError:  # removed by somebody else, or with its folder
        pass


def remove_own_file(sock: socket.socket) -> None:
    """Remove the file that a socket of ours is bound to, if it is."""
    if sock.family == socket.AF_UNIX:
        path = sock.getsockname()
        if isinstance(path, str) and path:
            remove_file(path)
