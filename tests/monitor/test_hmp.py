# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The human monitor's texts, as QEMU 11.1 was recorded to say them."""

from __future__ import annotations

import os

import pytest

from tests.monitor.client import Client, FakeMachine
from vmwire.monitor.machine import PciFunctionView, PciRegion
from vmwire.network import Network

N0 = "n0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56"
U0 = "u0: index=0,type=user,net=10.0.2.0,restrict=off"


@pytest.fixture
def filled(network: Network, tmp_path: os.PathLike[str]) -> Network:
    network.add_netdev("user", id="u0")
    network.add_nic("e1000", id="n0", netdev="u0", socket=f"{tmp_path}/n0.sock")
    return network


def test_empty_network_says_nothing(client: Client) -> None:
    assert client.hmp("info network") == []


def test_card_stands_before_its_netdev(client: Client, filled: Network) -> None:
    assert client.hmp("info network") == [N0, f" \\ {U0}"]


def test_members_that_are_alone_stand_in_the_order_in_which_they_came(
    client: Client, filled: Network
) -> None:
    filled.add_netdev("user", id="u1", net="10.9.0.0/24", restrict=True)
    filled.add_nic("null", id="x")
    assert client.hmp("info network") == [
        N0,
        f" \\ {U0}",
        "u1: index=0,type=user,net=10.9.0.0,restrict=on",
        "x: index=0,type=nic,model=null,macaddr=00:00:00:00:00:00",
    ]


def test_address_that_the_driver_gave_is_shown(client: Client, network: Network) -> None:
    network.add_nic("null", id="x")
    network.devices["x"].box.mac = bytes.fromhex("525400bbbbbb")  # type: ignore[attr-defined]
    assert client.hmp("info network") == [
        "x: index=0,type=nic,model=null,macaddr=52:54:00:bb:bb:bb"
    ]


def test_hubs_come_first_the_newest_on_top(
    client: Client, network: Network, tmp_path: os.PathLike[str]
) -> None:
    network.add_netdev("user", id="u0")
    network.add_netdev("hubport", id="h0", hubid=0, netdev="u0")
    network.add_netdev("hubport", id="h1", hubid=0)
    network.add_nic("e1000", id="n0", netdev="h1", socket=f"{tmp_path}/n0.sock")
    network.add_netdev("hubport", id="q3", hubid=7)
    assert client.hmp("info network") == [
        "hub 7",
        " \\ q3",
        "hub 0",
        f" \\ h1: {N0}",
        f" \\ h0: {U0}",
    ]


def test_filters_stand_behind_their_netdev(client: Client, filled: Network) -> None:
    filled.add_filter("filter-buffer", id="f0", netdev="u0", interval=1000)
    assert client.hmp("info network") == [
        N0,
        f" \\ {U0}",
        "filters:",
        "  - f0: type=filter-buffer,interval=1000,position=tail,status=on,insert=behind,"
        "netdev=u0,queue=all",
    ]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("", []),
        ("nosuch", ["unknown command: 'nosuch'"]),
        ("info nosuch", ["unknown command: 'info nosuch'"]),
        ("info net", ["unknown command: 'info net'"]),
        (
            "info network x",
            [
                "network: extraneous characters at the end of line",
                'Try "help info network" for more information',
            ],
        ),
        ("help info network", ["info network  -- show the network state"]),
        ("  info   network ", []),
    ],
)
def test_lines_are_answered_in_qemus_words(client: Client, line: str, answer: list[str]) -> None:
    assert client.hmp(line) == answer


def test_bus_is_known_only_with_a_machine(client: Client, pc: Client) -> None:
    assert client.hmp("info pci") == ["unknown command: 'info pci'"]
    assert client.hmp("info") == ["info network  -- show the network state"]
    assert pc.hmp("info pci") == []


FUNCTIONS = [
    PciFunctionView(0, 0, "", 0x8086, 0x1237, 0x1AF4, 0x1100, 0x0600, 0, 0, ()),
    PciFunctionView(
        4, 0, "n0", 0x8086, 0x100E, 0x1AF4, 0x1100, 0x0200, 1, 11,
        (
            PciRegion(0, "memory", 0x20000, 0xE0000000),
            PciRegion(1, "io", 0x40, 0xC000),
            PciRegion(4, "memory", 0x4000, 0x100000000, wide=True, prefetchable=True),
            PciRegion(6, "memory", 0x40000, None),
        ),
    ),
]  # fmt: skip


def test_functions_are_listed_with_their_bars(
    pc: Client, machine: FakeMachine, network: Network
) -> None:
    machine.functions = FUNCTIONS
    network.add_nic("null", id="n0")
    assert pc.hmp("info pci") == [
        "  Bus  0, device   0, function 0:",
        "    Host bridge: PCI device 8086:1237",
        "      PCI subsystem 1af4:1100",
        '      id ""',
        "  Bus  0, device   4, function 0:",
        "    Ethernet controller: PCI device 8086:100e",
        "      PCI subsystem 1af4:1100",
        "      IRQ 11, pin A",
        "      BAR0: 32 bit memory at 0xe0000000 [0xe001ffff]",
        "      BAR1: I/O at 0xc000 [0xc03f]",
        "      BAR4: 64 bit prefetchable memory at 0x100000000 [0x100003fff]",
        "      BAR6: 32 bit memory (not mapped)",
        '      id "n0"',
    ]


def test_query_pci_says_the_same_as_data(
    pc: Client, machine: FakeMachine, network: Network
) -> None:
    machine.functions = FUNCTIONS
    network.add_nic("null", id="n0")
    (bus,) = pc.get("query-pci")
    bridge, card = bus["devices"]
    assert bus["bus"] == 0
    assert "irq" not in bridge and bridge["irq_pin"] == 0 and bridge["qdev_id"] == ""
    assert card["class_info"] == {"class": 512, "desc": "Ethernet controller"}
    assert card["id"] == {
        "vendor": 0x8086, "device": 0x100E, "subsystem-vendor": 0x1AF4, "subsystem": 0x1100
    }  # fmt: skip
    assert (card["slot"], card["irq"], card["irq_pin"], card["qdev_id"]) == (4, 11, 1, "n0")
    assert card["regions"][:2] == [
        {
            "bar": 0,
            "type": "memory",
            "address": 0xE0000000,
            "size": 0x20000,
            "prefetch": False,
            "mem_type_64": False,
        },
        {"bar": 1, "type": "io", "address": 0xC000, "size": 0x40},
    ]
    assert card["regions"][3]["address"] == -1
