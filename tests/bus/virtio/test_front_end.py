# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a vhost-user front end says, in which order, and what it makes of the answers."""

from __future__ import annotations

from typing import Any

import pytest

from vmwire.bus.protocol import ProtocolError
from vmwire.bus.virtio.features import VHOST_USER_F_PROTOCOL_FEATURES
from vmwire.bus.virtio.front_end import (
    BackEnd,
    Dialogue,
    Order,
    Plan,
    RingPlan,
    Script,
    begin,
    greet,
    share,
    stop_rings,
)
from vmwire.bus.virtio.vhost_user import (
    F_REPLY,
    PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    PROTOCOL_F_MQ,
    PROTOCOL_F_NET_MTU,
    PROTOCOL_F_REPLY_ACK,
    U64,
    VRING_STATE,
    RegionInfo,
    Request,
    RingAddresses,
    pack_message,
)

EVERYTHING = (
    PROTOCOL_F_MQ | PROTOCOL_F_REPLY_ACK | PROTOCOL_F_NET_MTU | PROTOCOL_F_CONFIGURE_MEM_SLOTS
)
RICH = BackEnd(VHOST_USER_F_PROTOCOL_FEATURES, EVERYTHING, 8)
POOR = BackEnd(0, 0, 1)
RING = RingPlan(1, 256, 77, RingAddresses(1, 0, 1, 2, 3, 0), kick=10, call=11, error=12)


def follow(script: Script[Any], **answers: int) -> tuple[list[Order], Any]:
    """All orders of a script, and what came out; answers by name, 0 to what else is asked."""
    dialogue = Dialogue(script)
    orders = []
    while not dialogue.over:
        if dialogue.order is not None:
            orders.append(dialogue.order)
            dialogue.sent()
        else:
            request = orders[-1].request
            number = U64.pack(answers.get(request.name, 0))
            dialogue.feed(pack_message(request, number, F_REPLY))
    return orders, dialogue.result


def names(orders: list[Order]) -> list[str]:
    return [order.request.name for order in orders]


def test_a_greeting_ends_with_what_both_can_do() -> None:
    orders, back_end = follow(
        greet(),
        GET_FEATURES=VHOST_USER_F_PROTOCOL_FEATURES | 5,
        GET_PROTOCOL_FEATURES=0xFFFF_FFFF,
        GET_QUEUE_NUM=4,
    )
    assert names(orders) == [
        "SET_OWNER", "GET_FEATURES", "GET_PROTOCOL_FEATURES", "SET_PROTOCOL_FEATURES",
        "GET_QUEUE_NUM",
    ]  # fmt: skip
    assert orders[3].payload == U64.pack(EVERYTHING)
    assert back_end == BackEnd(VHOST_USER_F_PROTOCOL_FEATURES | 5, EVERYTHING, 4)


def test_one_without_protocol_features_is_asked_no_more() -> None:
    orders, back_end = follow(greet(), GET_FEATURES=5)
    assert names(orders) == ["SET_OWNER", "GET_FEATURES"]
    assert back_end == BackEnd(5, 0, 1)


def test_no_more_pairs_than_rings_can_be_numbered() -> None:
    answers = {"GET_FEATURES": VHOST_USER_F_PROTOCOL_FEATURES, "GET_PROTOCOL_FEATURES": 1}
    assert follow(greet(), GET_QUEUE_NUM=1 << 40, **answers)[1].pairs == 128


def test_rings_are_enabled_before_they_start_and_start_last() -> None:
    orders, _ = follow(begin(RICH, Plan(5, [(RegionInfo(0, 4096, 0, 0), 9)], [RING], mtu=1400)))
    assert names(orders) == [
        "SET_FEATURES", "NET_SET_MTU", "SET_MEM_TABLE", "SET_VRING_ENABLE", "SET_VRING_NUM",
        "SET_VRING_BASE", "SET_VRING_ADDR", "SET_VRING_ERR", "SET_VRING_CALL", "SET_VRING_KICK",
    ]  # fmt: skip
    assert all(order.acknowledged for order in orders)
    assert orders[5].payload == VRING_STATE.pack(1, 77)
    assert [order.fds for order in orders[2:]] == [(9,), (), (), (), (), (12,), (11,), (10,)]


def test_one_that_acknowledges_nothing_is_asked_something_at_the_end() -> None:
    orders, _ = follow(begin(POOR, Plan(5, [(RegionInfo(0, 4096, 0, 0), 9)], [RING], mtu=1400)))
    assert names(orders)[-1] == "GET_FEATURES"
    assert not {"SET_VRING_ENABLE", "NET_SET_MTU"} & set(names(orders))
    assert not any(order.acknowledged for order in orders)


def test_more_memory_than_a_table_has_room_for_goes_piece_by_piece() -> None:
    regions = [(RegionInfo(4096 * number, 4096, 0, 0), number) for number in range(10)]
    orders, _ = follow(share(RICH, regions))
    assert names(orders) == ["SET_MEM_TABLE", "ADD_MEM_REG", "ADD_MEM_REG"]
    assert [order.fds for order in orders] == [tuple(range(8)), (8,), (9,)]
    with pytest.raises(ProtocolError, match="10 pieces of memory are too many"):
        follow(share(POOR, regions))


def test_a_ring_without_descriptors_says_so() -> None:
    silent = RingPlan(0, 256, 0, RING.addresses, kick=10, call=-1)
    orders, _ = follow(begin(POOR, Plan(0, [], [silent])))
    call = next(order for order in orders if order.request == Request.SET_VRING_CALL)
    assert (call.payload, call.fds) == (U64.pack(0x100), ())


def test_rings_that_are_stopped_say_where() -> None:
    orders, bases = follow(stop_rings([0, 1]), GET_VRING_BASE=55 << 32)
    assert names(orders) == ["GET_VRING_BASE"] * 2
    assert bases == {0: 55, 1: 55}


@pytest.mark.parametrize(
    "data",
    [
        pack_message(Request.GET_VRING_BASE, bytes(8), F_REPLY),
        pack_message(Request.SET_FEATURES, bytes(8)),
        pack_message(Request.SET_FEATURES, bytes(4), F_REPLY),
        pack_message(Request.SET_FEATURES, bytes(8), F_REPLY) + b"x",
        pack_message(Request.SET_FEATURES, U64.pack(1), F_REPLY),
    ],
    ids=["to something else", "no answer", "another size", "more", "a failure"],
)
def test_another_answer_than_the_one_that_is_due_ends_it(data: bytes) -> None:
    dialogue = Dialogue(begin(RICH, Plan(5, [], [])))
    dialogue.sent()
    with pytest.raises(ProtocolError):
        dialogue.feed(data)


def test_an_answer_may_come_in_pieces() -> None:
    dialogue = Dialogue(begin(RICH, Plan(5, [], [])))
    dialogue.sent()
    for byte in pack_message(Request.SET_FEATURES, bytes(8), F_REPLY):
        assert dialogue.order is None
        dialogue.feed(bytes([byte]))
    assert dialogue.order is not None
    with pytest.raises(ProtocolError, match="more than it was asked"):
        dialogue.feed(b"x")
