# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A guest that lies, floods and forges: the user network drops, counts and goes on.

Each test ends with an honest connection through the same network (``Bench`` fixture): whatever came
before must not have harmed it.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.netdev.user.guest import (
    ACK,
    FIN,
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    MAC,
    PSH,
    RST,
    SYN,
    Bench,
    TcpPeer,
    listener,
)

from vmwire.netdev.user.output import MAX_WAITING
from vmwire.wire.frame import (
    F_DATA_VALID,
    F_NEEDS_CSUM,
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NO_OFFLOAD,
    Frame,
    Offload,
)
from vmwire.wire.protocols import tcp, udp
from vmwire.wire.protocols.ipv4 import Header

DNS = bytes((10, 0, 2, 3))
ELSEWHERE = bytes((192, 0, 2, 1))
EVERYBODY = b"\xff" * 6
GARBAGE = bytes(range(256))

EtherType = bytes
ETHERTYPES: dict[str, EtherType] = {
    "IPv4": b"\x08\x00",
    "ARP": b"\x08\x06",
    "IPv6": b"\x86\xdd",
    "VLAN": b"\x81\x00",
    "service VLAN": b"\x88\xa8",
    "length": b"\x00\x2e",
    "zero": b"\x00\x00",
    "highest": b"\xff\xff",
}


@pytest.fixture(scope="module")
def server() -> Iterator[socket.socket]:
    with listener() as sock:
        yield sock


@pytest.fixture
def bench(server: socket.socket) -> Iterator[Bench]:
    bench = Bench()
    yield bench
    prove_alive(bench, server)
    bench.close()


_ports = itertools.count(50_000)


def prove_alive(bench: Bench, server: socket.socket) -> None:
    """An honest connection works."""
    bench.settle()
    bench.segments()
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.own_port = next(_ports)
    peer.open(tcp.Options(mss=1460))
    while True:
        host, address = server.accept()
        if address == bench.netdev._tcp.flows[key_of(peer)].sock.getsockname():
            break
        host.close()
    peer.write(b"are you")
    assert host.recv(100) == b"are you"
    host.sendall(b"alive")
    assert peer.read(5) == b"alive"
    bench.send(peer.segment(RST, seq=peer.nxt))
    host.close()


def key_of(peer: TcpPeer) -> bytes:
    ports = peer.own_port.to_bytes(2, "big") + peer.port.to_bytes(2, "big")
    return GUEST + peer.destination + ports


def offer(bench: Bench, data: bytes, offload: Offload = NO_OFFLOAD, cut: int = 0) -> None:
    """Hand a frame to the network as a device would, in two pieces if ``cut``."""
    views = [memoryview(data[:cut]), memoryview(data[cut:])] if cut else [memoryview(data)]
    assert bench.netdev.port.receive([Frame(views, len(data), offload)]) == 1


def from_(source: bytes, peer: TcpPeer, flags: int = SYN) -> bytes:
    """A segment whose sender claims another address."""
    segment = tcp.Segment(peer.own_port, peer.port, 1000, 0, flags, 65535)
    body = segment.emit(source, peer.destination)
    head = Header(source, peer.destination, 6, len(body))
    return GATEWAY_MAC + MAC + b"\x08\x00" + head.emit() + body


def honest_frames(port: int) -> dict[str, bytes]:
    """One frame of each kind that the network knows."""
    peer = TcpPeer(None, port)  # type: ignore[arg-type]
    syn = tcp.Segment(40001, port, 1000, 0, SYN, 65535, b"", tcp.Options(mss=1460).emit())
    ping = b"\x08\x00\xf7\xff\x00\x00\x00\x00"

    def packet(destination: bytes, protocol: int, body: bytes, **fields: int) -> bytes:
        head = Header(GUEST, destination, protocol, len(body), **fields)  # type: ignore[arg-type]
        return GATEWAY_MAC + MAC + b"\x08\x00" + head.emit() + body

    data = tcp.Segment(40001, peer.port, 1001, 5, ACK | PSH, 65535, b"data" * 20)
    query = bytes.fromhex("000101000001000000000000") + b"\x01a\x00\x00\x01\x00\x01"
    return {
        "SYN": packet(GATEWAY, 6, syn.emit(GUEST, GATEWAY)),
        "data": packet(GATEWAY, 6, data.emit(GUEST, GATEWAY)),
        "UDP": packet(GATEWAY, 17, udp.Datagram(40001, 9, b"x" * 60).emit(GUEST, GATEWAY)),
        "DNS": packet(DNS, 17, udp.Datagram(40001, 53, query).emit(GUEST, DNS)),
        "DHCP": packet(GATEWAY, 17, udp.Datagram(68, 67, bytes(240)).emit(GUEST, GATEWAY)),
        "ping": packet(GATEWAY, 1, ping),
        "fragment": packet(GATEWAY, 17, bytes(64), fragment=0x2000),
        "ARP": EVERYBODY + MAC + bytes.fromhex("08060001080006040001") + MAC + GUEST + bytes(6)
        + GATEWAY,
    }  # fmt: skip


