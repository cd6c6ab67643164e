# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The user network as a box: what it tells about itself."""

from __future__ import annotations

import json

from tests.netdev.user.guest import GUEST, Bench

from vmwire.wire.protocols import udp

DNS = bytes((10, 0, 2, 3))


def test_stats_tell_of_the_dns_relay(bench: Bench) -> None:
    before = bench.netdev.stats()["dns"]
    bench.send(bench.ipv4(DNS, 17, udp.Datagram(4000, 53, b"no query").emit(GUEST, DNS)))
    after = bench.netdev.stats()["dns"]
    assert before == {"pending": 0, "sockets": 0}
    assert after == {"pending": 0, "sockets": 0, "malformed DNS query": 1}


def test_stats_are_plain_data(bench: Bench) -> None:
    told = bench.netdev.stats()
    assert json.loads(json.dumps(told)) == told
