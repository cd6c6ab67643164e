# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Option lines are taken and refused as QEMU takes and refuses them, in its words."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.options.facts import CASES, FACTS, Case
from vmwire import catalogue, registry
from vmwire.errors import ConfigError
from vmwire.nic import declared
from vmwire.options.table import NotServedError

UNSERVED = ("tftp", "bootfile", "smb", "guestfwd=", "ipv6-", "hostfwd=unix", "failover", "packed",
            "tx=")  # fmt: skip


# Help is no option line, and whether a netdev exists is the graph's to know.
ELSEWHERE = ("nosuch,help", "netdev=nosuch")

ABOUT_THE_LINE = [case for case in CASES if not any(word in case.text for word in ELSEWHERE)]
SERVED = [case for case in ABOUT_THE_LINE if not any(word in case.text for word in UNSERVED)]
NOT_SERVED = [case for case in ABOUT_THE_LINE if case not in SERVED]


def says_qemu(case: Case) -> str | None:
    """QEMU's answer as far as it is about the option line itself."""
    if case.says is None or case.says.startswith("Could not set up host forwarding rule"):
        return None  # that is told when the port is opened
    if "tx_queue_size" in case.text:
        # Without a vhost-user back end QEMU's limit is lower.
        return case.says.replace("256 and 256", "256 and 1024")
    return case.says


def says_vmwire(case: Case) -> str | None:
    try:
        catalogue.parse(case.kind, case.text)
    except ConfigError as error:
        assert error.option == f"-{case.kind} {case.text}"
        return error.message
    return None


@pytest.mark.parametrize("case", SERVED, ids=str)
def test_lines_are_accepted_or_refused_in_qemus_words(case: Case) -> None:
    assert says_vmwire(case) == says_qemu(case)


@pytest.mark.parametrize("case", NOT_SERVED, ids=str)
def test_what_is_not_served_yet_is_an_error_that_says_so(case: Case) -> None:
    with pytest.raises(NotServedError) as caught:
        catalogue.parse(case.kind, case.text)
    assert "not served by vmwire yet" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text"), [("netdev", "af-xdp,id=t"), ("device", "pcnet"), ("device", "rtl8139,id=n")]
)
def test_types_of_qemu_that_are_not_served_are_told_from_misspelt_ones(
    kind: str, text: str
) -> None:
    with pytest.raises(NotServedError):
        catalogue.parse(kind, text)


