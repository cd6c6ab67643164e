# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Filters and chardevs that come, go and change over a monitor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.monitor.client import Client
from vmwire.monitor.monitor import Monitor
from vmwire.network import Network

DEVICE_NOT_FOUND = "DeviceNotFound"
GENERIC = "GenericError"


@pytest.fixture(autouse=True)
def members(network: Network) -> None:
    network.add_netdev("null", id="u")
    network.add_nic("null", id="n", netdev="u")


def add(client: Client, type: str, id: str, **options: Any) -> dict[str, Any]:
    return client.ask_with("object-add", {"qom-type": type, "id": id, "netdev": "u", **options})


def buffer(client: Client, id: str, **options: Any) -> None:
    assert add(client, "filter-buffer", id, interval=1000, **options) == {"return": {}}


def chardev(client: Client, id: str, path: object, **options: Any) -> dict[str, Any]:
    data = {"addr": {"type": "unix", "data": {"path": str(path)}}, "server": True, **options}
    return client.ask("chardev-add", id=id, backend={"type": "socket", "data": data})


def test_a_filter_comes_where_it_is_wanted_and_goes(client: Client, network: Network) -> None:
    buffer(client, "a")
    buffer(client, "b", position="head", queue="rx", status="off")
    buffer(client, "c", position="id=a", insert="before")
    assert network.links == [["n", "a", "c", "b", "u"]]
    assert client.ask("object-del", id="c") == {"return": {}}
    assert network.links == [["n", "a", "b", "u"]]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "Parameter 'qom-type' is missing"),
        ({"qom-type": "filter-buffer"}, "Parameter 'id' is missing"),
        ({"qom-type": 5, "id": "b"}, "Invalid parameter type for 'qom-type', expected: string"),
        ({"qom-type": "nosuch", "id": "b"}, "Parameter 'qom-type' does not accept value 'nosuch'"),
        ({"qom-type": "filter-buffer", "id": "b"}, "Parameter 'netdev' is missing"),
        (
            {"qom-type": "filter-buffer", "id": "b", "netdev": "u", "interval": "5"},
            "Parameter 'interval' expects uint64",
        ),
        (
            {"qom-type": "filter-buffer", "id": "b x", "netdev": "u", "interval": 5},
            "Parameter 'id' expects an identifier",
        ),
        (
            {"qom-type": "filter-buffer", "id": "a", "netdev": "u", "interval": 5},
            "attempt to add duplicate property 'a' to object (type 'container')",
        ),
        (
            {"qom-type": "filter-buffer", "id": "b", "netdev": "n", "interval": 5},
            "Parameter 'netdev' expects a network backend id",
        ),
    ],
)
def test_a_filter_that_can_not_be_had_is_refused_in_qemus_words(
    client: Client, network: Network, arguments: dict[str, Any], text: str
) -> None:
    buffer(client, "a")
    assert client.ask_with("object-add", arguments)["error"] == {"class": GENERIC, "desc": text}
    assert network.links == [["n", "a", "u"]]


def test_only_objects_are_deleted(client: Client, network: Network, tmp_path: Path) -> None:
    network.capture("u", tmp_path / "u.pcap", name="seen")
    for id in ("seen", "u", "nosuch", "/objects/seen"):
        assert client.refused("object-del", id=id) == (GENERIC, f"object '{id}' not found")


def test_the_tree_shows_objects_with_their_properties(client: Client, tmp_path: Path) -> None:
    buffer(client, "b")
    chardev(client, "c", tmp_path / "c")
    for path, member in (("/objects", "b"), ("/chardevs", "c"), ("/machine/peripheral", "n")):
        names = {each["name"]: each["type"] for each in client.get("qom-list", path=path)}
        assert names["type"] == "string" and names[member].startswith("child<")
    assert {each["name"]: each["type"] for each in client.get("qom-list", path="b")} == {
        "type": "string", "queue": "NetFilterDirection", "netdev": "string", "insert": "string",
        "status": "string", "position": "string", "interval": "uint32",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/objects/no", (DEVICE_NOT_FOUND, "Device '/objects/no' not found")),
        ("no", (DEVICE_NOT_FOUND, "Device 'no' not found")),
        ("", (GENERIC, "Path '' is ambiguous")),
    ],
)
def test_a_path_that_leads_nowhere_is_told(
    client: Client, path: str, error: tuple[str, str]
) -> None:
    assert client.refused("qom-list", path=path) == error
    where = (DEVICE_NOT_FOUND, f"Device '{path}' not found")
    assert client.refused("qom-get", path=path, property="type") == where


