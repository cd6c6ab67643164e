# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Options, early data and sizes of an otherwise honest connection."""

from __future__ import annotations

import socket

import pytest
from tests.netdev.user.guest import ACK, FIN, GATEWAY, GUEST, PSH, RST, SYN, Bench, TcpPeer

from vmwire.wire.protocols import tcp


@pytest.mark.parametrize(
    "options",
    [
        "00000000", "01010101", "02040000", "0204ffff", "02040001", "030300", "0303ff", "020200",
        "0201", "0200", "02ff05b4", "03", "02", "fe02", "ff", "0801" + "00" * 8, "030307030301",
        "020405b402040010", "05" + "28" + "00" * 38, "01" * 40, "ff" * 40, "4e04beef",
    ],
)  # fmt: skip
def test_options_of_every_shape_open_a_connection(
    bench: Bench, server: socket.socket, options: str
) -> None:
    raw = bytes.fromhex(options)
    peer = TcpPeer(bench, server.getsockname()[1])
    segment = tcp.Segment(peer.own_port, peer.port, 1000, 0, SYN, 65535, b"", raw)
    bench.send(bench.ipv4(GATEWAY, 6, segment.emit(GUEST, GATEWAY)))
    bench.wait_until(lambda: bench.frames)
    (syn_ack,) = bench.segments()
    peer.nxt += 1
    peer.ack = syn_ack.seq + 1
    bench.send(peer.segment(ACK))
    host, _ = server.accept()
    host.sendall(b"y" * 3000)
    assert peer.read(3000) == b"y" * 3000
    (flow,) = bench.netdev._tcp.flows.values()
    assert 48 <= flow.mss <= 1460
    assert 0 <= flow.shift <= 14
    host.close()


def test_data_with_the_syn_is_asked_for_again(bench: Bench, server: socket.socket) -> None:
    peer = TcpPeer(bench, server.getsockname()[1])
    bench.send(peer.segment(SYN, b"early"))
    bench.wait_until(lambda: bench.frames)
    (syn_ack,) = bench.segments()
    assert syn_ack.ack == 1001
    peer.nxt, peer.ack = 1001, syn_ack.seq + 1
    bench.send(peer.segment(ACK, b"early"))
    host, _ = server.accept()
    assert host.recv(100) == b"early"


def test_everything_at_once_with_the_last_step_of_the_handshake(
    bench: Bench, server: socket.socket
) -> None:
    peer = TcpPeer(bench, server.getsockname()[1])
    bench.send(peer.segment(SYN))
    bench.wait_until(lambda: bench.frames)
    (syn_ack,) = bench.segments()
    peer.nxt, peer.ack = 1001, syn_ack.seq + 1
    bench.send(peer.segment(ACK | FIN | PSH, b"all of it"))
    host, _ = server.accept()
    assert host.recv(100) == b"all of it"
    assert host.recv(100) == b""


def test_data_for_a_connection_that_is_still_opening_waits(
    bench: Bench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect_ex", lambda self, to: 115)
    peer = TcpPeer(bench, server.getsockname()[1])
    bench.send(peer.segment(SYN))
    for flags in (ACK, ACK | FIN, PSH | ACK):
        bench.send(peer.segment(flags, b"too early", seq=1001))
    assert not bench.frames
    (flow,) = bench.netdev._tcp.flows.values()
    assert not flow.pending
    monkeypatch.undo()


def test_tiny_segments_arrive_as_they_are(bench: Bench, server: socket.socket) -> None:
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.open()
    host, _ = server.accept()
    host.settimeout(5)
    burst = [peer.segment(ACK, bytes((n & 255,)), seq=peer.nxt + n) for n in range(3000)]
    bench.send(*burst)
    got = b""
    while len(got) < 3000:
        got += host.recv(5000)
    assert got == bytes(n & 255 for n in range(3000))


def test_a_host_that_reads_nothing_costs_a_bounded_backlog(
    bench: Bench, server: socket.socket
) -> None:
    """The guest ignores the window."""
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.open()
    host, _ = server.accept()
    (flow,) = bench.netdev._tcp.flows.values()
    flow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    host.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(300):
        peer.write(b"z" * 20_000)
        peer.nxt = flow.rcv_nxt
    assert len(flow.backlog) <= 1 << 20
    assert bench.netdev._tcp.backlogs == len(flow.backlog)
    assert bench.netdev._tcp.counters["host socket full"]
    bench.send(peer.segment(RST, seq=peer.nxt))
    assert bench.netdev._tcp.backlogs == 0
