# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The sockets of forwarded ports, and how long they stay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.engine.store import Store

from vmwire.engine.host import Host
from vmwire.engine.loop import Loop
from vmwire.errors import ConfigError
from vmwire.netdev.user.forwards import give_back, open_socket
from vmwire.netdev.user.options import ForwardRule


@pytest.fixture
def host() -> Iterator[Host]:
    loop, store = Loop(), Store()
    yield Host(loop, store)
    for name in list(store.kept):
        store.drop(name)
    loop.close()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_is_kept_for_the_next_worker_and_given_back_with_its_netdev(
    host: Host, protocol: str
) -> None:
    first = open_socket(host, ForwardRule(protocol, bytes((127, 0, 0, 1)), 0, None, 22), "u")
    port = first.getsockname()[1]
    rule = ForwardRule(protocol, bytes((127, 0, 0, 1)), port, None, 22)
    host.store.keep(f"hostfwd:u:{protocol}:127.0.0.1:{port}", first.fileno())
    first.close()
    with pytest.raises(ConfigError, match="already in use"):
        open_socket(host, rule, "v")
    host.store.on_trial = True
    give_back(host, rule, "u")
    again = open_socket(host, rule, "u")
    assert again.getsockname()[1] == port
    again.close()
    host.store.on_trial = False
    give_back(host, rule, "u")
    host.store.drop(f"hostfwd:u:{protocol}:127.0.0.1:0")
    other = open_socket(host, rule, "v")
    assert other.getsockname()[1] == port
    other.close()
