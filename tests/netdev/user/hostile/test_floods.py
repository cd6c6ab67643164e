# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Much of the same, within bounds; every combination of flags."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from tests.netdev.user.guest import ACK, FIN, PSH, RST, SYN, Bench, TcpPeer
from tests.netdev.user.hostile.frames import next_port

from vmwire.netdev.user.output import MAX_WAITING
from vmwire.wire.frame import Frame


def flood(bench: Bench, frames: int, frame: Callable[[int], bytes]) -> None:
    """Many frames in one burst: the queue toward the guest is all that may grow."""
    burst = [Frame.of(frame(number)) for number in range(frames)]
    assert bench.netdev.port.receive(burst) == frames
    assert len(bench.netdev._output._waiting) <= MAX_WAITING


def test_a_flood_of_strays_is_answered_within_bounds(bench: Bench) -> None:
    def stray(number: int) -> bytes:
        peer = TcpPeer(bench, number & 0xFFFF)
        return peer.segment((ACK, FIN, ACK | FIN, PSH | ACK)[number & 3], b"x")

    bench.room = 0
    flood(bench, 5000, stray)
    bench.settle()
    assert bench.netdev.port.drops["guest has no room"] == 5000 - MAX_WAITING
    assert not bench.netdev._tcp.flows
    bench.room = 1 << 30
    bench.port.resume()


def test_a_flood_of_resets_says_nothing_and_leaves_nothing(
    bench: Bench, server: socket.socket
) -> None:
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.open()
    bench.segments()
    flood(bench, 2000, lambda number: peer.segment(RST, seq=peer.nxt - 1 - number))
    flood(bench, 2000, lambda number: TcpPeer(bench, number).segment(RST | ACK))
    bench.settle()
    assert not bench.frames
    assert len(bench.netdev._tcp.flows) == 1


def test_a_flood_of_openings_is_bounded(bench: Bench, server: socket.socket) -> None:
    bench.netdev._tcp._opening.max_flows = 50

    def opening(number: int) -> bytes:
        peer = TcpPeer(bench, server.getsockname()[1])
        peer.own_port = 1 + number
        return peer.segment(SYN)

    flood(bench, 500, opening)
    table = bench.netdev._tcp
    assert len(table.flows) == 50
    bench.pass_time(60)  # none of the handshakes is ever finished
    assert not table.flows
    assert not table._waiting


@pytest.mark.parametrize("flags", range(64))
def test_every_combination_of_flags_in_every_state(
    bench: Bench, server: socket.socket, flags: int
) -> None:
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.own_port = next_port()
    for state in ("none", "opening", "established", "half closed"):
        if state == "opening":
            bench.send(peer.segment(SYN))
            bench.settle()
        elif state == "established" and bench.segments():
            peer.nxt += 1
        elif state == "half closed":
            bench.send(peer.segment(ACK | FIN))
        for offset in (0, 1, -1, 70_000, 1 << 31):
            for data in (b"", b"x", b"x" * 1460):
                bench.send(peer.segment(flags, data, seq=peer.nxt + offset))
                bench.send(peer.segment(flags, data, seq=peer.nxt, ack=peer.ack + offset))
    assert len(bench.netdev._tcp.flows) <= 1
