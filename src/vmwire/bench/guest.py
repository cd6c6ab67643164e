# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A guest's IP stack in plain Python, on the driver's side of a card: for tests without a VM.

    with NetDriver("/run/me/n0.sock") as card:
        guest = IpGuest(card)
        print(guest.lease_by_dhcp())
        print(guest.ping("10.0.2.2"))
        with guest.connect("10.0.2.2", 8000) as connection:
            connection.send(b"GET / HTTP/1.0\\r\\n\\r\\n")
            print(connection.receive())

ARP (RFC 826), IPv4 without fragments (RFC 791), ICMP echo both ways (RFC 792), UDP (RFC 768), a
DHCP client, and TCP (``vmwire.bench.guest_tcp``). Everything blocks, in one thread: the stack lives
only while one of its methods waits (``turn``), so what arrives meanwhile stays in the card.

What others send is judged as in any device: the wrong is counted in ``drops`` and forgotten.
"""

from __future__ import annotations

import itertools
import secrets
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Container
from typing import Protocol, TypeVar

from vmwire.bench import dns_client
from vmwire.bench.dhcp_client import DhcpClient, Lease
from vmwire.bench.guest_tcp import Listener, TcpConnection
from vmwire.wire.frame import F_NEEDS_CSUM, GSO_TCPV4, NO_OFFLOAD, Offload
from vmwire.wire.protocols import arp, dhcp, dns, ethernet, icmp, ipv4, tcp, udp
from vmwire.wire.protocols.checksum import Buffer, pseudo_header_sum
from vmwire.wire.protocols.errors import ParseError

T = TypeVar("T")
MAC = bytes.fromhex("525400123456")
EPHEMERAL = range(49152, 65536)
ASK_AGAIN_S = 1.0
LONGEST_WAIT_S = 0.05
"""How long one turn may sleep: timers of connections are looked at in between."""


class Card(Protocol):
    """A network card's driver, such as ``vmwire.bench.vhost_user.NetDriver``."""

    def send(self, frame: bytes, offload: Offload = NO_OFFLOAD) -> None:
        """Send one frame; may wait for room."""

    def receive(self, timeout_s: float = 1.0) -> list[tuple[bytes, Offload]]:
        """What has come; waits for at least one frame, at most so long."""


class UdpSocket:
    """A UDP port of the guest. ``errors`` counts ICMP errors about what was sent."""

    def __init__(self, guest: IpGuest, port: int) -> None:
        self._guest = guest
        self.port = port
        self.arrived: deque[tuple[str, int, bytes]] = deque()
        self.errors = 0

    def send(self, address: str, port: int, data: bytes) -> None:
        """Send one datagram."""
        guest, destination = self._guest, socket.inet_aton(address)
        guest.find(destination)
        payload = udp.Datagram(self.port, port, data).emit(guest.address, destination)
        guest.send_ipv4(destination, ipv4.PROTO_UDP, payload)

    def receive(self, timeout_s: float = 2.0) -> tuple[str, int, bytes]:
        """The next datagram: where it came from, and its data."""
        self._guest.until(lambda: bool(self.arrived), timeout_s, "a datagram")
        return self.arrived.popleft()

    def close(self) -> None:
        """Give the port back."""
        self._guest.datagram_sockets.pop(self.port, None)


