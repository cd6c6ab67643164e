# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The monitor over a machine of ours, with a real card in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.monitor.client import Client
from vmwire.bench.machine import Bench
from vmwire.cli.headless import Headless
from vmwire.monitor.monitor import Monitor

EJECT = 0xAE08
"""ACPI's register for letting slots go, a bit a slot."""


@pytest.fixture
def machine() -> Iterator[Headless]:
    with Headless(Bench(), "pc") as made:
        made.network.add_netdev("null", id="u")
        made.network.add_nic("e1000", id="n0", netdev="u", addr="4")
        made.network.add_nic("virtio-net-pci", id="v0", addr="5")
        yield made


@pytest.fixture
def client(machine: Headless) -> Client:
    client = Client(Monitor(machine.network, machine))
    client.lines.clear()
    return client


def test_cards_stand_on_the_bus_with_their_addresses(client: Client) -> None:
    assert client.hmp("info network") == [
        "n0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56",
        " \\ u: index=0,type=null",
        "v0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:57",
    ]
    (bus,) = client.get("query-pci")
    slots = {each["slot"]: each["qdev_id"] for each in bus["devices"]}
    assert slots.items() >= {4: "n0", 5: "v0"}.items()


def test_card_goes_when_the_guest_ejects_it(client: Client, machine: Headless) -> None:
    client.get("device_del", id="n0")
    assert "n0" in machine.network.devices
    machine.pc.outl(EJECT, 1 << 4)
    assert client.events() == [
        ("DEVICE_DELETED", {"device": "n0", "path": "/machine/peripheral/n0"})
    ]
    assert list(machine.network.devices) == ["v0"]
    assert client.refused("device_del", id="n0")[0] == "DeviceNotFound"


def test_card_goes_with_the_reset(client: Client, machine: Headless) -> None:
    client.get("device_del", id="v0")
    again = client.refused("device_del", id="v0")
    assert again == ("GenericError", "Device v0 is already in the process of unplug")
    client.get("system_reset")
    assert client.events() == [
        ("RESET", {"guest": False, "reason": "host-qmp-system-reset"}),
        ("DEVICE_DELETED", {"path": "/machine/peripheral/v0/virtio-backend"}),
        ("DEVICE_DELETED", {"device": "v0", "path": "/machine/peripheral/v0"}),
    ]


def test_card_is_added_where_it_is_asked_for(client: Client, machine: Headless) -> None:
    assert client.ask("device_add", driver="e1000", id="n1", addr="7") == {"return": {}}
    machine.pc.outl(0xCF8, 0x80000000 | 7 << 11)
    assert machine.pc.inl(0xCFC) == 0x100E8086
    words = "PCI: slot 7 function 0 not available for e1000, in use by e1000,id=n1"
    assert client.refused("device_add", driver="e1000", id="b", addr="7") == ("GenericError", words)
    assert client.refused("device_add", driver="e1000", bus="pci.9") == (
        "GenericError",
        "Bus 'pci.9' not found",
    )


def test_card_without_an_id_is_named_for_people_only(client: Client, machine: Headless) -> None:
    client.get("device_add", driver="e1000", addr="7")
    assert client.hmp("info network")[-1].startswith("e1000.1: index=0,type=nic,model=e1000")
    (bus,) = client.get("query-pci")
    assert [each["qdev_id"] for each in bus["devices"] if each["slot"] == 7] == [""]
    assert client.refused("device_del", id="e1000.1")[0] == "DeviceNotFound"
    client.get("device_del", id="/machine/peripheral-anon/device[0]")
    machine.pc.outl(EJECT, 1 << 7)
    assert client.events() == [("DEVICE_DELETED", {"path": "/machine/peripheral-anon/device[0]"})]


def test_filters_change_is_told_once_until_it_was_asked(client: Client, machine: Headless) -> None:
    card = machine.network.devices["v0"].chip.card  # type: ignore[attr-defined]
    told = (
        "NIC_RX_FILTER_CHANGED",
        {"name": "v0", "path": "/machine/peripheral/v0/virtio-backend"},
    )
    card.filter_changed()
    card.filter_changed()
    assert client.events() == [told]
    (filter,) = client.get("query-rx-filter")
    assert filter["name"] == "v0" and filter["main-mac"] == "52:54:00:12:34:57"
    client.lines.clear()
    card.filter_changed()
    assert client.events() == [told]


def test_seated_card_announces_itself(client: Client, machine: Headless) -> None:
    client.get("announce-self", initial=1, max=1, rounds=1, step=1)
    assert machine.network.netdevs["u"].box.stats()["received"] == 1


def test_stopped_machine_takes_nothing_from_the_wire(client: Client, machine: Headless) -> None:
    client.get("stop")
    assert client.events() == [("STOP", None)]
    assert client.get("query-status")["running"] is False
    assert not machine.network.inject("n0", bytes(60))
    client.get("cont")
    assert client.get("query-status")["running"] is True
