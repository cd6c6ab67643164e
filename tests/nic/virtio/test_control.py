# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The control queue, and what it has in force. Answers are those that machines give."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.nic.virtio.card import BROADCAST, MAC, OTHER, Card, frame
from vmwire.bus.virtio import features as bits
from vmwire.wire.frame import F_NEEDS_CSUM, Frame, Offload

Plug = Callable[..., Card]

RX, MAC_CLASS, VLAN, ANNOUNCE, MQ, OFFLOADS = range(6)
PROMISC, ALLMULTI, ALLUNI, NOMULTI, NOUNI, NOBCAST = range(6)
OK, ERROR = 0, 1
ON, OFF = b"\1", b"\0"

THIRD = bytes.fromhex("525400aaaaaa")
GROUP = bytes.fromhex("01005e000001")
OTHER_GROUP = bytes.fromhex("33330000ffff")

pytestmark = pytest.mark.parametrize("transport", ["modern", "legacy", "mmio-2"], indirect=True)


def table(*macs: bytes) -> bytes:
    return len(macs).to_bytes(4, "little") + b"".join(macs)


def tag(vlan: int) -> bytes:
    return b"\x81\0" + vlan.to_bytes(2, "big")


@pytest.fixture
def strict(card: Card) -> Card:
    """A card that takes its own frames and broadcasts only, and untagged ones."""
    assert card.driver.command(RX, PROMISC, OFF) == OK
    return card


def passes(card: Card, to: bytes, tagged: bytes = b"") -> bool:
    return bool(card.gets(frame(to, tag=tagged)))


def test_a_fresh_card_takes_everything(card: Card) -> None:
    assert all(passes(card, to) for to in (MAC, THIRD, GROUP, BROADCAST))
    assert passes(card, MAC, tag(5))


def test_a_card_that_is_not_promiscuous_takes_its_own(strict: Card) -> None:
    found = {to: passes(strict, to) for to in (MAC, THIRD, GROUP, BROADCAST)}
    assert found == {MAC: True, THIRD: False, GROUP: False, BROADCAST: True}
    assert strict.card.stats()["filtered"] == 2


@pytest.mark.parametrize(
    ("mode", "to", "then"),
    [
        (PROMISC, THIRD, True),
        (ALLMULTI, GROUP, True),
        (ALLUNI, THIRD, True),
        (NOUNI, MAC, False),
        (NOBCAST, BROADCAST, False),
    ],
)
def test_modes_are_in_force_until_they_are_switched_off(
    strict: Card, mode: int, to: bytes, then: bool
) -> None:
    assert passes(strict, to) is not then
    assert strict.driver.command(RX, mode, ON) == OK
    assert passes(strict, to) is then
    assert strict.driver.command(RX, mode, OFF) == OK
    assert passes(strict, to) is not then


def test_no_multicast_counts_for_more_than_the_table(strict: Card) -> None:
    strict.driver.command(MAC_CLASS, 0, table() + table(GROUP))
    assert passes(strict, GROUP)
    strict.driver.command(RX, NOMULTI, ON)
    assert not passes(strict, GROUP)
    assert passes(strict, BROADCAST)


def test_tables_let_in_what_they_hold(strict: Card) -> None:
    assert strict.driver.command(MAC_CLASS, 0, table(THIRD) + table(GROUP)) == OK
    found = {to: passes(strict, to) for to in (MAC, THIRD, OTHER, GROUP, OTHER_GROUP)}
    assert found == {MAC: True, THIRD: True, OTHER: False, GROUP: True, OTHER_GROUP: False}


def test_a_table_too_long_lets_its_kind_in_whole(strict: Card) -> None:
    many = [bytes.fromhex("5254000000") + bytes([number]) for number in range(70)]
    assert strict.driver.command(MAC_CLASS, 0, table(*many) + table(GROUP)) == OK
    assert passes(strict, THIRD) and passes(strict, GROUP) and not passes(strict, OTHER_GROUP)
    report = strict.card.rx_filter()
    assert report["unicast-overflow"] and report["unicast-table"] == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1\0\0",
        table(THIRD),
        table(THIRD)[:-1],
        (5).to_bytes(4, "little") + THIRD + table(),
        (0xFFFFFFFF).to_bytes(4, "little") + table(GROUP),
        table() + table(GROUP) + b"\0",
    ],
)
def test_tables_that_lie_about_their_length_change_nothing(strict: Card, data: bytes) -> None:
    assert strict.driver.command(MAC_CLASS, 0, data) == ERROR
    assert not passes(strict, THIRD) and not passes(strict, GROUP)


