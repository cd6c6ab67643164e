# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""TCP of the user network where it is easily wrong: windows, probes, restarts, losses, wrap-around.

What a connection does when all goes well is in ``test_tcp.py``.
"""

from __future__ import annotations

import errno
import gc
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from tests.netdev.user.guest import ACK, FIN, GUEST, RST, SYN, Bench, Reassembly, TcpPeer, listener

from vmwire.netdev.user import tcp as tcp_module
from vmwire.netdev.user import tcp_speaker
from vmwire.netdev.user.tcp_flow import TcpFlow
from vmwire.wire.frame import Frame
from vmwire.wire.port import PACKETS_ONLY, Port
from vmwire.wire.protocols import tcp

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with listener() as sock:
        yield sock


def connect(
    bench: Bench, server: socket.socket, *, start: int = 1000, own_port: int = 40000
) -> tuple[TcpPeer, socket.socket]:
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.nxt = start
    peer.own_port = own_port
    peer.open(tcp.Options(mss=1460, window_scale=7))
    host, _ = server.accept()
    host.settimeout(5)
    return peer, host


def the_flow(bench: Bench) -> TcpFlow:
    (flow,) = bench.netdev._tcp.flows.values()
    return flow


def take_until_closed(bench: Bench, peer: TcpPeer) -> None:
    bench.wait_until(lambda: peer.take() is None or not bench.netdev._tcp.flows)
    bench.settle()
    bench.segments()


def forwarded_port(bench: Bench) -> int:
    forwards = bench.netdev.stats()["forwards"]
    assert isinstance(forwards, list)
    return int(forwards[0].split("-")[0].rsplit(":", 1)[1])


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


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

    def full(self: socket.socket, *rest: object) -> int:
        raise BlockingIOError

    monkeypatch.setattr(tcp_module, "MAX_BACKLOG", 0)
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "sendmsg", full)
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
    real = socket.socket.sendmsg
    monkeypatch.setattr(
        socket.socket, "sendmsg", lambda self, views, *rest: real(self, [views[0][:2]], *rest)
    )
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
    bench.wait_until(lambda: len(bench.frames) >= 2)
    bench.segments()
    duplicate = peer.segment(ACK)
    # the loss is noticed, and is none: all in one burst
    bench.send(duplicate, duplicate, duplicate, peer.segment(ACK, ack=peer.ack + 4))
    bench.settle(10)
    assert not [s for s in bench.segments() if s.seq > peer.ack + 3]
    assert the_flow(bench).fin_acked


# The host's side


def test_what_lies_behind_an_urgent_byte_is_delivered(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    host.send(b"abc")
    host.send(b"def!", socket.MSG_OOB)
    host.send(b"ghi")
    assert peer.read(10) == b"abcdef!ghi"


def test_a_server_that_speaks_and_leaves_while_we_connect_is_heard_to_the_end(
    bench: Bench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event tells all of it: connected, data, end."""
    monkeypatch.setattr(tcp_module.TcpTable, "_opened", lambda self, flow: None)
    real = socket.socket.connect_ex
    with monkeypatch.context() as patch:

        def slow(self: socket.socket, to: tuple[str, int]) -> int:
            real(self, to)
            return errno.EINPROGRESS

        patch.setattr(socket.socket, "connect_ex", slow)
        peer = TcpPeer(bench, server.getsockname()[1])
        bench.port.send([Frame.of(peer.segment(SYN, options=tcp.Options(mss=1460)))])
    monkeypatch.undo()
    host, _ = server.accept()
    host.sendall(b"bye")
    host.close()
    bench.wait_until(lambda: bench.frames)
    (syn_ack,) = bench.segments()
    peer.nxt += 1
    peer.ack = syn_ack.seq + 1
    bench.send(peer.segment(ACK))
    assert peer.read(3) == b"bye"
    bench.wait_until(lambda: peer.take() or the_flow(bench).fin_acked)
    assert the_flow(bench).fin_out


def test_data_before_a_reset_of_the_host_comes_before_it(
    bench: Bench, server: socket.socket
) -> None:
    """As of a server that answers and closes without having read all of the request."""
    peer, host = connect(bench, server)
    peer.write(b"request that is not read")
    bench.segments()
    host.sendall(b"response")
    host.close()
    bench.wait_until(lambda: not bench.netdev._tcp.flows)
    bench.settle()
    data, reset = bench.segments()
    assert data.payload == b"response"
    assert reset.flags & RST
    assert reset.seq == data.seq + 8


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


# Limits, and giving everything back


def test_connections_that_nobody_answers_push_out_the_oldest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect_ex", lambda self, to: errno.EINPROGRESS)
    monkeypatch.setattr(tcp_module, "MAX_CONNECTING", 10)
    before = len(os.listdir("/proc/self/fd"))
    for port in range(1, 101):
        bench.port.send([Frame.of(TcpPeer(bench, port, bytes((192, 0, 2, 9))).segment(SYN))])
    table = bench.netdev._tcp
    assert len(table.flows) == len(table._connecting) == 10
    assert [flow.port for flow in table._connecting] == list(range(91, 101))
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
        table._connecting, table._lingering, table._pushes, table._acks, table._discards,
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


# Silence, and events that mean nothing


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


@pytest.mark.parametrize("state", ["opening", "established", "half closed"])
@pytest.mark.parametrize("peek_offset", [True, False])
def test_events_of_a_descriptors_last_owner_change_nothing(
    bench: Bench, server: socket.socket, state: str, peek_offset: bool
) -> None:
    """A turn's events may tell of a socket that an earlier one closed, whose number is in use."""
    table = bench.netdev._tcp
    table.peek_offset = table._feeder._peek_offset = peek_offset
    peer = TcpPeer(bench, server.getsockname()[1])
    if state == "opening":
        bench.send(peer.segment(SYN))
    else:
        peer.open()
    host, _ = server.accept()
    if state == "half closed":
        bench.send(peer.segment(ACK | FIN))
        peer.nxt += 1
    bench.wait_until(lambda: bench.frames or state == "established")
    answers = bench.segments()
    for events in range(1, 64):
        mask = sum(bit for n, bit in enumerate((1, 2, 4, 8, 0x10, 0x2000)) if events >> n & 1)
        the_flow(bench).on_event(mask)
        bench.settle()
    assert {segment.flags for segment in bench.segments()} <= {ACK}
    if state == "opening":
        peer.nxt, peer.ack = 1001, answers[0].seq + 1
        bench.send(peer.segment(ACK))
    host.sendall(b"whole")
    assert peer.read(5) == b"whole"


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
