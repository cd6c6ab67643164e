# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from tests.wire.boxes import End, frames
from tests.wire.packets import superframe_tcp4

from vmwire.wire.frame import NO_OFFLOAD
from vmwire.wire.port import EVERYTHING, PACKETS_ONLY, stats
from vmwire.wire.through import Through


def line(a: End, b: End, boxes: int = 1) -> list[Through]:
    """Join ``a`` and ``b`` with boxes between."""
    a.port.connect(b.port)
    made = [Through(f"t{number}") for number in range(boxes)]
    port = a.port
    for box in made:
        port.insert(box.left, box.right)
        port = box.right
    a.heard.clear()
    b.heard.clear()
    return made


@pytest.mark.parametrize("boxes", [1, 3])
def test_frames_pass_both_ways(boxes: int) -> None:
    a, b = End("a"), End("b")
    (first, *_) = line(a, b, boxes)
    assert a.port.send(frames(2)) == 2
    assert b.port.send(frames(3)) == 3
    assert (len(b.got), len(a.got)) == (2, 3)
    assert first.stats()["right"] == stats(first.right)
    assert first.right.frames == 2


@pytest.mark.parametrize("boxes", [1, 3])
def test_refusal_and_resume_pass(boxes: int) -> None:
    a, b = End("a"), End("b", room=1)
    line(a, b, boxes)
    assert a.port.send(frames(2)) == 1
    b.make_room()
    assert a.heard == ["resume"]


@pytest.mark.parametrize("boxes", [1, 3])
def test_abilities_of_the_far_end_show_through(boxes: int) -> None:
    a, b = End("a"), End("b", PACKETS_ONLY)
    line(a, b, boxes)
    assert a.port.peer_accepts == PACKETS_ONLY
    assert b.port.peer_accepts == EVERYTHING
    b.port.set_accepts(EVERYTHING)
    assert a.port.peer_accepts == EVERYTHING


@pytest.mark.parametrize("boxes", [1, 3])
def test_pulled_cable_shows_through(boxes: int) -> None:
    a, b = End("a"), End("b")
    line(a, b, boxes)
    b.port.set_link(False)
    assert a.heard == ["down"]
    assert a.port.send(frames(1)) == 1
    b.port.set_link(True)
    assert a.heard == b.heard == ["down", "up"]


@pytest.mark.parametrize("boxes", [1, 3])
@pytest.mark.parametrize("order", ["ab", "ba"])
def test_link_comes_up_whatever_the_order(boxes: int, order: str) -> None:
    """Both ends are down when the box enters: it must not wait for itself."""
    ends = {"a": End("a"), "b": End("b")}
    for end in ends.values():
        end.port.set_link(False)
    line(ends["a"], ends["b"], boxes)
    for name in order:
        ends[name].port.set_link(True)
    assert ends["a"].heard == ends["b"].heard == ["up"]


def test_far_end_that_goes_away_takes_the_carrier() -> None:
    a, b = End("a"), End("b")
    (box,) = line(a, b)
    b.port.disconnect()
    assert a.heard == ["down"]
    assert a.port.peer_accepts == EVERYTHING
    other = End("c", PACKETS_ONLY)
    box.right.connect(other.port)
    assert a.heard == ["down", "up"]
    assert a.port.peer_accepts == PACKETS_ONLY


def test_box_can_be_joined_end_by_end() -> None:
    a, b, box = End("a"), End("b", PACKETS_ONLY, memory=100), Through("t")
    a.port.connect(box.left)
    assert not a.port.carrier
    box.right.connect(b.port)
    assert a.port.carrier
    assert a.port.peer_accepts == PACKETS_ONLY
    assert a.port.reserves


@pytest.mark.parametrize("boxes", [1, 3])
def test_reservations_pass(boxes: int) -> None:
    a, b = End("a"), End("b", memory=2000)
    line(a, b, boxes)
    assert a.port.reserves
    assert not b.port.reserves
    views = a.port.reserve(500)
    assert views is not None
    views[0][:2] = b"hi"
    a.port.commit(2, NO_OFFLOAD)
    assert b.committed == [(b"hi", NO_OFFLOAD)]
    assert a.port.reserve(10) is not None
    a.port.cancel()
    assert b.heard == ["cancel"]
    b.port.set_room(None)
    assert not a.port.reserves


def test_box_that_carries_no_reservations_offers_none() -> None:
    class Looker(Through):
        carries_reservations = False

    a, b, box = End("a"), End("b", memory=2000), Looker("t")
    a.port.connect(b.port)
    a.port.insert(box.left, box.right)
    assert not a.port.reserves


def test_superframe_for_a_far_end_that_takes_none_is_cut_by_its_sender() -> None:
    a, b = End("a"), End("b", PACKETS_ONLY, room=1)
    (box,) = line(a, b)
    assert a.port.send([superframe_tcp4(bytes(3500), 1448)]) == 1
    b.make_room()
    assert len(b.got) == 3
    assert box.right.frames == 3


def test_box_leaves_the_line() -> None:
    a, b = End("a"), End("b")
    first, second, third = line(a, b, 3)
    second.close()
    first.close()
    third.close()
    assert a.port.peer is b.port
    assert a.heard == b.heard == []
