# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from tests.filters.rig import Rig
from tests.wire.boxes import frames

from vmwire.filters import buffer


@pytest.fixture(autouse=True)
def on_the_grid(rig: Rig) -> None:
    rig.add("filter-buffer", id="b", interval=1_000_000)


def test_frames_of_an_interval_leave_at_its_end_together(rig: Rig) -> None:
    rig.pass_time(0.4)
    assert rig.guest.port.send(frames(2)) == 2
    rig.pass_time(0.5)
    rig.guest.port.send(frames(1))
    rig.netdev.port.send(frames(4))
    assert (rig.netdev.got, rig.guest.got) == ([], [])
    rig.pass_time(0.1)
    assert (len(rig.netdev.got), len(rig.guest.got)) == (3, 4)


def test_a_filter_without_frames_has_no_timer(rig: Rig) -> None:
    assert rig.loop.timers.next_deadline() is None
    rig.guest.port.send(frames(1))
    assert rig.loop.timers.next_deadline() == pytest.approx(rig.clock.now() + 1)
    rig.pass_time(1)
    assert rig.loop.timers.next_deadline() is None


def test_one_queue_may_be_held_and_the_other_not(rig: Rig) -> None:
    rig.add("filter-buffer", id="rx", interval=1000, queue="rx", position="head")
    rig.objects.change("b", "status", "off")
    rig.guest.port.send(frames(1))
    rig.netdev.port.send(frames(1))
    assert (len(rig.netdev.got), len(rig.guest.got)) == (0, 1)


def test_no_more_is_held_than_there_is_room_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "MOST_HELD", 3)
    assert rig.guest.port.send(frames(5)) == 3
    assert rig.guest.port.send(frames(1)) == 0
    assert rig.filters["b"].box.stats()["held"] == {"rx": 3, "tx": 0}
    assert "resume" not in rig.guest.heard
    rig.pass_time(1)
    assert len(rig.netdev.got) == 3
    assert rig.guest.heard[-1] == "resume"


def test_what_the_far_side_refuses_leaves_when_it_has_room(rig: Rig) -> None:
    rig.netdev.room = 1
    rig.guest.port.send(frames(3))
    rig.pass_time(1)
    assert len(rig.netdev.got) == 1
    rig.netdev.make_room()
    assert [data[0] for data in rig.netdev.data] == [0, 1, 2]


def test_switched_off_it_lets_all_go_in_order(rig: Rig) -> None:
    rig.netdev.room = 1
    rig.guest.port.send(frames(3))
    rig.objects.change("b", "status", "off")
    assert len(rig.netdev.got) == 1
    assert rig.guest.port.send(frames(1)) == 0  # behind what was held
    rig.netdev.make_room()
    assert rig.guest.heard[-1] == "resume"
    assert rig.guest.port.send(frames(1)) == 1
    assert [data[0] for data in rig.netdev.data] == [0, 1, 2, 0]


def test_another_interval_is_in_force_at_once(rig: Rig) -> None:
    rig.guest.port.send(frames(1))
    rig.objects.change("b", "interval", 10_000)
    assert len(rig.netdev.got) == 1
    rig.guest.port.send(frames(1))
    rig.pass_time(0.01)
    assert len(rig.netdev.got) == 2


def test_a_queue_that_is_held_no_more_keeps_its_order(rig: Rig) -> None:
    rig.guest.port.send(frames(2))
    rig.objects.change("b", "queue", "tx")
    assert rig.guest.port.send(frames(1)) == 1
    assert [data[0] for data in rig.netdev.data] == [0, 1, 0]
    rig.netdev.port.send(frames(1))
    assert rig.guest.got == []


def test_removed_it_lets_all_go(rig: Rig) -> None:
    rig.guest.port.send(frames(2))
    rig.filters["b"].box.close()
    assert len(rig.netdev.got) == 2
    rig.guest.port.send(frames(1))
    assert len(rig.netdev.got) == 3
    rig.pass_time(5)


def test_nobody_writes_past_it_into_the_guests_memory() -> None:
    rig = Rig(memory=2000)
    rig.add("filter-buffer", id="b", interval=1000, queue="tx")
    assert not rig.netdev.port.reserves
    rig.objects.change("b", "status", "off")
    assert rig.netdev.port.reserves
    rig.close()
