# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""TCP of the user network: how connections end."""

from __future__ import annotations

import socket
import struct

import pytest
from tests.netdev.user.guest import (
    ACK,
    FIN,
    RST,
    SYN,
    Bench,
    connect,
    every_peer,
    pattern,
    the_flow,
)


@every_peer
def test_the_guest_may_end_its_direction_first(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    bench.send(peer.segment(ACK | FIN, b"bye"))
    peer.nxt += 4
    assert host.recv(10) == b"bye"
    assert host.recv(10) == b""
    host.sendall(b"still talking")
    assert peer.read(13) == b"still talking"
    host.close()
    bench.wait_until(lambda: bench.frames)
    assert peer.take()[-1].flags & FIN
    assert not bench.netdev._tcp.flows
    assert bench.netdev._tcp.counters["closed"] == 1


@every_peer
def test_the_host_may_end_its_direction_first(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    host.sendall(b"bye")
    host.shutdown(socket.SHUT_WR)
    bench.wait_until(lambda: bench.frames)
    assert peer.read(3) == b"bye"
    bench.wait_until(lambda: (peer.ack - 1 and peer.take()) or not bench.frames)
    peer.write(b"still talking")
    assert host.recv(100) == b"still talking"
    bench.send(peer.segment(ACK | FIN))
    assert host.recv(100) == b""
    bench.settle()
    assert not bench.netdev._tcp.flows


@every_peer
def test_the_hosts_fin_goes_with_its_last_data(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    host.sendall(b"bye")
    host.close()
    bench.wait_until(lambda: bench.frames)
    (only,) = bench.segments()
    assert bytes(only.payload) == b"bye" and only.flags & FIN
    peer.ack = only.seq + 4
    bench.send(peer.segment(ACK | FIN))
    assert not bench.netdev._tcp.flows


def test_no_fin_goes_with_data_that_more_comes_behind(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    flow = the_flow(bench)
    host.sendall(b"abc")
    feeder = bench.netdev._tcp._feeder
    assert flow.sock.recv(1, socket.MSG_PEEK) == b"a"
    assert not feeder._ends_behind(flow, 1)
    flow.peek_again(0)
    bench.wait_until(lambda: bench.frames)
    assert peer.read(3) == b"abc"  # and what was looked at too early is not lost


@every_peer
def test_both_may_end_at_once(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    host.shutdown(socket.SHUT_WR)
    fin = peer.segment(ACK | FIN)
    bench.wait_until(lambda: bench.frames)
    bench.send(fin)  # it does not acknowledge the host's FIN yet
    peer.nxt += 1
    peer.take()
    assert host.recv(10) == b""
    assert not bench.netdev._tcp.flows


@every_peer
def test_a_lost_fin_is_sent_again(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    host.sendall(b"end")
    host.shutdown(socket.SHUT_WR)
    bench.wait_until(lambda: bench.frames)
    bench.settle()
    bench.segments()
    bench.pass_time(0.5)
    peer.take()
    assert peer.data == b"end"
    bench.settle()
    peer.take()
    flow = next(iter(bench.netdev._tcp.flows.values()))
    assert flow.fin_acked


def test_a_guests_last_fin_that_comes_again_is_acknowledged_not_reset(
    bench: Bench, server: socket.socket
) -> None:
    peer, host = connect(bench, server)
    host.shutdown(socket.SHUT_WR)
    bench.wait_until(lambda: bench.frames)
    peer.take()
    fin = peer.segment(ACK | FIN)
    bench.send(fin)
    bench.settle()
    bench.segments()
    bench.send(fin)
    (again,) = bench.segments()
    assert (again.flags, again.ack) == (ACK, peer.nxt + 1)


def test_a_reset_by_the_guest_resets_the_host(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    bench.send(peer.segment(RST | ACK))
    with pytest.raises(ConnectionResetError):
        host.recv(1)
    assert not bench.netdev._tcp.flows


def test_a_reset_outside_of_the_window_is_ignored(bench: Bench, server: socket.socket) -> None:
    peer, _ = connect(bench, server)
    bench.send(peer.segment(RST, seq=peer.nxt - 5))
    bench.send(peer.segment(RST, seq=peer.nxt + (1 << 30)))
    assert len(bench.netdev._tcp.flows) == 1


def test_a_reset_by_the_host_resets_the_guest(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    host.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    host.close()
    bench.wait_until(lambda: bench.frames)
    reset = bench.segments()[-1]
    assert reset.flags & RST
    assert reset.seq == peer.ack & 0xFFFFFFFF


def test_acknowledged_data_survives_the_guests_reset(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    flow = next(iter(bench.netdev._tcp.flows.values()))
    host.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    flow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    for _ in range(400):
        peer.write(pattern(1460))
        if flow.backlog:
            break
    assert flow.backlog
    sent = bench.segments()[-1].ack
    bench.send(peer.segment(RST | ACK, seq=sent))
    # with a small buffer the kernel's two ends would take seconds for the rest
    host.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    got = b""
    try:
        while chunk := host.recv(1 << 16):
            got += chunk
    except ConnectionResetError:
        pass
    assert len(got) >= (sent - 1001) & 0xFFFFFFFF


def test_a_syn_inside_a_connection_is_challenged(bench: Bench, server: socket.socket) -> None:
    peer, _ = connect(bench, server)
    bench.send(peer.segment(SYN, seq=peer.nxt + 77))
    (challenge,) = bench.segments()
    assert (challenge.flags, challenge.ack) == (ACK, peer.nxt)


def test_close_gives_every_socket_back(bench: Bench, server: socket.socket) -> None:
    _, host = connect(bench, server)
    bench.netdev.close()
    assert host.recv(1) == b""
