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


def test_a_card_whose_netdev_left_is_there_again_without(life: Life, tmp_path: Path) -> None:
    life.client.get("netdev_add", type="hubport", id="h", hubid=1)
    life.client.get("device_add", driver="e1000", id="n1", netdev="h", socket=str(tmp_path / "n1"))
    life.client.get("netdev_del", id="h")
    after = life.next()
    assert after.members == ["u", "n", "n1"]
    assert after.network.links == [["n", "u"]]
    after.network.close()


def buffer(life: Life, id: str, **options: Any) -> None:
    values = {"qom-type": "filter-buffer", "id": id, "netdev": "u", "interval": 9, **options}
    assert life.client.ask_with("object-add", values) == {"return": {}}


def test_filters_are_in_their_places_again_whoever_has_left(life: Life) -> None:
    buffer(life, "a")
    buffer(life, "b", position="id=a", insert="before")
    buffer(life, "c", position="head")
    buffer(life, "d", position="id=b")
    for gone in ("a", "b"):
        life.client.get("object-del", id=gone)
    after = life.next()
    assert after.network.links == [["n", "d", "c", "u"]]
    after.network.close()


def test_a_changed_filter_stays_changed_and_is_noted_once(life: Life) -> None:
    life.network.add_filter("filter-buffer", id="first", netdev="u", interval=9)
    for status in ("off", "on", "off"):
        life.client.get("qom-set", path="/objects/first", property="status", value=status)
    life.client.get("qom-set", path="first", property="interval", value=7)
    assert life.edits == [["set", "first", "status", "off"], ["set", "first", "interval", "7"]]
    replay(life.network, life.edits, strict=True)
    options = life.network.filters["first"].options
    assert (options.status, options.interval) == ("off", 7)


@pytest.mark.parametrize("last", ["object-del", "netdev_del"])
def test_a_filter_that_left_leaves_nothing(life: Life, last: str) -> None:
    life.client.get("netdev_add", type="hubport", id="h", hubid=1)
    buffer(life, "b", netdev="h")
    life.client.get("qom-set", path="b", property="status", value="off")
    if last == "object-del":
        life.client.get("object-del", id="b")
    life.client.get("netdev_del", id="h")
    assert life.edits == []


def test_chardevs_and_who_uses_them_are_there_again(life: Life, tmp_path: Path) -> None:
    address = {"type": "unix", "data": {"path": str(tmp_path / "c")}}
    data = {"addr": address, "server": True}
    life.client.get("chardev-add", id="c", backend={"type": "socket", "data": data})
    values = {"qom-type": "filter-mirror", "id": "m", "netdev": "u", "outdev": "c"}
    assert life.client.ask_with("object-add", values) == {"return": {}}
    after = life.next()
    assert after.network.filters["m"].options.outdev == "c"
    after.client.get("object-del", id="m")
    after.client.get("chardev-remove", id="c")
    assert after.edits == []
    after.network.close()


def test_a_dump_goes_on_beside_what_it_wrote_before(life: Life, tmp_path: Path) -> None:
    path = tmp_path / "d.pcap"
    values = {"qom-type": "filter-dump", "id": "d", "netdev": "u", "file": str(path)}
    assert life.client.ask_with("object-add", values) == {"return": {}}
    replayed = Network()
    replayed.add_netdev("null", id="u")
    replay(replayed, life.edits, strict=True, restarts=2)
    assert replayed.filters["d"].options.file == str(tmp_path / "d.restart2.pcap")
    replayed.close()


def test_a_dump_of_a_later_worker_has_its_name(life: Life, tmp_path: Path) -> None:
    edits: list[Any] = [["filter", f"filter-dump,id=d,netdev=u,file={tmp_path}/d.pcap", ["d"], 3]]
    replay(life.network, edits, strict=True, restarts=3)
    assert life.network.filters["d"].options.file == f"{tmp_path}/d.pcap"


def test_pulled_cable_stays_pulled_and_is_noted_once(life: Life) -> None:
    for up in (False, True, False):
        life.client.get("set_link", name="n", up=up)
    assert life.edits == [["link", "n", False]]
    after = life.next()
    assert not after.network.devices["n"].box.port.carrier
    after.network.close()


def test_what_can_not_be_done_again_is_left_out_or_refused(life: Life) -> None:
    edits: list[Any] = [["link", "gone", False], ["link", "n", False]]
    with pytest.raises(ConfigError):
        replay(life.network, edits, strict=True)
    replay(life.network, edits, strict=False)
    assert not life.network.devices["n"].box.port.carrier
