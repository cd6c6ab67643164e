# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""TCP of the user network: a hand-driven guest against real sockets of the host."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest
from tests.netdev.user.guest import (
    ACK,
    FIN,
    GATEWAY,
    GUEST,
    PSH,
    RST,
    SYN,
    Bench,
    TcpPeer,
    listener,
)

from vmwire.netdev.user import tcp as tcp_module
from vmwire.wire.frame import Gso
from vmwire.wire.port import EVERYTHING, PACKETS_ONLY, Accepts
from vmwire.wire.protocols import tcp

PEERS = {
    "superframes": {"accepts": EVERYTHING},
    "superframes in guest memory": {"accepts": EVERYTHING, "direct": True},
    "checksums only": {"accepts": Accepts(checksum=True, gso=Gso.NONE)},
    "packets only": {"accepts": PACKETS_ONLY},
}


@pytest.fixture(params=PEERS.values(), ids=PEERS.keys())
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(**request.param)
    yield bench
    bench.close()


@pytest.fixture
def plain() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with listener() as sock:
        yield sock


def connect(bench: Bench, server: socket.socket) -> tuple[TcpPeer, socket.socket]:
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.open(tcp.Options(mss=1460, window_scale=7))
    peer.window = 0xFFFF
    host, _ = server.accept()
    host.settimeout(5)
    return peer, host


