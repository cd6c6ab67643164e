# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Two kinds of guest that need no VM: the kernel's stack in a namespace, Python's own on a ring.

Both do the same things (``Stack``), so the demo's orders don't know which one they talk to.
"""

from __future__ import annotations

import os
import secrets
import select
import shutil
import socket
import subprocess
import tempfile
import time
from typing import Protocol

from vmwire.bench import dns_client
from vmwire.bench.dhcp_client import DEFAULT_MTU, Lease
from vmwire.bench.guest import IpGuest
from vmwire.bench.guest_tcp import TcpConnection
from vmwire.wire.frame import F_DATA_VALID, NO_OFFLOAD, Offload
from vmwire.wire.protocols import dns, icmp

SILENCE_S = 8.0
OWN_CLIENT = "our own client"


class Connection(Protocol):
    """What both kinds of TCP connection can do."""

    def send(self, data: bytes) -> None: ...
    def receive_into(self, room: memoryview) -> int: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...
    @property
    def peer(self) -> str: ...


class Stack(Protocol):
    """What both kinds of guest can do; the rest is the same."""

    def lease(self) -> tuple[Lease, str]: ...
    def ping(self, address: str) -> float: ...
    def resolve(self, name: str, server: str) -> dns_client.Reply: ...
    def connect(self, address: str, port: int) -> Connection: ...
    def listen(self, port: int) -> None: ...
    def accept(self) -> Connection: ...


# --- the kernel's stack, in a namespace ----------------------------------------------------------


class KernelConnection:
    """A connection of the kernel's."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.peer = str(sock.getpeername()[0])
        sock.settimeout(SILENCE_S)

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self._sock.sendall(data)

    def receive_into(self, room: memoryview) -> int:
        """Read what is there; 0 at the end."""
        return self._sock.recv_into(room)

    def finish(self) -> None:
        """Half-close."""
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close."""
        self._sock.close()


class KernelStack:
    """This namespace's own stack, behind one interface."""

    def __init__(self, interface: str) -> None:
        self.interface = interface
        self._listener: socket.socket | None = None

    def lease(self) -> tuple[Lease, str]:
        """By udhcpc if it is installed and gets one, else by our own client."""
        found, by = lease_by_udhcpc(self.interface), "by udhcpc"
        if found is None:
            found, by = lease_by_packets(self.interface), OWN_CLIENT
        self._use(found)
        return found, by

    def _use(self, found: Lease) -> None:
        from vmwire.attach.namespace import Interface, configure

        address = f"{found.address}/{found.prefix}"
        configure(self.interface, Interface(address=address, gateway=found.gateway, mtu=found.mtu))

    def ping(self, address: str) -> float:
        """One echo, through the kernel's IP."""
        ident = secrets.randbits(16).to_bytes(2, "big")
        request = icmp.Message(icmp.ECHO_REQUEST, 0, ident + b"\0\1", bytes(56)).emit()
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
            begin = time.monotonic()
            sock.sendto(request, (address, 0))
            while (left := begin + 2 - time.monotonic()) > 0:
                sock.settimeout(left)
                packet = sock.recv(65536)
                body = packet[(packet[0] & 15) * 4 :]
                if body[0] == icmp.ECHO_REPLY and body[4:6] == ident:
                    return time.monotonic() - begin
        raise TimeoutError(f"{address} does not answer")

    def resolve(self, name: str, server: str) -> dns_client.Reply:
        """Ask over UDP, twice if need be."""
        return ask_name_server(name, server)

    def connect(self, address: str, port: int) -> KernelConnection:
        """Connect."""
        return KernelConnection(socket.create_connection((address, port), SILENCE_S))

    def listen(self, port: int) -> None:
        """Listen everywhere."""
        self._listener = socket.create_server(("", port))
        self._listener.settimeout(SILENCE_S)

    def accept(self) -> KernelConnection:
        """Take one connection, and no more."""
        assert self._listener is not None, "nobody listens"
        with self._listener as listener:
            return KernelConnection(listener.accept()[0])


def ask_name_server(name: str, server: str, timeout_s: float = 3.0) -> dns_client.Reply:
    """Ask a name server by a socket of this process's."""
    ident = secrets.randbits(16)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((server, dns.PORT))
        sock.settimeout(timeout_s)
        sock.send(dns_client.query(name, ident))
        while True:
            reply = dns_client.read_reply(sock.recv(65535))
            if reply.ident == ident:
                return reply


