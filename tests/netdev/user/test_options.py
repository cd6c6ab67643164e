# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The options of the user network, held against what QEMU makes of them."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.options.facts import FACTS

from vmwire.errors import ConfigError
from vmwire.netdev.user.options import (
    ForwardRule,
    Subnet,
    UserOptions,
    parse_forward,
    parse_net,
)
from vmwire.netdev.user.plan import POOL_SIZE, Plan, dotted
from vmwire.options.table import NotServedError, table_of

TABLE = table_of(UserOptions)


def options(text: str) -> UserOptions:
    return TABLE.from_text(f"user,id=u,{text}")


def test_defaults_are_qemus() -> None:
    got = options("")
    assert got.plan() == Plan()
    assert (got.restrict, got.ipv4_on, got.ipv6_on, got.hostfwd) == (False, True, True, [])
    assert (got.mtu, got.loopback) == (1500, True)


@pytest.mark.parametrize(("net", "network"), FACTS["networks"].items())
def test_networks_are_read_as_qemu_reads_them(net: str, network: str) -> None:
    assert dotted(parse_net(net).address) == network


@pytest.mark.parametrize(
    ("text", "mask"),
    [("10.0.0.0", 8), ("172.16.0.0", 12), ("172.32.0.0", 16), ("192.168.0.0", 16),
     ("198.18.0.0", 15), ("192.0.2.0", 28), ("224.0.0.0", 24), ("10.0.0.0/30", 30)],
)  # fmt: skip
def test_network_without_a_mask_gets_the_usual_one(text: str, mask: int) -> None:
    assert parse_net(text).mask == (0xFFFFFFFF << 32 - mask & 0xFFFFFFFF).to_bytes(4, "big")


# gateway, server and first lease, as QEMU's DHCP offered them
@pytest.mark.parametrize(
    ("text", "gateway", "dns", "first"),
    [
        ("", "10.0.2.2", "10.0.2.3", "10.0.2.15"),
        ("net=192.168.5.0/24", "192.168.5.2", "192.168.5.3", "192.168.5.15"),
        ("net=10.1.2.0/28", "10.1.2.2", "10.1.2.3", "10.1.2.15"),
        ("net=172.20.0.0/16,host=172.20.1.1,dns=172.20.1.2,dhcpstart=172.20.9.9",
         "172.20.1.1", "172.20.1.2", "172.20.9.9"),
        ("net=10.0.0.0/8", "10.0.2.2", "10.0.2.3", "10.0.2.15"),
    ],
)  # fmt: skip
def test_addresses_follow_from_the_network(text: str, gateway: str, dns: str, first: str) -> None:
    plan = options(text).plan()
    assert [dotted(a) for a in (plan.gateway, plan.dns, plan.first_lease)] == [gateway, dns, first]


def test_mask_with_holes_decides_bit_by_bit() -> None:
    plan = options("net=10.0.2.0/255.0.255.0,host=10.99.2.9").plan()
    assert plan.inside(bytes((10, 7, 2, 1)))
    assert not plan.inside(bytes((10, 7, 3, 1)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp::5555-:22", ForwardRule("tcp", bytes(4), 5555, None, 22)),
        ("::5555-:22", ForwardRule("tcp", bytes(4), 5555, None, 22)),
        (":127.0.0.1:5556-:22", ForwardRule("tcp", b"\x7f\0\0\1", 5556, None, 22)),
        ("udp:127.1:0-10.0.2.20:53", ForwardRule("udp", b"\x7f\0\0\1", 0, b"\x0a\0\2\x14", 53)),
        ("tcp::0x15b3-0.0.0.0:0x16", ForwardRule("tcp", bytes(4), 5555, None, 22)),
        ("tcp::5555-:80x", ForwardRule("tcp", bytes(4), 5555, None, 80)),
    ],
)
def test_forward_rules_in_all_spellings(text: str, expected: ForwardRule) -> None:
    rule = parse_forward(text)
    assert rule.text == text
    assert dataclasses.replace(rule, text="") == expected


ADDRESSES = st.binary(min_size=4, max_size=4)


@given(
    st.builds(
        ForwardRule,
        protocol=st.sampled_from(["tcp", "udp"]),
        host_address=ADDRESSES,
        host_port=st.integers(0, 65535),
        guest_address=st.none() | ADDRESSES.filter(any),
        guest_port=st.integers(1, 65535),
    )
)
def test_rules_made_in_python_can_be_written_and_read(rule: ForwardRule) -> None:
    assert dataclasses.replace(parse_forward(str(rule)), text="") == rule


def test_forwards_keep_their_order() -> None:
    got = options("hostfwd=tcp::1-:1,hostname=a,hostfwd=udp::2-:2")
    assert [rule.host_port for rule in got.hostfwd] == [1, 2]


def test_python_callers_use_texts_or_values() -> None:
    by_text = TABLE.from_kwargs(id="u", hostfwd=["tcp::5555-:22"], net="10.9.0.0/24", restrict="on")
    by_value = TABLE.from_kwargs(
        id="u",
        hostfwd=[parse_forward("tcp::5555-:22")],
        net=Subnet(bytes((10, 9, 0, 0)), bytes((255, 255, 255, 0))),
        restrict=True,
    )
    assert by_text == by_value == TABLE.from_text(TABLE.to_text(by_text))


@pytest.mark.parametrize("mtu", [0, 67, 65521])
def test_mtu_out_of_range_is_refused(mtu: int) -> None:
    with pytest.raises(ConfigError, match="'mtu' expects a number from 68 to 65520"):
        options(f"mtu={mtu}")


@pytest.mark.parametrize("mtu", [68, 1500, 65520])
def test_mtu_reaches_the_plan(mtu: int) -> None:
    assert options(f"mtu={mtu}").plan().mtu == mtu


def test_loopback_and_restrict_reach_the_plan() -> None:
    plan = options("loopback=off,restrict=on").plan()
    assert (plan.loopback, plan.restrict) == (False, True)


@pytest.mark.parametrize(
    ("text", "ipv4", "ipv6", "told"),
    [
        ("", True, True, False),
        ("ipv4=on", True, False, False),
        ("ipv6=off", True, False, False),
        ("ipv4=off", False, True, True),
        ("ipv6=on", False, True, True),
        ("ipv4=on,ipv6=on", True, True, True),
    ],
)
def test_asking_for_one_family_switches_the_other_off(
    text: str, ipv4: bool, ipv6: bool, told: bool
) -> None:
    got = options(text)
    assert (got.ipv4_on, got.ipv6_on) == (ipv4, ipv6)
    assert (got.unanswered() is not None) == told


@pytest.mark.parametrize("key", ["tftp", "bootfile", "smb", "guestfwd", "ipv6-net"])
def test_options_of_later_say_so(key: str) -> None:
    with pytest.raises(NotServedError, match=f"'{key}' of user is not served by vmwire yet"):
        options(f"{key}=x")


@given(st.text(max_size=40))
def test_no_rule_and_no_network_raises_anything_but_a_config_error(text: str) -> None:
    for key in ("hostfwd", "net", "host", "dns", "dhcpstart", "mtu", "ipv4"):
        try:
            TABLE.from_kwargs(id="u", **{key: text})
        except ConfigError as error:
            assert error.option == "netdev user"


def test_help_tells_how_many_leases_there_are() -> None:
    """How many guests get one is in ``test_dhcp.py``."""
    assert f" {POOL_SIZE} leases" in TABLE.help_text()
