# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The properties of PCI cards, and of the e1000 family."""

from __future__ import annotations

import pytest

from vmwire import catalogue, registry
from vmwire.errors import ConfigError
from vmwire.nic.pci_options import (
    E1000FamilyOptions,
    PciNicOptions,
    slot_keys,
    slot_properties,
)
from vmwire.options.table import table_under

FAMILY = ("e1000", "e1000-82544gc", "e1000-82545em")
CARDS = (*FAMILY, "e1000e")

# Name, type and default as two versions of QEMU state them.
COMMON = {
    "acpi-index": ("uint32", "0"),
    "addr": ("str", None),  # unset and -1 are the same to QEMU
    "bootindex": ("int32", None),
    "busnr": ("busnr", None),
    "failover_pair_id": ("str", None),
    "init-vet": ("bool", "on"),
    "mac": ("str", None),
    "multifunction": ("bool", "off"),
    "netdev": ("str", None),
    "rombar": ("int32", "-1"),
    "romfile": ("str", None),
    "romsize": ("uint32", "4294967295"),
    "sriov-pf": ("str", None),
    "x-max-bounce-buffer-size": ("size", "4096"),
    "x-pcie-ari-nextfn-1": ("bool", "off"),
    "x-pcie-err-unc-mask": ("bool", "on"),
    "x-pcie-ext-tag": ("bool", "on"),
    "x-pcie-extcap-init": ("bool", "on"),
    "x-pcie-lnksta-dllla": ("bool", "on"),
}
OF_8254X = COMMON | dict.fromkeys(
    ("autonegotiation", "extra_mac_registers", "migrate_tso_props", "mitigation"), ("bool", "on")
)
OF_82574 = COMMON | {
    "disable_vnet_hdr": ("uint8", "0"),
    "migrate-timadj": ("bool", "on"),
    "subsys": ("uint16", "0"),
    "subsys_ven": ("uint16", "32902"),
}
FACTS = {**dict.fromkeys(FAMILY, OF_8254X), "e1000e": OF_82574}


def card(text: str) -> PciNicOptions:
    got = catalogue.parse("device", text)
    assert isinstance(got, PciNicOptions)
    return got


@pytest.mark.parametrize("name", CARDS)
def test_help_states_qemus_types_and_defaults(name: str) -> None:
    first, *lines = (catalogue.help_for("device", f"{name},help") or "").splitlines()
    assert first == f"{name} options:"
    stated = {}
    for line in lines:
        key, _, rest = line.removeprefix("  ").partition("=<")
        type_name, _, rest = rest.partition(">")
        _, found, default = rest.partition("(default: ")
        stated[key] = (type_name, default.removesuffix(")") if found else None)
    assert stated.pop("socket") == ("str", None)
    assert stated == FACTS[name]


@pytest.mark.parametrize("name", CARDS)
def test_record_knows_its_driver_and_is_found_by_it(name: str) -> None:
    assert card(f"{name},id=n").driver == name
    assert table_under(PciNicOptions, name).name == name


def test_alias_is_the_first_of_the_family() -> None:
    assert card("e1000-82540em,id=n").driver == "e1000"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("e1000,addr=40", "Property 'e1000.addr' doesn't take value '40'"),
        ("e1000,addr=3.8", "Property 'e1000.addr' doesn't take value '3.8'"),
        ("e1000-82544gc,addr=zz", "Property 'e1000-82544gc.addr' doesn't take value 'zz'"),
        ("e1000,mac=zz", "Property 'e1000.mac' doesn't take value 'zz'"),
        ("e1000,rombar=abc", "Parameter 'rombar' expects integer"),
        ("e1000,bootindex=abc", "Parameter 'bootindex' expects integer"),
        ("e1000,multifunction=maybe", "Parameter 'multifunction' expects 'on' or 'off'"),
        ("e1000,vlan=0", "Property 'e1000.vlan' not found"),
        ("e1000e,subsys=99999", "Parameter 'subsys' expects uint16_t"),
        ("e1000e,disable_vnet_hdr=256", "Parameter 'disable_vnet_hdr' expects uint8_t"),
        ("e1000e,mitigation=off", "Property 'e1000e.mitigation' not found"),
        ("e1000,busnr=0", "Property 'e1000.busnr' is not writable"),
        ("e1000,sriov-pf=x", "user cannot create SR-IOV VF with this device type"),
        (
            "e1000,x-max-bounce-buffer-size=-1",
            "Parameter 'x-max-bounce-buffer-size' expects size",
        ),
    ],
)
def test_faults_are_told_as_qemu_tells_them(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        catalogue.parse("device", text)
    assert caught.value.message == fault


@pytest.mark.parametrize("address", ["5", "05.0", "1f.7", "0x1f", "-1"])
def test_addresses_in_all_spellings_are_taken(address: str) -> None:
    assert card(f"e1000,addr={address}").addr == address


@pytest.mark.parametrize("path", ["", "/" + "x" * 107])
def test_socket_path_that_no_socket_can_have_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="socket path"):
        catalogue.parse("device", f"e1000,socket={path}")


def test_slots_half_is_handed_on_as_json_values_and_the_cards_is_not() -> None:
    given = card(
        "e1000,id=n,netdev=u,mac=52:54:00:00:00:01,addr=5,bootindex=0x10,multifunction=on,"
        "romfile=,rombar=1,mitigation=off,acpi-index=3,failover_pair_id=v,"
        "x-max-bounce-buffer-size=8k,x-pcie-extcap-init=off,socket=/run/n"
    )
    assert slot_properties(given) == {
        "acpi-index": 3,
        "addr": "5",
        "bootindex": 16,
        "failover_pair_id": "v",
        "multifunction": True,
        "rombar": 1,
        "romfile": "",
        "x-max-bounce-buffer-size": 8192,
    }
    assert isinstance(given, E1000FamilyOptions)
    assert given.mitigation is False


def test_every_key_is_the_slots_or_the_cards() -> None:
    keys = set(slot_keys(record_of("e1000")))
    assert {"addr", "bus", "romfile", "bootindex"} <= keys
    assert not keys & {"mac", "netdev", "id", "socket", "mitigation", "init-vet"}


def record_of(name: str) -> type[PciNicOptions]:
    return type(card(f"{name},id=n"))


@pytest.mark.parametrize("name", CARDS)
def test_the_registry_names_the_box_behind_vfio_user(name: str) -> None:
    assert registry.DEVICES[name] == "vmwire.attach.vfio_user.nic:VfioUserNic"
