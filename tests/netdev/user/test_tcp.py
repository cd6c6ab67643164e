# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""TCP of the user network: a hand-driven guest against real sockets of the host.

This is what a connection does when all goes well, and small errors. Where it is easily wrong is
in the other files ``test_tcp_*.py``.
"""

from __future__ import annotations

import errno
import socket

import pytest
from tests.netdev.user.guest import (
    ACK,
    FIN,
    GATEWAY,
    PSH,
    RST,
    SYN,
    Bench,
    TcpPeer,
    connect,
    cut_next_send,
    every_peer,
    listener,
    pattern,
    refuse_sends,
)

from vmwire.netdev.user import tcp as tcp_module
from vmwire.wire.port import PACKETS_ONLY
from vmwire.wire.protocols import tcp

# Opening


def test_syn_to_a_listener_is_answered_when_the_host_has_connected(
    bench: Bench, server: socket.socket
) -> None:
    peer = TcpPeer(bench, server.getsockname()[1])
    syn_ack = peer.open(tcp.Options(mss=1400, window_scale=2))
    options = tcp.Options.parse(syn_ack.options)
    assert syn_ack.ack == 1001
    assert options.mss == 1460
    assert options.window_scale is not None


def test_syn_without_window_scale_gets_none_back(bench: Bench, server: socket.socket) -> None:
    syn_ack = TcpPeer(bench, server.getsockname()[1]).open(tcp.Options(mss=1460))
    assert tcp.Options.parse(syn_ack.options).window_scale is None


def test_syn_to_a_closed_port_is_reset(bench: Bench) -> None:
    with listener() as gone:
        port = gone.getsockname()[1]
    peer = TcpPeer(bench, port)
    bench.send(peer.segment(SYN))
    bench.wait_until(lambda: bench.frames)
    (reset,) = bench.segments()
    assert (reset.flags, reset.ack) == (RST | ACK, 1001)
    assert not bench.netdev._tcp.flows


def test_syn_without_a_route_gets_an_icmp_error(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect_ex", lambda self, to: errno.ENETUNREACH)
    bench.send(TcpPeer(bench, 80, bytes((192, 0, 2, 7))).segment(SYN))
    (error,) = bench.frames
    assert (error[23], error[34], error[35]) == (1, 3, 0)
    assert error[26:30] == GATEWAY


def test_a_repeated_syn_is_answered_again(bench: Bench, server: socket.socket) -> None:
    peer = TcpPeer(bench, server.getsockname()[1])
    syn = peer.segment(SYN)
    bench.send(syn)
    bench.wait_until(lambda: bench.frames)
    first = bench.segments()[0]
    bench.send(syn)
    (second,) = bench.segments()
    assert (second.flags, second.seq) == (SYN | ACK, first.seq)


def test_syn_ack_is_sent_again_until_the_guest_is_given_up(
    bench: Bench, server: socket.socket
) -> None:
    bench.send(TcpPeer(bench, server.getsockname()[1]).segment(SYN))
    bench.wait_until(lambda: bench.frames)
    bench.pass_time(60)
    assert [segment.flags for segment in bench.segments()].count(SYN | ACK) == 6
    assert not bench.netdev._tcp.flows


@pytest.mark.parametrize(
    "destination", [(127, 0, 0, 1), (10, 0, 2, 77), (224, 0, 0, 1), (0, 0, 0, 0)]
)
def test_addresses_that_lead_nowhere_open_nothing(
    bench: Bench, server: socket.socket, destination: tuple[int, ...]
) -> None:
    peer = TcpPeer(bench, server.getsockname()[1], bytes(destination))
    bench.send(peer.segment(SYN))
    bench.settle()
    assert not bench.netdev._tcp.flows
    assert not bench.segments()


def test_loopback_off_resets_what_goes_to_the_gateway(server: socket.socket) -> None:
    bench = Bench(loopback=False)
    bench.send(TcpPeer(bench, server.getsockname()[1]).segment(SYN))
    assert [segment.flags for segment in bench.segments()] == [RST | ACK]
    bench.close()


def test_restrict_resets_every_syn(server: socket.socket) -> None:
    bench = Bench(restrict=True)
    bench.send(TcpPeer(bench, server.getsockname()[1]).segment(SYN))
    assert [segment.flags for segment in bench.segments()] == [RST | ACK]
    bench.close()


def test_a_stray_segment_is_reset(bench: Bench) -> None:
    bench.send(TcpPeer(bench, 9).segment(ACK, ack=77))
    (reset,) = bench.segments()
    assert (reset.flags, reset.seq) == (RST, 77)


def test_flows_are_bounded(bench: Bench, server: socket.socket) -> None:
    bench.netdev._tcp._opening.max_flows = 2
    for index in range(4):
        peer = TcpPeer(bench, server.getsockname()[1])
        peer.own_port += index
        bench.send(peer.segment(SYN))
    bench.wait_until(lambda: len(bench.frames) >= 2)
    assert len(bench.netdev._tcp.flows) == 2
    assert bench.netdev._tcp.counters["too many flows"] == 2


# Data


@every_peer
@pytest.mark.parametrize("size", [1, 1460, 5000, 300_000])
def test_data_of_the_host_reaches_the_guest(bench: Bench, server: socket.socket, size: int) -> None:
    peer, host = connect(bench, server)
    data = pattern(size)
    host.setblocking(False)
    sent = host.send(data)
    assert peer.read(sent) == data[:sent]


@every_peer
@pytest.mark.parametrize("size", [1, 1460, 300_000])
def test_data_of_the_guest_reaches_the_host(bench: Bench, server: socket.socket, size: int) -> None:
    peer, host = connect(bench, server)
    data = pattern(size)
    got = b""
    for start in range(0, size, 1460):
        peer.write(data[start : start + 1460])
        got += host.recv(1 << 20)
    assert got == data
    assert bench.segments()[-1].ack == peer.nxt


def test_a_burst_is_acknowledged_once(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    burst = [peer.segment(ACK, b"x" * 100, seq=peer.nxt + 100 * n) for n in range(10)]
    bench.send(*burst)
    assert [segment.ack for segment in bench.segments()] == [peer.nxt + 1000]
    assert host.recv(2000) == b"x" * 1000


def test_superframes_are_offered_whole_to_who_takes_them(
    bench: Bench, server: socket.socket
) -> None:
    _, host = connect(bench, server)
    host.sendall(pattern(60_000))
    bench.wait_until(lambda: any(offload.needs for offload in bench.offloads))
    offload = next(offload for offload in bench.offloads if offload.needs)
    assert (offload.segment_size, offload.checksum_start, offload.checksum_offset) == (1460, 34, 16)


def test_segments_keep_to_the_guests_mss(server: socket.socket) -> None:
    bench = Bench(accepts=PACKETS_ONLY)
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.open(tcp.Options(mss=500))
    host, _ = server.accept()
    host.sendall(pattern(4000))
    bench.wait_until(lambda: len(bench.frames) >= 8)
    assert max(len(segment.payload) for segment in bench.segments()) == 500
    bench.close()


@every_peer
def test_the_guests_window_limits_what_is_under_way(bench: Bench, server: socket.socket) -> None:
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.window = 3000
    peer.open(tcp.Options(mss=1460))
    host, _ = server.accept()
    host.sendall(pattern(20_000))
    bench.wait_until(lambda: bench.frames)
    bench.settle(20)
    assert 1460 <= sum(len(segment.payload) for segment in bench.segments()) <= 3000


@every_peer
def test_a_closed_window_is_probed_and_opens_again(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    peer.window = 0
    bench.send(peer.segment(ACK))
    host.sendall(b"late")
    bench.settle(20)
    assert not [segment for segment in bench.segments() if segment.payload]
    bench.pass_time(1)
    probes = bench.segments()
    assert probes and all(segment.seq == peer.ack - 1 for segment in probes)
    peer.window = 100
    bench.send(peer.segment(ACK))
    assert peer.read(4) == b"late"


@every_peer
def test_lost_data_is_sent_again_after_three_duplicates(
    bench: Bench, server: socket.socket
) -> None:
    peer, host = connect(bench, server)
    host.sendall(pattern(14_600))
    bench.wait_until(lambda: sum(len(s.payload) for s in bench.segments()) or bench.frames)
    bench.settle(20)
    bench.segments()  # all of it is lost
    duplicate = peer.segment(ACK)
    bench.send(duplicate, duplicate, duplicate)
    assert peer.read(14_600) == pattern(14_600)


@every_peer
def test_lost_data_is_sent_again_after_a_while(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    host.sendall(b"lost at first")
    bench.wait_until(lambda: bench.frames)
    bench.segments()
    bench.pass_time(0.5)
    assert peer.read(13) == b"lost at first"


@every_peer
def test_the_second_of_two_losses_is_sent_again_too(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    host.sendall(pattern(100))
    bench.wait_until(lambda: bench.frames)
    for _ in range(3):
        bench.segments()
        bench.pass_time(1.5)
    assert peer.read(100) == pattern(100)
    host.sendall(b"more")
    assert peer.read(4) == b"more"


def test_a_silent_guest_is_given_up(bench: Bench, server: socket.socket) -> None:
    _, host = connect(bench, server)
    host.sendall(b"nobody hears")
    bench.wait_until(lambda: bench.frames)
    bench.pass_time(400)
    assert not bench.netdev._tcp.flows
    assert bench.segments()[-1].flags & RST


def test_a_hole_in_the_guests_data_is_not_passed(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    bench.send(peer.segment(ACK, b"second", seq=peer.nxt + 5))
    assert [segment.ack for segment in bench.segments()] == [peer.nxt]
    bench.send(peer.segment(ACK, b"first"), peer.segment(ACK, b"second", seq=peer.nxt + 5))
    assert host.recv(100) == b"firstsecond"


def test_data_that_came_before_is_not_passed_twice(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    bench.send(peer.segment(ACK, b"abcd"))
    bench.send(peer.segment(ACK, b"abcd"))
    bench.send(peer.segment(ACK, b"cdef", seq=peer.nxt + 2))
    assert host.recv(100) == b"abcdef"
    assert bench.segments()[-1].ack == peer.nxt + 6


def test_data_that_overlaps_its_past_under_a_fin_ends_in_order(
    bench: Bench, server: socket.socket
) -> None:
    peer, host = connect(bench, server)
    bench.send(peer.segment(ACK, b"abcd"))
    bench.send(peer.segment(ACK | FIN, b"cdef", seq=peer.nxt + 2))
    assert host.recv(100) == b"abcdef"
    assert host.recv(100) == b""


@every_peer
def test_a_slow_host_closes_the_window_and_loses_nothing(
    bench: Bench, server: socket.socket
) -> None:
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.open(tcp.Options(mss=1460))
    flow = next(iter(bench.netdev._tcp.flows.values()))
    flow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    host, _ = server.accept()
    host.settimeout(5)
    data = pattern(3_000_000)
    sent, got, closed, acked = 0, b"", False, peer.nxt
    start = peer.nxt
    window = 8192
    while len(got) < len(data):
        room = acked + window - (start + sent)
        if room > 0 and sent < len(data):
            chunk = data[sent : sent + min(room, 1460)]
            peer.write(chunk)
            sent += len(chunk)
        else:
            closed = True
            got += host.recv(1 << 16)
            bench.loop.turn(0.001)
        for segment in bench.segments():
            acked, window = segment.ack, segment.window
    assert closed
    assert got == data


def test_bytes_the_kernel_did_not_take_are_not_acknowledged(
    bench: Bench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, host = connect(bench, server)
    cut_next_send(monkeypatch, 3)
    bench.send(peer.segment(ACK, b"abcdef"))
    assert [segment.ack for segment in bench.segments()] == [peer.nxt + 3, peer.nxt + 6]
    assert host.recv(100) == b"abcdef"


def test_refused_bytes_beyond_the_backlog_are_the_guests_to_repeat(
    bench: Bench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, host = connect(bench, server)
    monkeypatch.setattr(tcp_module, "MAX_BACKLOG", 0)
    with monkeypatch.context() as patch:
        refuse_sends(patch)
        bench.send(peer.segment(ACK | FIN, b"abc"))
    assert bench.segments()[0].ack == peer.nxt
    bench.send(peer.segment(ACK | FIN, b"abc"))
    assert bench.segments()[-1].ack == peer.nxt + 4
    assert host.recv(100) == b"abc"


def test_without_a_peek_offset_nothing_changes(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels before 6.9 have none for TCP."""
    monkeypatch.setattr(tcp_module, "peek_offset_works", lambda: False)
    bench = Bench(direct=True)
    peer, host = connect(bench, server)
    host.setblocking(False)
    sent = host.send(pattern(400_000))
    assert peer.read(sent) == pattern(400_000)[:sent]
    bench.close()


