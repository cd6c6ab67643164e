# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from vmwire.engine.clock import ManualClock
from vmwire.engine.loop import MOST_BUSY_TURNS, READ, WRITE, Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop(ManualClock())
    yield made
    made.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def running() -> Iterator[Loop]:
    """A loop with the system's clock that runs in a thread."""
    made = Loop()
    thread = threading.Thread(target=made.run)
    thread.start()
    while made.call(threading.get_ident) == threading.get_ident():
        time.sleep(0.001)
    yield made
    made.stop()
    thread.join(5)
    made.close()


def test_handler_hears_of_readiness(loop: Loop, pipe: tuple[int, int]) -> None:
    heard: list[int] = []
    loop.watch(pipe[0], READ, heard.append)
    assert loop.turn(0) == 0
    os.write(pipe[1], b"x")
    assert loop.turn(0) == 1
    assert heard == [READ]


def test_watch_can_be_changed_silenced_and_ended(loop: Loop, pipe: tuple[int, int]) -> None:
    heard: list[int] = []
    loop.watch(pipe[1], READ, heard.append)
    loop.change(pipe[1], WRITE)
    loop.turn(0)
    loop.change(pipe[1], 0)
    loop.turn(0)
    loop.change(pipe[1], WRITE)
    loop.unwatch(pipe[1])
    loop.unwatch(pipe[1])
    loop.turn(0)
    assert heard == [WRITE]


def test_descriptor_forgotten_in_the_same_turn_is_not_served(loop: Loop) -> None:
    pipes = [os.pipe(), os.pipe()]
    heard: list[int] = []

    def forget_other(number: int) -> None:
        heard.append(number)
        loop.unwatch(pipes[1 - number][0])

    for number, (read, write) in enumerate(pipes):
        loop.watch(read, READ, lambda events, number=number: forget_other(number))
        os.write(write, b"x")
    loop.turn(0)
    assert len(heard) == 1
    for ends in pipes:
        for end in ends:
            os.close(end)


def test_timers_run_on_the_loops_clock(loop: Loop) -> None:
    made: list[float] = []
    loop.call_later(2.0, lambda: made.append(loop.now()))
    loop.turn(0)
    clock = loop.timers.clock
    assert isinstance(clock, ManualClock)
    clock.advance(2.0)
    loop.turn(0)
    assert made == [1002.0]


def test_deferred_calls_run_once_at_the_end_of_the_turn(loop: Loop, pipe: tuple[int, int]) -> None:
    order: list[str] = []

    def on_ready(events: int) -> None:
        os.read(pipe[0], 1)
        loop.defer(lambda: order.append("deferred"))
        order.append("handler")

    loop.watch(pipe[0], READ, on_ready)
    os.write(pipe[1], b"x")
    loop.turn(0)
    loop.turn(0)
    assert order == ["handler", "deferred"]


def test_what_is_deferred_by_a_deferred_call_waits_for_the_next_turn(loop: Loop) -> None:
    order: list[int] = []

    def again() -> None:
        order.append(len(order))
        loop.defer(again)

    loop.defer(again)
    loop.turn()  # does not sleep: something is deferred
    assert order == [0]
    loop.turn()
    assert order == [0, 1]


def test_posted_call_runs_in_the_loops_thread(running: Loop) -> None:
    seen: list[int] = []
    done = threading.Event()
    running.post(lambda: (seen.append(threading.get_ident()), done.set()))
    assert done.wait(5)
    assert seen != [threading.get_ident()]


