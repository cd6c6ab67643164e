# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Cards over QMP: types, properties, adding, removing. Texts of errors are those of QEMU 11.1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.monitor.client import Client, FakeMachine
from vmwire import catalogue
from vmwire.monitor.monitor import Monitor
from vmwire.network import Network

GENERIC = "GenericError"
CARDS = [table.name for table in catalogue.tables("device")]


def add(client: Client, tmp_path: Path, **arguments: Any) -> dict[str, Any]:
    """device_add with a socket in a folder of the test's."""
    socket = tmp_path / f"{arguments.get('id', 'x')}.sock"
    return client.ask("device_add", **arguments, socket=str(socket))


def test_card_is_added_joined_and_removed(client: Client, network: Network, tmp_path: Path) -> None:
    network.add_netdev("null", id="u")
    assert add(client, tmp_path, driver="e1000", id="n0", netdev="u") == {"return": {}}
    assert (tmp_path / "n0.sock").is_socket()
    assert network.links == [["n0", "u"]]
    assert client.ask("device_del", id="n0") == {"return": {}}
    assert client.events() == [
        ("DEVICE_DELETED", {"device": "n0", "path": "/machine/peripheral/n0"})
    ]
    assert not (tmp_path / "n0.sock").exists()
    assert client.refused("device_del", id="n0") == ("DeviceNotFound", "Device 'n0' not found")


