# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``-net`` and ``-nic`` in today's words."""

from __future__ import annotations

import pytest

from vmwire import catalogue
from vmwire.errors import ConfigError
from vmwire.options import old_spellings
from vmwire.options.old_spellings import Modern, parse_nic_mac, read_vlans


def modern(*nets: str, nics: tuple[str, ...] = (), netdevs: tuple[str, ...] = ()) -> Modern:
    return old_spellings.modern(nets, nics, netdevs, "e1000", catalogue.nic_models())


def netdevs(found: Modern) -> list[str]:
    return [each.text for each in found.netdevs]


def devices(found: Modern) -> list[str]:
    return [each.text for each in found.devices]


def objects(found: Modern) -> list[str]:
    return [each.text for each in found.objects]


def test_one_card_and_one_back_end_are_a_pair() -> None:
    found = modern("nic,model=e1000", "user,net=10.1.0.0/24")
    assert netdevs(found) == ["user,id=user.0,net=10.1.0.0/24"]
    assert devices(found) == ["e1000,id=e1000.0,netdev=user.0"]
    assert not found.warnings


def test_each_vlan_is_a_network_of_its_own() -> None:
    found = modern("nic,vlan=1", "user", "nic,model=virtio", "tap,vlan=1,ifname=t0")
    assert netdevs(found) == ["user,id=user.0", "tap,id=tap.0,ifname=t0"]
    assert devices(found) == [
        "e1000,id=e1000.0,netdev=tap.0",
        "virtio-net-pci,id=virtio-net-pci.0,netdev=user.0",
    ]


def test_several_cards_on_a_vlan_share_a_hub() -> None:
    found = modern("nic,vlan=3", "nic,vlan=3", "user,vlan=3")
    assert netdevs(found) == [
        "hubport,id=hub3port0,hubid=3",
        "hubport,id=hub3port1,hubid=3",
        "user,id=user.0",
        "hubport,id=hub3port2,hubid=3,netdev=user.0",
    ]
    assert devices(found) == [
        "e1000,id=e1000.0,netdev=hub3port0",
        "e1000,id=e1000.1,netdev=hub3port1",
    ]


def test_a_pair_is_on_the_hub_that_a_hubport_asks_for() -> None:
    found = modern("nic", "user", netdevs=("hubport,id=h,hubid=0",))
    assert "hubport,id=hub0port1,hubid=0,netdev=user.0" in netdevs(found)


@pytest.mark.parametrize("nets", [("nic", "user"), ("user", "nic")])
def test_back_ends_without_any_card_of_the_vlan_are_told(nets: tuple[str, ...]) -> None:
    assert modern(*nets).warnings == []
    kind = nets[0]
    words = {"nic": "is not connected to host network", "user": "with no nics"}
    assert modern(kind).warnings == [f"hub 0 {words[kind]}"]


def test_all_of_a_card_goes_to_the_device() -> None:
    text = "nic,model=virtio,macaddr=52:54:0:a:b:c,name=front,addr=5,vectors=2"
    assert devices(modern(text, "user")) == [
        "virtio-net-pci,id=front,netdev=user.0,mac=52:54:00:0a:0b:0c,addr=5,vectors=2"
    ]


def test_a_card_without_msix_ignores_vectors() -> None:
    assert "vectors" not in devices(modern("nic,model=e1000,vectors=4", "user"))[0]


def test_a_zero_address_is_none() -> None:
    assert "mac=" not in devices(modern("nic,macaddr=00:00:00:00:00:00", "user"))[0]


def test_an_address_may_be_a_number() -> None:
    assert parse_nic_mac("0x123456").hex() == "525400123456"


def test_a_card_with_a_netdev_is_on_no_vlan() -> None:
    found = modern("nic,netdev=u", netdevs=("user,id=u",))
    assert (netdevs(found), devices(found)) == ([], ["e1000,id=e1000.0,netdev=u"])


def test_a_dump_hears_the_back_end() -> None:
    found = modern("nic", "user,name=out", "dump,len=1k,file=a.pcap")
    assert objects(found) == ["filter-dump,id=dump.0,netdev=out,file=a.pcap,maxlen=1024"]


def test_a_dump_has_a_file_by_the_number_of_its_vlan() -> None:
    found = modern("nic,vlan=2", "nic,vlan=2", "dump,vlan=2")
    assert objects(found) == [
        "filter-dump,id=dump.0,netdev=hub2port0,file=qemu-vlan2.pcap,maxlen=65536"
    ]


