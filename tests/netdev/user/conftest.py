# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of the user network's TCP and UDP start from."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from tests.netdev.user.guest import Bench, listener
from tests.netdev.user.harness import GUEST, Forwarded, Guest, MakeUdp, host_socket

from vmwire.netdev.user.plan import Plan
from vmwire.netdev.user.udp import UdpTable
from vmwire.wire.port import Accepts


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A user network with a guest; ``@every_peer`` has it made for each kind of guest."""
    bench = Bench(**getattr(request, "param", {}))
    yield bench
    bench.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A TCP server of the host."""
    with listener() as sock:
        yield sock


@pytest.fixture
def udp_server() -> Iterator[socket.socket]:
    """A UDP server of the host."""
    with host_socket() as sock:
        yield sock


@pytest.fixture
def udp_listener() -> Iterator[socket.socket]:
    """A socket of the host for a UDP forward."""
    with host_socket("0.0.0.0") as sock:
        yield sock


@pytest.fixture
def make_udp(udp_listener: socket.socket) -> Iterator[MakeUdp]:
    """Makes UDP tables with a guest each."""
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
def forwarded(
    request: pytest.FixtureRequest, make_udp: MakeUdp, udp_listener: socket.socket
) -> Forwarded:
    """A UDP forward to a guest; ``@restricted`` has it made for a guest that reaches nobody."""
    guest, table = make_udp(getattr(request, "param", None))
    table.forward(udp_listener, GUEST, 53)
    return Forwarded(guest, table, udp_listener)