def test_what_may_change_is_changed_and_in_force(client: Client, network: Network) -> None:
    buffer(client, "b")
    box: Any = network.filters["b"].box
    for key, value in (("queue", "rx"), ("interval", 5), ("status", "off")):
        assert client.ask("qom-set", path="/objects/b", property=key, value=value) == {"return": {}}
        assert client.get("qom-get", path="b", property=key) == value
    assert not box.takes(box.right)
    client.get("qom-set", path="b", property="status", value="on")
    assert box.takes(box.right) and not box.takes(box.left)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("status", "x", "Invalid value for netfilter status, should be 'on' or 'off'"),
        ("status", True, "Invalid parameter type for 'status', expected: string"),
        ("queue", "x", "Parameter 'queue' does not accept value 'x'"),
        ("interval", "5", "Parameter 'interval' expects uint64"),
        ("interval", 0, "Property 'filter-buffer.interval' requires a positive value"),
        ("bogus", 1, "Property 'filter-buffer.bogus' not found"),
        ("type", "x", "Property 'filter-buffer.type' is not writable"),
        (
            "netdev",
            "v",
            "Property 'filter-buffer.netdev' is fixed while the object is there: "
            "delete it and add it anew",
        ),
    ],
)
def test_a_change_that_can_not_be_leaves_all_as_it_was(
    client: Client, key: str, value: Any, text: str
) -> None:
    buffer(client, "b", queue="tx")
    before = client.hmp("info network")
    assert client.refused("qom-set", path="b", property=key, value=value) == (GENERIC, text)
    assert client.hmp("info network") == before


def test_a_card_is_read_but_not_changed(client: Client, network: Network, tmp_path: Path) -> None:
    network.add_nic("virtio-net-pci", id="v", mac="52:54:00:00:00:09", socket=str(tmp_path / "v"))
    path = "/machine/peripheral/v"
    assert client.get("qom-get", path=path, property="mac") == "52:54:00:00:00:09"
    assert client.refused("qom-set", path=path, property="mac", value="x") == (
        GENERIC,
        "Attempt to set property 'mac' on device 'v' (type 'virtio-net-pci') after it was realized",
    )


