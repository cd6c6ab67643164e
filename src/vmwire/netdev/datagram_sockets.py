# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The sockets of datagram lines: to one peer by UDP or a Unix socket, to a group, or given.

Who may send to us. QEMU takes what anybody sends to its port. Here a UDP line is connected, so that
it hears its peer alone, unless strangers are asked for. A Unix socket is guarded by its file's
mode. A group is open by its nature; our own frames, which the kernel brings back because other VMs
of this machine belong to the group as well, are told by the port that they were sent from.

All of these raise ``ConfigError``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.netdev import inherited, mmsg
from vmwire.netdev.addresses import HostPort, Place, UnixAddress, resolve
from vmwire.netdev.binding import clear_the_way, remove_own_file
from vmwire.netdev.datagram_batches import NO_HEADERS, Intake, Segments
from vmwire.netdev.datagram_line import UDP_LARGEST, Connected, ToAddress, ToFile, Wire
from vmwire.netdev.stream_line import name_of
from vmwire.wire.frame import MAX_FRAME

UDP = socket.SOCK_DGRAM


def udp(local: HostPort, remote: HostPort, *, strangers: bool) -> Wire:
    """Between two addresses of the internet."""
    there = resolve(remote, UDP)
    here = resolve(local, UDP, passive=True)
    with new(there.family) as sock:
        _bind(sock, here)
        if strangers:
            return Wire(sock, ToAddress(sock, there.address), _udp_info(here, there), UDP_LARGEST)
        try:
            sock.connect(there.address)
        except OSError as error:
            raise ConfigError(f"can't connect to {there}: {error.strerror}") from None
        mine, theirs = sock.getsockname(), sock.getpeername()
        ends = (name_of(mine), name_of(theirs)) if mine[0] == theirs[0] else None
        wire = Wire(sock, Connected(sock), _udp_info(here, there), UDP_LARGEST, ends)
        if mmsg.POSSIBLE:
            wire.intake, wire.send_many = Intake(sock), Segments(sock, NO_HEADERS).send
        return wire


def _udp_info(here: Place, there: Place) -> str:
    return f"udp={here}/{there}"


def multicast(group: HostPort, interface: str | None) -> Wire:
    """To a group of the local network, out of the interface that has this address."""
    place = resolve(group, UDP)
    check_multicast(place)
    address, port = place.address
    member = socket.inet_aton(address) + socket.inet_aton(interface or "0.0.0.0")
    with new(socket.AF_INET) as sock, new(socket.AF_INET) as sender:
        _bind(sock, place)
        try:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            if interface:
                sender.setsockopt(
                    socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface)
                )
            sender.connect((address, port))
        except OSError as error:
            raise ConfigError(
                f"can't add socket to multicast group {address}: {error.strerror}"
            ) from None
        own = sender.getsockname()
        return Wire(sock, Separate(sender), f"mcast={place}", UDP_LARGEST, own_address=own)


class Separate(Connected):
    """Through a connected socket that is only for this."""

    def close(self) -> None:
        self.socket.close()


def check_multicast(place: Place) -> None:
    """``ConfigError`` unless it is a group's address."""
    address = place.address[0]
    if place.family != socket.AF_INET or not IPv4Address(address).is_multicast:
        number = f"0x{int(IPv4Address(address)):08x}" if place.family == socket.AF_INET else "IPv6"
        raise ConfigError(
            f"specified mcastaddr {address} ({number}) does not contain a multicast address"
        )


def unix(local: UnixAddress, remote: UnixAddress, host: Host, name: str) -> Wire:
    """Between two Unix sockets; the other one may come later.

    Ours stays in the fd store, and with it what was sent to it while no worker reads it.
    """
    here = Place(socket.AF_UNIX, local.address)
    there = Place(socket.AF_UNIX, remote.address)
    stored = f"{name} datagrams"
    kept = host.store.take(stored)
    sock = _bound(local, here) if kept is None else socket.socket(fileno=kept)
    if kept is None:
        host.store.keep(stored, sock.fileno())

    def farewell() -> None:
        host.store.drop(stored)
        remove_own_file(sock)

    sender = ToFile(remote.address, host.loop.now)
    ends = (_file(local), _file(remote))
    return Wire(sock, sender, f"udp={here}:{there}", ends=ends, farewell=farewell)


def _bound(local: UnixAddress, here: Place) -> socket.socket:
    clear_the_way(local.address, UDP)
    with new(socket.AF_UNIX) as sock:
        _bind(sock, here)
    return sock


def _file(address: UnixAddress) -> str:
    return f"@{address.path}" if address.abstract else os.path.realpath(address.path)


def given(fd: str, host: Host) -> Wire:
    """A socket that the caller opened (and connected, if anything is to be sent)."""
    try:
        sock = inherited.take(host, fd)
    except inherited.LostError:
        raise ConfigError("the socket went with the process that had it") from None
    if sock.type != UDP:
        sock.close()
        raise ConfigError(f"file descriptor {fd} is not a datagram socket")
    largest = MAX_FRAME if sock.family == socket.AF_UNIX else UDP_LARGEST
    return Wire(sock, Connected(sock), f"fd={sock.fileno()}", largest)


@contextmanager
def new(family: int, kind: int = UDP, protocol: int = 0) -> Iterator[socket.socket]:
    """A new socket, closed if something goes wrong with it."""
    sock = socket.socket(family, kind, protocol)
    try:
        yield sock
    except BaseException:
        sock.close()
        raise


def _bind(sock: socket.socket, place: Place) -> None:
    try:
        if place.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place.address)
    except OSError as error:
        where = f"unix={place}" if place.family == socket.AF_UNIX else f"ip={place.address[0]}"
        raise ConfigError(f"can't bind {where} to socket: {error.strerror}") from None
