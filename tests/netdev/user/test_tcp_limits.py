# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""TCP of the user network: limits, and giving everything back."""

from __future__ import annotations

import errno
import gc
import os
import socket
import struct

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
from tests.netdev.user.harness import watch_no_more

from vmwire.netdev.user import tcp_opening
from vmwire.netdev.user.tcp_flow import TcpFlow
from vmwire.wire.frame import Frame
from vmwire.wire.port import PACKETS_ONLY, Port

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def test_connections_that_nobody_answers_push_out_the_oldest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect_ex", lambda self, to: errno.EINPROGRESS)
    monkeypatch.setattr(tcp_opening, "MAX_CONNECTING", 10)
    before = len(os.listdir("/proc/self/fd"))
    for port in range(1, 101):
        bench.port.send([Frame.of(TcpPeer(bench, port, bytes((192, 0, 2, 9))).segment(SYN))])
    table = bench.netdev._tcp
    assert len(table.flows) == len(table._opening.connecting) == 10
    assert [flow.port for flow in table._opening.connecting] == list(range(91, 101))
    assert len(os.listdir("/proc/self/fd")) == before + 10


def test_without_descriptors_a_syn_is_dropped(
    bench: Bench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = TcpPeer(bench, server.getsockname()[1])

    def none_left(*args: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", none_left)
        bench.send(peer.segment(SYN))
    assert not bench.frames
    assert bench.netdev._tcp.counters["no socket"] == 1
    peer.open()


def test_without_a_watch_a_syn_to_somebody_far_is_dropped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect_ex", lambda self, to: errno.EINPROGRESS)
    (refused,) = watched_in_vain(bench, monkeypatch, TcpPeer(bench, 80, bytes((192, 0, 2, 9))))
    assert not bench.frames
    assert is_closed(refused)


def test_without_a_watch_a_connection_that_was_answered_is_reset(
    bench: Bench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's handshake was over at once, and the guest knows."""
    peer = TcpPeer(bench, server.getsockname()[1])
    (refused,) = watched_in_vain(bench, monkeypatch, peer)
    assert [segment.flags for segment in bench.segments()] == [SYN | ACK, RST | ACK]
    assert is_closed(refused)
    host, _ = server.accept()
    assert host.recv(1) == b""
    peer.open()


def watched_in_vain(bench: Bench, monkeypatch: pytest.MonkeyPatch, peer: TcpPeer) -> list[int]:
    """Send a SYN while the loop watches no more sockets; return which were refused."""
    with monkeypatch.context() as patch:
        refused = watch_no_more(bench.loop, patch)
        bench.send(peer.segment(SYN))
    table = bench.netdev._tcp
    assert table.counters["no socket"] == 1
    assert not table.flows and not table._opening.connecting
    return refused


def is_closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


@pytest.mark.parametrize("ending", ["guest first", "host first", "guest resets", "host resets"])
def test_nothing_stays_behind_of_a_connection(
    bench: Bench, server: socket.socket, ending: str
) -> None:
    table = bench.netdev._tcp
    for round in range(60):
        peer, host = connect(bench, server, own_port=40_000 + round)
        if round == 10:
            descriptors = len(os.listdir("/proc/self/fd"))
        peer.write(b"request")
        host.recv(100)
        host.sendall(b"response")
        peer.read(8)
        if ending == "guest resets":
            bench.send(peer.segment(RST, seq=peer.nxt))
        elif ending == "host resets":
            host.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        if ending == "guest first":
            bench.send(peer.segment(ACK | FIN))
            peer.nxt += 1
        host.close()
        if ending == "host first":
            bench.wait_until(lambda: bench.frames)
            peer.take()
            bench.send(peer.segment(ACK | FIN))
        take_until_closed(bench, peer)
        if round == 10:
            assert len(os.listdir("/proc/self/fd")) == descriptors - 2
    assert len(os.listdir("/proc/self/fd")) == descriptors - 2
    bench.pass_time(2)
    feeder = table._feeder
    for held in (
        table._opening.connecting, table._lingering, table._pushes, table._acks, table._discards,
        table._waiting, feeder._queue, feeder._queued,
    ):  # fmt: skip
        assert not held
    assert table.backlogs == 0
    assert table._tick_timer is None
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, TcpFlow)]


def test_a_flow_that_ends_while_the_guest_has_no_room_is_forgotten(
    bench: Bench, server: socket.socket
) -> None:
    peer, host = connect(bench, server)
    bench.room = 0
    host.sendall(b"data")
    bench.wait_until(lambda: bench.netdev._tcp._feeder._no_room)
    bench.send(peer.segment(RST, seq=peer.nxt))
    assert not bench.netdev._tcp._feeder._queue


def test_a_reset_lets_go_of_the_data_in_its_burst(bench: Bench, server: socket.socket) -> None:
    """A view of guest memory that stays would keep that memory mapped."""
    peer, _ = connect(bench, server)
    flow = the_flow(bench)
    data = bytearray(peer.segment(ACK, b"lent"))
    reset = peer.segment(RST, seq=peer.nxt + 4)
    bench.port.send([Frame.of(data), Frame.of(reset)])
    assert not bench.netdev._tcp.flows
    assert not flow.pending
    data.extend(b"nobody looks at it any more")


def test_the_next_guest_on_the_wire_does_not_wait_for_the_last_ones_room(
    bench: Bench, server: socket.socket
) -> None:
    peer, host = connect(bench, server)
    bench.room = 0
    host.sendall(b"data")
    bench.wait_until(lambda: bench.netdev._tcp._feeder._no_room)
    bench.port.disconnect()
    bench.settle()
    bench.room = 1 << 30
    bench.port = Port("another", bench._receive, accepts=PACKETS_ONLY)
    bench.port.connect(bench.netdev.port)
    bench.settle()
    bench.pass_time(1)
    assert peer.read(4) == b"data"