def lease_by_udhcpc(interface: str) -> Lease | None:
    """Let busybox's client get a lease; it tells a script of ours what it got."""
    words = _udhcpc()
    if words is None:
        return None
    with tempfile.TemporaryDirectory(prefix="vmwire-demo-") as folder:
        script, facts = os.path.join(folder, "script"), os.path.join(folder, "lease")
        with open(script, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\n[ "$1" = bound ] && env > {facts}\nexit 0\n')
        os.chmod(script, 0o700)
        options = ["-i", interface, "-f", "-n", "-q", "-t", "3", "-T", "1", "-O", "mtu"]
        done = subprocess.run(
            [*words, *options, "-s", script], stdin=subprocess.DEVNULL, capture_output=True
        )
        if done.returncode != 0 or not os.path.exists(facts):
            return None
        with open(facts, encoding="utf-8", errors="replace") as file:
            told = dict(line.rstrip("\n").partition("=")[::2] for line in file)
    return lease_from_names(told)


def _udhcpc() -> list[str] | None:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which("udhcpc", path=path)
    return [found] if found else None


def lease_from_names(told: dict[str, str]) -> Lease | None:
    """A lease from what udhcpc tells its script."""
    if "ip" not in told:
        return None
    words = {name: told.get(name, "").split() for name in ("router", "dns")}
    return Lease(
        address=told["ip"],
        prefix=int(told.get("mask", "24")),
        gateway=words["router"][0] if words["router"] else None,
        dns=words["dns"][0] if words["dns"] else None,
        server=told.get("serverid", ""),
        mtu=int(told.get("mtu", DEFAULT_MTU)),
        seconds=int(told.get("lease", "0")),
    )


class PacketCard:
    """An interface as a card: frames by a packet socket (packet(7))."""

    def __init__(self, interface: str) -> None:
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._sock.bind((interface, 0))
        self.mac: bytes = self._sock.getsockname()[4]

    def send(self, frame: bytes, offload: Offload = NO_OFFLOAD) -> None:
        """Send one frame."""
        self._sock.send(frame)

    def receive(self, timeout_s: float = 1.0) -> list[tuple[bytes, Offload]]:
        """One frame. The kernel may have left its checksum undone, as between two programs."""
        if not select.select([self._sock], [], [], timeout_s)[0]:
            return []
        return [(self._sock.recv(65536), Offload(F_DATA_VALID))]

    def close(self) -> None:
        """Close."""
        self._sock.close()


def lease_by_packets(interface: str) -> Lease:
    """Get a lease by our own client, before the kernel has an address."""
    card = PacketCard(interface)
    try:
        return IpGuest(card, mac=card.mac).lease_by_dhcp()
    finally:
        card.close()


# --- Python's stack, on a ring -------------------------------------------------------------------


class RingConnection:
    """A connection of ``vmwire.bench``'s."""

    def __init__(self, connection: TcpConnection) -> None:
        self._connection = connection
        self.peer = connection.peer[0]
        self.send = connection.send
        self.receive_into = connection.receive_into
        self.finish = connection.finish
        self.close = connection.close


class RingStack:
    """``vmwire.bench.guest`` on a card behind a vhost-user socket."""

    def __init__(self, path: str) -> None:
        from vmwire.bench.vhost_user import NetDriver

        self._guest = IpGuest(NetDriver(path, buffer_size=66000))

    def lease(self) -> tuple[Lease, str]:
        """By our own client."""
        return self._guest.lease_by_dhcp(), OWN_CLIENT

    def ping(self, address: str) -> float:
        """One echo."""
        return self._guest.ping(address)

    def resolve(self, name: str, server: str) -> dns_client.Reply:
        """Ask over UDP."""
        return self._guest.resolve(name, server)

    def connect(self, address: str, port: int) -> RingConnection:
        """Connect."""
        return RingConnection(self._guest.connect(address, port))

    def listen(self, port: int) -> None:
        """Listen."""
        self._listener = self._guest.listen(port)

    def accept(self) -> RingConnection:
        """Take one connection, and no more."""
        try:
            return RingConnection(self._listener.accept(SILENCE_S))
        finally:
            self._listener.close()
