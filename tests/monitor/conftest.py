# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.monitor.client import Client, FakeMachine
from vmwire.monitor.monitor import Monitor
from vmwire.network import Network


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    yield network
    network.close()


@pytest.fixture
def monitor(network: Network) -> Monitor:
    """A daemon's."""
    return Monitor(network)


@pytest.fixture
def client(monitor: Monitor) -> Client:
    return Client(monitor)


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


@pytest.fixture
def pc(network: Network, machine: FakeMachine) -> Client:
    """A client of a machine's monitor."""
    return Client(Monitor(network, machine, name="vm"))