# Frames that are cut, or say what isn't so


@pytest.mark.parametrize("ethertype", ETHERTYPES.values(), ids=ETHERTYPES.keys())
def test_frames_cut_at_each_byte(bench: Bench, ethertype: EtherType) -> None:
    for size in range(139):
        offer(bench, (GATEWAY_MAC + MAC + ethertype + GARBAGE)[:size])
        offer(bench, (EVERYBODY + MAC + ethertype + b"\x45" + GARBAGE)[:size])


@pytest.mark.parametrize("kind", ["SYN", "data", "UDP", "DNS", "DHCP", "ping", "fragment", "ARP"])
def test_honest_frames_cut_at_each_byte(bench: Bench, server: socket.socket, kind: str) -> None:
    whole = honest_frames(server.getsockname()[1])[kind]
    for size in range(len(whole)):
        offer(bench, whole[:size])
        offer(bench, whole[:size], Offload(F_DATA_VALID))
        # lengths that fit what is left, and an honest header sum
        if size >= 34 and kind != "ARP":
            header = Header.parse(whole[14:])
            header.payload_length = size - 34
            offer(bench, whole[:14] + header.emit() + whole[34:size], Offload(F_DATA_VALID))
    bench.settle()
    if kind != "ARP":
        assert bench.netdev.stats()["dropped"]


@pytest.mark.parametrize("kind", ["SYN", "data", "UDP", "DNS", "DHCP", "ping", "fragment", "ARP"])
def test_frames_in_two_pieces_mean_the_same(server: socket.socket, kind: str) -> None:
    frame = honest_frames(server.getsockname()[1])[kind]
    answers = set()
    for cut in range(0, len(frame), 7):
        bench = Bench()
        offer(bench, frame, cut=cut)
        answers.add((len(bench.netdev._tcp.flows), str(bench.netdev.stats()["dropped"])))
        bench.close()
    assert len(answers) == 1


@pytest.mark.parametrize("total", [0, 19, 20, 39, 41, 59, 1500, 65535])
def test_ip_lengths_that_lie(bench: Bench, server: socket.socket, total: int) -> None:
    frame = bytearray(TcpPeer(bench, server.getsockname()[1]).segment(SYN))
    frame[16:18] = total.to_bytes(2, "big")
    fix_sum(frame)
    offer(bench, bytes(frame), Offload(F_DATA_VALID))
    assert not bench.netdev._tcp.flows


def fix_sum(frame: bytearray) -> None:
    frame[24:26] = bytes(2)
    length = max(20, (frame[14] & 15) * 4)
    words = struct.unpack(f"!{length // 2}H", (frame + bytes(60))[14 : 14 + length])
    frame[24:26] = (sum(words) % 0xFFFF ^ 0xFFFF).to_bytes(2, "big")


@pytest.mark.parametrize("first", [0x40, 0x44, 0x46, 0x4F, 0x00, 0x55, 0x65, 0xF5])
def test_versions_and_header_lengths_that_lie(
    bench: Bench, server: socket.socket, first: int
) -> None:
    frame = bytearray(TcpPeer(bench, server.getsockname()[1]).segment(SYN))
    frame[14] = first
    fix_sum(frame)
    offer(bench, bytes(frame), Offload(F_DATA_VALID))
    assert not bench.netdev._tcp.flows


def test_bytes_behind_the_packet_are_not_data(bench: Bench, server: socket.socket) -> None:
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.open()
    host, _ = server.accept()
    bench.send(peer.segment(ACK, b"data") + b"padding of the wire")
    assert host.recv(100) == b"data"


