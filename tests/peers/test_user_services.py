# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The user network's services against a real kernel, real DHCP clients, dig and ping.

A tap is moved into a network namespace. What the namespace sends goes through the wire formats
and services by the shortest way that there is, with no stack in between, so that a failure here is
one of theirs.
"""

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmwire.engine.loop import READ, Loop
from vmwire.netdev.user.arp import Neighbours, Outgoing
from vmwire.netdev.user.dhcp import DhcpServer, Extras
from vmwire.netdev.user.dns import Resolver
from vmwire.netdev.user.dns_service import DnsService
from vmwire.netdev.user.fragments import Reassembler, fragment
from vmwire.netdev.user.plan import Plan, gateway_mac, packed
from vmwire.wire.protocols import dhcp, dns, ethernet, icmp, ipv4, udp
from vmwire.wire.protocols.errors import ParseError

pytestmark = [pytest.mark.peer, pytest.mark.root]

TUNSETIFF = 0x400454CA
IFF_TAP_NO_PI = 0x0002 | 0x1000

PLAN = Plan(mtu=1400)
EXTRAS = Extras(
    hostname="guesthost", domain_name="dom.example", search_domains=("a.example", "b.a.example")
)
GUEST = packed("10.0.2.15")

UDHCPC_SCRIPT = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip link set dev "$interface" mtu "$mtu"
ip route add default via "$router"
printf '%s|' "$ip" "$mask" "$router" "$dns" "$mtu" "$hostname" "$domain" "$search" "$lease"
"""


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


class Services:
    """The services behind a tap, in a thread of their own."""

    def __init__(self, tap: int, resolver: Resolver) -> None:
        self.loop = Loop()
        self.tap = tap
        self.neighbours = Neighbours(PLAN)
        self.dhcp = DhcpServer(PLAN, EXTRAS)
        self.dns = DnsService(self.loop, lambda: [resolver], self._dns_answer)
        self.reassembler = Reassembler()
        self.ident = 0
        self.refused: list[str] = []
        self.loop.watch(tap, READ, self._on_readable)
        self.thread = threading.Thread(target=self.loop.run)

    def _on_readable(self, events: int) -> None:
        frame = os.read(self.tap, 65536)
        try:
            self._receive(frame)
        except ParseError as error:
            self.refused.append(f"{error}: {frame.hex()}")

    def _receive(self, frame: bytes) -> None:
        header = ethernet.Header.parse(frame)
        payload = frame[header.length :]
        if header.ethertype == ethernet.ETHERTYPE_ARP:
            self.send_arp(self.neighbours.receive(payload))
        elif header.ethertype == ethernet.ETHERTYPE_IPV4:
            self._receive_ipv4(header, payload)

    def _receive_ipv4(self, link: ethernet.Header, packet: bytes) -> None:
        assert ipv4.checksum_ok(packet)
        header = ipv4.Header.parse(packet)
        payload = bytes(header.payload(packet))
        self.neighbours.learn(header.src, link.src)
        if header.is_fragment:
            whole = self.reassembler.add(header, payload, self.loop.now())
            if whole is None:
                return
            header, payload = whole
        if header.proto == ipv4.PROTO_ICMP:
            message = icmp.Message.parse(payload)
            if message.type == icmp.ECHO_REQUEST:
                self._send(link.src, header.dst, header.src, 1, icmp.echo_reply(message).emit())
        elif header.proto == ipv4.PROTO_UDP:
            assert udp.checksum_ok(payload, header.src, header.dst)
            self._receive_udp(link, header, udp.Datagram.parse(payload))

    def _receive_udp(
        self, link: ethernet.Header, header: ipv4.Header, datagram: udp.Datagram
    ) -> None:
        if datagram.dst_port == dhcp.SERVER_PORT:
            reply = self.dhcp.receive(link.src, datagram.payload, self.loop.now())
            if reply is not None:
                self._send_udp(reply.mac, PLAN.gateway, 67, reply.address, 68, reply.payload)
        elif datagram.dst_port == dns.PORT and header.dst == PLAN.dns:
            self.dns.query(header.src, datagram.src_port, bytes(datagram.payload))

    def _dns_answer(self, address: bytes, port: int, message: bytes) -> None:
        mac = self.neighbours.macs[address]
        self._send_udp(mac, PLAN.dns, dns.PORT, address, port, message)

    def _send_udp(
        self, mac: bytes, src: bytes, src_port: int, dst: bytes, dst_port: int, payload: bytes
    ) -> None:
        segment = udp.Datagram(src_port, dst_port, payload).emit(src, dst)
        self._send(mac, src, dst, ipv4.PROTO_UDP, segment)

    def _send(self, mac: bytes, src: bytes, dst: bytes, proto: int, payload: bytes) -> None:
        self.ident += 1
        header = ipv4.Header(src, dst, proto, len(payload), ident=self.ident)
        link = ethernet.Header(mac, gateway_mac(src), ethernet.ETHERTYPE_IPV4).emit()
        for head, piece in fragment(header, payload, PLAN.mtu):
            os.write(self.tap, ethernet.padded(link + head + bytes(piece)))

    def send_arp(self, sent: Outgoing | None) -> None:
        if sent is not None:
            link = ethernet.Header(sent.destination, sent.source, ethernet.ETHERTYPE_ARP)
            os.write(self.tap, ethernet.padded(link.emit() + sent.payload))