def test_virtio_card_that_goes_is_told_as_two_devices(client: Client, tmp_path: Path) -> None:
    add(client, tmp_path, driver="virtio-net-pci", id="v0")
    client.get("device_del", id="/machine/peripheral/v0")
    assert client.events() == [
        ("DEVICE_DELETED", {"path": "/machine/peripheral/v0/virtio-backend"}),
        ("DEVICE_DELETED", {"device": "v0", "path": "/machine/peripheral/v0"}),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "Parameter 'driver' is missing"),
        ({"driver": 5}, "Parameter 'driver' is missing"),
        ({"driver": "nosuch", "id": "n0"}, "'nosuch' is not a valid device model name"),
        ({"driver": "pci-device"}, "Parameter 'driver' expects a non-abstract device type"),
        ({"driver": "e1000", "id": "n0", "bogus": 1}, "Duplicate device ID 'n0'"),
        ({"driver": "e1000", "id": "1z", "bogus": 1}, "Invalid qdev ID '1z'"),
        ({"driver": "e1000", "id": "b", "bogus": 1}, "Property 'e1000.bogus' not found"),
        ({"driver": "e1000", "mac": "zz"}, "Property 'e1000.mac' doesn't take value 'zz'"),
        ({"driver": "e1000", "mac": 5}, "Invalid parameter type for 'mac', expected: string"),
        ({"driver": "e1000", "addr": "99"}, "Property 'e1000.addr' doesn't take value '99'"),
        (
            {"driver": "e1000", "rombar": "1"},
            "Invalid parameter type for 'rombar', expected: integer",
        ),
        ({"driver": "e1000", "rombar": 99999999999}, "Parameter 'rombar' expects int32_t"),
        (
            {"driver": "e1000", "multifunction": "on"},
            "Invalid parameter type for 'multifunction', expected: boolean",
        ),
        ({"driver": "e1000", "netdev": "zz"}, "Property 'e1000.netdev' can't find value 'zz'"),
        (
            {"driver": "e1000", "netdev": "u0"},
            "Property 'e1000.netdev' can't take value 'u0', it's in use",
        ),
    ],
)
def test_card_that_can_not_be_is_refused(
    client: Client, network: Network, tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    network.add_netdev("null", id="u0")
    network.add_nic("null", id="n0", netdev="u0")
    if "driver" in arguments and "bogus" not in arguments:
        arguments = {**arguments, "socket": str(tmp_path / "x.sock")}
    assert client.ask_with("device_add", arguments)["error"] == {"class": GENERIC, "desc": words}
    assert list(network.devices) == ["n0"]


def test_card_that_a_machine_uses_stays(client: Client, network: Network) -> None:
    network.add_nic("null", id="n0")
    network.devices["n0"].box.stats = lambda: {"connected": True}  # type: ignore[method-assign]
    kind, words = client.refused("device_del", id="n0")
    assert kind == GENERIC and "in use by a machine" in words


def test_guest_of_a_machine_is_asked_to_let_go(
    pc: Client, network: Network, machine: FakeMachine
) -> None:
    network.add_nic("null", id="n0")
    network.add_nic("null")
    path = "/machine/peripheral-anon/device[0]"
    assert pc.ask("device_del", id="n0") == {"return": {}}
    assert pc.ask("device_del", id=path) == {"return": {}}
    assert machine.unplugged == ["n0", "null.1"]
    assert pc.events() == []
    for id in machine.unplugged:
        machine.on_event("DEVICE_DELETED", {"device": id, "path": f"/machine/peripheral/{id}"})
    assert pc.events() == [
        ("DEVICE_DELETED", {"device": "n0", "path": "/machine/peripheral/n0"}),
        ("DEVICE_DELETED", {"path": path}),
    ]


def test_cards_without_an_address_get_the_next_one(
    client: Client, network: Network, tmp_path: Path
) -> None:
    for id in ("n0", "n1"):
        add(client, tmp_path, driver="e1000", id=id)
    add(client, tmp_path, driver="e1000", id="m", mac="52:54:00:12:34:58")
    add(client, tmp_path, driver="e1000", id="n3")
    macs = [member.mac[-1] for member in network.devices.values() if member.mac]
    assert macs == [0x56, 0x57, 0x58, 0x59]
    client.get("device_del", id="n0")
    add(client, tmp_path, driver="e1000", id="n4")
    assert network.devices["n4"].mac == bytes.fromhex("525400123456")


def test_card_whose_address_is_the_machines_gets_none(
    client: Client, network: Network, tmp_path: Path
) -> None:
    """An announcement with a wrong address would lead switches astray."""
    add(client, tmp_path, driver="virtio-net-pci", id="v0", attach="vhost-user")
    assert network.devices["v0"].mac is None
    assert client.get("announce-self", initial=1, max=1, rounds=1, step=1) == {}


# --- types --------------------------------------------------------------------------------------


def names(types: list[dict[str, Any]]) -> set[str]:
    return {each["name"] for each in types}


def test_types_are_what_vmwire_has(client: Client, pc: Client) -> None:
    assert names(client.get("qom-list-types", implements="device")) == set(CARDS)
    with_machine = pc.get("qom-list-types")
    assert set(CARDS) | {"i440FX-pcihost", "pc-machine", "none-machine"} <= names(with_machine)
    assert not any("abstract" in each for each in with_machine)


def test_types_form_a_tree(pc: Client) -> None:
    types = {each["name"]: each for each in pc.get("qom-list-types", abstract=True)}
    for each in types.values():
        while "parent" in each:
            assert each["name"] in names(
                pc.get("qom-list-types", implements=each["parent"], abstract=True)
            )
            each = types[each["parent"]]
        assert each["name"] in ("object", "interface")


def test_types_are_also_their_interfaces(client: Client) -> None:
    conventional = names(client.get("qom-list-types", implements="conventional-pci-device"))
    express = names(client.get("qom-list-types", implements="pci-express-device"))
    assert "e1000" in conventional - express
    assert "virtio-net-pci" in conventional & express
    assert client.get("qom-list-types", implements="nosuch") == []


def test_types_arguments_are_checked(client: Client) -> None:
    words = "Invalid parameter type for 'implements', expected: string"
    assert client.refused("qom-list-types", implements=5) == (GENERIC, words)
    words = "Invalid parameter type for 'abstract', expected: boolean"
    assert client.refused("qom-list-types", abstract="x") == (GENERIC, words)


@pytest.mark.parametrize("card", CARDS)
def test_properties_are_typed_and_can_be_given(card: str, pc: Client) -> None:
    listed = {each["name"]: each for each in pc.get("device-list-properties", typename=card)}
    table = catalogue.find("device", card)
    assert listed.keys() == {
        key for key, each in table.entries.items() if not each.option.hidden | each.option.ours
    }
    assert listed["mac"]["type"] == "str" and "default-value" not in listed["mac"]
    assert all(each.get("default-value", 0) is not None for each in listed.values())


def test_properties_defaults_are_qemus(pc: Client) -> None:
    listed = {each["name"]: each for each in pc.get("device-list-properties", typename="e1000")}
    found = {name: (each["type"], each.get("default-value")) for name, each in listed.items()}
    assert (
        found.items()
        >= {
            "addr": ("str", -1),
            "acpi-index": ("uint32", 0),
            "bootindex": ("int32", None),
            "init-vet": ("bool", True),
            "multifunction": ("bool", False),
            "rombar": ("int32", -1),
            "romfile": ("str", None),
            "romsize": ("uint32", 4294967295),
        }.items()
    )


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({}, GENERIC, "Parameter 'typename' is missing"),
        ({"typename": "nosuch"}, "DeviceNotFound", "Device 'nosuch' not found"),
        ({"typename": "e1000-82540em"}, "DeviceNotFound", "Device 'e1000-82540em' not found"),
        (
            {"typename": "pci-device"},
            GENERIC,
            "Parameter 'typename' expects a non-abstract device type",
        ),
        (
            {"typename": "machine"},
            GENERIC,
            "Parameter 'typename' expects a non-abstract device type",
        ),
    ],
)
def test_properties_of_what_is_no_device(
    pc: Client, arguments: dict[str, Any], kind: str, words: str
) -> None:
    assert pc.refused("device-list-properties", **arguments) == (kind, words)


def test_everything_can_be_written_as_json(network: Network, machine: FakeMachine) -> None:
    client = Client(Monitor(network, machine))
    for card in CARDS:
        json.dumps(client.get("device-list-properties", typename=card))
