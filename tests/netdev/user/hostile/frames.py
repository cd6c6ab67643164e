# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a hostile guest says, and the proof that the network lives on."""

from __future__ import annotations

import itertools
import socket
import struct

from tests.netdev.user.guest import (
    ACK,
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    MAC,
    PSH,
    RST,
    SYN,
    Bench,
    TcpPeer,
)

from vmwire.wire.frame import NO_OFFLOAD, Frame, Offload
from vmwire.wire.protocols import tcp, udp
from vmwire.wire.protocols.ipv4 import Header

DNS = bytes((10, 0, 2, 3))
ELSEWHERE = bytes((192, 0, 2, 1))
EVERYBODY = b"\xff" * 6
GARBAGE = bytes(range(256))


_ports = itertools.count(50_000)


def next_port() -> int:
    """A port of the guest that no connection has had."""
    return next(_ports)


def prove_alive(bench: Bench, server: socket.socket) -> None:
    """An honest connection works."""
    bench.settle()
    bench.segments()
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.own_port = next_port()
    peer.open(tcp.Options(mss=1460))
    while True:
        host, address = server.accept()
        if address == bench.netdev._tcp.flows[key_of(peer)].sock.getsockname():
            break
        host.close()
    peer.write(b"are you")
    assert host.recv(100) == b"are you"
    host.sendall(b"alive")
    assert peer.read(5) == b"alive"
    bench.send(peer.segment(RST, seq=peer.nxt))
    host.close()


def key_of(peer: TcpPeer) -> bytes:
    ports = peer.own_port.to_bytes(2, "big") + peer.port.to_bytes(2, "big")
    return GUEST + peer.destination + ports


def offer(bench: Bench, data: bytes, offload: Offload = NO_OFFLOAD, cut: int = 0) -> None:
    """Hand a frame to the network as a device would, in two pieces if ``cut``."""
    views = [memoryview(data[:cut]), memoryview(data[cut:])] if cut else [memoryview(data)]
    assert bench.netdev.port.receive([Frame(views, len(data), offload)]) == 1


def from_(source: bytes, peer: TcpPeer, flags: int = SYN) -> bytes:
    """A segment whose sender claims another address."""
    segment = tcp.Segment(peer.own_port, peer.port, 1000, 0, flags, 65535)
    body = segment.emit(source, peer.destination)
    head = Header(source, peer.destination, 6, len(body))
    return GATEWAY_MAC + MAC + b"\x08\x00" + head.emit() + body


def honest_frames(port: int) -> dict[str, bytes]:
    """One frame of each kind that the network knows."""
    peer = TcpPeer(None, port)  # type: ignore[arg-type]
    syn = tcp.Segment(40001, port, 1000, 0, SYN, 65535, b"", tcp.Options(mss=1460).emit())
    ping = b"\x08\x00\xf7\xff\x00\x00\x00\x00"

    def packet(destination: bytes, protocol: int, body: bytes, **fields: int) -> bytes:
        head = Header(GUEST, destination, protocol, len(body), **fields)  # type: ignore[arg-type]
        return GATEWAY_MAC + MAC + b"\x08\x00" + head.emit() + body

    data = tcp.Segment(40001, peer.port, 1001, 5, ACK | PSH, 65535, b"data" * 20)
    query = bytes.fromhex("000101000001000000000000") + b"\x01a\x00\x00\x01\x00\x01"
    return {
        "SYN": packet(GATEWAY, 6, syn.emit(GUEST, GATEWAY)),
        "data": packet(GATEWAY, 6, data.emit(GUEST, GATEWAY)),
        "UDP": packet(GATEWAY, 17, udp.Datagram(40001, 9, b"x" * 60).emit(GUEST, GATEWAY)),
        "DNS": packet(DNS, 17, udp.Datagram(40001, 53, query).emit(GUEST, DNS)),
        "DHCP": packet(GATEWAY, 17, udp.Datagram(68, 67, bytes(240)).emit(GUEST, GATEWAY)),
        "ping": packet(GATEWAY, 1, ping),
        "fragment": packet(GATEWAY, 17, bytes(64), fragment=0x2000),
        "ARP": EVERYBODY + MAC + bytes.fromhex("08060001080006040001") + MAC + GUEST + bytes(6)
        + GATEWAY,
    }  # fmt: skip


def fix_sum(frame: bytearray) -> None:
    frame[24:26] = bytes(2)
    length = max(20, (frame[14] & 15) * 4)
    words = struct.unpack(f"!{length // 2}H", (frame + bytes(60))[14 : 14 + length])
    frame[24:26] = (sum(words) % 0xFFFF ^ 0xFFFF).to_bytes(2, "big")
