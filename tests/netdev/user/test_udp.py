# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The UDP of the user network, between a guest's end of the wire and real sockets of the host."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.netdev.user import harness
from tests.netdev.user.harness import (
    CHECKSUM_LEFT,
    DNS,
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    GUEST_MAC,
    SUPERFRAMES,
    Guest,
    host_socket,
    port_of,
    superframe,
    udp_frame,
    waiting,
)

from vmwire.netdev.user import udp
from vmwire.netdev.user.datagram_reader import PlainReader
from vmwire.netdev.user.plan import Plan, packed
from vmwire.netdev.user.udp import UdpTable
from vmwire.wire.frame import F_DATA_VALID, Frame, Offload
from vmwire.wire.port import Accepts
from vmwire.wire.protocols.checksum import internet_checksum

Make = Callable[..., tuple[Guest, UdpTable]]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with host_socket("0.0.0.0") as sock:
        yield sock


@pytest.fixture
def make(listener: socket.socket) -> Iterator[Make]:
    # asks for the listener, so that tables end before it does
    made: list[tuple[Guest, UdpTable]] = []

    def build(
        plan: Plan | None = None, accepts: Accepts | None = None, max_flows: int = 2048
    ) -> tuple[Guest, UdpTable]:
        guest = Guest(plan, accepts)
        table = UdpTable(
            guest.loop, guest.port, guest.output, guest.plan,
            unreachable=guest.unreachable, max_flows=max_flows,
        )  # fmt: skip
        made.append((guest, table))
        return guest, table

    yield build
    for guest, table in made:
        table.close()
        guest.loop.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with host_socket() as sock:
        yield sock


def send(table: UdpTable, *frames: tuple[Frame, bytes, int, int]) -> None:
    """One burst of the guest."""
    for frame in frames:
        table.receive(*frame)
    table.end_burst()


# From the guest


def test_datagram_to_the_gateway_reaches_the_hosts_loopback(
    make: Make, server: socket.socket
) -> None:
    _, table = make()
    send(table, udp_frame(b"hello", port_of(server)))
    data, (address, _) = server.recvfrom(100)
    assert (data, address) == (b"hello", "127.0.0.1")


def test_reply_comes_from_whom_the_guest_asked(make: Make, server: socket.socket) -> None:
    guest, table = make()
    send(table, udp_frame(b"hello", port_of(server)))
    _, client = server.recvfrom(100)
    server.sendto(b"r", client)
    guest.turn_until(lambda: guest.frames)
    (packet,) = guest.datagrams()
    assert packet.ethernet == GUEST_MAC + GATEWAY_MAC
    assert (packet.header.src, packet.header.dst) == (GATEWAY, GUEST)
    assert (packet.udp.src_port, packet.udp.dst_port) == (port_of(server), 4000)
    assert packet.udp.payload == b"r"


def test_reply_from_another_peer_shows_that_peer(make: Make, server: socket.socket) -> None:
    guest, table = make()
    send(table, udp_frame(b"hello", port_of(server)))
    _, client = server.recvfrom(100)
    with host_socket() as other:
        other.sendto(b"unasked", client)
        guest.turn_until(lambda: guest.frames)
        (packet,) = guest.datagrams()
        assert packet.udp.src_port == port_of(other)


def test_one_socket_serves_all_destinations_of_an_endpoint(
    make: Make, server: socket.socket
) -> None:
    _, table = make()
    with host_socket() as other:
        send(table, udp_frame(b"1", port_of(server)), udp_frame(b"2", port_of(other)))
        assert server.recvfrom(10)[1] == other.recvfrom(10)[1]
    assert len(table.flows) == 1


def test_burst_of_equal_datagrams_arrives_datagram_by_datagram(
    make: Make, server: socket.socket
) -> None:
    _, table = make()
    sent = [b"%063d" % number for number in range(150)]
    send(table, *(udp_frame(data, port_of(server)) for data in sent))
    assert waiting(server) == sent
    assert table.counters["datagrams out"] == 150


def test_burst_of_mixed_sizes_keeps_datagrams_and_their_order(
    make: Make, server: socket.socket
) -> None:
    _, table = make()
    sent = [b"x" * size for size in (10, 10, 10, 3, 10, 12, 0, 0, 1472, 1472, 1)]
    send(table, *(udp_frame(data, port_of(server)) for data in sent))
    assert waiting(server) == sent