class IpGuest:
    """One guest with one card. Without ``address`` it has none until ``lease_by_dhcp``.

    ``superframes``: TCP is sent in frames of up to 64 KiB and left to the card to cut.
    TimeoutError: nobody answered. ConnectionError: somebody said no.
    """

    def __init__(
        self,
        card: Card,
        *,
        mac: bytes = MAC,
        address: str = "",
        prefix: int = 24,
        gateway: str = "",
        mtu: int = 1500,
        superframes: bool = True,
    ) -> None:
        self.card = card
        self.mac = mac
        self.mtu = mtu
        self.superframes = superframes
        self.address = socket.inet_aton(address) if address else arp.NO_ADDRESS
        self.drops: Counter[str] = Counter()
        self.icmp_errors: list[icmp.Message] = []
        self.datagram_sockets: dict[int, UdpSocket] = {}
        self.connections: dict[tuple[int, bytes, int], TcpConnection] = {}
        self.listeners: dict[int, Listener] = {}
        self._prefix = prefix
        self._gateway = socket.inet_aton(gateway) if gateway else b""
        self._macs: dict[bytes, bytes] = {}
        self._echoes: dict[int, float] = {}
        self._ports = itertools.cycle(EPHEMERAL)
        self._identifiers = itertools.count(1)

    # Living

    def turn(self, timeout_s: float = 0.0) -> None:
        """Take what came (waiting for it so long), and do what its time has come."""
        for frame, offload in self.card.receive(timeout_s):
            try:
                self._receive(frame, offload)
            except ParseError as error:
                self.drops[str(error)] += 1
        for connection in list(self.connections.values()):
            connection.end_of_turn()

    def until(self, true: Callable[[], T], timeout_s: float, what: str) -> T:
        """Live until something is true; TimeoutError names ``what`` didn't come."""
        deadline = time.monotonic() + timeout_s
        while not (found := true()):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{what} did not come within {timeout_s:g} s")
            self.turn(min(left, LONGEST_WAIT_S))
        return found

    # What a guest does

    def lease_by_dhcp(self, timeout_s: float = 5.0) -> Lease:
        """Get an address and use it."""
        client = DhcpClient(self.mac, secrets.randbits(32))
        port = self.datagram_sockets[dhcp.CLIENT_PORT] = UdpSocket(self, dhcp.CLIENT_PORT)
        deadline = time.monotonic() + timeout_s
        try:
            while client.lease is None:
                self._say_dhcp(client.message())
                self._hear_dhcp(client, port, deadline)
        finally:
            port.close()
        self._use(client.lease)
        return client.lease

    def _say_dhcp(self, message: bytes) -> None:
        nobody, everybody = arp.NO_ADDRESS, ipv4.BROADCAST
        datagram = udp.Datagram(dhcp.CLIENT_PORT, dhcp.SERVER_PORT, message)
        payload = datagram.emit(nobody, everybody)
        header = ipv4.Header(nobody, everybody, ipv4.PROTO_UDP, len(payload))
        self._send(ethernet.BROADCAST, ethernet.ETHERTYPE_IPV4, header.emit() + payload)

    def _hear_dhcp(self, client: DhcpClient, port: UdpSocket, deadline: float) -> None:
        """Until the client has something to say, or is done, or has waited long enough."""

        def taken() -> bool:
            while port.arrived:
                if client.take(port.arrived.popleft()[2]) or client.lease is not None:
                    return True
            return False

        left = deadline - time.monotonic()
        try:
            self.until(taken, min(ASK_AGAIN_S, max(left, 0.0)), "a DHCP server's answer")
        except TimeoutError:
            if time.monotonic() >= deadline:
                raise

    def _use(self, lease: Lease) -> None:
        self.address = socket.inet_aton(lease.address)
        self._prefix = lease.prefix
        self._gateway = socket.inet_aton(lease.gateway) if lease.gateway else b""
        self.mtu = lease.mtu

    def ping(self, address: str, timeout_s: float = 2.0, size: int = 56) -> float:
        """Send an echo request; seconds until the answer."""
        destination = socket.inet_aton(address)
        self.find(destination)
        ident = next(self._identifiers) & 0xFFFF
        request = icmp.Message(icmp.ECHO_REQUEST, 0, ident.to_bytes(2, "big") * 2, bytes(size))
        begin = time.monotonic()
        self.send_ipv4(destination, ipv4.PROTO_ICMP, request.emit())
        self.until(lambda: ident in self._echoes, timeout_s, f"an echo from {address}")
        return self._echoes.pop(ident) - begin

    def open_udp(self, port: int = 0) -> UdpSocket:
        """A UDP port, any one or this one."""
        chosen = port or self._free_port(self.datagram_sockets)
        self.datagram_sockets[chosen] = UdpSocket(self, chosen)
        return self.datagram_sockets[chosen]

    def resolve(self, name: str, server: str, timeout_s: float = 3.0) -> dns_client.Reply:
        """Ask a name server for a name's IPv4 addresses."""
        port, ident = self.open_udp(), secrets.randbits(16)
        deadline = time.monotonic() + timeout_s
        try:
            port.send(server, dns.PORT, dns_client.query(name, ident))
            while True:
                source, _, data = port.receive(max(deadline - time.monotonic(), 0.0))
                if source == server and data[:2] == ident.to_bytes(2, "big"):
                    return dns_client.read_reply(data)
        finally:
            port.close()

    def connect(self, address: str, port: int, timeout_s: float = 5.0) -> TcpConnection:
        """Open a TCP connection."""
        remote = socket.inet_aton(address)
        self.find(remote)
        own_port = self._free_port({key[0] for key in self.connections})
        connection = TcpConnection(self, own_port, remote, port)
        self.connections[connection.key] = connection
        connection.open()
        connection.wait_established(timeout_s)
        return connection

    def listen(self, port: int) -> Listener:
        """Take TCP connections to a port."""
        self.listeners[port] = Listener(self, port)
        return self.listeners[port]

    def _free_port(self, used: Container[int]) -> int:
        return next(port for port in self._ports if port not in used)

    # Frames in

    def _receive(self, frame: bytes, offload: Offload) -> None:
        header = ethernet.Header.parse(frame)
        if header.dst != self.mac and not ethernet.is_multicast(header.dst):
            self.drops["for another card"] += 1
            return
        payload = memoryview(frame)[header.length :]
        if header.ethertype == ethernet.ETHERTYPE_ARP:
            self._receive_arp(arp.Packet.parse(payload))
        elif header.ethertype == ethernet.ETHERTYPE_IPV4:
            self._receive_ipv4(header.src, payload, offload)
        else:
            self.drops["another protocol"] += 1

    def _receive_arp(self, packet: arp.Packet) -> None:
        self._macs[packet.sender_address] = packet.sender_mac
        if packet.operation == arp.REQUEST and packet.target_address == self.address:
            reply = arp.Packet(
                arp.REPLY, self.mac, self.address, packet.sender_mac, packet.sender_address
            )
            self._send(packet.sender_mac, ethernet.ETHERTYPE_ARP, reply.emit())

    def _receive_ipv4(self, mac: bytes, packet: memoryview, offload: Offload) -> None:
        header = ipv4.Header.parse(packet)
        if not ipv4.checksum_ok(packet):
            raise ParseError("wrong IPv4 checksum")
        if header.is_fragment:
            raise ParseError("a fragment")
        have_address = self.address != arp.NO_ADDRESS
        if have_address and header.dst not in (self.address, ipv4.BROADCAST):
            self.drops["for another address"] += 1
            return
        if self._on_link(header.src):
            self._macs[header.src] = mac
        payload = header.payload(packet)
        if header.proto == ipv4.PROTO_TCP:
            self._receive_tcp(header, payload, offload)
        elif header.proto == ipv4.PROTO_UDP:
            self._receive_udp(header, packet, payload, offload)
        elif header.proto == ipv4.PROTO_ICMP:
            self._receive_icmp(header, icmp.Message.parse(payload))

    def _receive_icmp(self, header: ipv4.Header, message: icmp.Message) -> None:
        if message.type == icmp.ECHO_REQUEST:
            self.send_ipv4(header.src, ipv4.PROTO_ICMP, icmp.echo_reply(message).emit())
        elif message.type == icmp.ECHO_REPLY:
            self._echoes[message.ident] = time.monotonic()
        elif message.type in icmp.ERRORS:
            self.icmp_errors.append(message)
            self._tell_udp(bytes(message.data))

    def _tell_udp(self, quoted: bytes) -> None:
        """Let a UDP port know that one of its datagrams was refused."""
        header = ipv4.Header.parse(quoted, quoted=True)
        port = int.from_bytes(quoted[header.length : header.length + 2], "big")
        if header.proto == ipv4.PROTO_UDP and port in self.datagram_sockets:
            self.datagram_sockets[port].errors += 1

    def _receive_udp(
        self, header: ipv4.Header, packet: memoryview, payload: Buffer, offload: Offload
    ) -> None:
        datagram = udp.Datagram.parse(payload)
        if not offload.checked and not udp.checksum_ok(payload, header.src, header.dst):
            raise ParseError("wrong UDP checksum")
        port = self.datagram_sockets.get(datagram.dst_port)
        if port is not None:
            source = socket.inet_ntoa(header.src)
            port.arrived.append((source, datagram.src_port, bytes(datagram.payload)))
        elif header.dst == self.address:
            refusal = icmp.unreachable(icmp.PORT_UNREACHABLE, packet)
            self.send_ipv4(header.src, ipv4.PROTO_ICMP, refusal.emit())

    def _receive_tcp(self, header: ipv4.Header, payload: Buffer, offload: Offload) -> None:
        segment = tcp.Segment.parse(payload)
        if not offload.checked and not tcp.checksum_ok(payload, header.src, header.dst):
            raise ParseError("wrong TCP checksum")
        key = (segment.dst_port, header.src, segment.src_port)
        connection = self.connections.get(key)
        if connection is not None:
            connection.take(segment)
        elif segment.flags & tcp.SYN and segment.dst_port in self.listeners:
            self.connections[key] = self.listeners[segment.dst_port].take(header.src, segment)
        elif not segment.flags & tcp.RST:
            self._refuse(header.src, segment)

    def _refuse(self, remote: bytes, segment: tcp.Segment) -> None:
        """Answer a segment of no connection by a reset (RFC 9293, section 3.10.7.1)."""
        answer = tcp.Segment(
            segment.dst_port,
            segment.src_port,
            seq=segment.ack if segment.flags & tcp.ACK else 0,
            ack=tcp.seq_add(segment.seq, segment.sequence_length),
            flags=tcp.RST | (0 if segment.flags & tcp.ACK else tcp.ACK),
            window=0,
        )
        self.send_ipv4(remote, ipv4.PROTO_TCP, answer.emit(self.address, remote))

    # Frames out

    def find(self, destination: bytes, timeout_s: float = 3.0) -> None:
        """Know the next station on the way to an address, by asking for it."""
        station = self._next_station(destination)
        deadline = time.monotonic() + timeout_s
        while station not in self._macs:
            request = arp.Packet(arp.REQUEST, self.mac, self.address, arp.NO_MAC, station)
            self._send(ethernet.BROADCAST, ethernet.ETHERTYPE_ARP, request.emit())
            try:
                what = f"{socket.inet_ntoa(station)}'s answer to ARP"
                self.until(lambda: station in self._macs, min(ASK_AGAIN_S, timeout_s), what)
            except TimeoutError:
                if time.monotonic() >= deadline:
                    raise

    def _next_station(self, destination: bytes) -> bytes:
        return destination if self._on_link(destination) else self._gateway or destination

    def _on_link(self, address: bytes) -> bool:
        host_bits = 32 - self._prefix
        own, other = (int.from_bytes(each, "big") for each in (self.address, address))
        return own >> host_bits == other >> host_bits

    def send_ipv4(self, destination: bytes, proto: int, payload: bytes) -> None:
        """Send a packet whose transport checksum is done; lost if the station isn't known."""
        self._send_packet(destination, proto, payload, NO_OFFLOAD)

    def send_tcp(self, destination: bytes, segment: tcp.Segment, mss: int) -> None:
        """Send a segment; one above ``mss`` goes as a superframe."""
        if len(segment.payload) <= mss:
            self.send_ipv4(destination, ipv4.PROTO_TCP, segment.emit(self.address, destination))
            return
        payload, segment.payload = segment.payload, b""
        data = bytearray(segment.emit(self.address, destination))
        length = len(data) + len(payload)
        start = tcp.CHECKSUM_OFFSET
        unfinished = pseudo_header_sum(self.address, destination, ipv4.PROTO_TCP, length)
        data[start : start + 2] = unfinished.to_bytes(2, "big")
        above = ethernet.HEADER.size + ipv4.HEADER.size
        offload = Offload(
            F_NEEDS_CSUM, GSO_TCPV4, above + len(data), mss, above, tcp.CHECKSUM_OFFSET
        )
        self._send_packet(destination, ipv4.PROTO_TCP, bytes(data) + bytes(payload), offload)

    def _send_packet(self, destination: bytes, proto: int, payload: bytes, how: Offload) -> None:
        mac = self._macs.get(self._next_station(destination))
        if mac is None:
            self.drops["unknown station"] += 1
            return
        header = ipv4.Header(self.address, destination, proto, len(payload))
        self._send(mac, ethernet.ETHERTYPE_IPV4, header.emit() + payload, how)

    def _send(self, mac: bytes, kind: int, payload: bytes, how: Offload = NO_OFFLOAD) -> None:
        self.card.send(ethernet.HEADER.pack(mac, self.mac, kind) + payload, how)
