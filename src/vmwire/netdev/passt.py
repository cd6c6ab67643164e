# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""passt as the network: ``-netdev passt,id=ID[,path=PROGRAM][,…]``, with QEMU's options.

passt(1) is started with one end of a socket pair, over which frames go as in ``framing``. It puts
itself into the background when it stands, and ends when its socket does, whatever ends us. When it
ends before its time another is started.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vmwire.engine.clock import Timer
from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.netdev import programs
from vmwire.netdev.connections import OnConnected
from vmwire.netdev.stream_line import StreamLine
from vmwire.options.table import option, record
from vmwire.options.values import BOOL, IDENTIFIER, STRING, UINT16

log = logging.getLogger(__name__)

PROGRAM = "passt"
PATIENCE_S = 10.0
RESTART_S = 1.0
NOISE = "Failed to send"
"""What passt says where there is no syslog."""


def _switch(help: str) -> Any:
    return option(BOOL, help=f"on/off, {help}")


@record("netdev", "passt", later=("vhost-user",))
@dataclass(slots=True, kw_only=True)
class PasstOptions:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)
    path: str = option(STRING, default=PROGRAM, help="the program")
    quiet: bool = option(BOOL, default=False, help="on/off, say only what is wrong")
    mtu: int | None = option(UINT16, help="MTU that the guest is told")
    address: str | None = option(STRING, help="the guest's address")
    netmask: str | None = option(STRING, help="its network's mask, or prefix length")
    mac: str | None = option(STRING, help="the gateway's address on the wire")
    gateway: str | None = option(STRING, help="the gateway's address")
    interface: str | None = option(STRING, help="the host's interface to take addresses from")
    outbound: str | None = option(STRING, help="address to send from")
    outbound_if4: str | None = option(STRING, help="interface to send IPv4 from")
    outbound_if6: str | None = option(STRING, help="interface to send IPv6 from")
    dns: str | None = option(STRING, help="name server that the guest is told")
    search: list[str] = option(STRING, repeated=True, help="domain to search")
    fqdn: str | None = option(STRING, help="the guest's full name")
    dhcp_dns: bool | None = _switch("name servers are told by DHCP")
    dhcp_search: bool | None = _switch("domains are told by DHCP")
    map_host_loopback: str | None = option(STRING, help="address that means the host itself")
    map_guest_addr: str | None = option(STRING, help="address that means the guest from the host")
    dns_forward: str | None = option(STRING, help="address whose queries go to dns-host")
    dns_host: str | None = option(STRING, help="name server of the host")
    tcp: bool | None = _switch("TCP")
    udp: bool | None = _switch("UDP")
    icmp: bool | None = _switch("ICMP echo")
    dhcp: bool | None = _switch("DHCP")
    ndp: bool | None = _switch("neighbour discovery")
    dhcpv6: bool | None = _switch("DHCPv6")
    ra: bool | None = _switch("router advertisements")
    freebind: bool | None = _switch("forwards may be bound to any address")
    ipv4: bool | None = _switch("IPv4")
    ipv6: bool | None = _switch("IPv6")
    tcp_ports: list[str] = option(STRING, repeated=True, help="TCP forwards, in passt's form")
    udp_ports: list[str] = option(STRING, repeated=True, help="UDP forwards, in passt's form")
    param: list[str] = option(STRING, repeated=True, help="more words for passt")

    def __post_init__(self) -> None:
        if self.ipv4 is False and self.ipv6 is False:
            raise ConfigError("'ipv4' and 'ipv6' can't both be off")

    def words(self) -> Iterator[str]:
        """What passt is told."""
        if self.quiet:
            yield "--quiet"
        for name, flag in _VALUES.items():
            value = getattr(self, name)
            for one in value if isinstance(value, list) else [value]:
                if one is not None:
                    yield from (flag, str(one))
        for name in ("tcp", "udp", "icmp", "dhcp", "ndp", "dhcpv6", "ra"):
            if getattr(self, name) is False:
                yield f"--no-{name}"
        for name, flag in (("dhcp_dns", "dhcp-dns"), ("dhcp_search", "dhcp-search")):
            if (value := getattr(self, name)) is not None:
                yield f"--{flag}" if value else f"--no-{flag}"
        if self.freebind:
            yield "--freebind"
        if self.ipv4 is False:
            yield "--ipv6-only"
        if self.ipv6 is False:
            yield "--ipv4-only"
        yield from self.param


