# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Frames that are cut, or say what isn't so."""

from __future__ import annotations

import socket

import pytest
from tests.netdev.user.guest import ACK, GATEWAY_MAC, MAC, SYN, Bench, TcpPeer
from tests.netdev.user.hostile.frames import (
    EVERYBODY,
    GARBAGE,
    fix_sum,
    honest_frames,
    next_port,
    offer,
)

from vmwire.wire.frame import (
    F_DATA_VALID,
    F_NEEDS_CSUM,
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    Offload,
)
from vmwire.wire.protocols.ipv4 import Header

EtherType = bytes
ETHERTYPES: dict[str, EtherType] = {
    "IPv4": b"\x08\x00",
    "ARP": b"\x08\x06",
    "IPv6": b"\x86\xdd",
    "VLAN": b"\x81\x00",
    "service VLAN": b"\x88\xa8",
    "length": b"\x00\x2e",
    "zero": b"\x00\x00",
    "highest": b"\xff\xff",
}


@pytest.mark.parametrize("ethertype", ETHERTYPES.values(), ids=ETHERTYPES.keys())
def test_frames_cut_at_each_byte(bench: Bench, ethertype: EtherType) -> None:
    for size in range(139):
        offer(bench, (GATEWAY_MAC + MAC + ethertype + GARBAGE)[:size])
        offer(bench, (EVERYBODY + MAC + ethertype + b"\x45" + GARBAGE)[:size])


@pytest.mark.parametrize("kind", ["SYN", "data", "UDP", "DNS", "DHCP", "ping", "fragment", "ARP"])
def test_honest_frames_cut_at_each_byte(bench: Bench, server: socket.socket, kind: str) -> None:
    whole = honest_frames(server.getsockname()[1])[kind]
    for size in range(len(whole)):
        offer(bench, whole[:size])
        offer(bench, whole[:size], Offload(F_DATA_VALID))
        # lengths that fit what is left, and an honest header sum
        if size >= 34 and kind != "ARP":
            header = Header.parse(whole[14:])
            header.payload_length = size - 34
            offer(bench, whole[:14] + header.emit() + whole[34:size], Offload(F_DATA_VALID))
    bench.settle()
    if kind != "ARP":
        assert bench.netdev.stats()["dropped"]


@pytest.mark.parametrize("kind", ["SYN", "data", "UDP", "DNS", "DHCP", "ping", "fragment", "ARP"])
def test_frames_in_two_pieces_mean_the_same(server: socket.socket, kind: str) -> None:
    frame = honest_frames(server.getsockname()[1])[kind]
    answers = set()
    for cut in range(0, len(frame), 7):
        bench = Bench()
        offer(bench, frame, cut=cut)
        answers.add((len(bench.netdev._tcp.flows), str(bench.netdev.stats()["dropped"])))
        bench.close()
    assert len(answers) == 1


@pytest.mark.parametrize("total", [0, 19, 20, 39, 41, 59, 1500, 65535])
def test_ip_lengths_that_lie(bench: Bench, server: socket.socket, total: int) -> None:
    frame = bytearray(TcpPeer(bench, server.getsockname()[1]).segment(SYN))
    frame[16:18] = total.to_bytes(2, "big")
    fix_sum(frame)
    offer(bench, bytes(frame), Offload(F_DATA_VALID))
    assert not bench.netdev._tcp.flows


@pytest.mark.parametrize("first", [0x40, 0x44, 0x46, 0x4F, 0x00, 0x55, 0x65, 0xF5])
def test_versions_and_header_lengths_that_lie(
    bench: Bench, server: socket.socket, first: int
) -> None:
    frame = bytearray(TcpPeer(bench, server.getsockname()[1]).segment(SYN))
    frame[14] = first
    fix_sum(frame)
    offer(bench, bytes(frame), Offload(F_DATA_VALID))
    assert not bench.netdev._tcp.flows


def test_bytes_behind_the_packet_are_not_data(bench: Bench, server: socket.socket) -> None:
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.open()
    host, _ = server.accept()
    bench.send(peer.segment(ACK, b"data") + b"padding of the wire")
    assert host.recv(100) == b"data"


@pytest.mark.parametrize("gso", [GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_TCPV4 | GSO_ECN, 2, 127])
@pytest.mark.parametrize("size", [0, 1, 1460, 65535])
@pytest.mark.parametrize("start", [0, 13, 34, 35, 65535])
def test_offloads_that_lie(
    bench: Bench, server: socket.socket, gso: int, size: int, start: int
) -> None:
    """Nothing that an offload says is used to find or to bound anything."""
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.own_port = next_port()
    peer.open()
    host, _ = server.accept()
    host.settimeout(5)
    for kind, frame in honest_frames(peer.port).items():
        if kind != "SYN":
            offer(bench, frame, Offload(F_NEEDS_CSUM, gso, 65535, size, start, 65535))
    data = bytes(range(250)) * 40
    lying = Offload(F_NEEDS_CSUM, gso, 7, size, start, 3)
    offer(bench, peer.segment(ACK, data), lying, cut=61)
    got = b""
    while len(got) < len(data):
        got += host.recv(1 << 16)
    assert got == data
    host.close()