def test_burst_for_two_peers_reaches_both_in_order(make: Make, server: socket.socket) -> None:
    _, table = make()
    with host_socket() as other:
        ports = port_of(server), port_of(other)
        send(table, *(udp_frame(b"%03d" % n, ports[n % 2]) for n in range(20)))
        assert waiting(server) == [b"%03d" % n for n in range(0, 20, 2)]
        assert waiting(other) == [b"%03d" % n for n in range(1, 20, 2)]


def test_superframe_of_the_guest_arrives_as_its_datagrams(
    make: Make, server: socket.socket
) -> None:
    _, table = make()
    payload = bytes(range(256)) * 20
    send(table, superframe(payload, 1000, port_of(server)))
    assert waiting(server) == [payload[at : at + 1000] for at in range(0, len(payload), 1000)]


def test_superframe_with_more_segments_than_the_kernel_takes_arrives(
    make: Make, server: socket.socket
) -> None:
    _, table = make()
    payload = bytes(range(200))
    send(table, superframe(payload, 2, port_of(server)))
    assert waiting(server) == [payload[at : at + 2] for at in range(0, len(payload), 2)]


def test_kernel_that_cannot_cut_runs_gets_single_datagrams(
    make: Make, server: socket.socket
) -> None:
    _, table = make()
    send(table, udp_frame(b"first", port_of(server)))
    (path,) = table._paths.values()
    path.segments = False
    send(table, *(udp_frame(b"same", port_of(server)) for _ in range(5)))
    send(table, superframe(b"abcdef", 4, port_of(server)))
    assert waiting(server) == [b"first", *[b"same"] * 5, b"abcd", b"ef"]


