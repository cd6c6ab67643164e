# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""TCP of the user network: connections from the host to a guest."""

from __future__ import annotations

import errno
import socket

import pytest
from tests.netdev.user.guest import (
    ACK,
    GATEWAY,
    GUEST,
    RST,
    SYN,
    Bench,
    TcpPeer,
    forwarded_port,
)
from tests.netdev.user.harness import watch_no_more

from vmwire.wire.protocols import tcp


def forwarded(bench: Bench) -> tuple[TcpPeer, socket.socket]:
    (description,) = bench.netdev.stats()["forwards"]
    port = int(description.split("-")[0].rsplit(":", 1)[1])
    client = socket.create_connection(("127.0.0.1", port), timeout=5)
    bench.wait_until(lambda: bench.frames)
    peer = TcpPeer(bench, client.getsockname()[1])
    peer.own_port = 22
    return peer, client


def test_a_forward_to_a_silent_guest_asks_for_it_first() -> None:
    bench = Bench(hostfwd=["tcp:127.0.0.1:0-:22"])
    peer, client = forwarded(bench)
    (request,) = bench.frames
    assert request[12:14] == b"\x08\x06" and request[38:42] == GUEST
    bench.frames.clear()
    arp_reply = bytes.fromhex("0001080006040002525400123456") + GUEST + request[22:28] + GATEWAY
    bench.send(request[6:12] + bytes.fromhex("5254001234560806") + arp_reply)
    (syn,) = bench.segments()
    assert (syn.flags, syn.src_port, syn.dst_port) == (SYN, peer.port, 22)
    client.close()
    bench.close()


def open_forwarded() -> tuple[Bench, TcpPeer, socket.socket]:
    bench = Bench(hostfwd=["tcp:127.0.0.1:0-:22"])
    bench.send(TcpPeer(bench, 9).segment(ACK))  # the guest is known
    bench.segments()
    peer, client = forwarded(bench)
    (syn,) = bench.segments()
    assert syn.flags == SYN
    peer.ack = syn.seq + 1
    return bench, peer, client


def test_a_forwarded_connection_carries_data_both_ways() -> None:
    bench, peer, client = open_forwarded()
    bench.send(peer.segment(SYN | ACK, options=tcp.Options(mss=1460, window_scale=7)))
    peer.nxt += 1
    assert [segment.flags for segment in bench.segments()] == [ACK]
    client.sendall(b"to the guest")
    assert peer.read(12) == b"to the guest"
    peer.write(b"and back")
    assert client.recv(100) == b"and back"
    client.close()
    bench.close()


def test_a_forward_to_a_closed_port_of_the_guest_is_reset() -> None:
    bench, peer, client = open_forwarded()
    bench.send(peer.segment(RST | ACK, seq=0))
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    bench.close()


def test_a_forwards_syn_is_repeated() -> None:
    bench, _, client = open_forwarded()
    bench.pass_time(0.5)
    assert [segment.flags for segment in bench.segments()] == [SYN]
    client.close()
    bench.close()


def test_a_forward_into_a_connection_that_only_the_guest_knows_clears_it() -> None:
    bench = Bench(hostfwd=["tcp:127.0.0.1:0-:22"])
    bench.send(TcpPeer(bench, 9).segment(ACK))
    bench.segments()
    client = socket.create_connection(("127.0.0.1", forwarded_port(bench)))
    bench.wait_until(lambda: bench.frames)
    (syn,) = bench.segments()
    peer = TcpPeer(bench, syn.src_port)
    peer.own_port = 22
    bench.send(peer.segment(ACK, seq=55_555, ack=99_999))
    (reset,) = bench.segments()
    assert (reset.flags, reset.seq) == (RST, 99_999)
    bench.pass_time(0.4)
    assert [segment.flags for segment in bench.segments()] == [SYN]
    client.close()
    bench.close()


def test_a_forward_sends_nothing_to_a_guest_that_nobody_knows() -> None:
    bench = Bench(hostfwd=["tcp:127.0.0.1:0-:22"])
    client = socket.create_connection(("127.0.0.1", forwarded_port(bench)), timeout=5)
    bench.wait_until(lambda: bench.frames)
    bench.pass_time(30)
    assert {frame[12:14] for frame in bench.frames} == {b"\x08\x06"}
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert not bench.netdev._tcp.flows
    bench.close()


def test_a_client_with_an_address_of_the_guests_network_is_seen_as_the_gateway(
    bench: Bench,
) -> None:
    assert bench.netdev.plan.seen_as(GUEST) == bench.netdev.plan.gateway
    assert bench.netdev.plan.seen_as(bytes((192, 0, 2, 1))) == bytes((192, 0, 2, 1))


def test_a_listener_without_descriptors_left_waits_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(hostfwd=["tcp:127.0.0.1:0-:22"])
    calls = []

    def none_left(self: socket.socket) -> tuple[socket.socket, object]:
        calls.append(1)
        raise OSError(errno.EMFILE, "Too many open files")

    client = socket.create_connection(("127.0.0.1", forwarded_port(bench)))
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "accept", none_left)
        bench.wait_until(lambda: calls)
        bench.settle(50)
        assert len(calls) == 1
    bench.pass_time(0.2)
    bench.wait_until(lambda: bench.netdev._tcp.flows)
    client.close()
    bench.close()


def test_without_a_watch_a_client_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(hostfwd=["tcp:127.0.0.1:0-:22"])
    table = bench.netdev._tcp
    bench.send(TcpPeer(bench, 9).segment(ACK))  # the guest is known
    bench.segments()
    with monkeypatch.context() as patch:
        watch_no_more(bench.loop, patch)
        client = socket.create_connection(("127.0.0.1", forwarded_port(bench)), timeout=5)
        bench.wait_until(lambda: table.counters["no socket"])
    assert client.recv(1) == b""
    assert not bench.frames and not table.flows
    assert not table.counters["forwarded"]
    client.close()
    _, client = forwarded(bench)
    client.close()
    bench.close()
