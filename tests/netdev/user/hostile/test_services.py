# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Services by the wrong door."""

from __future__ import annotations

import pytest
from tests.netdev.user.guest import GATEWAY, GUEST, Bench
from tests.netdev.user.hostile.frames import DNS, ELSEWHERE, GARBAGE, offer

from vmwire.wire.protocols import udp


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
