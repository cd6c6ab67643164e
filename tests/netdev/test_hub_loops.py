# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Real sockets that lead from a hub back to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vmwire.network import Network

BROADCAST = b"\xff" * 6 + b"\x52\x54\0\0\0\1" + b"\x08\0" + bytes(46)
PATIENCE_S = 20.0


@pytest.fixture
def net() -> Iterator[Network]:
    with Network() as made:
        yield made


def a_hub(net: Network, switch: bool) -> None:
    net.add_netdev("null", id="guest")
    net.add_netdev("hubport", id="g", hubid=0, netdev="guest", switch=switch)


def a_line_back(net: Network, kind: str, folder: Path, name: str) -> None:
    places = [{"type": "unix", "path": str(folder / f"{name}{end}")} for end in "ab"]
    ends: list[dict[str, Any]]
    if kind == "stream":
        ends = [{"addr": places[0], "server": True}, {"addr": places[0], "reconnect_ms": 50}]
    else:
        ends = [
            {"local": places[0], "remote": places[1]},
            {"local": places[1], "remote": places[0]},
        ]
    for number, end in enumerate(ends):
        id = f"{name}{number}"
        net.add_netdev(kind, id=id, **end)
        net.add_netdev("hubport", id=f"h{id}", hubid=0, netdev=id)


def until(true: Any) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < limit, "it took too long"
        time.sleep(0.01)


def heard(net: Network) -> int:
    """How many frames the guest has been sent."""
    return int(net.stats()["hubs"]["hub0"]["g"]["frames"])


def came_back(net: Network) -> int:
    ports = net.stats()["hubs"]["hub0"]
    return sum(port.get("drops", {}).get("loop", 0) for port in ports.values())


@pytest.mark.parametrize("switch", [False, True], ids=["hub", "switch"])
@pytest.mark.parametrize(
    ("kind", "lines"), [("stream", 1), ("stream", 2), ("dgram", 1), ("dgram", 2)]
)
def test_a_broadcast_that_comes_back_by_sockets_ends(
    net: Network,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    lines: int,
    switch: bool,
) -> None:
    a_hub(net, switch)
    for number in range(lines):
        a_line_back(net, kind, tmp_path, f"s{number}")
    until(lambda: all(each["carrier"] for each in net.stats()["netdevs"].values()))
    until(lambda: net.inject("g", BROADCAST) and came_back(net))

    def silent() -> bool:
        before = heard(net), came_back(net)
        time.sleep(0.3)
        return (heard(net), came_back(net)) == before

    until(silent)
    before = heard(net)
    net.inject("g", BROADCAST)
    until(silent)
    assert heard(net) == before  # which is its own
    assert sum("a loop" in line for line in caplog.messages) == 1
