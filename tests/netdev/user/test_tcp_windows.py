# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""TCP of the user network: windows, acknowledgements, numbers that wrap around."""

from __future__ import annotations

import socket

import pytest
from tests.netdev.user.guest import (
    ACK,
    FIN,
    SYN,
    Bench,
    TcpPeer,
    connect,
    cut_next_send,
    pattern,
    refuse_sends,
    the_flow,
)

from vmwire.netdev.user import tcp as tcp_module
from vmwire.netdev.user import tcp_speaker
from vmwire.wire.port import PACKETS_ONLY
from vmwire.wire.protocols import tcp


def edge(segment: tcp.Segment) -> int:
    return segment.ack + (segment.window << (0 if segment.flags & SYN else 7))


# Windows


def test_the_first_data_to_the_guest_tells_the_window_that_the_syn_told(
    bench: Bench, server: socket.socket
) -> None:
    """A server that speaks first must not seem to have shut its window."""
    peer = TcpPeer(bench, server.getsockname()[1])
    syn_ack = peer.open(tcp.Options(mss=1460, window_scale=7))
    host, _ = server.accept()
    host.sendall(b"220 hello\r\n")
    bench.wait_until(lambda: bench.frames)
    (banner,) = bench.segments()
    assert banner.payload == b"220 hello\r\n"
    assert edge(banner) == edge(syn_ack)
    assert banner.window


@pytest.mark.parametrize("wscale", [None, 0, 7, 14, 255])
def test_the_window_is_never_taken_back(server: socket.socket, wscale: int | None) -> None:
    bench = Bench()
    peer = TcpPeer(bench, server.getsockname()[1])
    syn_ack = peer.open(tcp.Options(mss=1460, window_scale=wscale))
    host, _ = server.accept()
    flow = the_flow(bench)
    flow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
    host.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    shift = 0 if wscale is None else 7
    told = edge(syn_ack)
    for _ in range(200):
        if told - peer.nxt >= 777:
            peer.write(pattern(777))
        bench.loop.turn(0)
        for segment in bench.segments():
            assert segment.ack + (segment.window << shift) >= told
            told = segment.ack + (segment.window << shift)
    bench.close()


