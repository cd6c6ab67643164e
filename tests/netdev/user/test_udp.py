# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The UDP of the user network, between a guest's end of the wire and real sockets of the host.

This is the way from the guest; the other files ``test_udp_*.py`` have the rest.
"""

from __future__ import annotations

import errno
import socket

import pytest
from tests.netdev.user import harness
from tests.netdev.user.harness import (
    CHECKSUM_LEFT,
    DNS,
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    GUEST_MAC,
    MakeUdp,
    host_socket,
    port_of,
    send_burst,
    superframe,
    udp_frame,
    waiting,
)

from vmwire.netdev.user.plan import Plan, packed
from vmwire.wire.frame import F_DATA_VALID, Frame, Offload


def test_datagram_to_the_gateway_reaches_the_hosts_loopback(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp()
    send_burst(table, udp_frame(b"hello", port_of(udp_server)))
    data, (address, _) = udp_server.recvfrom(100)
    assert (data, address) == (b"hello", "127.0.0.1")


def test_reply_comes_from_whom_the_guest_asked(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    guest, table = make_udp()
    send_burst(table, udp_frame(b"hello", port_of(udp_server)))
    _, client = udp_server.recvfrom(100)
    udp_server.sendto(b"r", client)
    guest.turn_until(lambda: guest.frames)
    (packet,) = guest.datagrams()
    assert packet.ethernet == GUEST_MAC + GATEWAY_MAC
    assert (packet.header.src, packet.header.dst) == (GATEWAY, GUEST)
    assert (packet.udp.src_port, packet.udp.dst_port) == (port_of(udp_server), 4000)
    assert packet.udp.payload == b"r"


def test_reply_from_another_peer_shows_that_peer(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    guest, table = make_udp()
    send_burst(table, udp_frame(b"hello", port_of(udp_server)))
    _, client = udp_server.recvfrom(100)
    with host_socket() as other:
        other.sendto(b"unasked", client)
        guest.turn_until(lambda: guest.frames)
        (packet,) = guest.datagrams()
        assert packet.udp.src_port == port_of(other)


def test_one_socket_serves_all_destinations_of_an_endpoint(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp()
    with host_socket() as other:
        send_burst(table, udp_frame(b"1", port_of(udp_server)), udp_frame(b"2", port_of(other)))
        assert udp_server.recvfrom(10)[1] == other.recvfrom(10)[1]
    assert len(table.flows) == 1


def test_burst_of_equal_datagrams_arrives_datagram_by_datagram(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp()
    sent = [b"%063d" % number for number in range(150)]
    send_burst(table, *(udp_frame(data, port_of(udp_server)) for data in sent))
    assert waiting(udp_server) == sent
    assert table.counters["datagrams out"] == 150


def test_burst_of_mixed_sizes_keeps_datagrams_and_their_order(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp()
    sent = [b"x" * size for size in (10, 10, 10, 3, 10, 12, 0, 0, 1472, 1472, 1)]
    send_burst(table, *(udp_frame(data, port_of(udp_server)) for data in sent))
    assert waiting(udp_server) == sent


def test_burst_for_two_peers_reaches_both_in_order(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp()
    with host_socket() as other:
        ports = port_of(udp_server), port_of(other)
        send_burst(table, *(udp_frame(b"%03d" % n, ports[n % 2]) for n in range(20)))
        assert waiting(udp_server) == [b"%03d" % n for n in range(0, 20, 2)]
        assert waiting(other) == [b"%03d" % n for n in range(1, 20, 2)]


def test_superframe_of_the_guest_arrives_as_its_datagrams(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp()
    payload = bytes(range(256)) * 20
    send_burst(table, superframe(payload, 1000, port_of(udp_server)))
    assert waiting(udp_server) == [payload[at : at + 1000] for at in range(0, len(payload), 1000)]


def test_superframe_with_more_segments_than_the_kernel_takes_arrives(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp()
    payload = bytes(range(200))
    send_burst(table, superframe(payload, 2, port_of(udp_server)))
    assert waiting(udp_server) == [payload[at : at + 2] for at in range(0, len(payload), 2)]


def test_kernel_that_cannot_cut_runs_gets_single_datagrams(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp()
    send_burst(table, udp_frame(b"first", port_of(udp_server)))
    (path,) = table._paths.values()
    path.segments = False
    send_burst(table, *(udp_frame(b"same", port_of(udp_server)) for _ in range(5)))
    send_burst(table, superframe(b"abcdef", 4, port_of(udp_server)))
    assert waiting(udp_server) == [b"first", *[b"same"] * 5, b"abcd", b"ef"]


def test_run_that_the_route_refuses_is_sent_singly(
    make_udp: MakeUdp, udp_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = make_udp()

    def refuse(path: object, buffers: object, size: int) -> int:
        return errno.EIO if size else real(path, buffers, size)  # type: ignore[arg-type]

    real = table._sender._try
    monkeypatch.setattr(table._sender, "_try", refuse)
    send_burst(table, *(udp_frame(b"%d" % n, port_of(udp_server)) for n in range(5)))
    assert waiting(udp_server) == [b"0", b"1", b"2", b"3", b"4"]
    assert table.counters["segmentation refused"] == 1


def test_datagram_scattered_over_memory_arrives_whole(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp()
    send_burst(table, udp_frame(b"abcdefgh", port_of(udp_server), pieces=(20, 44, 47)))
    assert udp_server.recv(100) == b"abcdefgh"


def test_datagram_behind_ip_options_arrives(make_udp: MakeUdp, udp_server: socket.socket) -> None:
    _, table = make_udp()
    send_burst(table, udp_frame(b"options", port_of(udp_server), options=b"\x01" * 4))
    assert udp_server.recv(100) == b"options"


def test_checksum_that_is_wrong_drops_the_datagram(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp()
    frame, _, transport, end = udp_frame(b"hello", port_of(udp_server))
    bad = bytearray(frame.tobytes())
    bad[-1 - (60 - end)] ^= 1
    table.receive(Frame.of(bad), bytes(bad[:138]), transport, end)
    table.end_burst()
    assert waiting(udp_server) == []
    assert table.counters["bad checksum"] == 1


@pytest.mark.parametrize("offload", [CHECKSUM_LEFT, Offload(F_DATA_VALID)])
def test_checksum_is_not_asked_of_a_frame_that_needs_none(
    make_udp: MakeUdp, udp_server: socket.socket, offload: Offload
) -> None:
    _, table = make_udp()
    frame, _, transport, end = udp_frame(b"hello", port_of(udp_server), offload=offload)
    bad = bytearray(frame.tobytes())
    bad[40:42] = b"\x12\x34"
    send_burst(table, (Frame.of(bad, offload), bytes(bad[:138]), transport, end))
    assert waiting(udp_server) == [b"hello"]


def test_datagram_without_checksum_is_taken(make_udp: MakeUdp, udp_server: socket.socket) -> None:
    _, table = make_udp()
    frame, _, transport, end = udp_frame(b"hello", port_of(udp_server))
    data = bytearray(frame.tobytes())
    data[40:42] = b"\0\0"
    send_burst(table, (Frame.of(data), bytes(data[:138]), transport, end))
    assert waiting(udp_server) == [b"hello"]


@pytest.mark.parametrize("length", [0, 7, 14, 0xFFFF])
def test_udp_length_that_lies_drops_the_datagram(make_udp: MakeUdp, length: int) -> None:
    _, table = make_udp()
    frame, _, transport, end = udp_frame(b"hello", 9)
    data = bytearray(frame.tobytes())
    data[38:40] = length.to_bytes(2, "big")
    send_burst(table, (Frame.of(data), bytes(data[:138]), transport, end))
    assert table.counters["bad length"] == 1
    assert not table.flows


def test_packet_shorter_than_a_udp_header_is_dropped(make_udp: MakeUdp) -> None:
    _, table = make_udp()
    send_burst(table, harness.ip_frame(b"1234567", padded=False))
    assert table.counters["bad length"] == 1


@pytest.mark.parametrize("ports", [(0, 9), (9, 0)])
def test_port_zero_is_dropped(make_udp: MakeUdp, ports: tuple[int, int]) -> None:
    _, table = make_udp()
    send_burst(table, udp_frame(b"x", ports[1], source_port=ports[0]))
    assert table.counters["bad address"] == 1


def test_source_outside_of_the_network_is_dropped(make_udp: MakeUdp) -> None:
    _, table = make_udp()
    send_burst(table, udp_frame(b"x", 9, source=packed("192.0.2.1")))
    assert table.counters["bad address"] == 1


@pytest.mark.parametrize("address", ["10.0.2.255", "255.255.255.255", "224.0.0.251", "10.0.2.0"])
def test_broadcast_and_multicast_are_dropped_without_an_answer(
    make_udp: MakeUdp, address: str
) -> None:
    guest, table = make_udp()
    send_burst(table, udp_frame(b"x", 5353, packed(address)))
    assert table.counters["broadcast or multicast"] == 1
    assert not guest.errors
    assert not table.flows


@pytest.mark.parametrize(
    ("address", "code"), [(DNS, 3), (packed("10.0.2.99"), 0), (packed("127.0.0.1"), 0)]
)
def test_addresses_that_lead_nowhere_are_answered_by_icmp(
    make_udp: MakeUdp, address: bytes, code: int
) -> None:
    guest, table = make_udp()
    frame = udp_frame(b"x", 9, address)
    send_burst(table, frame)
    assert guest.errors == [(frame[1], code)]


def test_gateway_is_no_host_when_the_loopback_is_off(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    guest, table = make_udp(Plan(loopback=False))
    send_burst(table, udp_frame(b"x", port_of(udp_server)))
    assert [code for _, code in guest.errors] == [3]
    assert waiting(udp_server) == []


def test_closed_port_of_the_host_is_told_with_the_guests_own_packet(make_udp: MakeUdp) -> None:
    guest, table = make_udp()
    with host_socket() as sock:
        port = port_of(sock)
    frame = udp_frame(b"hello", port)
    send_burst(table, frame)
    guest.turn_until(lambda: guest.errors)
    assert guest.errors == [(frame[1], 3)]


def test_complaint_about_one_peer_does_not_cost_the_next_datagram(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    guest, table = make_udp()
    with host_socket() as sock:
        port = port_of(sock)
    for _ in range(3):
        send_burst(table, udp_frame(b"lost", port))
        send_burst(table, udp_frame(b"kept", port_of(udp_server)))
    assert waiting(udp_server) == [b"kept"] * 3
    guest.turn_until(lambda: len(guest.errors) == 3)


def test_error_about_a_superframe_quotes_its_first_datagram(make_udp: MakeUdp) -> None:
    guest, table = make_udp()
    with host_socket() as sock:
        port = port_of(sock)
    send_burst(table, superframe(b"abcdefghij", 4, port))
    guest.turn_until(lambda: guest.errors)
    head, code = guest.errors[0]
    assert code == 3
    assert head[16:18] == (20 + 8 + 4).to_bytes(2, "big")
    assert head[38:40] == (8 + 4).to_bytes(2, "big")
    assert head[42:] == b"abcd"


def test_destination_that_the_host_cannot_route_is_told(
    make_udp: MakeUdp, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, table = make_udp()
    monkeypatch.setattr(table._sender, "_try", lambda *_: errno.ENETUNREACH)
    send_burst(table, udp_frame(b"x", 9, packed("192.0.2.1")))
    assert [code for _, code in guest.errors] == [0]


def test_full_host_socket_costs_datagrams_and_is_counted(
    make_udp: MakeUdp, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, table = make_udp()
    monkeypatch.setattr(table._sender, "_try", lambda *_: errno.EAGAIN)
    send_burst(table, *(udp_frame(b"x", 9) for _ in range(7)))
    assert table.counters["host socket full"] == 7
    assert not guest.errors