def test_a_lone_dump_has_a_port() -> None:
    assert netdevs(modern("dump")) == ["hubport,id=hub0port0,hubid=0"]


def test_names_are_nobody_elses() -> None:
    found = modern("user", "user,name=a", "user,name=a", "nic", netdevs=("user,id=user.0",))
    assert [text for text in netdevs(found) if text.startswith("user")] == [
        "user,id=user.1",
        "user,id=a",
        "user,id=user.2",
    ]


def test_cards_of_one_name_are_two() -> None:
    found = modern("nic,name=a", "nic,name=a", "user")
    assert [text.split(",")[1] for text in devices(found)] == ["id=a", "id=e1000.0"]


def test_none_is_nothing() -> None:
    assert modern("none", "none,vlan=2") == Modern()


NICS = {
    "user,model=virtio": ("user,id=nic0", "virtio-net-pci,netdev=nic0"),
    "model=e1000e": ("user,id=nic0", "e1000e,netdev=nic0"),
    "tap,id=t,ifname=x,mac=52:54:00:00:00:07": (
        "tap,id=t,ifname=x",
        "e1000,netdev=t,mac=52:54:00:00:00:07",
    ),
    "socket,connect=:9,model=e1000": ("socket,id=nic0,connect=:9", "e1000,netdev=nic0"),
    "hubport,hubid=4": ("hubport,id=nic0,hubid=4", "e1000,netdev=nic0"),
}


@pytest.mark.parametrize("text", NICS)
def test_a_nic_is_a_pair(text: str) -> None:
    found = modern(nics=(text,))
    assert (netdevs(found), devices(found)) == ([NICS[text][0]], [NICS[text][1]])


def test_cards_of_nic_come_before_those_of_net() -> None:
    found = modern("nic", "user", nics=("none", "user,model=e1000e"))
    assert [each.typed for each in found.devices] == ["-nic user,model=e1000e", "-net nic"]


# As QEMU 7.2 and 11.1 say it, but for the last two, which are 2.11's.
WRONG = {
    "nic,bogus=1": "Invalid parameter 'bogus'",
    "nic,macaddr=zz": "invalid syntax for ethernet address",
    "nic,macaddr=52:54:00:12:34": "invalid syntax for ethernet address",
    "nic,macaddr=01:00:5e:00:00:01": "NIC cannot have multicast MAC address (odd 1st byte)",
    "nic,vectors=abc": "Parameter 'vectors' expects a uint64 value",
    "nic,vectors=4294967295": "invalid # of vectors: 4294967295",
    "nic,netdev=nosuch": "netdev 'nosuch' not found",
    "nic,model=nosuch": "Unsupported NIC model: nosuch",
    "id=x": "Parameter 'type' is missing",
    "user,id=1x": "Parameter 'id' expects an identifier",
    "none,bogus=2": "Invalid parameter 'bogus'",
    "hubport,hubid=0": "network backend 'hubport' is only supported with -netdev/-nic",
    "user,vlan=x": "Parameter 'vlan' expects an int64 value",
    "dump,len=3000000000": "invalid length: 3000000000",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_said_as_qemu_does(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        modern(text)
    assert str(error.value) == f"-net {text}: {WRONG[text]}"


@pytest.mark.parametrize(
    ("nets", "nics", "said"),
    [
        (("user,id=x", "user,id=x"), (), "-net user,id=x: Duplicate ID 'x' for net"),
        ((), ("user,id=a", "user,id=a"), "-nic user,id=a: Duplicate ID 'a' for nic"),
        ((), ("user,mac=zz",), "-nic user,mac=zz: invalid syntax for ethernet address"),
        ((), ("user,model=x",), "-nic user,model=x: Unsupported NIC model: x"),
        ((), ("nic",), "-nic nic: network backend 'nic' is not compiled into this binary"),
    ],
)
def test_what_is_wrong_with_several_or_with_nic(
    nets: tuple[str, ...], nics: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        modern(*nets, nics=nics)
    assert str(error.value) == said


def test_a_place_is_kept_for_the_caller() -> None:
    (vlan,) = read_vlans([(7, "nic"), (9, "user")])
    assert list(vlan.modern()) == [7, 9]
