# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Frames through the whole card, over every transport."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.nic.virtio.card import MAC, OTHER, Card, frame
from vmwire.bus.virtio.features import (
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_RING_F_EVENT_IDX,
)
from vmwire.wire.frame import F_NEEDS_CSUM, GSO_TCPV4, Frame, Offload

Plug = Callable[..., Card]


SUPERFRAME = Offload(F_NEEDS_CSUM, GSO_TCPV4, 54, 1448, 34, 16)


def test_frames_go_both_ways(card: Card) -> None:
    card.driver.send(frame(OTHER, b"up"))
    assert card.wire.take() == [frame(OTHER, b"up")]
    assert card.gets(frame(MAC, b"down")) == [frame(MAC, b"down")]
    assert card.driver.sent() == 1


@pytest.mark.parametrize("pieces", [2, 3, 20])
def test_a_frame_in_pieces_is_sent_whole(card: Card, pieces: int) -> None:
    card.driver.send(frame(OTHER, b"abc" * 100), pieces=pieces)
    assert card.wire.take() == [frame(OTHER, b"abc" * 100)]


@pytest.mark.parametrize(
    "features",
    [0, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_RING_F_EVENT_IDX, VIRTIO_NET_F_CTRL_VQ],
    ids=["none", "mergeable", "event index", "control queue"],
)
def test_drivers_that_want_little_are_served(plug: Plug, features: int) -> None:
    card = plug(driver={"features": features})
    for number in range(270):  # once around the ring
        payload = number.to_bytes(2, "big")
        card.driver.send(frame(OTHER, payload))
        assert card.wire.take() == [frame(OTHER, payload)]
        assert card.gets(frame(MAC, payload)) == [frame(MAC, payload)]
        card.driver.sent()


def test_a_superframe_goes_out_as_it_is(plug: Plug) -> None:
    card = plug(driver={"features": VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_TSO4})
    card.wire.accept_superframes()
    data = frame(OTHER, random.Random(1).randbytes(30_000))
    card.driver.send(data, SUPERFRAME, pieces=8)
    (sent,) = card.wire.received
    assert (sent.tobytes(), sent.offload) == (data, SUPERFRAME)


def test_a_superframe_comes_in_over_several_buffers(plug: Plug) -> None:
    wanted = VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_MRG_RXBUF
    card = plug(driver={"features": wanted})
    data = frame(MAC, random.Random(2).randbytes(20_000))
    card.wire.send([Frame.of(data, SUPERFRAME)])
    assert card.driver.receive() == [(data, SUPERFRAME)]


def test_what_the_driver_can_not_take_is_cut_for_it(plug: Plug) -> None:
    card = plug(driver={"features": VIRTIO_NET_F_MRG_RXBUF})
    headers = (
        MAC
        + OTHER
        + b"\x08\0"
        + bytes.fromhex(
            "4500 0000 0000 4000 40 06 0000 0a000202 0a00020f 1f90 c000 00000001 00000001 5010 ffff"
            "0000 0000"
        )
    )
    assert len(headers) == 54
    payload = random.Random(3).randbytes(2 * 1448)
    data = bytearray(headers + payload)
    data[16:18] = (len(data) - 14).to_bytes(2, "big")
    card.wire.send([Frame.of(bytes(data), SUPERFRAME)])
    frames = [got for got, offload in card.driver.receive() if offload.plain]
    assert b"".join(got[54:] for got in frames) == payload


def test_frames_wait_for_buffers(plug: Plug) -> None:
    card = plug()
    many = [frame(MAC, number.to_bytes(2, "big")) for number in range(300)]
    taken = card.wire.send(many)
    assert taken == 256  # one a buffer, and the ring has so many
    assert [data for data, _ in card.driver.receive()] == many[:256]
    assert card.wire.resumes == 1
    assert card.gets(*many[taken:]) == many[256:]


def test_a_wire_that_is_full_holds_the_ring(card: Card) -> None:
    card.wire.set_full(True)
    for number in range(5):
        card.driver.send(frame(OTHER, bytes([number])))
    assert card.wire.take() == [] and card.driver.sent() == 0
    card.wire.set_full(False)
    assert card.wire.take() == [frame(OTHER, bytes([number])) for number in range(5)]
    assert card.driver.sent() == 5


def test_nothing_comes_before_the_driver_is_ready(plug: Plug, pc: object) -> None:
    card = plug()
    card.driver.transport.set_status(0)
    assert card.gets(frame()) == []
    card.driver.start()
    assert card.gets(frame()) == [frame()]


def test_a_driver_that_comes_again_starts_anew(card: Card) -> None:
    for round_ in range(3):
        assert card.gets(frame(MAC, bytes([round_]))) == [frame(MAC, bytes([round_]))]
        card.driver.send(frame(OTHER))
        assert card.wire.take() == [frame(OTHER)]
        card.driver.start()


def test_a_card_goes_on_where_its_state_was_saved(card: Card) -> None:
    card.driver.send(frame(OTHER, b"before"))
    assert card.gets(frame(MAC, b"before")) == [frame(MAC, b"before")]
    for _ in range(3):
        card.reload()
        card.driver.send(frame(OTHER, b"after"))
        assert card.gets(frame(MAC, b"after")) == [frame(MAC, b"after")]
    assert card.wire.take() == [frame(OTHER, b"before"), *[frame(OTHER, b"after")] * 3]


def test_what_was_not_sent_before_a_reload_is_sent_after_it(card: Card) -> None:
    card.wire.set_full(True)
    card.driver.send(frame(OTHER, b"waiting"))
    card.reload()
    card.wire.set_full(False)
    card.pc.settle()
    assert card.wire.take() == [frame(OTHER, b"waiting")]
    assert card.driver.sent() == 1
