# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vmwire.engine.clock import ManualClock, SystemClock, Timers


def test_calls_are_made_in_order_of_their_time() -> None:
    timers, made = Timers(ManualClock()), []
    for delay in (3.0, 1.0, 2.0):
        timers.call_later(delay, lambda delay=delay: made.append((delay, timers.now())))
    timers.advance(2.5)
    assert made == [(1.0, 1001.0), (2.0, 1002.0)]
    timers.advance(0.5)
    assert made[2:] == [(3.0, 1003.0)]


def test_calls_due_at_the_same_time_keep_their_order() -> None:
    timers, made = Timers(ManualClock()), []
    for number in range(5):
        timers.call_later(1.0, lambda number=number: made.append(number))
    timers.advance(1.0)
    assert made == [0, 1, 2, 3, 4]


def test_cancelled_call_is_never_made() -> None:
    timers, made = Timers(ManualClock()), []
    timer = timers.call_later(1.0, lambda: made.append(1))
    assert timer.active
    timer.cancel()
    timer.cancel()
    assert not timer.active
    assert timers.next_deadline() is None
    timers.advance(2.0)
    assert made == []


def test_call_may_cancel_another_that_is_due() -> None:
    timers, made = Timers(ManualClock()), []
    timers.call_later(1.0, lambda: later.cancel())
    later = timers.call_later(1.0, lambda: made.append(1))
    timers.advance(1.0)
    assert made == []


def test_timer_that_rearms_itself_cannot_hold_the_loop() -> None:
    timers, made = Timers(ManualClock()), []

    def again() -> None:
        made.append(1)
        timers.call_later(0.0, again)

    again()
    assert timers.run_due() == 1
    assert timers.run_due() == 1
    assert len(made) == 3


def test_timer_is_inactive_while_its_call_is_made() -> None:
    timers, states = Timers(ManualClock()), []
    timer = timers.call_later(1.0, lambda: states.append(timer.active))
    timers.advance(1.0)
    assert states == [False]


def test_manual_clock_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="back"):
        ManualClock().advance(-1)


def test_system_clock_cannot_be_advanced() -> None:
    with pytest.raises(TypeError):
        Timers(SystemClock()).advance(1)


def test_timers_that_join_others_are_due_with_them() -> None:
    clock, order = ManualClock(), []
    early, late = Timers(), Timers(clock)
    timer = early.call_at(clock.now() + 2, lambda: order.append("before"))
    early.call_at(clock.now() + 3, lambda: order.append("cancelled")).cancel()
    early.join(late)
    early.call_later(1, lambda: order.append("after"))
    late.call_later(1.5, lambda: order.append("its own"))
    assert early.now() == clock.now()
    late.advance(5)
    assert order == ["after", "its own", "before"]
    assert not timer.active
