# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A guest that lies, floods and forges: the user network drops, counts and goes on.

Each test ends with an honest connection through the same network (the fixture ``bench``): whatever
came before must not have harmed it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from tests.netdev.user.guest import Bench, listener
from tests.netdev.user.hostile.frames import prove_alive


@pytest.fixture(scope="module")
def server() -> Iterator[socket.socket]:
    with listener() as sock:
        yield sock


@pytest.fixture
def bench(server: socket.socket) -> Iterator[Bench]:
    bench = Bench()
    yield bench
    prove_alive(bench, server)
    bench.close()