@pytest.mark.parametrize(
    "name", ["af-xdp", "netmap", "vhost-vdpa", "vmnet-host", "vmnet-shared", "vmnet-bridged"]
)
def test_netdevs_that_stay_with_qemu_are_told_so_in_one_line(name: str) -> None:
    with pytest.raises(NotServedError) as caught:
        catalogue.parse("netdev", f"{name},id=x,ifname=eth0")
    assert f"'{name}'" in str(caught.value)
    assert "leave it to QEMU" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text", "fault"),
    [
        ("netdev", "nosuch,id=a", "Parameter 'type' does not accept value 'nosuch'"),
        ("netdev", "nosuch", "Parameter 'id' is missing"),
        ("netdev", "id=u", "Parameter 'type' is missing"),
        ("netdev", "", "Parameter 'id' is missing"),
        ("netdev", '{"type":5,"id":"q"}', "Invalid parameter type for 'type', expected: string"),
        ("device", "", "Parameter 'driver' is missing"),
        ("device", "id=x", "Parameter 'driver' is missing"),
        ("device", '{"driver":5}', "Parameter 'driver' is missing"),
        ("device", '{"driver":"virtio-net-pci","id":"1x"}', "Invalid qdev ID '1x'"),
        ("netdev", '{"type":"user","id":"q","hostfwd":"a"}',
         "Invalid parameter type for 'hostfwd', expected: array"),
        ("netdev", '{"type":"user","id":"q","hostfwd":[{}]}',
         "Parameter 'hostfwd[0].str' is missing"),
        ("netdev", '{"type":"user","id":"q","hostfwd":[{"str":"tcp::5-:6","x":1}]}',
         "Parameter 'hostfwd[0].x' is unexpected"),
        ("netdev", '{"type":"user","id":"q","hostfwd":[{"str":5}]}',
         "Invalid parameter type for 'hostfwd[0].str', expected: string"),
        ("netdev", '{"type":"hubport","id":"q","hubid":"0"}',
         "Invalid parameter type for 'hubid', expected: integer"),
        ("netdev", "hubport,id=q,hubid=99999999999", "Parameter 'hubid' expects int32_t"),
        ("netdev", "hubport,id=q,hubid=0x10,bogus=1", "Invalid parameter 'bogus'"),
        ("device", "virtio-net-pci,host_mtu=abc", "Parameter 'host_mtu' expects integer"),
        ("device", "virtio-net-pci,vectors=-1", "Parameter 'vectors' expects uint32_t"),
        ("device", "virtio-net-pci,mq=maybe,bogus=1",
         "Property 'virtio-net-pci.bogus' not found"),
        ("device", "virtio-net,mac=5:4:0:2:4:6",
         "Property 'virtio-net-device.mac' doesn't take value '5:4:0:2:4:6'"),
        ("device", "virtio-net-pci-transitional,disable-legacy=on",
         "Property 'virtio-net-pci-transitional.disable-legacy' not found"),
        ("device", "virtio-net-pci,disable-legacy=maybe",
         "Parameter 'disable-legacy' does not accept value 'maybe'"),
        ("device", '{"driver":"virtio-net-pci","mq":"on"}',
         "Invalid parameter type for 'mq', expected: boolean"),
        ("device", '{"driver":"virtio-net-pci","host_mtu":"1500"}',
         "Parameter 'host_mtu' expects uint64"),
        ("device", '{"driver":"virtio-net-pci","host_mtu":true}',
         "Parameter 'host_mtu' expects uint64"),
        ("device", '{"driver":"virtio-net-pci","speed":"1"}',
         "Invalid parameter type for 'speed', expected: integer"),
    ],
)  # fmt: skip
def test_faults_are_told_as_qemu_tells_them(kind: str, text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        catalogue.parse(kind, text)
    assert caught.value.message == fault


def test_netdev_help_lists_what_is_served() -> None:
    order = [
        "socket",
        "stream",
        "dgram",
        "hubport",
        "tap",
        "passt",
        "user",
        "l2tpv3",
        "vde",
        "bridge",
        "vhost-user",
    ]
    shown = catalogue.help_for("netdev", "help")
    assert shown is not None
    title, *names = shown.splitlines()
    assert title == "Available netdev backend types:"
    assert names == [name for name in order if name in registry.NETDEVS]


def test_device_help_lists_what_is_served() -> None:
    assert catalogue.help_for("device", "?") == (
        "Network devices:\n"
        'name "e1000", bus PCI, alias "e1000-82540em", desc "Intel Gigabit Ethernet"\n'
        'name "e1000-82544gc", bus PCI, desc "Intel Gigabit Ethernet"\n'
        'name "e1000-82545em", bus PCI, desc "Intel Gigabit Ethernet"\n'
        'name "e1000e", bus PCI, desc "Intel 82574L GbE Controller"\n'
        'name "virtio-net-device", bus virtio-bus\n'
        'name "virtio-net-pci", bus PCI, alias "virtio-net"\n'
        'name "virtio-net-pci-non-transitional", bus PCI\n'
        'name "virtio-net-pci-transitional", bus PCI'
    )


OURS = {"attach", "queues", "socket"}


@pytest.mark.parametrize("name", ["virtio-net-pci", "virtio-net"])
def test_device_help_states_qemus_types_and_defaults(name: str) -> None:
    first, *lines = (catalogue.help_for("device", f"{name},help") or "").splitlines()
    assert first == "virtio-net-pci options:"
    keys = []
    for line in lines:
        key, _, rest = line.removeprefix("  ").partition("=<")
        type_name, _, rest = rest.partition(">")
        keys.append(key)
        if key in OURS:
            continue
        assert [type_name, _default(rest)] == FACTS["virtio_net_pci"][key] or (
            key == "addr"  # unset and -1 are the same to QEMU
        )
    assert keys == sorted(keys)


def _default(rest: str) -> str | None:
    _, found, default = rest.partition("(default: ")
    return default.removesuffix(")") if found else None


def test_help_columns_are_qemus() -> None:
    lines = (catalogue.help_for("device", "virtio-net-pci,help") or "").splitlines()
    assert "  acpi-index=<uint32>    -  (default: 0)" in lines
    assert "  disable-legacy=<OnOffAuto> - on/off/auto (default: auto)" in lines
    assert "  csum=<bool>            - on/off (default: on)" in lines
    assert "  bootindex=<int32>" in lines


def test_help_is_asked_for_by_a_bare_word_only() -> None:
    assert catalogue.help_for("device", "virtio-net-pci,id=help") is None
    assert catalogue.help_for("netdev", '{"type":"user","id":"help"}') is None


def test_help_on_an_unknown_device_is_an_error() -> None:
    with pytest.raises(ConfigError):
        catalogue.help_for("device", "nosuch,help")


@pytest.mark.parametrize("kind", ["netdev", "device"])
def test_every_listed_type_can_be_found(kind: str) -> None:
    for each in catalogue.tables(kind):
        assert each.name in catalogue.MODULES[kind]
        for alias in each.aliases:
            assert declared.ALIASES[alias] == each.name


def test_judging_a_user_netdev_loads_no_engine_and_no_sockets() -> None:
    program = (
        "import sys; from vmwire import catalogue;"
        "catalogue.parse('netdev', 'user,id=u'); catalogue.parse('device', 'virtio-net-pci');"
        "sys.exit(bool({'vmwire.engine', 'vmwire.wire', 'socket', 'asyncio'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