def test_the_address_can_be_set(strict: Card) -> None:
    assert strict.driver.command(MAC_CLASS, 1, THIRD) == OK
    assert strict.driver.mac == THIRD
    assert passes(strict, THIRD) and not passes(strict, MAC)
    strict.driver.transport.set_status(0)
    assert strict.driver.mac == MAC  # its own again


def test_vlans_are_let_in_one_by_one(strict: Card) -> None:
    assert not passes(strict, MAC, tag(100))
    assert strict.driver.command(VLAN, 0, (100).to_bytes(2, "little")) == OK
    assert passes(strict, MAC, tag(100)) and not passes(strict, MAC, tag(101))
    assert passes(strict, MAC, tag(0xE000 | 100))  # priority is no part of the number
    assert strict.driver.command(VLAN, 1, (100).to_bytes(2, "little")) == OK
    assert not passes(strict, MAC, tag(100))


def test_without_a_vlan_filter_all_vlans_come(plug: Plug) -> None:
    card = plug(ctrl_vlan=False)
    assert not card.driver.features & bits.VIRTIO_NET_F_CTRL_VLAN
    card.driver.command(RX, PROMISC, OFF)
    assert passes(card, MAC, tag(100))


@pytest.mark.parametrize(
    ("kind", "command", "data"),
    [
        (RX, 9, ON), (9, 0, ON), (RX, PROMISC, b""), (RX, PROMISC, b"\1\1"),
        (MAC_CLASS, 1, MAC[:5]), (MAC_CLASS, 7, b""), (VLAN, 0, b"\x88\x13"), (VLAN, 0, b"\1"),
        (VLAN, 5, b"\1\0"), (ANNOUNCE, 0, b""), (MQ, 0, b"\1\0"), (MQ, 0, b"\2\0"),
        (OFFLOADS, 0, b"\0" * 7),
        (OFFLOADS, 0, b"\xff" * 8),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(card: Card, kind: int, command: int, data: bytes) -> None:
    assert card.driver.command(kind, command, data) == ERROR
    assert card.card.control.served == {"refused": 1}
    assert passes(card, THIRD)


def test_guest_offloads_can_be_switched(card: Card) -> None:
    unfinished = Offload(F_NEEDS_CSUM, 0, 0, 0, 34, 16)
    data = frame(MAC, bytes(60))
    card.wire.send([Frame.of(data, unfinished)])
    assert card.driver.receive() == [(data, unfinished)]
    assert card.driver.command(OFFLOADS, 0, bytes(8)) == OK
    card.wire.send([Frame.of(data, unfinished)])
    ((_, offload),) = card.driver.receive()
    assert offload.plain
    again = bits.VIRTIO_NET_F_GUEST_CSUM.to_bytes(8, "little")
    assert card.driver.command(OFFLOADS, 0, again) == OK
    card.wire.send([Frame.of(data, unfinished)])
    assert card.driver.receive() == [(data, unfinished)]


def test_an_announcement_is_asked_for_and_acknowledged(card: Card) -> None:
    assert card.driver.command(ANNOUNCE, 0) == ERROR
    card.card.announce()
    (rarp,) = card.wire.take()
    assert rarp[:14] == BROADCAST + MAC + b"\x80\x35" and len(rarp) == 60
    assert card.driver.status == 3
    assert card.driver.command(ANNOUNCE, 0) == OK
    assert card.driver.status == 1


def test_the_report_is_qmps(strict: Card) -> None:
    driver = strict.driver
    for mode in (ALLMULTI, ALLUNI, NOMULTI, NOUNI, NOBCAST):
        driver.command(RX, mode, ON)
    driver.command(MAC_CLASS, 0, table(THIRD) + table(GROUP, OTHER_GROUP))
    driver.command(VLAN, 0, b"\5\0")
    report = strict.card.rx_filter()
    assert report == {
        "name": strict.card.name,
        "promiscuous": False,
        "multicast": "none",
        "unicast": "none",
        "vlan": "normal",
        "broadcast-allowed": False,
        "multicast-overflow": False,
        "unicast-overflow": False,
        "main-mac": "52:54:00:12:34:56",
        "vlan-table": [5],
        "unicast-table": ["52:54:00:aa:aa:aa"],
        "multicast-table": ["33:33:00:00:ff:ff", "01:00:5e:00:00:01"],
    }


def test_a_change_is_news_until_somebody_asks(card: Card) -> None:
    heard: list[str] = []
    card.card.on_filter_change = lambda: heard.append("changed")
    card.driver.command(RX, PROMISC, ON)
    card.driver.command(RX, PROMISC, OFF)
    assert heard == ["changed"]
    card.card.rx_filter()
    card.driver.command(MAC_CLASS, 1, THIRD)
    assert heard == ["changed"] * 2


def test_further_pairs_carry_frames_when_asked_for(plug: Plug) -> None:
    card = plug(mq=True, queues=4, driver={"pairs": 4})
    driver = card.driver
    assert driver.control_index == 8
    flows = [
        MAC + OTHER + b"\x08\0" + bytes([0x45]) + bytes(8) + b"\x11" + bytes(2)
        + bytes((10, 0, 2, 2, 10, 0, 2, 15)) + port.to_bytes(2, "big") + bytes(30)
        for port in range(1000, 1064)
    ]  # fmt: skip
    card.wire.send(flows)
    assert len(driver.receive(0)) == 64
    assert driver.command(MQ, 0, b"\4\0") == OK
    card.wire.send(flows)
    counts = [len(driver.receive(pair)) for pair in range(4)]
    assert sum(counts) == 64 and min(counts) > 0
    for pair in range(4):
        driver.send(frame(OTHER, bytes([pair])), pair=pair)
    assert len(card.wire.take()) == 4
    card.reload()
    card.wire.send(flows)
    assert [len(driver.receive(pair)) for pair in range(4)] == counts
    assert [driver.command(MQ, 0, bytes([n, 0])) for n in (0, 5, 1)] == [ERROR, ERROR, OK]


def test_a_driver_of_one_pair_finds_the_control_queue_behind_it(plug: Plug) -> None:
    wanted = bits.VIRTIO_NET_F_CTRL_VQ | bits.VIRTIO_NET_F_CTRL_RX
    card = plug(mq=True, queues=4, driver={"features": wanted})
    assert card.driver.control_index == 2
    assert card.driver.command(RX, PROMISC, OFF) == OK
    assert not passes(card, THIRD)


def test_what_was_set_outlives_a_reload(strict: Card) -> None:
    strict.driver.command(MAC_CLASS, 0, table(THIRD) + table(GROUP))
    strict.driver.command(VLAN, 0, (7).to_bytes(2, "little"))
    strict.reload()
    assert passes(strict, THIRD) and passes(strict, GROUP) and passes(strict, MAC, tag(7))
    assert not passes(strict, OTHER_GROUP) and not passes(strict, MAC, tag(8))
    assert strict.driver.command(RX, PROMISC, ON) == OK
    assert passes(strict, OTHER)


def test_a_kernel_that_reads_into_buffers_is_filtered_too(strict: Card) -> None:
    far = strict.wire.port
    for to, wanted in ((OTHER, 0), (MAC, 1)):
        room = strict.card.port.room
        assert room is not None
        views = room.reserve(60)
        assert views is not None
        views[0][:60] = frame(to)
        room.commit(60, Offload())
        strict.pc.settle()
        assert len(strict.driver.receive()) == wanted
    assert far.carrier


def test_an_old_driver_sets_the_address_in_the_configuration(plug: Plug, transport: str) -> None:
    card = plug(driver={"features": 0})
    card.driver.transport.set_config(0, THIRD)
    assert card.driver.mac == (THIRD if transport == "legacy" else MAC)
