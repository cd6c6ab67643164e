# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
import os
import socket
from collections.abc import Iterator

import pytest
from tests.netdev.user.harness import watch_no_more

from vmwire.engine.loop import Loop
from vmwire.netdev.user.dns import Resolver
from vmwire.netdev.user.dns_service import DnsService, UpstreamSockets, connected_socket
from vmwire.wire.protocols import dns

QUERY = bytes.fromhex("abcd0100000100000000000001610262630000010001")
ANSWER = bytes.fromhex(
    "abcd8180000100010000000001610262630000010001c00c000100010000003c000401020304"
)
GUEST = bytes([10, 0, 2, 15])


class Bench:
    def __init__(self) -> None:
        self.loop = Loop()
        self.server = udp_server()
        self.resolvers = [resolver_of(self.server)]
        self.delivered: list[tuple[bytes, int, bytes]] = []
        self.service = DnsService(
            self.loop, lambda: self.resolvers, lambda *answer: self.delivered.append(answer)
        )

    def run(self) -> None:
        """Turn until something is delivered."""
        for _ in range(50):
            if self.delivered:
                return
            self.loop.turn(0.1)
        pytest.fail("nothing was delivered")


def udp_server() -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    server.settimeout(5)
    return server


def resolver_of(server: socket.socket) -> Resolver:
    return Resolver("127.0.0.1", server.getsockname()[1])


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.service.close()
    bench.loop.close()
    bench.server.close()


def test_query_reaches_a_real_resolver_and_the_answer_the_guest(bench: Bench) -> None:
    bench.service.query(GUEST, 4200, QUERY)
    query, client = bench.server.recvfrom(4096)
    assert query[2:] == QUERY[2:]
    bench.server.sendto(dns.with_id(ANSWER, dns.peek_id(query)), client)
    bench.run()
    assert bench.delivered == [(GUEST, 4200, ANSWER)]


def test_largest_answer_passes(bench: Bench) -> None:
    large = ANSWER.ljust(65507, b"\0")
    bench.service.query(GUEST, 4200, QUERY)
    query, client = bench.server.recvfrom(4096)
    bench.server.sendto(dns.with_id(large, dns.peek_id(query)), client)
    bench.run()
    assert bench.delivered == [(GUEST, 4200, large)]


def test_answer_from_somebody_else_is_not_heard(bench: Bench) -> None:
    bench.service.query(GUEST, 4200, QUERY)
    query, client = bench.server.recvfrom(4096)
    forger = udp_server()
    forger.sendto(dns.with_id(ANSWER, dns.peek_id(query)), client)
    forger.close()
    bench.loop.turn(0.05)
    assert bench.delivered == [] and len(bench.service.relay) == 1


def test_closed_port_moves_the_query_to_the_next_resolver_at_once(bench: Bench) -> None:
    dead = udp_server()
    bench.resolvers.insert(0, resolver_of(dead))
    dead.close()
    bench.service.query(GUEST, 4200, QUERY)
    for _ in range(20):
        bench.loop.turn(0.05)
        if bench.service.relay.sockets == 2:
            break
    query, client = bench.server.recvfrom(4096)
    bench.server.sendto(dns.with_id(ANSWER, dns.peek_id(query)), client)
    bench.run()
    assert bench.delivered == [(GUEST, 4200, ANSWER)]


def test_closed_ports_only_give_servfail_without_waiting(bench: Bench) -> None:
    dead = udp_server()
    bench.resolvers[:] = [resolver_of(dead)]
    dead.close()
    before = bench.loop.now()
    bench.service.query(GUEST, 4200, QUERY)
    bench.run()
    assert bench.delivered == [(GUEST, 4200, dns.failure(QUERY, dns.SERVFAIL))]
    assert bench.loop.now() - before < 2


def test_message_is_sent_although_an_earlier_one_was_refused(bench: Bench) -> None:
    upstreams = UpstreamSockets(bench.loop, lambda handle, message: None, lambda handle: None)
    dead = udp_server()
    resolver = resolver_of(dead)
    dead.close()
    handle = upstreams.open(resolver)
    assert handle is not None
    assert upstreams.send(handle, b"lost")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((resolver.address, resolver.port))
        server.settimeout(5)
        assert upstreams.send(handle, b"found")
        assert server.recvfrom(10)[0] == b"found"
    upstreams.close(handle)


def test_unreachable_scope_is_servfail(bench: Bench) -> None:
    bench.resolvers[:] = [Resolver("fe80::1", scope="no-such-if0")]
    bench.service.query(GUEST, 4200, QUERY)
    assert bench.delivered == [(GUEST, 4200, dns.failure(QUERY, dns.SERVFAIL))]


def test_timer_closes_idle_sockets(bench: Bench) -> None:
    bench.service.query(GUEST, 4200, QUERY)
    assert bench.service.relay.sockets == 1
    deadline = bench.loop.timers.next_deadline()
    assert deadline == bench.service.relay.next_deadline()


def test_close_leaves_no_timer_and_no_socket(bench: Bench) -> None:
    bench.service.query(GUEST, 4200, QUERY)
    bench.service.close()
    assert bench.service.relay.sockets == 0
    assert bench.loop.timers.next_deadline() is None


def test_ipv6_resolver_is_reached_where_there_is_ipv6() -> None:
    try:
        server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        server.bind(("::1", 0))
    except OSError:
        pytest.skip("this host has no IPv6 loopback")
    with server, connected_socket(Resolver("::1", server.getsockname()[1])) as sock:
        sock.send(b"x")
        server.settimeout(5)
        assert server.recvfrom(10)[0] == b"x"


def test_without_a_watch_a_query_gets_servfail(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        refused = watch_no_more(bench.loop, patch)
        bench.service.query(GUEST, 4200, QUERY)
    assert bench.delivered == [(GUEST, 4200, dns.failure(QUERY, dns.SERVFAIL))]
    assert bench.service.relay.sockets == 0
    assert refused
    for fd in refused:
        with pytest.raises(OSError):
            os.fstat(fd)