class Guest:
    """The namespace: commands run in it."""

    def __init__(self, namespace: str, device: str) -> None:
        self.namespace = namespace
        self.device = device

    def run(self, *command: str, timeout: float = 20) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace, *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def address(self) -> None:
        """Give the guest the address that it would lease, without DHCP."""
        self.run("ip", "addr", "add", "10.0.2.15/24", "dev", self.device)
        self.run("ip", "link", "set", self.device, "mtu", str(PLAN.mtu))


class LocalResolver:
    """A DNS server on the host's loopback that knows one address for every name."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.questions: list[str] = []
        self.padding = 0
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            query, client = self.socket.recvfrom(4096)
            if not query:
                return
            question = dns.parse_question(query)
            self.questions.append(question.name)
            self.socket.sendto(self._answer(query, question), client)

    def _answer(self, query: bytes, question: dns.Question) -> bytes:
        head = dns.Header(dns.peek_id(query), 0x8180, 1, 1 + bool(self.padding))
        address = bytes.fromhex("c00c000100010000003c0004c0000250")
        text = b"\xff" + b"x" * 255
        count = self.padding // len(text)
        record = bytes.fromhex("c00c001000010000003c") + struct.pack("!H", count * len(text))
        extra = record + text * count if self.padding else b""
        return head.emit() + question.wire + address + extra

    def close(self) -> None:
        self.socket.sendto(b"", self.socket.getsockname())
        self.thread.join()
        self.socket.close()


@pytest.fixture
def resolver() -> Iterator[LocalResolver]:
    resolver = LocalResolver()
    yield resolver
    resolver.close()


@pytest.fixture
def guest() -> Iterator[Guest]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root here")
    needs("ip")
    guest = Guest(f"vmwire-services-{os.getpid()}", f"svc{os.getpid() % 100000}")
    subprocess.run(["ip", "netns", "add", guest.namespace], check=True)
    yield guest
    subprocess.run(["ip", "netns", "del", guest.namespace], check=True)


@pytest.fixture
def services(guest: Guest, resolver: LocalResolver) -> Iterator[Services]:
    try:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        pytest.skip("this host has no /dev/net/tun")
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", guest.device.encode(), IFF_TAP_NO_PI))
    move = ["ip", "link", "set", guest.device, "netns", guest.namespace]
    subprocess.run(move, check=True)
    guest.run("ip", "link", "set", "lo", "up")
    guest.run("ip", "link", "set", guest.device, "up")
    services = Services(tap, Resolver("127.0.0.1", resolver.socket.getsockname()[1]))
    services.thread.start()
    yield services
    services.loop.call(services.dns.close)
    services.loop.stop()
    services.thread.join()
    services.loop.close()
    os.close(tap)
    assert services.refused == []


def test_udhcpc_gets_its_lease(services: Services, guest: Guest, tmp_path: Path) -> None:
    needs("busybox")
    script = tmp_path / "script"
    script.write_text(UDHCPC_SCRIPT)
    script.chmod(0o755)
    wanted = [f"-O{option}" for option in ("mtu", "search", "hostname", "domain", "lease")]
    told = guest.run(
        "busybox", "udhcpc", "-n", "-q", "-i", guest.device, *wanted, "-s", str(script)
    )
    fields = told.strip().splitlines()[-1].split("|")
    assert fields[:5] == ["10.0.2.15", "24", "10.0.2.2", "10.0.2.3", "1400"]
    assert fields[5:9] == ["guesthost", "dom.example", "a.example b.a.example", "86400"]
    guest.run("ping", "-c1", "-W5", "10.0.2.2")
    assert "52:55:0a:00:02:02" in guest.run("ip", "neigh", "show", "10.0.2.2")


def test_dhclient_gets_its_lease(services: Services, guest: Guest, tmp_path: Path) -> None:
    needs("dhclient")
    leases = tmp_path / "leases"
    leases.touch()
    files = ["-sf", "/bin/true", "-lf", str(leases), "-pf", str(tmp_path / "pid")]
    try:
        guest.run("dhclient", "-1", *files, guest.device)
        lease = leases.read_text()
    finally:
        subprocess.run(
            ["ip", "netns", "exec", guest.namespace, "dhclient", "-x", *files, guest.device],
            capture_output=True,
            timeout=20,
            check=False,
        )
    for line in (
        "fixed-address 10.0.2.15;",
        "option interface-mtu 1400;",
        "option dhcp-server-identifier 10.0.2.2;",
        'option domain-search "a.example.", "b.a.example.";',
    ):
        assert line in lease


def test_ping_in_fragments_both_ways(services: Services, guest: Guest) -> None:
    needs("ping")
    guest.address()
    told = guest.run("ping", "-c3", "-i0.2", "-W5", "-s", "60000", "-p", "a55a", "10.0.2.2")
    assert "3 received" in told
    assert "wrong data" not in told
    assert len(services.reassembler) == 0


def test_dig_is_answered(services: Services, guest: Guest, resolver: LocalResolver) -> None:
    needs("dig")
    guest.address()
    told = guest.run("dig", "+tries=1", "+time=5", "+short", "@10.0.2.3", "Web.Example", "A")
    assert told.split() == ["192.0.2.80"]
    assert resolver.questions == ["web.example"]


def test_dig_is_answered_in_fragments(
    services: Services, guest: Guest, resolver: LocalResolver
) -> None:
    needs("dig")
    guest.address()
    resolver.padding = 3000
    told = guest.run("dig", "+tries=1", "+time=5", "+bufsize=4096", "@10.0.2.3", "big.example", "A")
    assert "192.0.2.80" in told
    assert int(told.split("MSG SIZE  rcvd: ")[1].split()[0]) > 2 * PLAN.mtu


def test_silent_guest_is_found_by_asking(services: Services, guest: Guest) -> None:
    guest.address()
    mac = json.loads(guest.run("ip", "-j", "link", "show", guest.device))[0]["address"]
    assert GUEST not in services.neighbours.macs
    loop = services.loop
    loop.call(lambda: services.send_arp(services.neighbours.ask(GUEST, loop.now())))
    guest.run("sleep", "0.2")
    assert services.neighbours.macs[GUEST].hex(":") == mac
