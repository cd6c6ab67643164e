# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Netdevs, links and filters over QMP. Texts of errors are those of QEMU 11.1."""

from __future__ import annotations

from typing import Any

import pytest

from tests.monitor.client import Client
from vmwire.monitor.monitor import Monitor
from vmwire.network import Network

GENERIC = "GenericError"


def test_netdev_is_added_and_removed(client: Client, network: Network) -> None:
    options = {"type": "user", "id": "q1", "net": "10.9.0.0/24", "dnssearch": [{"str": "a.b"}]}
    assert client.ask("netdev_add", **options) == {"return": {}}
    assert network.netdevs["q1"].options.dnssearch == ["a.b"]
    assert client.refused("netdev_add", type="user", id="q1") == (GENERIC, "Duplicate ID 'q1'")
    assert client.ask("netdev_del", id="q1") == {"return": {}}
    assert client.refused("netdev_del", id="q1") == ("DeviceNotFound", "Device 'q1' not found")
    assert network.netdevs == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "Parameter 'id' is missing"),
        ({"type": "user"}, "Parameter 'id' is missing"),
        ({"id": "x"}, "Parameter 'type' is missing"),
        ({"type": 4, "id": "x"}, "Invalid parameter type for 'type', expected: string"),
        ({"type": "user", "id": 4}, "Invalid parameter type for 'id', expected: string"),
        ({"type": "user", "id": "x y"}, "Parameter 'id' expects an identifier"),
        ({"type": "user", "id": "1bad"}, "Parameter 'id' expects an identifier"),
        ({"type": "nosuch", "id": "x"}, "Parameter 'type' does not accept value 'nosuch'"),
        ({"type": "nic", "id": "x"}, "network backend 'nic' is not compiled into this binary"),
        ({"type": "none", "id": "x"}, "network backend 'none' is not compiled into this binary"),
        ({"type": "user", "id": "x", "bogus": 1}, "Parameter 'bogus' is unexpected"),
        (
            {"type": "user", "id": "x", "restrict": "on"},
            "Invalid parameter type for 'restrict', expected: boolean",
        ),
        (
            {"type": "user", "id": "x", "hostfwd": "x"},
            "Invalid parameter type for 'hostfwd', expected: array",
        ),
        (
            {"type": "user", "id": "x", "hostfwd": [{"str": "bad"}]},
            "Invalid host forwarding rule 'bad' (No : separators)",
        ),
        (
            {"type": "hubport", "id": "x", "hubid": "0"},
            "Invalid parameter type for 'hubid', expected: integer",
        ),
        ({"type": "hubport", "id": "x", "hubid": 0, "netdev": "zz"}, "netdev 'zz' not found"),
        (
            {"type": "socket", "id": "x"},
            "exactly one of listen=, connect=, mcast= or udp= is required",
        ),
    ],
)
def test_netdev_that_can_not_be_is_refused(
    client: Client, network: Network, arguments: dict[str, Any], words: str
) -> None:
    assert client.ask_with("netdev_add", arguments)["error"] == {"class": GENERIC, "desc": words}
    assert network.netdevs == {}


def test_removed_netdevs_card_stays_and_loses_its_carrier(client: Client, network: Network) -> None:
    network.add_netdev("null", id="u")
    network.add_nic("null", id="n0", netdev="u")
    assert network.devices["n0"].box.port.carrier
    assert client.refused("netdev_del", id="n0")[0] == "DeviceNotFound"
    client.get("netdev_del", id="u")
    assert not network.devices["n0"].box.port.carrier


def test_link_is_pulled_at_card_and_at_netdev(client: Client, network: Network) -> None:
    network.add_netdev("null", id="u")
    network.add_nic("null", id="n0", netdev="u")
    port = network.devices["n0"].box.port
    for name in ("n0", "u"):
        assert client.ask("set_link", name=name, up=False) == {"return": {}}
        assert not port.carrier
        assert client.ask("set_link", name=name, up=True) == {"return": {}}
        assert port.carrier


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"name": "zz", "up": False}, "DeviceNotFound", "Device 'zz' not found"),
        ({"name": "zz"}, GENERIC, "Parameter 'up' is missing"),
        (
            {"name": "zz", "up": "off"},
            GENERIC,
            "Invalid parameter type for 'up', expected: boolean",
        ),
        ({"name": "zz", "up": True, "x": 1}, GENERIC, "Parameter 'x' is unexpected"),
    ],
)
def test_link_of_nobody_is_refused(
    client: Client, arguments: dict[str, Any], kind: str, words: str
) -> None:
    assert client.refused("set_link", **arguments) == (kind, words)


class Filtering:
    """A card that can say what it takes."""

    def __init__(self, box: Any) -> None:
        self._box = box
        self.announced = 0
        self.on_filter_change = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._box, name)

    def rx_filter(self) -> dict[str, object]:
        return {"promiscuous": True, "main-mac": "52:54:00:12:34:56"}

    def announce(self) -> None:
        self.announced += 1


def test_rx_filter_is_asked_of_those_that_know(client: Client, network: Network) -> None:
    network.add_netdev("null", id="u0")
    network.add_nic("null", id="v0", netdev="u0")
    network.add_nic("null", id="n0")
    card = network.devices["v0"]
    card.box = Filtering(card.box)
    expected = [{"name": "v0", "promiscuous": True, "main-mac": "52:54:00:12:34:56"}]
    assert client.get("query-rx-filter") == expected
    assert client.get("query-rx-filter", name="v0") == expected
    words = "net client(n0) doesn't support rx-filter querying"
    assert client.refused("query-rx-filter", name="n0") == (GENERIC, words)
    assert client.refused("query-rx-filter", name="u0") == (
        GENERIC,
        "net client(u0) isn't a NIC",
    )
    assert client.refused("query-rx-filter", name="zz") == (GENERIC, "invalid net client name: zz")
    assert client.refused("query-rx-filter", name=5) == (
        GENERIC,
        "Invalid parameter type for 'name', expected: string",
    )


def test_members_events_are_told(monitor: Monitor, network: Network) -> None:
    client = Client(monitor)
    client.lines.clear()
    network.host.emit("NETDEV_STREAM_DISCONNECTED", {"netdev-id": "s0"})
    assert client.events() == [("NETDEV_STREAM_DISCONNECTED", {"netdev-id": "s0"})]
