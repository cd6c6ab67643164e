# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmwire.netdev.user.arp import MAX_ASKED, MAX_NEIGHBOURS, Neighbours, Outgoing
from vmwire.netdev.user.plan import Plan, packed
from vmwire.wire.protocols import arp, ethernet

DATA = json.loads((Path(__file__).parents[2] / "data" / "user_network_frames.json").read_text())
FRAMES = {name: bytes.fromhex(frame) for name, frame in DATA["frames"].items()}

GUEST_MAC = bytes.fromhex("525400123456")
GUEST = packed("10.0.2.15")
GATEWAY = packed("10.0.2.2")


def request(target: str, sender: bytes = GUEST, mac: bytes = GUEST_MAC) -> bytes:
    return arp.Packet(arp.REQUEST, mac, sender, arp.NO_MAC, packed(target)).emit()


def as_frame(sent: Outgoing | None) -> bytes:
    assert sent is not None
    return sent.destination + sent.source + b"\x08\x06" + sent.payload


@pytest.mark.parametrize(
    ("name", "target", "sender"),
    [
        ("arp reply", "10.0.2.2", "10.0.2.15"),
        ("arp reply dns", "10.0.2.3", "10.0.2.15"),
        ("arp reply to probe", "10.0.2.2", "0.0.0.0"),
    ],
)
def test_own_addresses_are_answered_as_recorded(name: str, target: str, sender: str) -> None:
    sent = Neighbours(Plan()).receive(request(target, packed(sender)) + bytes(18))
    assert as_frame(sent) == FRAMES[name][:42]


@pytest.mark.parametrize(
    "target",
    ["10.0.2.0", "10.0.2.1", "10.0.2.4", "10.0.2.15", "10.0.2.255", "10.0.3.2", "192.168.0.1"],
)
def test_other_addresses_are_not_answered(target: str) -> None:
    neighbours = Neighbours(Plan())
    assert neighbours.receive(request(target)) is None
    assert not neighbours.drops


def test_guest_that_asks_is_learnt() -> None:
    neighbours = Neighbours(Plan())
    neighbours.receive(request("10.0.2.2"))
    assert neighbours.macs == {GUEST: GUEST_MAC}


def test_guest_that_moves_is_learnt_anew() -> None:
    neighbours = Neighbours(Plan())
    neighbours.learn(GUEST, GUEST_MAC)
    neighbours.learn(GUEST, b"\x02" * 6)
    assert neighbours.macs == {GUEST: b"\x02" * 6}


@pytest.mark.parametrize(
    ("address", "mac"),
    [
        pytest.param("10.0.2.2", GUEST_MAC, id="the gateway's address"),
        pytest.param("10.0.2.3", GUEST_MAC, id="the DNS address"),
        pytest.param("0.0.0.0", GUEST_MAC, id="no address"),
        pytest.param("10.0.2.0", GUEST_MAC, id="the network"),
        pytest.param("10.0.2.255", GUEST_MAC, id="the broadcast address"),
        pytest.param("8.8.8.8", GUEST_MAC, id="an address outside"),
        pytest.param("10.0.2.15", ethernet.BROADCAST, id="the broadcast MAC"),
        pytest.param("10.0.2.15", bytes(6), id="no MAC"),
    ],
)
def test_impossible_neighbours_are_not_learnt(address: str, mac: bytes) -> None:
    neighbours = Neighbours(Plan())
    neighbours.receive(request("10.0.2.99", packed(address), mac))
    assert neighbours.macs == {}


def test_table_is_bounded_and_loses_the_oldest() -> None:
    plan = Plan(network=packed("10.0.0.0"), mask=packed("255.0.0.0"))
    neighbours = Neighbours(plan)
    for number in range(MAX_NEIGHBOURS + 10):
        neighbours.learn(bytes([10, 1, number >> 8, number & 0xFF]), GUEST_MAC)
    assert len(neighbours.macs) == MAX_NEIGHBOURS
    assert bytes([10, 1, 0, 0]) not in neighbours.macs
    assert bytes([10, 1, 4, 9]) in neighbours.macs


def test_request_for_unknown_guest_is_as_recorded() -> None:
    assert as_frame(Neighbours(Plan()).ask(GUEST, 0.0)) == FRAMES["arp request"][:42]


def test_guest_is_asked_for_at_most_once_a_second() -> None:
    neighbours = Neighbours(Plan())
    assert neighbours.ask(GUEST, 10.0)
    assert neighbours.ask(GUEST, 10.9) is None
    assert neighbours.ask(packed("10.0.2.16"), 10.9)
    assert neighbours.ask(GUEST, 11.0)


def test_answer_of_the_guest_is_learnt_without_answer() -> None:
    neighbours = Neighbours(Plan())
    neighbours.ask(GUEST, 0.0)
    reply = arp.Packet(arp.REPLY, GUEST_MAC, GUEST, bytes.fromhex("52550a000202"), GATEWAY)
    assert neighbours.receive(reply.emit()) is None
    assert neighbours.macs[GUEST] == GUEST_MAC


def test_nobody_outside_is_asked_for_and_questions_are_bounded() -> None:
    plan = Plan(network=packed("10.0.0.0"), mask=packed("255.0.0.0"))
    neighbours = Neighbours(plan)
    assert neighbours.ask(packed("192.0.2.1"), 0.0) is None
    for number in range(MAX_ASKED + 1):
        assert neighbours.ask(bytes([10, 1, number >> 8, number & 0xFF]), 0.0)
    assert neighbours.ask(bytes([10, 1, 0, 0]), 0.0), "the oldest question was forgotten"


@given(st.binary(max_size=40))
def test_any_bytes_are_answered_or_counted(data: bytes) -> None:
    neighbours = Neighbours(Plan())
    assert neighbours.receive(data) is None or len(data) >= 28
    assert neighbours.drops["malformed ARP"] == (len(data) < 28) or len(data) >= 28
