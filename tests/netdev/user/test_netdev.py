# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The user network as a box: what it tells about itself."""

from __future__ import annotations

import json

import pytest
from tests.netdev.user.guest import GUEST, Bench
from tests.netdev.user.harness import CHECKSUM_LEFT

from vmwire.wire.frame import Frame
from vmwire.wire.protocols import udp
from vmwire.wire.protocols.checksum import pseudo_header_sum
from vmwire.wire.runs import IPV4, Flow

DNS = bytes((10, 0, 2, 3))


def test_stats_tell_of_the_dns_relay(bench: Bench) -> None:
    before = bench.netdev.stats()["dns"]
    bench.send(bench.ipv4(DNS, 17, udp.Datagram(4000, 53, b"no query").emit(GUEST, DNS)))
    after = bench.netdev.stats()["dns"]
    assert before == {"pending": 0, "sockets": 0}
    assert after == {"pending": 0, "sockets": 0, "malformed DNS query": 1}


def test_queries_that_came_as_one_superframe_are_queries_each(bench: Bench) -> None:
    query = udp.Datagram(4000, 53, b"no query").emit(GUEST, DNS)
    unfinished = query[:6] + pseudo_header_sum(GUEST, DNS, 17, len(query)).to_bytes(2, "big")
    first = Frame.of(bench.ipv4(DNS, 17, unfinished + query[8:]), CHECKSUM_LEFT)
    (run,) = Flow(IPV4, first).frames([memoryview(b"no query"), memoryview(b"no QUERY")])
    assert bench.port.send([run, run.copy()]) == 2
    assert bench.netdev.stats()["dns"] == {"pending": 0, "sockets": 0, "malformed DNS query": 4}


def test_stats_are_plain_data(bench: Bench) -> None:
    told = bench.netdev.stats()
    assert json.loads(json.dumps(told)) == told


def test_search_domains_that_are_none_are_named_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Bench(dnssearch=["good.example", "a..b", "x" * 64]).close()
    (line,) = caplog.messages
    assert line == f"netdev u: dnssearch leaves out 'a..b', '{'x' * 64}': no domain name"


def test_good_search_domains_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    Bench(dnssearch=["good.example"]).close()
    assert not caplog.messages
