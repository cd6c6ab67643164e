# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""UDP of the user network: forwards of the host's ports."""

from __future__ import annotations

import socket

import pytest
from tests.netdev.user.harness import (
    GATEWAY,
    GUEST,
    MakeUdp,
    host_socket,
    port_of,
    send_burst,
    udp_frame,
    waiting,
)

from vmwire.netdev.user import udp
from vmwire.netdev.user.plan import Plan


def test_forwarded_datagram_and_the_answer_to_it(
    make_udp: MakeUdp, udp_listener: socket.socket
) -> None:
    guest, table = make_udp()
    table.forward(udp_listener, GUEST, 53)
    with host_socket() as client:
        client.sendto(b"question", ("127.0.0.1", port_of(udp_listener)))
        guest.turn_until(lambda: guest.frames)
        (packet,) = guest.datagrams()
        assert (packet.header.src, packet.header.dst) == (GATEWAY, GUEST)
        assert (packet.udp.src_port, packet.udp.dst_port) == (port_of(client), 53)
        send_burst(table, udp_frame(b"answer", port_of(client), source_port=53))
        assert client.recvfrom(100) == (b"answer", ("127.0.0.1", port_of(udp_listener)))


def test_answer_leaves_from_the_address_that_was_asked(
    make_udp: MakeUdp, udp_listener: socket.socket
) -> None:
    guest, table = make_udp()
    table.forward(udp_listener, GUEST, 53)
    with host_socket() as client:
        client.sendto(b"question", ("127.0.0.77", port_of(udp_listener)))
        guest.turn_until(lambda: guest.frames)
        send_burst(
            table, *(udp_frame(b"answer", port_of(client), source_port=53) for _ in range(3))
        )
        for _ in range(3):
            assert client.recvfrom(100) == (b"answer", ("127.0.0.77", port_of(udp_listener)))


def test_clients_of_one_forward_get_their_own_answers(
    make_udp: MakeUdp, udp_listener: socket.socket
) -> None:
    guest, table = make_udp()
    table.forward(udp_listener, GUEST, 53)
    with host_socket() as one, host_socket() as two:
        for client in (one, two):
            client.sendto(b"question", ("127.0.0.1", port_of(udp_listener)))
        guest.turn_until(lambda: len(guest.frames) == 2)
        for client in (two, one):
            answer = b"%d" % port_of(client)
            send_burst(table, udp_frame(answer, port_of(client), source_port=53))
            assert client.recv(100) == answer


def test_restricted_guest_reaches_nobody_but_who_asked(
    make_udp: MakeUdp, udp_listener: socket.socket, udp_server: socket.socket
) -> None:
    guest, table = make_udp(Plan(restrict=True))
    table.forward(udp_listener, GUEST, 53)
    with host_socket() as client:
        client.sendto(b"question", ("127.0.0.1", port_of(udp_listener)))
        guest.turn_until(lambda: guest.frames)
        send_burst(table, udp_frame(b"answer", port_of(client), source_port=53))
        assert client.recv(100) == b"answer"
        send_burst(table, udp_frame(b"out", port_of(udp_server), source_port=53))
        send_burst(table, udp_frame(b"out", port_of(client), source_port=54))
        assert waiting(client) == []
    assert waiting(udp_server) == []
    assert table.counters["restricted"] == 2
    assert not guest.errors


def test_client_that_has_gone_is_told_to_the_guest(
    make_udp: MakeUdp, udp_listener: socket.socket
) -> None:
    guest, table = make_udp()
    table.forward(udp_listener, GUEST, 53)
    with host_socket() as client:
        client.sendto(b"question", ("127.0.0.1", port_of(udp_listener)))
        guest.turn_until(lambda: guest.frames)
        port = port_of(client)
    frame = udp_frame(b"answer", port, source_port=53)
    send_burst(table, frame)
    guest.turn_until(lambda: guest.errors)
    assert guest.errors == [(frame[1], 3)]


def test_client_is_forgotten_after_four_silent_minutes(
    make_udp: MakeUdp, udp_listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, table = make_udp(Plan(restrict=True))
    table.forward(udp_listener, GUEST, 53)
    with host_socket() as client:
        client.sendto(b"question", ("127.0.0.1", port_of(udp_listener)))
        guest.turn_until(lambda: guest.frames)
        start = table.now()
        monkeypatch.setattr(table, "now", lambda: start + 235)
        table._sweep()
        send_burst(table, udp_frame(b"in time", port_of(client), source_port=53))
        assert waiting(client) == [b"in time"]
        monkeypatch.setattr(table, "now", lambda: start + 235 + 241)
        table._sweep()
        send_burst(table, udp_frame(b"late", port_of(client), source_port=53))
        assert waiting(client) == []


def test_forward_that_was_removed_delivers_nothing_and_leaves_the_socket(
    make_udp: MakeUdp, udp_listener: socket.socket
) -> None:
    guest, table = make_udp()
    table.forward(udp_listener, GUEST, 53)
    table.unforward(udp_listener)
    with host_socket() as client:
        client.sendto(b"question", ("127.0.0.1", port_of(udp_listener)))
        guest.settle()
    assert not guest.frames
    assert waiting(udp_listener) == [b"question"]


def test_flood_of_clients_is_bounded(
    make_udp: MakeUdp, udp_listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp, "MAX_CLIENTS", 40)
    guest, table = make_udp()
    table.forward(udp_listener, GUEST, 53)
    for n in range(100):
        with host_socket() as client:
            client.sendto(b"%d" % n, ("127.0.0.1", port_of(udp_listener)))
        guest.turn_until(lambda n=n: table.counters["datagrams in"] == n + 1)
    assert len(table._paths) <= 40