_VALUES = {
    "mtu": "--mtu", "address": "--address", "netmask": "--netmask", "mac": "--mac-addr",
    "gateway": "--gateway", "interface": "--interface", "outbound": "--outbound",
    "outbound_if4": "--outbound-if4", "outbound_if6": "--outbound-if6", "dns": "--dns",
    "search": "--search", "fqdn": "--fqdn", "map_host_loopback": "--map-host-loopback",
    "map_guest_addr": "--map-guest-addr", "dns_forward": "--dns-forward", "dns_host": "--dns-host",
    "tcp_ports": "--tcp-ports", "udp_ports": "--udp-ports",
}  # fmt: skip


class Started:
    """Starts passt, and another when that ends (`connections.Source`).

    What is wrong with the first one is told to whoever wants it, who waits. Guests don't wait for
    another: it is started in a thread. That there was a first one is known by the fd store, so
    that the others also go on while a worker that has crashed is replaced.
    """

    def __init__(self, options: PasstOptions) -> None:
        self.waiting = ""
        self._options = options
        self._name = options.id
        self._host: Host | None = None
        self._timer: Timer | None = None
        self._prepared: socket.socket | None = None

    def prepare(self) -> None:
        """Start the first one before ``open``."""
        self._prepared = self._start()

    def open(self, host: Host, name: str, on_connected: OnConnected, *, busy: bool = False) -> None:
        self._host, self._name, self._on_connected = host, name, on_connected
        if busy:
            return
        if self._began_before(host):
            self._restart()
            return
        first, self._prepared = self._prepared or self._start(), None
        on_connected(first)

    def again(self) -> None:
        log.warning("%s: passt has ended; another is started", self._name)
        self._later()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._prepared is not None:
            self._prepared.close()
            self._prepared = None
        if self._host is not None:
            self._host.store.drop(self._mark)
            self._host = None

    @property
    def _mark(self) -> str:
        return f"{self._name} passt"

    def _began_before(self, host: Host) -> bool:
        """Whether an earlier process had one; a later one will know that we had."""
        fd = host.store.take(self._mark)
        began = fd is not None
        if fd is None:
            fd = os.memfd_create("vmwire-passt")
            host.store.keep(self._mark, fd)
        os.close(fd)
        return began

    def _later(self) -> None:
        self.waiting = "passt is started again"
        if self._host is not None:
            self._timer = self._host.loop.call_later(RESTART_S, self._restart)

    def _restart(self) -> None:
        self.waiting = "passt is started again"
        threading.Thread(target=self._start_aside, name="vmwire-passt", daemon=True).start()

    def _start_aside(self) -> None:
        """In a thread: start one, and tell the engine what became of it."""
        host = self._host
        if host is None:
            return
        try:
            sock = self._start()
        except ConfigError as error:
            log.error("%s: %s", self._name, error.message)
            self._post(host, self._later)
        else:
            self._post(host, lambda: self._connected(sock))

    def _post(self, host: Host, callback: Callable[[], None]) -> None:
        try:
            host.loop.post(callback)
        except OSError:  # the loop has gone meanwhile
            pass

    def _connected(self, sock: socket.socket) -> None:
        if self._host is None:
            sock.close()  # nobody wants it any more: it ends by that
            return
        self.waiting = ""
        self._on_connected(sock)

    def _start(self) -> socket.socket:
        """Start passt, and wait until it stands. Raises ``ConfigError``."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                self._run(theirs.fileno())
        except BaseException:
            ours.close()
            raise
        return ours

    def _run(self, fd: int) -> None:
        path = self._options.path
        words = [path, "--fd", str(fd), *self._options.words()]
        try:
            status, said = programs.run(words, pass_fds=[fd], patience_s=PATIENCE_S)
        except TimeoutError:
            raise ConfigError(f"{path} did not stand within {PATIENCE_S:g} s") from None
        except OSError as error:
            raise ConfigError(f"path={path} can't be run: {error.strerror}") from None
        if status:
            raise ConfigError(f"{path} failed: {_complaint(said)}")
        for line in said:
            log.info("%s: %s", self._name, line)


def _complaint(said: list[str]) -> str:
    """What is wrong: the last line, or the one before passt's usage."""
    usage = next((n for n, line in enumerate(said) if line.startswith("Usage:")), len(said))
    lines = [line for line in said[:usage] if not line.startswith(NOISE)]
    return lines[-1] if lines else "it says nothing"


class PasstNetdev(StreamLine):
    """The box."""

    OPTIONS = PasstOptions

    def __init__(self, options: PasstOptions) -> None:
        self._started = Started(options)
        super().__init__(options.id, self._started)

    def prepare(self) -> None:
        """Start passt before ``open``."""
        self._started.prepare()

    def finish(self) -> None:
        """Nothing is owed: passt ends with its socket."""
