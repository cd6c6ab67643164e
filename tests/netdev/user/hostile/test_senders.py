# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Senders and destinations that nobody can be, and ARP that claims them."""

from __future__ import annotations

import socket

import pytest
from tests.netdev.user.guest import ACK, FIN, GATEWAY, GUEST, MAC, SYN, Bench, TcpPeer
from tests.netdev.user.hostile.frames import DNS, ELSEWHERE, EVERYBODY, fix_sum, from_, offer

BAD_SOURCES = {
    "the gateway": GATEWAY,
    "the DNS server": DNS,
    "nobody": bytes(4),
    "this network": bytes((0, 1, 2, 3)),
    "loopback": bytes((127, 0, 0, 1)),
    "the network": bytes((10, 0, 2, 0)),
    "its broadcast": bytes((10, 0, 2, 255)),
    "a group": bytes((224, 0, 0, 1)),
    "reserved": bytes((240, 0, 0, 1)),
    "everybody": b"\xff" * 4,
}


@pytest.mark.parametrize("source", BAD_SOURCES.values(), ids=BAD_SOURCES.keys())
def test_senders_that_can_be_nobody_are_not_heard(
    bench: Bench, server: socket.socket, source: bytes
) -> None:
    offer(bench, from_(source, TcpPeer(bench, server.getsockname()[1])))
    bench.settle()
    assert not bench.frames
    assert not bench.netdev._tcp.flows
    assert source not in bench.netdev._neighbours.macs
    assert bench.netdev._stack.counters["bad source"] == 1


def test_a_sender_of_another_network_is_answered_where_it_came_from(
    bench: Bench, server: socket.socket
) -> None:
    """A guest may route for others."""
    offer(bench, from_(bytes((192, 168, 7, 7)), TcpPeer(bench, server.getsockname()[1])))
    bench.wait_until(lambda: bench.frames)
    assert bench.frames[0][:6] == MAC
    assert bench.frames[0][30:34] == bytes((192, 168, 7, 7))


def test_a_segment_to_itself_is_not_answered(bench: Bench) -> None:
    """The land attack: source and destination, both the gateway's."""
    peer = TcpPeer(bench, 40000)
    offer(bench, from_(GATEWAY, peer))
    bench.settle()
    assert not bench.frames
    assert not bench.netdev._tcp.flows


@pytest.mark.parametrize("mac", [EVERYBODY, b"\x01\x00\x5e\x00\x00\x01", b"\x33\x33" + bytes(4)])
def test_a_group_cannot_send(bench: Bench, server: socket.socket, mac: bytes) -> None:
    frame = TcpPeer(bench, server.getsockname()[1]).segment(SYN)
    offer(bench, frame[:6] + mac + frame[12:])
    bench.settle()
    assert not bench.frames
    assert not bench.netdev._tcp.flows


@pytest.mark.parametrize("flags", [SYN, ACK, ACK | FIN, 0])
@pytest.mark.parametrize("mac", [EVERYBODY, b"\x01\x00\x5e\x00\x00\x01"])
def test_tcp_to_everybody_is_not_answered(
    bench: Bench, server: socket.socket, mac: bytes, flags: int
) -> None:
    frame = TcpPeer(bench, server.getsockname()[1]).segment(flags)
    offer(bench, mac + frame[6:])
    bench.settle()
    assert not bench.frames
    assert not bench.netdev._tcp.flows


@pytest.mark.parametrize(
    "destination", [(255, 255, 255, 255), (10, 0, 2, 255), (10, 0, 2, 0), (224, 0, 0, 251)]
)
def test_destinations_without_one_host_are_not_answered(
    bench: Bench, server: socket.socket, destination: tuple[int, ...]
) -> None:
    for flags in (SYN, ACK):
        peer = TcpPeer(bench, server.getsockname()[1], bytes(destination))
        offer(bench, peer.segment(flags))
    bench.settle()
    used_up = bytearray(peer.segment(SYN))
    used_up[22] = 1
    fix_sum(used_up)
    offer(bench, bytes(used_up))
    bench.settle()
    assert not bench.netdev._tcp.flows
    assert not bench.frames


def test_frames_for_other_stations_are_not_ours(bench: Bench, server: socket.socket) -> None:
    frame = TcpPeer(bench, server.getsockname()[1]).segment(SYN)
    offer(bench, b"\x52\x54\x00\x99\x99\x99" + frame[6:])
    bench.settle()
    assert not bench.frames
    assert not bench.netdev._tcp.flows


# ARP


def arp(operation: int, mac: bytes, address: bytes, target: bytes) -> bytes:
    body = b"\x00\x01\x08\x00\x06\x04" + operation.to_bytes(2, "big") + mac + address
    return EVERYBODY + MAC + b"\x08\x06" + body + bytes(6) + target


@pytest.mark.parametrize("address", [GATEWAY, DNS, bytes((10, 0, 2, 255)), ELSEWHERE, bytes(4)])
def test_arp_claims_no_address_that_is_not_a_guests(bench: Bench, address: bytes) -> None:
    for operation in (1, 2):
        offer(bench, arp(operation, MAC, address, address))
    assert address not in bench.netdev._neighbours.macs


@pytest.mark.parametrize("mac", [EVERYBODY, bytes(6), b"\x01\x00\x5e\x00\x00\x01"])
def test_arp_learns_no_mac_that_is_not_a_stations(bench: Bench, mac: bytes) -> None:
    offer(bench, arp(2, mac, GUEST, GATEWAY))
    assert GUEST not in bench.netdev._neighbours.macs


@pytest.mark.parametrize("at", range(14, 22))
@pytest.mark.parametrize("value", [0, 5, 255])
def test_arp_of_other_kinds_is_not_answered(bench: Bench, at: int, value: int) -> None:
    frame = bytearray(arp(1, MAC, GUEST, GATEWAY))
    if frame[at] == value:
        return
    frame[at] = value
    offer(bench, bytes(frame))
    bench.settle()
    assert not bench.frames


def test_a_guest_that_is_everybody_fills_nothing(bench: Bench) -> None:
    big = Bench(net="10.0.0.0/8")
    for number in range(70_000):
        address = bytes((10, 1)) + (number & 0xFFFF).to_bytes(2, "big")
        offer(big, arp(2, MAC, address, address))
    assert len(big.netdev._neighbours.macs) <= 1024
    big.close()
