# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a monitor changed, done again in a network that was built anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.monitor.client import Client
from vmwire.errors import ConfigError
from vmwire.monitor.journal import Journal, replay
from vmwire.monitor.monitor import Monitor
from vmwire.network import Network


class Life:
    """A network as one worker has it, built of a netdev and a card, and its journal."""

    def __init__(self, edits: list[Any]) -> None:
        self.network = Network()
        self.network.add_netdev("null", id="u")
        self.network.add_nic("null", id="n", netdev="u")
        replay(self.network, edits, strict=True)
        self.edits = edits
        self.client = Client(Monitor(self.network, journal=Journal(edits, self._keep)))

    def _keep(self, edits: list[Any]) -> None:
        self.edits = json.loads(json.dumps(edits))

    def next(self) -> Life:
        """The worker after this one."""
        self.network.close()
        return Life(self.edits)

    @property
    def members(self) -> list[str]:
        return [*self.network.netdevs, *self.network.devices]


@pytest.fixture
def life() -> Iterator[Life]:
    made = Life([])
    yield made
    made.network.close()


def test_added_members_are_there_again(life: Life, tmp_path: Path) -> None:
    options = {"net": "10.9.0.0/24", "dnssearch": [{"str": "a.b"}, {"str": "c"}]}
    life.client.get("netdev_add", type="user", id="u1", **options)
    life.client.get(
        "device_add", driver="e1000", id="n1", netdev="u1", socket=str(tmp_path / "n1.sock")
    )
    mac = life.network.devices["n1"].mac
    after = life.next()
    assert after.members == ["u", "u1", "n", "n1"]
    assert after.network.links == [["n", "u"], ["n1", "u1"]]
    assert after.network.devices["n1"].mac == mac
    assert after.network.netdevs["u1"].options.dnssearch == ["a.b", "c"]
    after.network.close()


def test_what_was_undone_leaves_nothing(life: Life) -> None:
    life.client.get("netdev_add", type="hubport", id="h", hubid=1)
    life.client.get("set_link", name="h", up=False)
    life.client.get("netdev_del", id="h")
    assert life.edits == []


def test_removed_members_stay_removed(life: Life) -> None:
    life.client.get("set_link", name="u", up=False)
    life.client.get("netdev_del", id="u")
    after = life.next()
    assert after.members == ["n"]
    after.network.close()


def test_pulled_cable_stays_pulled_and_is_noted_once(life: Life) -> None:
    for up in (False, True, False):
        life.client.get("set_link", name="n", up=up)
    assert life.edits == [["link", "n", False]]
    after = life.next()
    assert not after.network.devices["n"].box.port.carrier
    after.network.close()


def test_what_can_not_be_done_again_is_left_out_or_refused(life: Life) -> None:
    edits = [["remove", "netdev", "gone"], ["link", "n", False]]
    with pytest.raises(ConfigError):
        replay(life.network, edits, strict=True)
    replay(life.network, edits, strict=False)
    assert not life.network.devices["n"].box.port.carrier