def test_a_chardev_serves_one_filter_and_goes_when_that_is_gone(
    client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "c"
    assert chardev(client, "c", path, wait=False) == {"return": {}}
    assert not path.exists()
    assert add(client, "filter-mirror", "m", outdev="c") == {"return": {}}
    assert path.is_socket()
    assert add(client, "filter-mirror", "x", outdev="c")["error"]["desc"] == (
        "chardev 'c' is already in use"
    )
    assert client.refused("chardev-remove", id="c") == (GENERIC, "Chardev 'c' is busy")
    client.get("object-del", id="m")
    client.get("chardev-remove", id="c")
    assert client.refused("chardev-remove", id="c") == (GENERIC, "Chardev 'c' not found")
    error = add(client, "filter-redirector", "r", indev="c")["error"]
    assert error == {"class": DEVICE_NOT_FOUND, "desc": "IN Device 'c' not found"}


HERE = {"host": "127.0.0.1", "port": "1"}
INET = {"type": "inet", "data": HERE}


@pytest.mark.parametrize(
    ("backend", "text"),
    [
        (5, "Invalid parameter type for 'backend', expected: object"),
        ({}, "Parameter 'backend.type' is missing"),
        ({"type": "socket"}, "Parameter 'backend.data' is missing"),
        ({"type": "socket", "data": []}, "Invalid parameter type for 'backend.data', expected"),
        ({"type": "x", "data": {}}, "Parameter 'type' does not accept value 'x'"),
        ({"type": "pty", "data": {}}, "chardev 'pty' is not served by vmwire yet"),
        ({"type": "socket", "data": {}, "x": 1}, "Parameter 'backend.x' is unexpected"),
        ({"type": "socket", "data": {}}, "Parameter 'backend.data.addr' is missing"),
        (
            {"type": "socket", "data": {"addr": {"type": "unix", "data": {}}}},
            "Parameter 'backend.data.addr.data.path' is missing",
        ),
        (
            {"type": "socket", "data": {"addr": INET, "telnet": True}},
            "'telnet' of socket is not served by vmwire yet",
        ),
        (
            {"type": "socket", "data": {"addr": INET, "x": True}},
            "Parameter 'backend.data.x' is unexpected",
        ),
        (
            {"type": "socket", "data": {"addr": INET, "server": "on"}},
            "Invalid parameter type for 'backend.data.server', expected: boolean",
        ),
        (
            {"type": "socket", "data": {"addr": {"type": "inet", "data": HERE | {"mptcp": True}}}},
            "'mptcp' of a chardev is not served by vmwire yet",
        ),
    ],
)
def test_a_chardev_that_can_not_be_had_is_told_where(
    client: Client, network: Network, backend: Any, text: str
) -> None:
    kind, told = client.refused("chardev-add", id="c", backend=backend)
    assert kind == GENERIC and told.startswith(text)
    assert not network.objects.chardevs


def test_chardevs_have_one_id_each(client: Client, network: Network) -> None:
    network.objects.taken.add("mon0")
    chardev(client, "c", "/c")
    for id in ("c", "mon0"):
        error = chardev(client, id, "/d")["error"]
        assert error["desc"] == f"Chardev with id '{id}' already exists"
    assert add(client, "filter-mirror", "m", outdev="mon0")["error"]["desc"] == (
        "chardev 'mon0' is already in use"
    )


def test_the_human_monitor_does_the_same(client: Client, network: Network, tmp_path: Path) -> None:
    path = tmp_path / "c"
    assert client.hmp(f"chardev-add socket,id=c,path={path},server=on,wait=off") == []
    assert client.hmp("object_add filter-mirror,id=m,netdev=u,outdev=c") == []
    assert client.hmp("object_add filter-mirror,id=m,netdev=u,outdev=c") == [
        "Error: attempt to add duplicate property 'm' to object (type 'container')"
    ]
    assert client.hmp("qom-set /objects/m status off") == []
    assert client.hmp("qom-get /objects/m status") == ['"off"']
    assert client.hmp('qom-set -j /objects/m status "on"') == []
    assert client.hmp("qom-get m status") == ['"on"']
    assert client.hmp("qom-set -j m status on") == ["Error: JSON parse error, invalid value"]
    assert "outdev (string)" in client.hmp("qom-list m")
    assert client.hmp("qom-list") == ["/"]
    assert client.hmp("object_del m") == client.hmp("chardev-remove c") == []
    assert not network.filters and not network.objects.chardevs


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("object_del", "object_del: string expected"),
        ("object_del a b", "object_del: extraneous characters at the end of line"),
        ("object_add", "object_add: string expected"),
        ("qom-get a", "qom-get: string expected"),
        ("qom-set -j a b", "qom-set: string expected"),
    ],
)
def test_the_human_monitor_counts_words(client: Client, line: str, fault: str) -> None:
    name = line.split()[0]
    assert client.hmp(line) == [fault, f'Try "help {name}" for more information']


def test_an_error_of_the_human_monitor_is_a_line(client: Client) -> None:
    assert client.hmp("object_del zz") == ["Error: object 'zz' not found"]
    assert client.hmp("qom-list /objects/zz") == ["Error: Device '/objects/zz' not found"]


def test_a_monitor_without_a_journal_needs_none(network: Network) -> None:
    client = Client(Monitor(network))
    buffer(client, "b")
    assert client.ask("object-del", id="b") == {"return": {}}
