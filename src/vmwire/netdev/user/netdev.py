# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``-netdev user``: the user-mode network as a box with one port.

This file only joins the parts; each says in its own file what it does.

    port -> Stack -> Neighbours (ARP), TcpTable, UdpTable, Icmp, DhcpServer, DnsService
    all of them -> Output -> port                      TcpTable, UdpTable -> port (bulk)
"""

from __future__ import annotations

import logging
import resource
import socket
from collections.abc import Sequence

from vmwire.engine.host import Host
from vmwire.netdev.user.arp import Neighbours
from vmwire.netdev.user.dhcp import DhcpServer, Extras
from vmwire.netdev.user.dns_service import DnsService
from vmwire.netdev.user.forwards import TcpListener, give_back, open_socket
from vmwire.netdev.user.icmp import Icmp
from vmwire.netdev.user.kept import Kept
from vmwire.netdev.user.options import ForwardRule, UserOptions
from vmwire.netdev.user.output import Output
from vmwire.netdev.user.plan import dotted, packed
from vmwire.netdev.user.resolvers import ResolvConf
from vmwire.netdev.user.stack import ARP, Stack
from vmwire.netdev.user.tcp import TcpTable
from vmwire.netdev.user.udp import UdpTable
from vmwire.wire.frame import Frame
from vmwire.wire.port import EVERYTHING, Port, stats
from vmwire.wire.protocols import udp

log = logging.getLogger(__name__)

DHCP_SERVER, DHCP_CLIENT = 67, 68
DNS = 53
PROTOCOL_UDP = 17
SPARE_DESCRIPTORS = 256
"""Descriptors that are never used for flows."""


class UserNetdev:
    """A network of its own for guests, led out through sockets of this process."""

    OPTIONS = UserOptions

    def __init__(self, options: UserOptions) -> None:
        self.options = options
        self.plan = options.plan()
        self.port = Port(
            options.id,
            self._receive,
            resume=self._resume,
            link_changed=self._on_link,
            accepts_changed=self._on_peer,
            accepts=EVERYTHING,
        )
        self.listeners: list[tuple[ForwardRule, TcpListener | socket.socket]] = []
        self._opened = False

    def open(self, host: Host) -> None:
        """Bind the forwards and start the services. Raises ConfigError when a port is taken."""
        self._build(host)
        self._opened = True
        try:
            for rule in self.options.hostfwd:
                self._listen(host, rule)
            self._kept.restore()
        except BaseException:
            self.close()
            raise

    def _build(self, host: Host) -> None:
        plan, loop = self.plan, host.loop
        self._host = host
        self._neighbours = Neighbours(plan)
        self._output = Output(self.port, loop.defer, self._mac_of, plan)
        self._dhcp = DhcpServer(plan, _extras(self.options))
        if self._dhcp.bad_domains:
            bad = ", ".join(map(repr, self._dhcp.bad_domains))
            log.warning("netdev %s: dnssearch leaves out %s: no domain name", self.options.id, bad)
        self._resolvers = ResolvConf(loop.now)
        self._dns = DnsService(loop, self._resolvers, self._deliver_dns)
        self._stack = Stack(
            plan,
            self._output,
            self._neighbours,
            now=loop.now,
            on_dhcp=self._on_dhcp,
            on_dns=self._dns.query,
            on_guest=self._on_guest,
        )
        self._icmp = Icmp(loop, self._output, plan)
        limit = _flow_limit()
        self._tcp = TcpTable(
            loop,
            self.port,
            self._output,
            plan,
            resolver=self._tcp_resolver,
            unreachable=self._icmp.unreachable,
            max_flows=limit,
        )
        self._udp = UdpTable(
            loop, self.port, self._output, plan,
            unreachable=self._icmp.unreachable, max_flows=limit // 2,
        )  # fmt: skip
        self._stack.use(self._tcp, self._udp, self._icmp)
        self._kept = Kept(
            host.store,
            self.options.id,
            dhcp=self._dhcp,
            neighbours=self._neighbours,
            tcp=self._tcp,
            udp=self._udp,
        )
        if self.options.ipv4_on:
            self.port.receive = self._stack.receive

    def hand_over(self) -> None:
        """Put everything down for a successor."""
        if self._opened:
            self._kept.hand_over()

    def go_on(self) -> None:
        """Nobody took over."""
        if self._opened:
            self._kept.go_on()

    def close(self) -> None:
        """End all flows and give every descriptor back. Harmless when called twice."""
        if not self._opened:
            return
        self._opened = False
        self.port.receive = self._receive
        for rule, listener in self.listeners:
            give_back(self._host, rule, self.options.id)
            if isinstance(listener, TcpListener):
                listener.close()
            else:
                self._udp.unforward(listener)
                listener.close()
        self.listeners.clear()
        self._tcp.close()
        self._udp.close()
        self._icmp.close()
        self._dns.close()
        self._kept.close()

    @property
    def info(self) -> str:
        """What ``info network`` says."""
        restrict = "on" if self.plan.restrict else "off"
        return f"net={dotted(self.plan.network)},restrict={restrict}"

    def stats(self) -> dict[str, object]:
        """Return counters as plain data: the port's, each part's, leases and forwards."""
        if not self._opened:
            return stats(self.port)
        leases = self._dhcp.leases(self._host.loop.now())
        drops = self._stack.counters + self._stack.reassembler.drops + self._neighbours.drops
        return stats(self.port) | {
            "dropped": dict(drops + self._dhcp.drops),
            "tcp": {"flows": len(self._tcp.flows)} | dict(self._tcp.counters),
            "udp": self._udp.stats(),
            "icmp": dict(self._icmp.counters),
            "dns": self._dns.stats(),
            "leases": {dotted(address): mac.hex(":") for address, mac in leases},
            "forwards": [self._describe(rule, listener) for rule, listener in self.listeners],
        }

    # The wire

    def _receive(self, frames: Sequence[Frame]) -> int:
        """Take frames of guests that have no network: it is closed, or IPv4 is off."""
        self.port.drops["IPv4 is off" if self._opened else "closed"] += len(frames)
        return len(frames)

    def _resume(self) -> None:
        self._output.flush()
        self._tcp.resume()
        self._udp.resume()

    def _on_link(self, up: bool) -> None:
        """Somebody else may be there now, who has refused nothing that could be resumed."""
        self._on_peer()

    def _on_peer(self) -> None:
        if self._opened:
            self._host.loop.defer(self._resume)

    # Guests

    def _mac_of(self, address: bytes) -> bytes | None:
        mac = self._neighbours.macs.get(address)
        if mac is None:
            request = self._neighbours.ask(address, self._host.loop.now())
            if request is not None:
                self._output.ethernet(request.destination, request.source, ARP, request.payload)
        return mac

    def _on_guest(self, address: bytes, mac: bytes) -> None:
        self._tcp.guest_known(address, mac)
        self._udp.guest_known(address)

    def _on_dhcp(self, mac: bytes, payload: bytes) -> None:
        reply = self._dhcp.receive(mac, payload, self._host.loop.now())
        if reply is None:
            return
        if reply.leased is not None:
            self._neighbours.learn(reply.leased, mac)
            self._kept.keep()
        self._send_udp(
            self.plan.gateway, DHCP_SERVER, reply.address, DHCP_CLIENT, reply.payload, reply.mac
        )

    def _deliver_dns(self, address: bytes, port: int, message: bytes) -> None:
        self._send_udp(self.plan.dns, DNS, address, port, message)

    def _send_udp(
        self,
        source: bytes,
        source_port: int,
        guest: bytes,
        guest_port: int,
        payload: bytes,
        mac: bytes | None = None,
    ) -> None:
        datagram = udp.Datagram(source_port, guest_port, payload).emit(source, guest)
        self._output.ipv4(source, guest, PROTOCOL_UDP, datagram, mac=mac)

    def _tcp_resolver(self) -> tuple[str, int] | None:
        resolver = self._resolvers.first_ipv4()
        return None if resolver is None else (resolver.address, resolver.port)

    # Forwards

    def _listen(self, host: Host, rule: ForwardRule) -> None:
        sock = open_socket(host, rule, self.options.id)
        guest = rule.guest_address or self.plan.first_lease
        if rule.protocol == "udp":
            self._udp.forward(sock, guest, rule.guest_port)
            self.listeners.append((rule, sock))
            return

        def on_client(client: socket.socket, address: str, port: int) -> None:
            source = self.plan.seen_as(packed(address))
            self._tcp.open_forwarded(client, source, port, guest, rule.guest_port)

        self.listeners.append((rule, TcpListener(host, sock, on_client)))

    def _describe(self, rule: ForwardRule, listener: TcpListener | socket.socket) -> str:
        sock = listener.sock if isinstance(listener, TcpListener) else listener
        address, port = sock.getsockname()
        guest = dotted(rule.guest_address or self.plan.first_lease)
        return f"{rule.protocol}:{address}:{port}-{guest}:{rule.guest_port}"


def _extras(options: UserOptions) -> Extras:
    return Extras(
        hostname=options.hostname or "",
        domain_name=options.domainname or "",
        search_domains=tuple(options.dnssearch),
    )


def _flow_limit() -> int:
    """Raise the descriptor limit as far as it goes; return how many flows that allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(64, (soft - SPARE_DESCRIPTORS) * 2 // 3)