def test_a_large_mss_does_not_shut_the_window_of_a_small_buffer(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it keep the loop busy with a window that could never be large enough."""
    bench = Bench(mtu=65520)
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.open(tcp.Options(mss=65480))
    host, _ = server.accept()
    the_flow(bench).sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 30_000)
    peer.nxt = the_flow(bench).last_edge - 10
    the_flow(bench).start_at(peer.nxt - 1)
    bench.segments()
    peer.write(b"x")
    (answer,) = bench.segments()
    assert answer.window > 1000
    assert not the_flow(bench).held_back
    bench.settle(20)
    assert not bench.segments()
    host.close()
    bench.close()


def test_a_shut_window_is_opened_without_being_asked_and_without_a_storm(
    bench: Bench, server: socket.socket
) -> None:
    peer, host = connect(bench, server)
    flow = the_flow(bench)
    flow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    host.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(1000):
        peer.write(pattern(1460))
        if flow.backlog:
            break
    bench.settle(50)
    shut = bench.segments()[-1]
    bench.settle(100)
    assert len(bench.segments()) < 5
    host.setblocking(False)
    got = 0
    while got < peer.nxt - 1001:
        try:
            got += len(host.recv(1 << 16))
        except BlockingIOError:
            bench.loop.turn(0.01)
    bench.wait_until(lambda: not flow.backlog)
    bench.settle(20)
    opened = bench.segments()
    assert opened[-1].ack == peer.nxt
    assert edge(opened[-1]) > edge(shut)
    assert not flow.held_back


@pytest.mark.parametrize("data", [b"", b"x"])
def test_a_probe_of_the_window_and_a_keep_alive_are_answered(
    bench: Bench, server: socket.socket, data: bytes
) -> None:
    peer, host = connect(bench, server)
    bench.send(peer.segment(ACK, data, seq=peer.nxt - 1))
    (answer,) = bench.segments()
    assert (answer.flags, answer.ack, bool(answer.window)) == (ACK, peer.nxt, True)
    host.close()


def test_a_guest_that_takes_its_window_back_is_probed(bench: Bench, server: socket.socket) -> None:
    """With data under way and nothing to send it into, only a probe makes the guest speak."""
    peer, host = connect(bench, server)
    host.sendall(pattern(3000))
    bench.wait_until(lambda: bench.frames)
    bench.segments()
    peer.window = 0
    bench.send(peer.segment(ACK))
    bench.pass_time(3)
    probes = bench.segments()
    assert probes and all(probe.seq == peer.ack - 1 for probe in probes)
    peer.window = 1000
    bench.send(peer.segment(ACK))
    bench.pass_time(10)
    assert peer.read(3000) == pattern(3000)


def test_a_window_larger_than_anything_sent_is_harmless(
    bench: Bench, server: socket.socket
) -> None:
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.open(tcp.Options(mss=65535, window_scale=255))
    host, _ = server.accept()
    bench.send(peer.segment(ACK))
    host.setblocking(False)
    sent = host.send(pattern(200_000))
    assert peer.read(sent) == pattern(200_000)[:sent]


# Acknowledgements


def test_nothing_is_acknowledged_before_the_kernel_has_it(
    bench: Bench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else a burst makes the network say."""
    peer, host = connect(bench, server)
    monkeypatch.setattr(tcp_module, "MAX_BACKLOG", 0)
    with monkeypatch.context() as patch:
        refuse_sends(patch)
        bench.send(
            peer.segment(ACK, b"first"),
            peer.segment(SYN, seq=peer.nxt + 5),
            peer.segment(ACK, ack=peer.ack + 1000, seq=peer.nxt + 5),
            peer.segment(ACK, b"beyond", seq=peer.nxt + 100),
            peer.segment(ACK, b"beyond", seq=peer.nxt + 100),
        )
    segments = bench.segments()
    assert len(segments) >= 4
    assert {segment.ack for segment in segments} == {peer.nxt}
    peer.write(b"first")
    assert host.recv(100) == b"first"


def test_a_fin_behind_a_backlog_is_not_acknowledged_before_it(
    bench: Bench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, host = connect(bench, server)
    cut_next_send(monkeypatch, 2)
    bench.send(peer.segment(ACK | FIN, b"abcdef"))
    assert [segment.ack for segment in bench.segments()] == [peer.nxt + 2, peer.nxt + 7]
    assert host.recv(10) == b"abcdef"
    assert host.recv(10) == b""


def test_data_of_a_segment_that_acknowledges_the_unsent_is_dropped(
    bench: Bench, server: socket.socket
) -> None:
    peer, host = connect(bench, server)
    bench.send(peer.segment(ACK, b"forged", ack=peer.ack + 5))
    (challenge,) = bench.segments()
    assert (challenge.flags, challenge.ack) == (ACK, peer.nxt)
    host.setblocking(False)
    with pytest.raises(BlockingIOError):
        host.recv(10)


# Sequence numbers that wrap around


@pytest.mark.parametrize("before", [1, 2, 1460, 70_000, 1 << 31])
def test_the_guests_numbers_wrap_around(bench: Bench, server: socket.socket, before: int) -> None:
    peer, host = connect(bench, server, start=(1 << 32) - before)
    got = b""
    for start in range(0, 200_000, 1460):
        peer.write(pattern(200_000)[start : start + 1460])
        got += host.recv(1 << 20)
    bench.send(peer.segment(ACK | FIN))
    assert got == pattern(200_000)
    assert bench.segments()[-1].ack == (peer.nxt + 1) & 0xFFFFFFFF
    assert host.recv(1) == b""


@pytest.mark.parametrize("before", [1, 2, 1461, 70_000, 1 << 31])
def test_the_networks_numbers_wrap_around(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    monkeypatch.setattr(tcp_speaker, "getrandbits", lambda bits: (1 << 32) - before)
    bench = Bench(accepts=PACKETS_ONLY)
    peer, host = connect(bench, server)
    host.setblocking(False)
    sent = host.send(pattern(150_000))
    bench.wait_until(lambda: bench.frames)
    bench.segments()  # the first burst is lost
    duplicate = peer.segment(ACK)
    bench.send(duplicate, duplicate, duplicate)
    assert peer.read(sent) == pattern(150_000)[:sent]
    host.close()
    bench.wait_until(lambda: bench.frames)
    bench.send(peer.segment(ACK | FIN))
    peer.nxt += 1
    peer.take()
    assert not bench.netdev._tcp.flows
    bench.close()