@every_peer
def test_a_guest_without_room_gets_its_data_later(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    bench.room = 0
    host.sendall(pattern(10_000))
    bench.settle(20)
    assert not bench.frames
    bench.room = 1 << 30
    bench.port.resume()
    assert peer.read(10_000) == pattern(10_000)


def test_checksums_of_plain_frames_are_verified(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    bad = bytearray(peer.segment(ACK, b"bad"))
    bad[-1] ^= 1
    bench.send(bytes(bad))
    assert not bench.segments()
    assert bench.netdev._tcp.counters["bad checksum"] == 1
    bench.send(peer.segment(ACK, b"good"))
    assert host.recv(10) == b"good"


def test_urgent_data_is_data(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    bench.send(peer.segment(ACK | PSH | 0x20, b"urgent"))
    assert host.recv(10) == b"urgent"


@pytest.mark.parametrize("offset", [0x00, 0x40, 0xF0])
def test_a_data_offset_that_lies_is_dropped(
    bench: Bench, server: socket.socket, offset: int
) -> None:
    peer, _ = connect(bench, server)
    frame = bytearray(peer.segment(ACK))
    frame[46] = offset
    bench.send(bytes(frame))
    assert not bench.segments()
    assert bench.netdev._tcp.counters["bad header"] == 1