def test_run_that_the_route_refuses_is_sent_singly(
    make: Make, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = make()

    def refuse(path: object, buffers: object, size: int) -> int:
        return errno.EIO if size else real(path, buffers, size)  # type: ignore[arg-type]

    real = table._sender._try
    monkeypatch.setattr(table._sender, "_try", refuse)
    send(table, *(udp_frame(b"%d" % n, port_of(server)) for n in range(5)))
    assert waiting(server) == [b"0", b"1", b"2", b"3", b"4"]
    assert table.counters["segmentation refused"] == 1


def test_datagram_scattered_over_memory_arrives_whole(make: Make, server: socket.socket) -> None:
    _, table = make()
    send(table, udp_frame(b"abcdefgh", port_of(server), pieces=(20, 44, 47)))
    assert server.recv(100) == b"abcdefgh"


def test_datagram_behind_ip_options_arrives(make: Make, server: socket.socket) -> None:
    _, table = make()
    send(table, udp_frame(b"options", port_of(server), options=b"\x01" * 4))
    assert server.recv(100) == b"options"


def test_checksum_that_is_wrong_drops_the_datagram(make: Make, server: socket.socket) -> None:
    _, table = make()
    frame, _, transport, end = udp_frame(b"hello", port_of(server))
    bad = bytearray(frame.tobytes())
    bad[-1 - (60 - end)] ^= 1
    table.receive(Frame.of(bad), bytes(bad[:138]), transport, end)
    table.end_burst()
    assert waiting(server) == []
    assert table.counters["bad checksum"] == 1


@pytest.mark.parametrize("offload", [CHECKSUM_LEFT, Offload(F_DATA_VALID)])
def test_checksum_is_not_asked_of_a_frame_that_needs_none(
    make: Make, server: socket.socket, offload: Offload
) -> None:
    _, table = make()
    frame, _, transport, end = udp_frame(b"hello", port_of(server), offload=offload)
    bad = bytearray(frame.tobytes())
    bad[40:42] = b"\x12\x34"
    send(table, (Frame.of(bad, offload), bytes(bad[:138]), transport, end))
    assert waiting(server) == [b"hello"]


def test_datagram_without_checksum_is_taken(make: Make, server: socket.socket) -> None:
    _, table = make()
    frame, _, transport, end = udp_frame(b"hello", port_of(server))
    data = bytearray(frame.tobytes())
    data[40:42] = b"\0\0"
    send(table, (Frame.of(data), bytes(data[:138]), transport, end))
    assert waiting(server) == [b"hello"]


@pytest.mark.parametrize("length", [0, 7, 14, 0xFFFF])
def test_udp_length_that_lies_drops_the_datagram(make: Make, length: int) -> None:
    _, table = make()
    frame, _, transport, end = udp_frame(b"hello", 9)
    data = bytearray(frame.tobytes())
    data[38:40] = length.to_bytes(2, "big")
    send(table, (Frame.of(data), bytes(data[:138]), transport, end))
    assert table.counters["bad length"] == 1
    assert not table.flows


def test_packet_shorter_than_a_udp_header_is_dropped(make: Make) -> None:
    _, table = make()
    send(table, harness.ip_frame(b"1234567", padded=False))
    assert table.counters["bad length"] == 1


@pytest.mark.parametrize("ports", [(0, 9), (9, 0)])
def test_port_zero_is_dropped(make: Make, ports: tuple[int, int]) -> None:
    _, table = make()
    send(table, udp_frame(b"x", ports[1], source_port=ports[0]))
    assert table.counters["bad address"] == 1


def test_source_outside_of_the_network_is_dropped(make: Make) -> None:
    _, table = make()
    send(table, udp_frame(b"x", 9, source=packed("192.0.2.1")))
    assert table.counters["bad address"] == 1


@pytest.mark.parametrize("address", ["10.0.2.255", "255.255.255.255", "224.0.0.251", "10.0.2.0"])
def test_broadcast_and_multicast_are_dropped_without_an_answer(make: Make, address: str) -> None:
    guest, table = make()
    send(table, udp_frame(b"x", 5353, packed(address)))
    assert table.counters["broadcast or multicast"] == 1
    assert not guest.errors
    assert not table.flows


@pytest.mark.parametrize(
    ("address", "code"), [(DNS, 3), (packed("10.0.2.99"), 0), (packed("127.0.0.1"), 0)]
)
def test_addresses_that_lead_nowhere_are_answered_by_icmp(
    make: Make, address: bytes, code: int
) -> None:
    guest, table = make()
    frame = udp_frame(b"x", 9, address)
    send(table, frame)
    assert guest.errors == [(frame[1], code)]


def test_gateway_is_no_host_when_the_loopback_is_off(make: Make, server: socket.socket) -> None:
    guest, table = make(Plan(loopback=False))
    send(table, udp_frame(b"x", port_of(server)))
    assert [code for _, code in guest.errors] == [3]
    assert waiting(server) == []


def test_closed_port_of_the_host_is_told_with_the_guests_own_packet(make: Make) -> None:
    guest, table = make()
    with host_socket() as sock:
        port = port_of(sock)
    frame = udp_frame(b"hello", port)
    send(table, frame)
    guest.turn_until(lambda: guest.errors)
    assert guest.errors == [(frame[1], 3)]


def test_complaint_about_one_peer_does_not_cost_the_next_datagram(
    make: Make, server: socket.socket
) -> None:
    guest, table = make()
    with host_socket() as sock:
        port = port_of(sock)
    for _ in range(3):
        send(table, udp_frame(b"lost", port))
        send(table, udp_frame(b"kept", port_of(server)))
    assert waiting(server) == [b"kept"] * 3
    guest.turn_until(lambda: len(guest.errors) == 3)


def test_error_about_a_superframe_quotes_its_first_datagram(make: Make) -> None:
    guest, table = make()
    with host_socket() as sock:
        port = port_of(sock)
    send(table, superframe(b"abcdefghij", 4, port))
    guest.turn_until(lambda: guest.errors)
    head, code = guest.errors[0]
    assert code == 3
    assert head[16:18] == (20 + 8 + 4).to_bytes(2, "big")
    assert head[38:40] == (8 + 4).to_bytes(2, "big")
    assert head[42:] == b"abcd"


def test_destination_that_the_host_cannot_route_is_told(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, table = make()
    monkeypatch.setattr(table._sender, "_try", lambda *_: errno.ENETUNREACH)
    send(table, udp_frame(b"x", 9, packed("192.0.2.1")))
    assert [code for _, code in guest.errors] == [0]


def test_full_host_socket_costs_datagrams_and_is_counted(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, table = make()
    monkeypatch.setattr(table._sender, "_try", lambda *_: errno.EAGAIN)
    send(table, *(udp_frame(b"x", 9) for _ in range(7)))
    assert table.counters["host socket full"] == 7
    assert not guest.errors


# Headers that are known


def known_frame(
    port: int, data: bytes, ident: int = 7, *, checksum: int = 0
) -> tuple[Frame, bytes]:
    """A datagram like others but for its identification; ``checksum`` is added to the right one."""
    frame, _, _, end = udp_frame(data, port, offload=CHECKSUM_LEFT)
    whole = bytearray(frame.tobytes())
    whole[18:20] = ident.to_bytes(2, "big")
    whole[24:26] = b"\0\0"
    right = internet_checksum(whole[14:34]) + checksum
    whole[24:26] = right.to_bytes(2, "big")
    return Frame.of(bytes(whole[:end]), CHECKSUM_LEFT), bytes(whole[:138])


def test_headers_that_passed_are_known_whatever_their_identification(
    make: Make, server: socket.socket
) -> None:
    _, table = make()
    port = port_of(server)
    assert not table.receive_known(*known_frame(port, b"x" * 30))
    send(table, udp_frame(b"0" * 30, port, offload=CHECKSUM_LEFT))
    for ident in (0, 1, 0x8000, 0xFFFF):
        assert table.receive_known(*known_frame(port, b"x" * 30, ident))
    table.end_burst()
    assert waiting(server) == [b"0" * 30, *[b"x" * 30] * 4]


@pytest.mark.parametrize("at", [3, 8, 15, 17, 20, 22, 23, 29, 33, 35, 37, 39])
def test_header_that_differs_is_not_known(make: Make, server: socket.socket, at: int) -> None:
    _, table = make()
    port = port_of(server)
    send(table, udp_frame(b"0" * 30, port, offload=CHECKSUM_LEFT))
    frame, head = known_frame(port, b"x" * 30)
    changed = bytearray(head)
    changed[at] ^= 1
    assert not table.receive_known(frame, bytes(changed))


def test_known_header_with_a_wrong_sum_is_looked_at(make: Make, server: socket.socket) -> None:
    _, table = make()
    port = port_of(server)
    send(table, udp_frame(b"0" * 30, port, offload=CHECKSUM_LEFT))
    assert not table.receive_known(*known_frame(port, b"x" * 30, checksum=1))


def test_known_header_before_less_data_or_an_open_checksum_is_looked_at(
    make: Make, server: socket.socket
) -> None:
    _, table = make()
    port = port_of(server)
    send(table, udp_frame(b"0" * 30, port, offload=CHECKSUM_LEFT))
    frame, head = known_frame(port, b"x" * 30)
    assert not table.receive_known(Frame.of(frame.tobytes()[:-1], CHECKSUM_LEFT), head)
    assert not table.receive_known(Frame.of(frame.tobytes()), head)
    assert not table.receive_known(Frame.of(frame.tobytes(), harness.GSO), head)
    whole = memoryview(frame.tobytes())
    assert not table.receive_known(Frame((whole[:50], whole[50:]), len(whole), CHECKSUM_LEFT), head)


def test_frame_whose_checksum_must_be_verified_never_makes_its_headers_known(
    make: Make, server: socket.socket
) -> None:
    _, table = make()
    send(table, udp_frame(b"0" * 30, port_of(server)))
    assert not table._known


def test_headers_of_a_forgotten_endpoint_are_not_known(
    make: Make, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = make()
    port = port_of(server)
    send(table, udp_frame(b"0" * 30, port, offload=CHECKSUM_LEFT))
    table._close_flow(*table.flows.values())
    assert not table.receive_known(*known_frame(port, b"x" * 30))


def test_known_headers_are_bounded(make: Make, server: socket.socket) -> None:
    _, table = make()
    for size in range(udp.MAX_KNOWN + 10):
        table.receive(*udp_frame(bytes(size), port_of(server), offload=CHECKSUM_LEFT))
    table.end_burst()
    assert len(table._known) <= udp.MAX_KNOWN


# Toward the guest


def opened(table: UdpTable, server: socket.socket, source_port: int = 4000) -> tuple[str, int]:
    """Have the guest say something to ``server``; return where answers go."""
    send(table, udp_frame(b"open", port_of(server), source_port=source_port))
    client: tuple[str, int] = server.recvfrom(100)[1]
    return client


@pytest.mark.parametrize("accepts", [Accepts(), Accepts(checksum=True), SUPERFRAMES])
@pytest.mark.parametrize("plain", [False, True])
def test_stream_of_the_host_arrives_whole_whatever_the_guest_takes(
    make: Make, server: socket.socket, accepts: Accepts, plain: bool
) -> None:
    guest, table = make(accepts=accepts)
    if plain:
        table._reader = PlainReader()
    client = opened(table, server)
    sent = [b"%064d" % n for n in range(200)]
    sent += [b"s" * size for size in (1, 0, 17, 18, 1472, 1472, 600, 600, 513)]
    for data in sent:
        server.sendto(data, client)
    guest.turn_until(lambda: table.counters["datagrams in"] == len(sent))
    assert [packet.udp.payload for packet in guest.datagrams()] == sent


def test_stream_becomes_superframes_for_a_guest_that_takes_them(
    make: Make, server: socket.socket
) -> None:
    guest, table = make(accepts=SUPERFRAMES)
    client = opened(table, server)
    for n in range(128):
        server.sendto(b"%064d" % n, client)
    guest.turn_until(lambda: table.counters["datagrams in"] == 128)
    # the first read doesn't know the size yet; the second one lies in one piece
    assert guest.frames[-1].offload.segment_size == 64
    assert guest.frames[-1].length == 42 + 64 * 64
    assert [packet.udp.payload for packet in guest.datagrams()] == [
        b"%064d" % n for n in range(128)
    ]


def test_big_runs_stay_within_what_ip_can_say(make: Make, server: socket.socket) -> None:
    guest, table = make(accepts=SUPERFRAMES)
    client = opened(table, server)
    sent = [bytes((n,)) * 1472 for n in range(190)]
    for data in sent:
        server.sendto(data, client)
        guest.loop.turn(0) if len(sent) % 60 == 0 else None
    guest.turn_until(lambda: table.counters["datagrams in"] == 190)
    assert max(frame.length for frame in guest.frames) > 40000
    assert [packet.udp.payload for packet in guest.datagrams()] == sent


@pytest.mark.parametrize("accepts", [Accepts(), SUPERFRAMES])
def test_run_that_the_kernel_put_together_arrives_as_its_datagrams(
    make: Make, server: socket.socket, accepts: Accepts
) -> None:
    guest, table = make(accepts=accepts)
    client = opened(table, server)
    payload = bytes(range(250)) * 36
    cut = (17, 103, (1000).to_bytes(2, "little"))
    for _ in range(3):
        server.sendmsg([payload], [cut], 0, client)
    guest.turn_until(lambda: table.counters["datagrams in"] == 27)
    got = [packet.udp.payload for packet in guest.datagrams()]
    assert got == [payload[at : at + 1000] for at in range(0, 9000, 1000)] * 3


@pytest.mark.parametrize("accepts", [Accepts(), SUPERFRAMES])
def test_datagram_longer_than_the_mtu_comes_in_fragments(
    make: Make, server: socket.socket, accepts: Accepts
) -> None:
    guest, table = make(accepts=accepts)
    client = opened(table, server)
    payload = bytes(range(250)) * 12
    server.sendto(payload, client)
    guest.turn_until(lambda: len(guest.frames) == 3)
    packets = guest.packets()
    headers = [packet.header for packet in packets]
    assert [header.offset_bytes for header in headers] == [0, 1480, 2960]
    assert [bool(header.fragment & 0x2000) for header in headers] == [True, True, False]
    assert len({header.ident for header in headers}) == 1
    whole = b"".join(packet.payload for packet in packets)
    assert harness.udp.checksum_ok(whole, GATEWAY, GUEST)
    assert whole[8:] == payload


def test_guest_with_a_large_mtu_gets_the_datagram_whole(make: Make, server: socket.socket) -> None:
    guest, table = make(Plan(mtu=65520))
    client = opened(table, server)
    server.sendto(b"x" * 65000, client)
    guest.turn_until(lambda: guest.frames)
    (packet,) = guest.datagrams()
    assert packet.udp.payload == b"x" * 65000


def test_what_the_guest_has_no_room_for_waits(make: Make, server: socket.socket) -> None:
    guest, table = make()
    client = opened(table, server)
    guest.room = 3
    sent = [b"%02d" % n for n in range(10)]
    for data in sent[:5]:
        server.sendto(data, client)
    guest.turn_until(lambda: len(guest.frames) == 3)
    for data in sent[5:]:
        server.sendto(data, client)
    guest.settle()
    assert len(guest.frames) == 3
    guest.room = 1
    table.resume()
    guest.settle()
    guest.room = None
    table.resume()
    guest.turn_until(lambda: len(guest.frames) == 10)
    assert [packet.udp.payload for packet in guest.datagrams()] == sent


def test_waiting_for_room_costs_no_cpu(make: Make, server: socket.socket) -> None:
    guest, table = make()
    client = opened(table, server)
    guest.room = 0
    server.sendto(b"1", client)
    guest.settle(2)
    server.sendto(b"2", client)
    guest.settle(3)
    assert guest.loop.turn(0) == 0


def test_datagram_for_a_guest_that_is_not_known_waits_until_it_is(
    make: Make, listener: socket.socket
) -> None:
    guest, table = make()
    table.forward(listener, GUEST, 53)
    macs = dict(guest.macs)
    guest.macs.clear()
    with host_socket() as client:
        client.sendto(b"question", ("127.0.0.1", port_of(listener)))
        guest.settle()
        assert not guest.frames
        assert guest.loop.turn(0) == 0
        guest.macs.update(macs)
        table.guest_known(packed("10.0.2.16"))
        guest.settle()
        assert not guest.frames
        table.guest_known(GUEST)
        guest.turn_until(lambda: guest.frames)


def test_guest_that_stays_unknown_loses_what_was_for_it(
    make: Make, listener: socket.socket
) -> None:
    guest, table = make()
    table.forward(listener, GUEST, 53)
    guest.macs.clear()
    with host_socket() as client:
        client.sendto(b"question", ("127.0.0.1", port_of(listener)))
        guest.settle()
    table._sweep()
    assert table.counters["guest unknown"] == 1
    assert waiting(listener) == []


def test_endpoint_can_end_while_its_guest_is_unknown(make: Make, listener: socket.socket) -> None:
    guest, table = make()
    table.forward(listener, GUEST, 53)
    guest.macs.clear()
    with host_socket() as client:
        client.sendto(b"question", ("127.0.0.1", port_of(listener)))
        guest.settle()
    table.unforward(listener)
    table._sweep()
    table.guest_known(GUEST)


# Forwards


def test_forwarded_datagram_and_the_answer_to_it(make: Make, listener: socket.socket) -> None:
    guest, table = make()
    table.forward(listener, GUEST, 53)
    with host_socket() as client:
        client.sendto(b"question", ("127.0.0.1", port_of(listener)))
        guest.turn_until(lambda: guest.frames)
        (packet,) = guest.datagrams()
        assert (packet.header.src, packet.header.dst) == (GATEWAY, GUEST)
        assert (packet.udp.src_port, packet.udp.dst_port) == (port_of(client), 53)
        send(table, udp_frame(b"answer", port_of(client), source_port=53))
        assert client.recvfrom(100) == (b"answer", ("127.0.0.1", port_of(listener)))


def test_answer_leaves_from_the_address_that_was_asked(make: Make, listener: socket.socket) -> None:
    guest, table = make()
    table.forward(listener, GUEST, 53)
    with host_socket() as client:
        client.sendto(b"question", ("127.0.0.77", port_of(listener)))
        guest.turn_until(lambda: guest.frames)
        send(table, *(udp_frame(b"answer", port_of(client), source_port=53) for _ in range(3)))
        for _ in range(3):
            assert client.recvfrom(100) == (b"answer", ("127.0.0.77", port_of(listener)))


def test_clients_of_one_forward_get_their_own_answers(make: Make, listener: socket.socket) -> None:
    guest, table = make()
    table.forward(listener, GUEST, 53)
    with host_socket() as one, host_socket() as two:
        for client in (one, two):
            client.sendto(b"question", ("127.0.0.1", port_of(listener)))
        guest.turn_until(lambda: len(guest.frames) == 2)
        for client in (two, one):
            answer = b"%d" % port_of(client)
            send(table, udp_frame(answer, port_of(client), source_port=53))
            assert client.recv(100) == answer


def test_restricted_guest_reaches_nobody_but_who_asked(
    make: Make, listener: socket.socket, server: socket.socket
) -> None:
    guest, table = make(Plan(restrict=True))
    table.forward(listener, GUEST, 53)
    with host_socket() as client:
        client.sendto(b"question", ("127.0.0.1", port_of(listener)))
        guest.turn_until(lambda: guest.frames)
        send(table, udp_frame(b"answer", port_of(client), source_port=53))
        assert client.recv(100) == b"answer"
        send(table, udp_frame(b"out", port_of(server), source_port=53))
        send(table, udp_frame(b"out", port_of(client), source_port=54))
        assert waiting(client) == []
    assert waiting(server) == []
    assert table.counters["restricted"] == 2
    assert not guest.errors


def test_client_that_has_gone_is_told_to_the_guest(make: Make, listener: socket.socket) -> None:
    guest, table = make()
    table.forward(listener, GUEST, 53)
    with host_socket() as client:
        client.sendto(b"question", ("127.0.0.1", port_of(listener)))
        guest.turn_until(lambda: guest.frames)
        port = port_of(client)
    frame = udp_frame(b"answer", port, source_port=53)
    send(table, frame)
    guest.turn_until(lambda: guest.errors)
    assert guest.errors == [(frame[1], 3)]


def test_client_is_forgotten_after_four_silent_minutes(
    make: Make, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, table = make(Plan(restrict=True))
    table.forward(listener, GUEST, 53)
    with host_socket() as client:
        client.sendto(b"question", ("127.0.0.1", port_of(listener)))
        guest.turn_until(lambda: guest.frames)
        start = table.now()
        monkeypatch.setattr(table, "now", lambda: start + 235)
        table._sweep()
        send(table, udp_frame(b"in time", port_of(client), source_port=53))
        assert waiting(client) == [b"in time"]
        monkeypatch.setattr(table, "now", lambda: start + 235 + 241)
        table._sweep()
        send(table, udp_frame(b"late", port_of(client), source_port=53))
        assert waiting(client) == []


def test_forward_that_was_removed_delivers_nothing_and_leaves_the_socket(
    make: Make, listener: socket.socket
) -> None:
    guest, table = make()
    table.forward(listener, GUEST, 53)
    table.unforward(listener)
    with host_socket() as client:
        client.sendto(b"question", ("127.0.0.1", port_of(listener)))
        guest.settle()
    assert not guest.frames
    assert waiting(listener) == [b"question"]


def test_flood_of_clients_is_bounded(
    make: Make, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp, "MAX_CLIENTS", 40)
    guest, table = make()
    table.forward(listener, GUEST, 53)
    for n in range(100):
        with host_socket() as client:
            client.sendto(b"%d" % n, ("127.0.0.1", port_of(listener)))
        guest.turn_until(lambda n=n: table.counters["datagrams in"] == n + 1)
    assert len(table._paths) <= 40


# Time and bounds


def test_silent_endpoint_is_closed_after_four_minutes(
    make: Make, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = make()
    opened(table, server)
    start = table.now()
    monkeypatch.setattr(table, "now", lambda: start + 230)
    table._sweep()
    assert len(table.flows) == 1
    monkeypatch.setattr(table, "now", lambda: start + 241)
    table._sweep()
    assert not table.flows
    assert not table._paths


def test_replies_keep_an_endpoint_alive(
    make: Make, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, table = make()
    client = opened(table, server)
    start = table.now()
    monkeypatch.setattr(table, "now", lambda: start + 200)
    server.sendto(b"r", client)
    guest.turn_until(lambda: guest.frames)
    monkeypatch.setattr(table, "now", lambda: start + 400)
    table._sweep()
    assert len(table.flows) == 1


def test_endpoint_that_only_asks_name_servers_is_closed_soon(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = make()
    monkeypatch.setattr(table._sender, "_try", lambda *_: 0)
    send(table, udp_frame(b"q", 53, packed("192.0.2.53"), source_port=5000))
    send(table, udp_frame(b"q", 53, packed("192.0.2.53"), source_port=5001))
    send(table, udp_frame(b"q", 99, packed("192.0.2.53"), source_port=5001))
    start = table.now()
    monkeypatch.setattr(table, "now", lambda: start + 25)
    table._sweep()
    assert [flow.guest_port for flow in table.flows.values()] == [5001]


def test_sweeping_ends_when_nothing_is_left(
    make: Make, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = make()
    opened(table, server)
    start = table.now()
    monkeypatch.setattr(table, "now", lambda: start + 1000)
    assert table._timer is not None
    table._timer.cancel()
    table._sweep()
    assert table._timer is None


def test_full_table_gives_up_the_endpoints_that_were_silent_longest(
    make: Make, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp, "EVICTED_AT_ONCE", 2)
    _, table = make(max_flows=4)
    start = table.now()
    for n in range(4):
        monkeypatch.setattr(table, "now", lambda n=n: start + n)
        opened(table, server, 5000 + n)
    monkeypatch.setattr(table, "now", lambda: start + 10)
    opened(table, server, 5000)
    opened(table, server, 6000)
    assert sorted(flow.guest_port for flow in table.flows.values()) == [5000, 5003, 6000]


def test_guest_that_floods_loses_its_own_endpoints(make: Make, server: socket.socket) -> None:
    _, table = make(max_flows=20)
    other = packed("10.0.2.16")
    send(table, udp_frame(b"x", port_of(server), source=other))
    for n in range(100):
        send(table, udp_frame(b"x", port_of(server), source_port=5000 + n))
    assert len(table.flows) <= 20
    assert other in {flow.guest for flow in table.flows.values()}


def test_datagrams_of_an_evicted_endpoint_are_still_sent(make: Make, server: socket.socket) -> None:
    _, table = make(max_flows=1)
    send(
        table,
        udp_frame(b"1", port_of(server), source_port=5000),
        udp_frame(b"2", port_of(server), source_port=5001),
    )
    assert waiting(server) == [b"1", b"2"]


def test_process_without_files_left_takes_an_old_endpoints(
    make: Make, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = make()
    opened(table, server, 5000)
    failures = [OSError(errno.EMFILE, "too many files")]
    real = udp.open_socket

    def scarce() -> socket.socket:
        if failures:
            raise failures.pop()
        return real()

    monkeypatch.setattr(udp, "open_socket", scarce)
    opened(table, server, 5001)
    assert [flow.guest_port for flow in table.flows.values()] == [5001]


def test_guest_that_scans_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    _, table = make()
    monkeypatch.setattr(table._sender, "_try", lambda *_: 0)
    for n in range(1, 2000):
        send(table, udp_frame(b"x", n, packed("192.0.2.1")))
    assert len(table._paths) <= udp.MAX_PEERS
    assert len(table.flows) == 1


def test_all_peers_together_are_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "MAX_PATHS", 100)
    _, table = make()
    monkeypatch.setattr(table._sender, "_try", lambda *_: 0)
    for n in range(1, 300):
        send(table, udp_frame(b"x", n, packed("192.0.2.1"), source_port=5000 + n % 3))
    assert len(table._paths) <= 100


def test_closing_leaves_no_descriptor_watched(
    make: Make, server: socket.socket, listener: socket.socket
) -> None:
    _, table = make()
    table.forward(listener, GUEST, 53)
    opened(table, server)
    (flow,) = table.flows.values()
    table.close()
    assert flow.sock.fileno() == -1
    assert listener.fileno() >= 0
    assert table.stats()["flows"] == table.stats()["peers"] == table.stats()["forwards"] == 0


@given(st.binary(min_size=8, max_size=200), st.integers(0, 0x1FF), st.sampled_from((34, 54, 74)))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_datagram_makes_an_exception(
    make: Make, packet: bytes, noise: int, transport: int
) -> None:
    _, table = make()
    table._sender._try = lambda *_: noise & 0x7F  # type: ignore[method-assign]
    head = GATEWAY_MAC + GUEST_MAC + b"\x08\0" + b"\x45" + bytes(11) + GUEST + GATEWAY
    data = head.ljust(transport, b"\0") + packet
    offload = (Offload(), CHECKSUM_LEFT, harness.GSO, Offload(F_DATA_VALID))[noise >> 7]
    frame = Frame.of(data, offload)
    if not table.receive_known(frame, data[:138]):
        table.receive(frame, data[:138], transport, len(data))
    table.end_burst()
    table.close()


def test_stats_are_plain_data(make: Make, server: socket.socket) -> None:
    _, table = make()
    opened(table, server)
    assert table.stats() == {
        "flows": 1,
        "peers": 1,
        "forwards": 0,
        "counters": {"opened": 1, "datagrams out": 1},
    }