def test_call_returns_what_the_function_returns_or_raises(running: Loop) -> None:
    assert running.call(lambda: 6 * 7) == 42
    with pytest.raises(ZeroDivisionError):
        running.call(lambda: 1 // 0)
    assert running.call(lambda: running.call(lambda: 1)) == 1


def test_call_runs_at_once_where_no_loop_runs(loop: Loop) -> None:
    assert loop.call(threading.get_ident) == threading.get_ident()


def test_posts_made_before_the_loop_runs_are_not_lost(loop: Loop) -> None:
    made: list[int] = []
    for number in range(3):
        loop.post(lambda number=number: made.append(number))
    loop.turn(0)
    assert made == [0, 1, 2]


def test_posts_of_posts_do_not_hold_the_loop(loop: Loop) -> None:
    made: list[int] = []

    def again() -> None:
        made.append(1)
        loop.post(again)

    loop.post(again)
    loop.turn(0)
    assert len(made) == 1
    loop.turn(0)
    assert len(made) == 2


def test_exception_of_a_handler_ends_the_loop(loop: Loop) -> None:
    loop.post(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        loop.run()
    loop.post(loop.stop)
    loop.run()  # and it can run again


def test_call_to_a_loop_that_ends_meanwhile_raises_and_does_not_hang() -> None:
    loop, running, gate = Loop(), threading.Event(), threading.Event()
    thread = threading.Thread(target=loop.run)
    loop.post(lambda: (running.set(), gate.wait(5), loop.stop()))
    thread.start()
    assert running.wait(5)
    threading.Timer(0.05, gate.set).start()
    with pytest.raises(RuntimeError, match="the engine ended"):
        loop.call(lambda: None)
    thread.join(5)
    assert not thread.is_alive()
    loop.close()


def test_idle_loop_sleeps(running: Loop) -> None:
    running.call(lambda: None)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


def test_close_may_come_twice() -> None:
    loop = Loop()
    loop.close()
    loop.close()


def test_what_is_put_off_waits_for_an_idle_loop() -> None:
    loop = Loop()
    done: list[str] = []
    loop.put_off(lambda: done.append("later"))
    loop.defer(lambda: done.append("end of turn"))
    loop.turn(0)
    assert done == ["end of turn"]
    loop.idle()
    assert done == ["end of turn", "later"]
    loop.close()


def test_a_running_loop_does_what_was_put_off_before_it_sleeps() -> None:
    loop = Loop()
    loop.put_off(loop.stop)
    loop.run()
    loop.close()


def test_a_loop_that_is_never_idle_does_it_all_the_same() -> None:
    loop = Loop()
    turns = 0

    def busy() -> None:
        nonlocal turns
        turns += 1
        assert turns < 1000
        loop.defer(busy)
        loop.post(lambda: None)

    loop.defer(busy)
    loop.put_off(loop.stop)
    loop.turn(0)
    loop.run()
    assert turns > 1
    loop.close()


# Running: looking, doing what can wait, sleeping


class Echo:
    """A loop that runs in a thread and has one end of a pair of sockets; the test has the other.

    What arrives is answered, unless ``on_byte`` is made to do something else.
    """

    def __init__(self) -> None:
        self.loop = Loop()
        self.near, self.far = socket.socketpair()
        self.near.settimeout(5)
        self.on_byte: Callable[[bytes], None] = self.say
        self.loop.watch(self.far.fileno(), READ, self._on_ready)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def _on_ready(self, events: int) -> None:
        self.on_byte(self.far.recv(1))

    def say(self, data: bytes) -> None:
        """From the loop to the test."""
        self.far.send(data)

    def ask(self, size: int = 1) -> bytes:
        """Send a byte; return the ``size`` bytes that come for it."""
        self.near.send(b"?")
        return b"".join(self.near.recv(1) for _ in range(size))

    def cpu_time(self) -> float:
        """What the loop's thread has used."""
        assert self.thread.ident is not None
        return time.clock_gettime(time.pthread_getcpuclockid(self.thread.ident))

    def close(self) -> None:
        self.loop.stop()
        self.thread.join(5)
        assert not self.thread.is_alive()
        self.loop.close()
        self.near.close()
        self.far.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.close()


@pytest.fixture(params=["idle before", "quick exchange before"])
def asked(request: pytest.FixtureRequest, echo: Echo) -> Echo:
    """A loop that has slept for a while, or that looks for more before it sleeps."""
    if request.param == "quick exchange before":
        for _ in range(200):
            echo.ask()
    else:
        time.sleep(0.02)
    return echo


def test_deferred_work_is_done_without_waiting_for_an_event(asked: Echo) -> None:
    left = 1000

    def again() -> None:
        nonlocal left
        left -= 1
        if left:
            asked.loop.defer(again)
        else:
            asked.say(b"!")

    asked.on_byte = lambda data: again()
    assert asked.ask() == b"!"


def test_what_was_put_off_is_done_before_the_loop_sleeps(asked: Echo) -> None:
    asked.on_byte = lambda data: asked.loop.put_off(lambda: asked.say(b"!"))
    assert [asked.ask() for _ in range(50)] == [b"!"] * 50


def test_what_was_put_off_comes_behind_what_was_deferred(asked: Echo) -> None:
    def on_byte(data: bytes) -> None:
        asked.loop.put_off(lambda: asked.say(b"3"))
        asked.loop.defer(lambda: asked.say(b"2"))
        asked.say(b"1")

    asked.on_byte = on_byte
    assert asked.ask(3) == b"123"


def test_what_was_put_off_may_defer_and_put_off_more(asked: Echo) -> None:
    def late() -> None:
        asked.loop.defer(lambda: asked.say(b"1"))
        asked.loop.defer(lambda: asked.loop.put_off(later))

    def later() -> None:
        asked.loop.put_off(lambda: asked.say(b"2"))

    asked.on_byte = lambda data: asked.loop.put_off(late)
    assert asked.ask(2) == b"12"


def test_a_busy_loop_does_what_was_put_off_after_some_turns(pipe: tuple[int, int]) -> None:
    """Somebody has always something to say, and the loop is never about to sleep."""
    loop = Loop()
    turns = 0
    done_at: list[int] = []

    def on_ready(events: int) -> None:
        nonlocal turns
        turns += 1
        if turns == 10:
            loop.put_off(lambda: done_at.append(turns))
        if turns == 100:
            loop.stop()

    loop.watch(pipe[0], READ, on_ready)
    os.write(pipe[1], b"never read")
    loop.run()
    loop.close()
    (turn,) = done_at
    assert 10 < turn <= 10 + MOST_BUSY_TURNS


def test_timers_are_on_time_while_answers_come_quickly(echo: Echo) -> None:
    fired: list[float] = []
    loop = echo.loop
    due = loop.call(lambda: loop.call_later(0.05, lambda: fired.append(loop.now())).when)
    deadline = time.monotonic() + 5
    while not fired and time.monotonic() < deadline:
        echo.ask()
    assert 0 <= fired[0] - due < 1


def test_a_timer_wakes_a_loop_that_has_nothing_else(asked: Echo) -> None:
    loop = asked.loop

    def on_byte(data: bytes) -> None:
        loop.call_later(0.03, lambda: asked.say(b"!"))

    asked.on_byte = on_byte
    begin = time.monotonic()
    assert asked.ask() == b"!"
    assert time.monotonic() - begin >= 0.03


def test_a_timer_in_the_far_future_keeps_nothing_from_being_read(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    loop = Loop()
    seen: list[int] = []
    loop.call_later(1e17, lambda: None)
    loop.watch(reader, READ, seen.append)
    os.write(writer, b"!")
    loop.turn()
    loop.close()
    assert seen


def test_a_loop_that_answered_quickly_costs_nothing_when_idle(echo: Echo) -> None:
    for _ in range(500):
        echo.ask()
    time.sleep(0.02)
    before = echo.cpu_time()
    time.sleep(0.3)
    assert echo.cpu_time() - before < 0.01


def test_a_loop_that_is_asked_now_and_then_sleeps_meanwhile(echo: Echo) -> None:
    for _ in range(500):
        echo.ask()
    before = echo.cpu_time()
    for _ in range(30):
        time.sleep(0.01)
        echo.ask()
    assert echo.cpu_time() - before < 0.06


def test_a_loop_that_looks_for_more_can_be_stopped(echo: Echo) -> None:
    for _ in range(500):
        echo.ask()
    echo.loop.stop()
    echo.thread.join(5)
    assert not echo.thread.is_alive()
