# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Sockets that the caller opened: ``fd=N``, or ``fd=NAME`` for one that is in the fd store.

Numbers mean something in the process that was given them. Where the network runs in a process of
its own, the command line claims them: it puts them into the fd store and hands on the name. A
*stream* can be used by one process only, since nobody but that one knows where in a frame it is: it
leaves the store, and after a crash it is gone. Datagram sockets stay and serve the next process.
"""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from typing import TypeVar

from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.netdev.addresses import FdAddress, SocketAddress, UnixAddress


class LostError(Exception):
    """The socket was a stream, and went with the process that used it before."""


def take(host: Host, fd: str) -> socket.socket:
    """The socket of a number or a name, owned from here on.

    Raises ``ConfigError`` if there is no such socket, ``LostError``.
    """
    if fd.isascii() and fd.isdigit():
        return _own(int(fd), fd)
    kept = host.store.take(fd)
    if kept is None:
        spent = host.store.take(_spent(fd))
        if spent is None:
            raise ConfigError(f"Invalid file descriptor number '{fd}'")
        os.close(spent)
        raise LostError
    sock = _own(kept, fd)
    if sock.type == socket.SOCK_STREAM:
        host.store.drop(fd)
        _mark_spent(host, fd)
    return sock


def claimed(fd: str, name: str) -> tuple[str, int]:
    """For a command line: the name to hand on, and the number to keep under it in the fd store.

    Raises ``ConfigError`` if it isn't a socket's number.
    """
    if not (fd.isascii() and fd.isdigit()):
        raise ConfigError(f"Invalid file descriptor number '{fd}'")
    number = int(fd)
    _own(number, fd).detach()
    return f"{name}.fd", number


A = TypeVar("A", bound=SocketAddress | None)


def claim_address(address: A, name: str) -> tuple[A, dict[str, int]]:
    """An address for another process and folder, and the descriptor that goes there with it."""
    if isinstance(address, FdAddress):
        kept, fd = claimed(address.fd, name)
        return replace(address, fd=kept), {kept: fd}
    if isinstance(address, UnixAddress) and not address.abstract:
        return replace(address, path=os.path.abspath(address.path)), {}
    return address, {}


def _own(number: int, fd: str) -> socket.socket:
    try:
        sock = socket.socket(fileno=number)
        os.set_inheritable(number, False)
    except (OSError, OverflowError):
        raise ConfigError("can't get socket option SO_TYPE") from None
    return sock


def _spent(name: str) -> str:
    return f"{name} spent"


def _mark_spent(host: Host, name: str) -> None:
    """Leave a mark in the store for the next process."""
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    host.store.keep(_spent(name), null)
    os.close(null)
