# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""UDP of the user network: from the host's sockets to the guest."""

from __future__ import annotations

import socket

import pytest
from tests.netdev.user import harness
from tests.netdev.user.harness import (
    GATEWAY,
    GUEST,
    SUPERFRAMES,
    Forwarded,
    MakeUdp,
    host_socket,
    opened,
    waiting,
)

from vmwire.netdev.user.datagram_reader import PlainReader
from vmwire.netdev.user.plan import Plan, packed
from vmwire.wire.port import Accepts


@pytest.mark.parametrize("accepts", [Accepts(), Accepts(checksum=True), SUPERFRAMES])
@pytest.mark.parametrize("plain", [False, True])
def test_stream_of_the_host_arrives_whole_whatever_the_guest_takes(
    make_udp: MakeUdp, udp_server: socket.socket, accepts: Accepts, plain: bool
) -> None:
    guest, table = make_udp(accepts=accepts)
    if plain:
        table._reader = PlainReader()
    client = opened(table, udp_server)
    sent = [b"%064d" % n for n in range(200)]
    sent += [b"s" * size for size in (1, 0, 17, 18, 1472, 1472, 600, 600, 513)]
    for data in sent:
        udp_server.sendto(data, client)
    guest.turn_until(lambda: table.counters["datagrams in"] == len(sent))
    assert [packet.udp.payload for packet in guest.datagrams()] == sent


def test_stream_becomes_superframes_for_a_guest_that_takes_them(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    guest, table = make_udp(accepts=SUPERFRAMES)
    client = opened(table, udp_server)
    for n in range(128):
        udp_server.sendto(b"%064d" % n, client)
    guest.turn_until(lambda: table.counters["datagrams in"] == 128)
    # the first read doesn't know the size yet; the second one lies in one piece
    assert guest.frames[-1].offload.segment_size == 64
    assert guest.frames[-1].length == 42 + 64 * 64
    assert [packet.udp.payload for packet in guest.datagrams()] == [
        b"%064d" % n for n in range(128)
    ]


def test_big_runs_stay_within_what_ip_can_say(make_udp: MakeUdp, udp_server: socket.socket) -> None:
    guest, table = make_udp(accepts=SUPERFRAMES)
    client = opened(table, udp_server)
    sent = [bytes((n,)) * 1472 for n in range(190)]
    for data in sent:
        udp_server.sendto(data, client)
        guest.loop.turn(0) if len(sent) % 60 == 0 else None
    guest.turn_until(lambda: table.counters["datagrams in"] == 190)
    assert max(frame.length for frame in guest.frames) > 40000
    assert [packet.udp.payload for packet in guest.datagrams()] == sent


@pytest.mark.parametrize("accepts", [Accepts(), SUPERFRAMES])
def test_run_that_the_kernel_put_together_arrives_as_its_datagrams(
    make_udp: MakeUdp, udp_server: socket.socket, accepts: Accepts
) -> None:
    guest, table = make_udp(accepts=accepts)
    client = opened(table, udp_server)
    payload = bytes(range(250)) * 36
    cut = (17, 103, (1000).to_bytes(2, "little"))
    for _ in range(3):
        udp_server.sendmsg([payload], [cut], 0, client)
    guest.turn_until(lambda: table.counters["datagrams in"] == 27)
    got = [packet.udp.payload for packet in guest.datagrams()]
    assert got == [payload[at : at + 1000] for at in range(0, 9000, 1000)] * 3


@pytest.mark.parametrize("accepts", [Accepts(), SUPERFRAMES])
def test_datagram_longer_than_the_mtu_comes_in_fragments(
    make_udp: MakeUdp, udp_server: socket.socket, accepts: Accepts
) -> None:
    guest, table = make_udp(accepts=accepts)
    client = opened(table, udp_server)
    payload = bytes(range(250)) * 12
    udp_server.sendto(payload, client)
    guest.turn_until(lambda: len(guest.frames) == 3)
    packets = guest.packets()
    headers = [packet.header for packet in packets]
    assert [header.offset_bytes for header in headers] == [0, 1480, 2960]
    assert [bool(header.fragment & 0x2000) for header in headers] == [True, True, False]
    assert len({header.ident for header in headers}) == 1
    whole = b"".join(packet.payload for packet in packets)
    assert harness.udp.checksum_ok(whole, GATEWAY, GUEST)
    assert whole[8:] == payload


def test_guest_with_a_large_mtu_gets_the_datagram_whole(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    guest, table = make_udp(Plan(mtu=65520))
    client = opened(table, udp_server)
    udp_server.sendto(b"x" * 65000, client)
    guest.turn_until(lambda: guest.frames)
    (packet,) = guest.datagrams()
    assert packet.udp.payload == b"x" * 65000


def test_what_the_guest_has_no_room_for_waits(make_udp: MakeUdp, udp_server: socket.socket) -> None:
    guest, table = make_udp()
    client = opened(table, udp_server)
    guest.room = 3
    sent = [b"%02d" % n for n in range(10)]
    for data in sent[:5]:
        udp_server.sendto(data, client)
    guest.turn_until(lambda: len(guest.frames) == 3)
    for data in sent[5:]:
        udp_server.sendto(data, client)
    guest.settle()
    assert len(guest.frames) == 3
    guest.room = 1
    table.resume()
    guest.settle()
    guest.room = None
    table.resume()
    guest.turn_until(lambda: len(guest.frames) == 10)
    assert [packet.udp.payload for packet in guest.datagrams()] == sent


def test_waiting_for_room_costs_no_cpu(make_udp: MakeUdp, udp_server: socket.socket) -> None:
    guest, table = make_udp()
    client = opened(table, udp_server)
    guest.room = 0
    udp_server.sendto(b"1", client)
    guest.settle(2)
    udp_server.sendto(b"2", client)
    guest.settle(3)
    assert guest.loop.turn(0) == 0


def test_datagram_for_a_guest_that_is_not_known_waits_until_it_is(
    forwarded: Forwarded,
) -> None:
    guest = forwarded.guest
    macs = dict(guest.macs)
    guest.macs.clear()
    with host_socket() as client:
        forwarded.question(client)
        guest.settle()
        assert not guest.frames
        assert guest.loop.turn(0) == 0
        guest.macs.update(macs)
        forwarded.table.guest_known(packed("10.0.2.16"))
        guest.settle()
        assert not guest.frames
        forwarded.table.guest_known(GUEST)
        guest.turn_until(lambda: guest.frames)


def asked_in_vain(forwarded: Forwarded) -> None:
    """A client asks for a guest that says nothing of itself."""
    forwarded.guest.macs.clear()
    with host_socket() as client:
        forwarded.question(client)
        forwarded.guest.settle()


def test_guest_that_stays_unknown_loses_what_was_for_it(forwarded: Forwarded) -> None:
    asked_in_vain(forwarded)
    forwarded.table._sweep()
    assert forwarded.table.counters["guest unknown"] == 1
    assert waiting(forwarded.listener) == []


def test_endpoint_can_end_while_its_guest_is_unknown(forwarded: Forwarded) -> None:
    asked_in_vain(forwarded)
    forwarded.table.unforward(forwarded.listener)
    forwarded.table._sweep()
    forwarded.table.guest_known(GUEST)
