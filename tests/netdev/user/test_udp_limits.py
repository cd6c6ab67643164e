# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""UDP of the user network: time, bounds, and what no guest may cause."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.netdev.user import harness
from tests.netdev.user.harness import (
    CHECKSUM_LEFT,
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    GUEST_MAC,
    MakeUdp,
    opened,
    port_of,
    send_burst,
    udp_frame,
    waiting,
    watch_no_more,
)

from vmwire.netdev.user import udp
from vmwire.netdev.user.plan import packed
from vmwire.wire.frame import F_DATA_VALID, Frame, Offload


def test_silent_endpoint_is_closed_after_four_minutes(
    make_udp: MakeUdp, udp_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = make_udp()
    opened(table, udp_server)
    start = table.now()
    monkeypatch.setattr(table, "now", lambda: start + 230)
    table._sweep()
    assert len(table.flows) == 1
    monkeypatch.setattr(table, "now", lambda: start + 241)
    table._sweep()
    assert not table.flows
    assert not table._paths


def test_replies_keep_an_endpoint_alive(
    make_udp: MakeUdp, udp_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, table = make_udp()
    client = opened(table, udp_server)
    start = table.now()
    monkeypatch.setattr(table, "now", lambda: start + 200)
    udp_server.sendto(b"r", client)
    guest.turn_until(lambda: guest.frames)
    monkeypatch.setattr(table, "now", lambda: start + 400)
    table._sweep()
    assert len(table.flows) == 1


def test_endpoint_that_only_asks_name_servers_is_closed_soon(
    make_udp: MakeUdp, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = make_udp()
    monkeypatch.setattr(table._sender, "_try", lambda *_: 0)
    send_burst(table, udp_frame(b"q", 53, packed("192.0.2.53"), source_port=5000))
    send_burst(table, udp_frame(b"q", 53, packed("192.0.2.53"), source_port=5001))
    send_burst(table, udp_frame(b"q", 99, packed("192.0.2.53"), source_port=5001))
    start = table.now()
    monkeypatch.setattr(table, "now", lambda: start + 25)
    table._sweep()
    assert [flow.guest_port for flow in table.flows.values()] == [5001]


def test_sweeping_ends_when_nothing_is_left(
    make_udp: MakeUdp, udp_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = make_udp()
    opened(table, udp_server)
    start = table.now()
    monkeypatch.setattr(table, "now", lambda: start + 1000)
    assert table._timer is not None
    table._timer.cancel()
    table._sweep()
    assert table._timer is None


def test_full_table_gives_up_the_endpoints_that_were_silent_longest(
    make_udp: MakeUdp, udp_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp, "EVICTED_AT_ONCE", 2)
    _, table = make_udp(max_flows=4)
    start = table.now()
    for n in range(4):
        monkeypatch.setattr(table, "now", lambda n=n: start + n)
        opened(table, udp_server, 5000 + n)
    monkeypatch.setattr(table, "now", lambda: start + 10)
    opened(table, udp_server, 5000)
    opened(table, udp_server, 6000)
    assert sorted(flow.guest_port for flow in table.flows.values()) == [5000, 5003, 6000]


def test_guest_that_floods_loses_its_own_endpoints(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp(max_flows=20)
    other = packed("10.0.2.16")
    send_burst(table, udp_frame(b"x", port_of(udp_server), source=other))
    for n in range(100):
        send_burst(table, udp_frame(b"x", port_of(udp_server), source_port=5000 + n))
    assert len(table.flows) <= 20
    assert other in {flow.guest for flow in table.flows.values()}


def test_datagrams_of_an_evicted_endpoint_are_still_sent(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp(max_flows=1)
    send_burst(
        table,
        udp_frame(b"1", port_of(udp_server), source_port=5000),
        udp_frame(b"2", port_of(udp_server), source_port=5001),
    )
    assert waiting(udp_server) == [b"1", b"2"]


def test_process_without_files_left_takes_an_old_endpoints(
    make_udp: MakeUdp, udp_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = make_udp()
    opened(table, udp_server, 5000)
    failures = [OSError(errno.EMFILE, "too many files")]
    real = udp.open_socket

    def scarce() -> socket.socket:
        if failures:
            raise failures.pop()
        return real()

    monkeypatch.setattr(udp, "open_socket", scarce)
    opened(table, udp_server, 5001)
    assert [flow.guest_port for flow in table.flows.values()] == [5001]


def test_without_a_watch_a_datagram_is_dropped(
    make_udp: MakeUdp, udp_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, table = make_udp()
    with monkeypatch.context() as patch:
        refused = watch_no_more(guest.loop, patch)
        send_burst(table, udp_frame(b"lost", port_of(udp_server)))
    assert table.counters == {"no socket": 1}
    assert not table.flows and not guest.errors
    with pytest.raises(OSError):
        os.fstat(refused[0])
    opened(table, udp_server)


def test_guest_that_scans_is_bounded(make_udp: MakeUdp, monkeypatch: pytest.MonkeyPatch) -> None:
    _, table = make_udp()
    monkeypatch.setattr(table._sender, "_try", lambda *_: 0)
    for n in range(1, 2000):
        send_burst(table, udp_frame(b"x", n, packed("192.0.2.1")))
    assert len(table._paths) <= udp.MAX_PEERS
    assert len(table.flows) == 1


def test_all_peers_together_are_bounded(make_udp: MakeUdp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "MAX_PATHS", 100)
    _, table = make_udp()
    monkeypatch.setattr(table._sender, "_try", lambda *_: 0)
    for n in range(1, 300):
        send_burst(table, udp_frame(b"x", n, packed("192.0.2.1"), source_port=5000 + n % 3))
    assert len(table._paths) <= 100


def test_closing_leaves_no_descriptor_watched(
    make_udp: MakeUdp, udp_server: socket.socket, udp_listener: socket.socket
) -> None:
    _, table = make_udp()
    table.forward(udp_listener, GUEST, 53)
    opened(table, udp_server)
    (flow,) = table.flows.values()
    table.close()
    assert flow.sock.fileno() == -1
    assert udp_listener.fileno() >= 0
    assert table.stats()["flows"] == table.stats()["peers"] == table.stats()["forwards"] == 0


@given(st.binary(min_size=8, max_size=200), st.integers(0, 0x1FF), st.sampled_from((34, 54, 74)))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_datagram_makes_an_exception(
    make_udp: MakeUdp, packet: bytes, noise: int, transport: int
) -> None:
    _, table = make_udp()
    table._sender._try = lambda *_: noise & 0x7F  # type: ignore[method-assign]
    head = GATEWAY_MAC + GUEST_MAC + b"\x08\0" + b"\x45" + bytes(11) + GUEST + GATEWAY
    data = head.ljust(transport, b"\0") + packet
    offload = (Offload(), CHECKSUM_LEFT, harness.GSO, Offload(F_DATA_VALID))[noise >> 7]
    frame = Frame.of(data, offload)
    if not table.receive_known(frame, data[:138]):
        table.receive(frame, data[:138], transport, len(data))
    table.end_burst()
    table.close()


def test_stats_are_plain_data(make_udp: MakeUdp, udp_server: socket.socket) -> None:
    _, table = make_udp()
    opened(table, udp_server)
    assert table.stats() == {
        "flows": 1,
        "peers": 1,
        "forwards": 0,
        "counters": {"opened": 1, "datagrams out": 1},
    }
