# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""TCP of the user network: restarts, repetitions, latecomers, and silence."""

from __future__ import annotations

import errno
import socket

import pytest
from tests.netdev.user.guest import (
    ACK,
    FIN,
    RST,
    SYN,
    Bench,
    TcpPeer,
    connect,
    take_until_closed,
    the_flow,
)

from vmwire.wire.protocols import tcp

# Restarts, repetitions, latecomers


def test_a_reset_that_is_not_exact_is_challenged(bench: Bench, server: socket.socket) -> None:
    peer, _ = connect(bench, server)
    bench.send(peer.segment(RST, seq=peer.nxt + 7))
    (challenge,) = bench.segments()
    assert (challenge.flags, challenge.ack) == (ACK, peer.nxt)
    bench.send(peer.segment(RST, seq=challenge.ack))
    assert not bench.netdev._tcp.flows


def test_a_guest_that_begins_anew_gets_its_port_again(bench: Bench, server: socket.socket) -> None:
    _, host = connect(bench, server)
    again = TcpPeer(bench, server.getsockname()[1])
    again.nxt = 777_000
    other_mac = bytes.fromhex("525400999999")
    syn = again.segment(SYN)
    bench.send(syn[:6] + other_mac + syn[12:])
    assert bench.frames[0][:6] == other_mac
    (challenge,) = bench.segments()
    bench.send(again.segment(RST, seq=challenge.ack))
    with pytest.raises(ConnectionResetError):
        host.recv(1)
    again.open()
    server.accept()


def test_a_new_syn_while_the_host_connects_is_the_one_that_counts(
    bench: Bench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect_ex", lambda self, to: errno.EINPROGRESS)
    peer = TcpPeer(bench, server.getsockname()[1])
    bench.send(peer.segment(SYN, options=tcp.Options(mss=1460)))
    peer.nxt = 5_000_000
    bench.send(peer.segment(SYN, options=tcp.Options(mss=700)))
    monkeypatch.undo()
    flow = the_flow(bench)
    assert flow.sock.connect_ex(server.getsockname()) == errno.EINPROGRESS
    bench.wait_until(lambda: bench.frames)
    (syn_ack,) = bench.segments()
    assert syn_ack.ack == 5_000_001
    assert flow.mss == 700


def test_a_new_syn_before_the_handshake_ends_is_the_one_that_counts(
    bench: Bench, server: socket.socket
) -> None:
    peer = TcpPeer(bench, server.getsockname()[1])
    bench.send(peer.segment(SYN))
    bench.wait_until(lambda: bench.frames)
    bench.segments()
    peer.nxt = 9_000_000
    peer.open()
    host, _ = server.accept()
    peer.write(b"new")
    assert host.recv(10) == b"new"


def test_the_port_can_be_used_again_right_after_the_end(
    bench: Bench, server: socket.socket
) -> None:
    for round in range(5):
        peer, host = connect(bench, server, start=1000 + 100_000 * round)
        bench.send(peer.segment(ACK | FIN))
        peer.nxt += 1
        host.close()
        take_until_closed(bench, peer)
    assert len(bench.netdev._tcp._lingering) == 1
    bench.pass_time(2)
    assert not bench.netdev._tcp._lingering


def test_an_acknowledgement_after_the_end_is_not_reset(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    host.close()
    bench.wait_until(lambda: bench.frames)
    peer.take()
    bench.send(peer.segment(ACK | FIN))
    peer.nxt += 1
    bench.settle()
    bench.segments()
    bench.send(peer.segment(ACK))
    assert not bench.segments()


# Silence


def test_a_connection_that_was_silent_for_hours_is_asked_and_kept(
    bench: Bench, server: socket.socket
) -> None:
    peer, host = connect(bench, server)
    bench.clock.advance(7300)
    bench.settle()
    (probe,) = bench.segments()
    assert (probe.flags, probe.seq, len(probe.payload)) == (ACK, peer.ack - 1, 0)
    bench.send(peer.segment(ACK))
    bench.pass_time(400)
    assert not bench.segments()
    host.sendall(b"still here")
    assert peer.read(10) == b"still here"


def test_a_guest_that_has_gone_silently_is_given_up_in_the_end(
    bench: Bench, server: socket.socket
) -> None:
    _, host = connect(bench, server)
    bench.clock.advance(7300)
    bench.pass_time(400)
    assert not bench.netdev._tcp.flows
    with pytest.raises(ConnectionResetError):
        host.recv(1)