def pattern(size: int) -> bytes:
    return bytes(range(251)) * (size // 251) + bytes(range(size % 251))


# Opening


def test_syn_to_a_listener_is_answered_when_the_host_has_connected(
    plain: Bench, server: socket.socket
) -> None:
    peer = TcpPeer(plain, server.getsockname()[1])
    syn_ack = peer.open(tcp.Options(mss=1400, window_scale=2))
    options = tcp.Options.parse(syn_ack.options)
    assert syn_ack.ack == 1001
    assert options.mss == 1460
    assert options.window_scale is not None


def test_syn_without_window_scale_gets_none_back(plain: Bench, server: socket.socket) -> None:
    syn_ack = TcpPeer(plain, server.getsockname()[1]).open(tcp.Options(mss=1460))
    assert tcp.Options.parse(syn_ack.options).window_scale is None


def test_syn_to_a_closed_port_is_reset(plain: Bench) -> None:
    with listener() as gone:
        port = gone.getsockname()[1]
    peer = TcpPeer(plain, port)
    plain.send(peer.segment(SYN))
    plain.wait_until(lambda: plain.frames)
    (reset,) = plain.segments()
    assert (reset.flags, reset.ack) == (RST | ACK, 1001)
    assert not plain.netdev._tcp.flows


def test_syn_without_a_route_gets_an_icmp_error(
    plain: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect_ex", lambda self, to: errno.ENETUNREACH)
    plain.send(TcpPeer(plain, 80, bytes((192, 0, 2, 7))).segment(SYN))
    (error,) = plain.frames
    assert (error[23], error[34], error[35]) == (1, 3, 0)
    assert error[26:30] == GATEWAY


def test_a_repeated_syn_is_answered_again(plain: Bench, server: socket.socket) -> None:
    peer = TcpPeer(plain, server.getsockname()[1])
    syn = peer.segment(SYN)
    plain.send(syn)
    plain.wait_until(lambda: plain.frames)
    first = plain.segments()[0]
    plain.send(syn)
    (second,) = plain.segments()
    assert (second.flags, second.seq) == (SYN | ACK, first.seq)


def test_syn_ack_is_sent_again_until_the_guest_is_given_up(
    plain: Bench, server: socket.socket
) -> None:
    plain.send(TcpPeer(plain, server.getsockname()[1]).segment(SYN))
    plain.wait_until(lambda: plain.frames)
    plain.pass_time(60)
    assert [segment.flags for segment in plain.segments()].count(SYN | ACK) == 6
    assert not plain.netdev._tcp.flows


@pytest.mark.parametrize(
    "destination", [(127, 0, 0, 1), (10, 0, 2, 77), (224, 0, 0, 1), (0, 0, 0, 0)]
)
def test_addresses_that_lead_nowhere_open_nothing(
    plain: Bench, server: socket.socket, destination: tuple[int, ...]
) -> None:
    peer = TcpPeer(plain, server.getsockname()[1], bytes(destination))
    plain.send(peer.segment(SYN))
    plain.settle()
    assert not plain.netdev._tcp.flows
    assert not plain.segments()


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


def test_a_stray_segment_is_reset(plain: Bench) -> None:
    plain.send(TcpPeer(plain, 9).segment(ACK, ack=77))
    (reset,) = plain.segments()
    assert (reset.flags, reset.seq) == (RST, 77)


def test_flows_are_bounded(plain: Bench, server: socket.socket) -> None:
    plain.netdev._tcp._max_flows = 2
    for index in range(4):
        peer = TcpPeer(plain, server.getsockname()[1])
        peer.own_port += index
        plain.send(peer.segment(SYN))
    plain.wait_until(lambda: len(plain.frames) >= 2)
    assert len(plain.netdev._tcp.flows) == 2
    assert plain.netdev._tcp.counters["too many flows"] == 2


# Data


@pytest.mark.parametrize("size", [1, 1460, 5000, 300_000])
def test_data_of_the_host_reaches_the_guest(bench: Bench, server: socket.socket, size: int) -> None:
    peer, host = connect(bench, server)
    data = pattern(size)
    host.setblocking(False)
    sent = host.send(data)
    assert peer.read(sent) == data[:sent]


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


def test_a_burst_is_acknowledged_once(plain: Bench, server: socket.socket) -> None:
    peer, host = connect(plain, server)
    burst = [peer.segment(ACK, b"x" * 100, seq=peer.nxt + 100 * n) for n in range(10)]
    plain.send(*burst)
    assert [segment.ack for segment in plain.segments()] == [peer.nxt + 1000]
    assert host.recv(2000) == b"x" * 1000


def test_superframes_are_offered_whole_to_who_takes_them(
    plain: Bench, server: socket.socket
) -> None:
    _, host = connect(plain, server)
    host.sendall(pattern(60_000))
    plain.wait_until(lambda: any(offload.needs for offload in plain.offloads))
    offload = next(offload for offload in plain.offloads if offload.needs)
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


def test_the_guests_window_limits_what_is_under_way(bench: Bench, server: socket.socket) -> None:
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.window = 3000
    peer.open(tcp.Options(mss=1460))
    host, _ = server.accept()
    host.sendall(pattern(20_000))
    bench.wait_until(lambda: bench.frames)
    bench.settle(20)
    assert 1460 <= sum(len(segment.payload) for segment in bench.segments()) <= 3000


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


def test_lost_data_is_sent_again_after_a_while(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    host.sendall(b"lost at first")
    bench.wait_until(lambda: bench.frames)
    bench.segments()
    bench.pass_time(0.5)
    assert peer.read(13) == b"lost at first"


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


def test_a_silent_guest_is_given_up(plain: Bench, server: socket.socket) -> None:
    _, host = connect(plain, server)
    host.sendall(b"nobody hears")
    plain.wait_until(lambda: plain.frames)
    plain.pass_time(400)
    assert not plain.netdev._tcp.flows
    assert plain.segments()[-1].flags & RST


def test_a_hole_in_the_guests_data_is_not_passed(plain: Bench, server: socket.socket) -> None:
    peer, host = connect(plain, server)
    plain.send(peer.segment(ACK, b"second", seq=peer.nxt + 5))
    assert [segment.ack for segment in plain.segments()] == [peer.nxt]
    plain.send(peer.segment(ACK, b"first"), peer.segment(ACK, b"second", seq=peer.nxt + 5))
    assert host.recv(100) == b"firstsecond"


def test_data_that_came_before_is_not_passed_twice(plain: Bench, server: socket.socket) -> None:
    peer, host = connect(plain, server)
    plain.send(peer.segment(ACK, b"abcd"))
    plain.send(peer.segment(ACK, b"abcd"))
    plain.send(peer.segment(ACK, b"cdef", seq=peer.nxt + 2))
    assert host.recv(100) == b"abcdef"
    assert plain.segments()[-1].ack == peer.nxt + 6


def test_data_that_overlaps_its_past_under_a_fin_ends_in_order(
    plain: Bench, server: socket.socket
) -> None:
    peer, host = connect(plain, server)
    plain.send(peer.segment(ACK, b"abcd"))
    plain.send(peer.segment(ACK | FIN, b"cdef", seq=peer.nxt + 2))
    assert host.recv(100) == b"abcdef"
    assert host.recv(100) == b""


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
    plain: Bench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, host = connect(plain, server)
    real = socket.socket.sendmsg
    monkeypatch.setattr(
        socket.socket, "sendmsg", lambda self, views, *rest: real(self, [views[0][:3]], *rest)
    )
    plain.send(peer.segment(ACK, b"abcdef"))
    assert [segment.ack for segment in plain.segments()] == [peer.nxt + 3, peer.nxt + 6]
    assert host.recv(100) == b"abcdef"


def test_refused_bytes_beyond_the_backlog_are_the_guests_to_repeat(
    plain: Bench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, host = connect(plain, server)
    monkeypatch.setattr(tcp_module, "MAX_BACKLOG", 0)

    def full(self: socket.socket, *rest: object) -> int:
        raise BlockingIOError

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "sendmsg", full)
        plain.send(peer.segment(ACK | FIN, b"abc"))
    assert plain.segments()[0].ack == peer.nxt
    plain.send(peer.segment(ACK | FIN, b"abc"))
    assert plain.segments()[-1].ack == peer.nxt + 4
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


def test_a_guest_without_room_gets_its_data_later(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    bench.room = 0
    host.sendall(pattern(10_000))
    bench.settle(20)
    assert not bench.frames
    bench.room = 1 << 30
    bench.port.resume()
    assert peer.read(10_000) == pattern(10_000)


def test_checksums_of_plain_frames_are_verified(plain: Bench, server: socket.socket) -> None:
    peer, host = connect(plain, server)
    bad = bytearray(peer.segment(ACK, b"bad"))
    bad[-1] ^= 1
    plain.send(bytes(bad))
    assert not plain.segments()
    assert plain.netdev._tcp.counters["bad checksum"] == 1
    plain.send(peer.segment(ACK, b"good"))
    assert host.recv(10) == b"good"


def test_urgent_data_is_data(plain: Bench, server: socket.socket) -> None:
    peer, host = connect(plain, server)
    plain.send(peer.segment(ACK | PSH | 0x20, b"urgent"))
    assert host.recv(10) == b"urgent"


@pytest.mark.parametrize("offset", [0x00, 0x40, 0xF0])
def test_a_data_offset_that_lies_is_dropped(
    plain: Bench, server: socket.socket, offset: int
) -> None:
    peer, _ = connect(plain, server)
    frame = bytearray(peer.segment(ACK))
    frame[46] = offset
    plain.send(bytes(frame))
    assert not plain.segments()
    assert plain.netdev._tcp.counters["bad header"] == 1


# Ending


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
    plain: Bench, server: socket.socket
) -> None:
    peer, host = connect(plain, server)
    host.shutdown(socket.SHUT_WR)
    plain.wait_until(lambda: plain.frames)
    peer.take()
    fin = peer.segment(ACK | FIN)
    plain.send(fin)
    plain.settle()
    plain.segments()
    plain.send(fin)
    (again,) = plain.segments()
    assert (again.flags, again.ack) == (ACK, peer.nxt + 1)


def test_a_reset_by_the_guest_resets_the_host(plain: Bench, server: socket.socket) -> None:
    peer, host = connect(plain, server)
    plain.send(peer.segment(RST | ACK))
    with pytest.raises(ConnectionResetError):
        host.recv(1)
    assert not plain.netdev._tcp.flows


def test_a_reset_outside_of_the_window_is_ignored(plain: Bench, server: socket.socket) -> None:
    peer, _ = connect(plain, server)
    plain.send(peer.segment(RST, seq=peer.nxt - 5))
    plain.send(peer.segment(RST, seq=peer.nxt + (1 << 30)))
    assert len(plain.netdev._tcp.flows) == 1


def test_a_reset_by_the_host_resets_the_guest(plain: Bench, server: socket.socket) -> None:
    peer, host = connect(plain, server)
    host.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    host.close()
    plain.wait_until(lambda: plain.frames)
    reset = plain.segments()[-1]
    assert reset.flags & RST
    assert reset.seq == peer.ack & 0xFFFFFFFF


def test_acknowledged_data_survives_the_guests_reset(plain: Bench, server: socket.socket) -> None:
    peer, host = connect(plain, server)
    flow = next(iter(plain.netdev._tcp.flows.values()))
    host.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    flow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    for _ in range(400):
        peer.write(pattern(1460))
        if flow.backlog:
            break
    assert flow.backlog
    sent = plain.segments()[-1].ack
    plain.send(peer.segment(RST | ACK, seq=sent))
    # with a small buffer the kernel's two ends would take seconds for the rest
    host.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    got = b""
    try:
        while chunk := host.recv(1 << 16):
            got += chunk
    except ConnectionResetError:
        pass
    assert len(got) >= (sent - 1001) & 0xFFFFFFFF


def test_a_syn_inside_a_connection_is_challenged(plain: Bench, server: socket.socket) -> None:
    peer, _ = connect(plain, server)
    plain.send(peer.segment(SYN, seq=peer.nxt + 77))
    (challenge,) = plain.segments()
    assert (challenge.flags, challenge.ack) == (ACK, peer.nxt)


def test_close_gives_every_socket_back(plain: Bench, server: socket.socket) -> None:
    _, host = connect(plain, server)
    plain.netdev.close()
    assert host.recv(1) == b""


# Forwards


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