@pytest.mark.parametrize("gso", [GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_TCPV4 | GSO_ECN, 2, 127])
@pytest.mark.parametrize("size", [0, 1, 1460, 65535])
@pytest.mark.parametrize("start", [0, 13, 34, 35, 65535])
def test_offloads_that_lie(
    bench: Bench, server: socket.socket, gso: int, size: int, start: int
) -> None:
    """Nothing that an offload says is used to find or to bound anything."""
    peer = TcpPeer(bench, server.getsockname()[1])
    peer.own_port = next(_ports)
    peer.open()
    host, _ = server.accept()
    host.settimeout(5)
    for kind, frame in honest_frames(peer.port).items():
        if kind != "SYN":
            offer(bench, frame, Offload(F_NEEDS_CSUM, gso, 65535, size, start, 65535))
    data = bytes(range(250)) * 40
    lying = Offload(F_NEEDS_CSUM, gso, 7, size, start, 3)
    offer(bench, peer.segment(ACK, data), lying, cut=61)
    got = b""
    while len(got) < len(data):
        got += host.recv(1 << 16)
    assert got == data
    host.close()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_frames_harm_nothing(data: st.DataObject) -> None:
    """Any bytes changed in honest frames, sums made right again or not, in any pieces."""
    bench = fuzzed_bench()
    frames = honest_frames(fuzzed_server().getsockname()[1])
    frame = bytearray(frames[data.draw(st.sampled_from(sorted(frames)))])
    for _ in range(data.draw(st.integers(1, 6))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    del frame[data.draw(st.integers(14, 14 + len(frame))) :]
    if data.draw(st.booleans()) and len(frame) >= 34:
        fix_sum(frame)
    flags = data.draw(st.sampled_from([0, F_NEEDS_CSUM, F_DATA_VALID, 255]))
    gso = data.draw(st.sampled_from([0, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, 77]))
    number = st.integers(0, 65535)
    offload = Offload(flags, gso, *(data.draw(number) for _ in range(4)))
    cut = data.draw(st.integers(0, len(frame)))
    offer(bench, bytes(frame), offload, cut)
    bench.settle(2)
    bench.frames.clear()
    bench.offloads.clear()


_made: dict[str, object] = {}


def fuzzed_bench() -> Bench:
    """One network for all examples: what one leaves behind, the next ones meet."""
    bench = _made.setdefault("bench", None) or Bench(restrict=False)
    _made["bench"] = bench
    assert isinstance(bench, Bench)
    return bench


def fuzzed_server() -> socket.socket:
    server = _made.setdefault("server", None) or listener()
    _made["server"] = server
    assert isinstance(server, socket.socket)
    return server


@pytest.fixture(scope="module", autouse=True)
def _close_what_was_fuzzed() -> Iterator[None]:
    yield
    for each in _made.values():
        if isinstance(each, Bench):
            prove_alive(each, fuzzed_server())
            each.close()
    for each in _made.values():
        if isinstance(each, socket.socket):
            each.close()
    _made.clear()


# Senders and destinations


BAD_SOURCES = {
    "the gateway": GATEWAY,
    "the DNS server": DNS,
    "nobody": bytes(4),
    "this network": bytes((0, 1, 2, 3)),
    "loopback": bytes((127, 0, 0, 1)),
    "the network": bytes((10, 0, 2, 0)),
    "its broadcast": bytes((10, 0, 2, 255)),
    "a group": bytes((224, 0, 0, 1)),
    "reserved": bytes((240, 0, 0, 1)),
    "everybody": b"\xff" * 4,
}


@pytest.mark.parametrize("source", BAD_SOURCES.values(), ids=BAD_SOURCES.keys())
def test_senders_that_can_be_nobody_are_not_heard(
    bench: Bench, server: socket.socket, source: bytes
) -> None:
    offer(bench, from_(source, TcpPeer(bench, server.getsockname()[1])))
    bench.settle()
    assert not bench.frames
    assert not bench.netdev._tcp.flows
    assert source not in bench.netdev._neighbours.macs
    assert bench.netdev._stack.counters["bad source"] == 1


def test_a_sender_of_another_network_is_answered_where_it_came_from(
    bench: Bench, server: socket.socket
) -> None:
    """A guest may route for others."""
    offer(bench, from_(bytes((192, 168, 7, 7)), TcpPeer(bench, server.getsockname()[1])))
    bench.wait_until(lambda: bench.frames)
    assert bench.frames[0][:6] == MAC
    assert bench.frames[0][30:34] == bytes((192, 168, 7, 7))


def test_a_segment_to_itself_is_not_answered(bench: Bench) -> None:
    """The land attack: source and destination, both the gateway's."""
    peer = TcpPeer(bench, 40000)
    offer(bench, from_(GATEWAY, peer))
    bench.settle()
    assert not bench.frames
    assert not bench.netdev._tcp.flows


@pytest.mark.parametrize("mac", [EVERYBODY, b"\x01\x00\x5e\x00\x00\x01", b"\x33\x33" + bytes(4)])
def test_a_group_cannot_send(bench: Bench, server: socket.socket, mac: bytes) -> None:
    frame = TcpPeer(bench, server.getsockname()[1]).segment(SYN)
    offer(bench, frame[:6] + mac + frame[12:])
    bench.settle()
    assert not bench.frames
    assert not bench.netdev._tcp.flows


@pytest.mark.parametrize("flags", [SYN, ACK, ACK | FIN, 0])
@pytest.mark.parametrize("mac", [EVERYBODY, b"\x01\x00\x5e\x00\x00\x01"])
def test_tcp_to_everybody_is_not_answered(
    bench: Bench, server: socket.socket, mac: bytes, flags: int
) -> None:
    frame = TcpPeer(bench, server.getsockname()[1]).segment(flags)
    offer(bench, mac + frame[6:])
    bench.settle()
    assert not bench.frames
    assert not bench.netdev._tcp.flows


@pytest.mark.parametrize(
    "destination", [(255, 255, 255, 255), (10, 0, 2, 255), (10, 0, 2, 0), (224, 0, 0, 251)]
)
def test_destinations_without_one_host_are_not_answered(
    bench: Bench, server: socket.socket, destination: tuple[int, ...]
) -> None:
    for flags in (SYN, ACK):
        peer = TcpPeer(bench, server.getsockname()[1], bytes(destination))
        offer(bench, peer.segment(flags))
    bench.settle()
    used_up = bytearray(peer.segment(SYN))
    used_up[22] = 1
    fix_sum(used_up)
    offer(bench, bytes(used_up))
    bench.settle()
    assert not bench.netdev._tcp.flows
    assert not bench.frames


def test_frames_for_other_stations_are_not_ours(bench: Bench, server: socket.socket) -> None:
    frame = TcpPeer(bench, server.getsockname()[1]).segment(SYN)
    offer(bench, b"\x52\x54\x00\x99\x99\x99" + frame[6:])
    bench.settle()
    assert not bench.frames
    assert not bench.netdev._tcp.flows


# ARP


def arp(operation: int, mac: bytes, address: bytes, target: bytes) -> bytes:
    body = b"\x00\x01\x08\x00\x06\x04" + operation.to_bytes(2, "big") + mac + address
    return EVERYBODY + MAC + b"\x08\x06" + body + bytes(6) + target


@pytest.mark.parametrize("address", [GATEWAY, DNS, bytes((10, 0, 2, 255)), ELSEWHERE, bytes(4)])
def test_arp_claims_no_address_that_is_not_a_guests(bench: Bench, address: bytes) -> None:
    for operation in (1, 2):
        offer(bench, arp(operation, MAC, address, address))
    assert address not in bench.netdev._neighbours.macs


@pytest.mark.parametrize("mac", [EVERYBODY, bytes(6), b"\x01\x00\x5e\x00\x00\x01"])
def test_arp_learns_no_mac_that_is_not_a_stations(bench: Bench, mac: bytes) -> None:
    offer(bench, arp(2, mac, GUEST, GATEWAY))
    assert GUEST not in bench.netdev._neighbours.macs


@pytest.mark.parametrize("at", range(14, 22))
@pytest.mark.parametrize("value", [0, 5, 255])
def test_arp_of_other_kinds_is_not_answered(bench: Bench, at: int, value: int) -> None:
    frame = bytearray(arp(1, MAC, GUEST, GATEWAY))
    if frame[at] == value:
        return
    frame[at] = value
    offer(bench, bytes(frame))
    bench.settle()
    assert not bench.frames


def test_a_guest_that_is_everybody_fills_nothing(bench: Bench) -> None:
    big = Bench(net="10.0.0.0/8")
    for number in range(70_000):
        address = bytes((10, 1)) + (number & 0xFFFF).to_bytes(2, "big")
        offer(big, arp(2, MAC, address, address))
    assert len(big.netdev._neighbours.macs) <= 1024
    big.close()


# Floods


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
    bench.netdev._tcp._max_flows = 50

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
    peer.own_port = next(_ports)
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


# Options and sizes


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


# Services by the wrong door


@pytest.mark.parametrize("destination", [GATEWAY, DNS, ELSEWHERE, bytes((10, 0, 2, 99))])
@pytest.mark.parametrize("port", [53, 67, 68, 69])
def test_garbage_to_the_ports_of_services(bench: Bench, destination: bytes, port: int) -> None:
    for size in (0, 1, 11, 12, 239, 240, 300, 1400):
        datagram = udp.Datagram(port, port, GARBAGE[:1] * size).emit(GUEST, destination)
        offer(bench, bench.ipv4(destination, 17, datagram))
    bench.settle()


@pytest.mark.parametrize("length", [0, 7, 8, 9, 100, 65535])
def test_udp_lengths_that_lie(bench: Bench, length: int) -> None:
    for port, destination in ((53, DNS), (67, GATEWAY), (9, GATEWAY)):
        datagram = bytearray(udp.Datagram(4000, port, b"q" * 20).emit(GUEST, destination))
        datagram[4:6] = length.to_bytes(2, "big")
        datagram[6:8] = bytes(2)
        offer(bench, bench.ipv4(destination, 17, bytes(datagram)))
    bench.settle()
