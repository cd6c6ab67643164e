# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""TCP of the user network: losses in both directions."""

from __future__ import annotations

import socket
import struct

from tests.netdev.user.guest import (
    ACK,
    FIN,
    RST,
    Bench,
    Reassembly,
    TcpPeer,
    connect,
    pattern,
    the_flow,
)

from vmwire.wire.frame import Frame
from vmwire.wire.port import PACKETS_ONLY
from vmwire.wire.protocols import tcp

# Losses toward the guest


def test_a_loss_among_much_data_is_not_answered_by_all_of_it(server: socket.socket) -> None:
    bench = Bench(accepts=PACKETS_ONLY)
    peer, host = connect(bench, server)
    host.setblocking(False)
    sent = host.send(pattern(190_000))
    bench.settle(30)
    segments = bench.segments()
    peer.ack += 1460  # the first came, the second is lost, and the third to fifth tell
    duplicate = peer.segment(ACK)
    bench.send(peer.segment(ACK), duplicate, duplicate, duplicate)
    again = [segment for segment in bench.segments() if segment.payload]
    assert again[0].seq == peer.ack
    assert len(again) <= 10 < len(segments)
    peer.ack = segments[-1].seq + len(segments[-1].payload)
    start = peer.ack - segments[0].seq
    # what has come twice is told so; that is no new loss
    duplicate = peer.segment(ACK)
    bench.send(*[duplicate] * 10)
    assert bench.netdev._tcp.counters["fast retransmit"] == 1
    assert peer.read(sent - start) == pattern(190_000)[start:sent]
    bench.close()


def test_several_holes_are_mended_one_after_the_other(server: socket.socket) -> None:
    bench = Bench(accepts=PACKETS_ONLY)
    peer, host = connect(bench, server)
    host.setblocking(False)
    sent = host.send(pattern(190_000))
    lost = {3, 17, 40, 41, 42, 77}
    count = 0
    reader = Reassembly(peer.ack)
    for _ in range(400):
        bench.settle(2)
        for segment in bench.segments():
            count += 1
            if segment.payload and count not in lost:
                reader.take(segment)
            peer.ack = reader.ack
            bench.port.send([Frame.of(peer.segment(ACK))])
        if len(reader.data) >= sent:
            break
    assert reader.data == pattern(190_000)[:sent]
    assert "retransmit" not in bench.netdev._tcp.counters  # no time-out was needed
    assert count < 2 * sent // 1460
    bench.close()


def test_a_fin_that_was_acknowledged_is_not_sent_again_further_on(
    bench: Bench, server: socket.socket
) -> None:
    peer, host = connect(bench, server)
    host.sendall(b"end")
    host.shutdown(socket.SHUT_WR)
    bench.wait_until(lambda: the_flow(bench).fin_out)
    bench.segments()
    duplicate = peer.segment(ACK)
    # the loss is noticed, and is none: all in one burst
    bench.send(duplicate, duplicate, duplicate, peer.segment(ACK, ack=peer.ack + 4))
    bench.settle(10)
    assert not [s for s in bench.segments() if s.seq > peer.ack + 3]
    assert the_flow(bench).fin_acked


# Losses of the guest's data


def blocks(segment: tcp.Segment) -> list[tuple[int, int]]:
    """The selective acknowledgements in a segment."""
    for kind, value in tcp.iter_options(segment.options):
        if kind == tcp.OPTION_SACK:
            numbers = struct.unpack(f"!{len(value) // 4}I", value)
            return list(zip(numbers[::2], numbers[1::2], strict=True))
    return []


def connect_with_sack(bench: Bench, server: socket.socket) -> tuple[TcpPeer, socket.socket]:
    peer = TcpPeer(bench, server.getsockname()[1])
    syn_ack = peer.open(tcp.Options(mss=1460, window_scale=7, sack_permitted=True))
    assert tcp.Options.parse(syn_ack.options).sack_permitted
    host, _ = server.accept()
    host.settimeout(5)
    return peer, host


def test_what_lies_behind_a_hole_is_told_and_needs_no_repetition(
    bench: Bench, server: socket.socket
) -> None:
    peer, host = connect_with_sack(bench, server)
    start = peer.nxt
    bench.send(peer.segment(ACK, b"second", seq=start + 5))
    bench.send(peer.segment(ACK | FIN, b"fourth", seq=start + 16))
    first, second = bench.segments()
    assert (first.ack, blocks(first)) == (start, [(start + 5, start + 11)])
    assert blocks(second) == [(start + 16, start + 22), (start + 5, start + 11)]
    bench.send(peer.segment(ACK, b"first"))
    assert host.recv(100) == b"firstsecond"
    (third,) = bench.segments()
    assert (third.ack, blocks(third)) == (start + 11, [(start + 16, start + 22)])
    bench.send(peer.segment(ACK, b"third", seq=start + 11))
    (last,) = bench.segments()
    assert (last.ack, blocks(last)) == (start + 23, [])
    assert host.recv(100) == b"thirdfourth"
    assert host.recv(100) == b""
    assert bench.netdev._tcp.backlogs == 0


def test_a_guest_that_does_not_ask_for_it_gets_no_selective_acknowledgement(
    bench: Bench, server: socket.socket
) -> None:
    peer, host = connect(bench, server)
    bench.send(peer.segment(ACK, b"second", seq=peer.nxt + 5))
    (segment,) = bench.segments()
    assert not segment.options
    bench.send(peer.segment(ACK, b"first"))
    assert host.recv(100) == b"firstsecond"


def test_a_superframe_behind_a_hole_counts_as_its_segments(
    bench: Bench, server: socket.socket
) -> None:
    """Three repetitions make a guest mend the hole at once."""
    peer, _ = connect(bench, server)
    bench.send(peer.segment(ACK, pattern(20_000), seq=peer.nxt + 1460))
    assert [segment.ack for segment in bench.segments()] == [peer.nxt] * 3


def test_what_a_guest_sends_behind_holes_is_bounded(bench: Bench, server: socket.socket) -> None:
    peer, _ = connect(bench, server)
    flow = the_flow(bench)
    start = peer.nxt + 1
    for index in range(300):
        bench.send(peer.segment(ACK, pattern(10_000), seq=start + 10_000 * index))
    assert flow.ahead is not None
    assert 0 < flow.ahead.size <= 1 << 20
    assert bench.netdev._tcp.backlogs == flow.ahead.size
    for index in range(300):
        bench.send(peer.segment(ACK, b"x", seq=start + 2 * index))
    bench.send(peer.segment(RST, seq=peer.nxt))
    assert bench.netdev._tcp.backlogs == 0
