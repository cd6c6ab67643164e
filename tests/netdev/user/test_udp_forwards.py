# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""UDP of the user network: forwards of the host's ports."""

from __future__ import annotations

import socket

import pytest
from tests.netdev.user.harness import (
    GATEWAY,
    GUEST,
    Forwarded,
    host_socket,
    port_of,
    send_burst,
    udp_frame,
    waiting,
)

from vmwire.netdev.user import udp
from vmwire.netdev.user.plan import Plan

restricted = pytest.mark.parametrize("forwarded", [Plan(restrict=True)], indirect=True)


def test_forwarded_datagram_and_the_answer_to_it(forwarded: Forwarded) -> None:
    with host_socket() as client:
        forwarded.asked(client)
        (packet,) = forwarded.guest.datagrams()
        assert (packet.header.src, packet.header.dst) == (GATEWAY, GUEST)
        assert (packet.udp.src_port, packet.udp.dst_port) == (port_of(client), 53)
        forwarded.answer(port_of(client))
        assert client.recvfrom(100) == (b"answer", ("127.0.0.1", port_of(forwarded.listener)))


def test_answer_leaves_from_the_address_that_was_asked(forwarded: Forwarded) -> None:
    with host_socket() as client:
        forwarded.asked(client, "127.0.0.77")
        answer = udp_frame(b"answer", port_of(client), source_port=53)
        send_burst(forwarded.table, answer, answer, answer)
        for _ in range(3):
            sender = ("127.0.0.77", port_of(forwarded.listener))
            assert client.recvfrom(100) == (b"answer", sender)


def test_clients_of_one_forward_get_their_own_answers(forwarded: Forwarded) -> None:
    with host_socket() as one, host_socket() as two:
        for client in (one, two):
            forwarded.asked(client)
        for client in (two, one):
            answer = b"%d" % port_of(client)
            forwarded.answer(port_of(client), answer)
            assert client.recv(100) == answer


@restricted
def test_restricted_guest_reaches_nobody_but_who_asked(
    forwarded: Forwarded, udp_server: socket.socket
) -> None:
    with host_socket() as client:
        forwarded.asked(client)
        forwarded.answer(port_of(client))
        assert client.recv(100) == b"answer"
        forwarded.answer(port_of(udp_server), b"out")
        forwarded.answer(port_of(client), b"out", source_port=54)
        assert waiting(client) == []
    assert waiting(udp_server) == []
    assert forwarded.table.counters["restricted"] == 2
    assert not forwarded.guest.errors


def test_client_that_has_gone_is_told_to_the_guest(forwarded: Forwarded) -> None:
    guest = forwarded.guest
    with host_socket() as client:
        forwarded.asked(client)
        port = port_of(client)
    frame = udp_frame(b"answer", port, source_port=53)
    send_burst(forwarded.table, frame)
    guest.turn_until(lambda: guest.errors)
    assert guest.errors == [(frame[1], 3)]


@restricted
def test_client_is_forgotten_after_four_silent_minutes(
    forwarded: Forwarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = forwarded.table
    with host_socket() as client:
        forwarded.asked(client)
        start = table.now()
        monkeypatch.setattr(table, "now", lambda: start + 235)
        table._sweep()
        forwarded.answer(port_of(client), b"in time")
        assert waiting(client) == [b"in time"]
        monkeypatch.setattr(table, "now", lambda: start + 235 + 241)
        table._sweep()
        forwarded.answer(port_of(client), b"late")
        assert waiting(client) == []


def test_forward_that_was_removed_delivers_nothing_and_leaves_the_socket(
    forwarded: Forwarded,
) -> None:
    forwarded.table.unforward(forwarded.listener)
    with host_socket() as client:
        forwarded.question(client)
        forwarded.guest.settle()
    assert not forwarded.guest.frames
    assert waiting(forwarded.listener) == [b"question"]


def test_flood_of_clients_is_bounded(forwarded: Forwarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "MAX_CLIENTS", 40)
    for _ in range(100):
        with host_socket() as client:
            forwarded.asked(client)
    assert forwarded.table.counters["datagrams in"] == 100
    assert len(forwarded.table._paths) <= 40
