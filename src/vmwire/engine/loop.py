# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The engine's loop: readiness, timers, and closures from other threads.

Theory of operation. One loop runs in one thread; everything on the data path happens there and
needs no locks. A turn is: wait for readiness, run the handlers of the descriptors that are ready,
run the timers that are due, run what was posted from other threads, then run what was *deferred*
to the end of the turn. Deferring is how bursts are paid for once: a ring asks for one wake-up of
its guest however many frames the turn brought.

What can wait a little longer (an acknowledgement that the answer may carry) is put off until the
loop is *idle*: about to sleep, or kept busy for ``MOST_BUSY_TURNS`` turns.

After a turn with little work the loop looks again without sleeping (an *adaptive spin*): going to
sleep and being woken costs more than a request and its answer. How long it looks follows what it
met lately: a sleep that was over at once doubles the time, a long one halves it, down to a few
looks. So an idle network costs nothing.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from os import sched_yield
from time import perf_counter
from typing import TypeVar

from vmwire.engine.clock import Clock, Timer, Timers

T = TypeVar("T")

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP
ERROR = select.EPOLLERR
PEER_CLOSED = select.EPOLLRDHUP
URGENT = select.EPOLLPRI
EDGE = select.EPOLLET

SPIN_LOOKS = 4
"""Empty looks before anything else."""
LEAST_SPIN_S = 25e-6
MOST_SPIN_S = 200e-6
"""How long it looks on before it goes to sleep: about what being woken costs, and the answer of
a peer on the same machine."""
SHORT_SLEEP_S = 0.004
"""Sleeps that are shorter end to the microsecond: an interrupt that a card delays by 8 µs had
better not come after a millisecond."""
LONGEST_SLEEP_S = 3600.0
"""After that it looks again: the kernel takes no times without bounds."""
SMALL_TURN = 4
"""A turn with at most this many ready descriptors is followed by a spin."""
MOST_BUSY_TURNS = 16
"""Turns after which the loop does what waits for an idle moment, if there was none."""
MAX_EVENTS = 64
"""Descriptors served per turn, so that timers and posts are never starved."""

Handler = Callable[[int], None]


class Loop:
    """One epoll loop with timers. Only ``post``, ``call`` and ``stop`` may come from other threads.

    Handlers are called with the ready events (an ``EPOLL*`` mask). An exception that leaves a
    handler is a bug of ours: it ends ``run``, loudly.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.timers = Timers(clock)
        self.now = self.timers.now
        self._run_due = self.timers.run_due
        self._epoll = select.epoll()
        self._selectable = self._epoll.fileno() < 1024  # FD_SETSIZE
        self._handlers: dict[int, Handler] = {}
        self._posted: deque[Callable[[], None]] = deque()
        self._deferred: list[Callable[[], None]] = []
        self._put_off: list[Callable[[], None]] = []
        self._busy_turns = 0
        self._spin_s = 0.0
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake_fd, READ)
        self._handlers[self._wake_fd] = self._on_wake
        self._stopping = False
        self._thread: int | None = None

    # Descriptors

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Call ``handler(events)`` whenever ``fd`` is ready for ``events``."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        """Watch ``fd`` for other events; 0 silences it without forgetting it."""
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``. Must come before it is closed; harmless if it isn't watched."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    # Time

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Have ``callback`` called at ``when`` on this loop's clock."""
        return self.timers.call_at(when, callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Have ``callback`` called ``delay_s`` seconds from now."""
        return self.timers.call_later(delay_s, callback)

    def defer(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` at the end of this turn (of the next one, from outside of a turn)."""
        self._deferred.append(callback)

    def put_off(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` when the loop is next idle, or has been busy for too long."""
        self._put_off.append(callback)

    def idle(self) -> None:
        """Run what was put off, as ``run`` does before it sleeps; what it defers, too."""
        self._busy_turns = 0
        put_off, self._put_off = self._put_off, []
        for callback in put_off:
            callback()
        if self._deferred:
            self._run_deferred()

    # Other threads

    def post(self, callback: Callable[[], None]) -> None:
        """From any thread: run ``callback`` in the loop's thread, soon."""
        self._posted.append(callback)
        os.eventfd_write(self._wake_fd, 1)

    def call(self, function: Callable[[], T]) -> T:
        """From any thread: run ``function`` in the loop's thread and return what it returns.

        Runs it at once when called from the loop's own thread or while the loop doesn't run.
        An exception comes back to the caller.
        """
        if self._thread is None or self._thread == threading.get_ident():
            return function()
        done = threading.Event()
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(function())
            except BaseException as error:  # handed to the caller's thread, not swallowed
                errors.append(error)
            finally:
                done.set()

        self.post(run)
        while not done.wait(0.5):
            if self._thread is None:
                raise RuntimeError("the engine ended before the call was made")
        if errors:
            raise errors[0]
        return results[0]

    def stop(self) -> None:
        """From any thread: make ``run`` return after this turn."""
        self._stopping = True
        os.eventfd_write(self._wake_fd, 1)

    # Running

    def run(self) -> None:
        """Run until ``stop``."""
        self._thread = threading.get_ident()
        try:
            spinning = False
            while not self._stopping:
                if self._put_off:
                    self._busy_turns += 1
                    if self._busy_turns > MOST_BUSY_TURNS:
                        self.idle()
                served = self._serve(self._ready(spinning))
                spinning = 0 < served <= SMALL_TURN
        finally:
            self._thread = None
            self._stopping = False

    def _ready(self, spinning: bool) -> list[tuple[int, int]]:
        """Return what is ready, as soon as something is or deferred calls are to be made."""
        poll = self._epoll.poll
        if self._deferred:
            return poll(0, MAX_EVENTS)
        if spinning:
            for _ in range(SPIN_LOOKS):
                if ready := poll(0, MAX_EVENTS):
                    return ready
            end = perf_counter() + self._spin_s
            while perf_counter() < end:
                sched_yield()  # to whoever is to answer
                if ready := poll(0, MAX_EVENTS):
                    return ready
        if self._put_off:
            self.idle()
            if self._put_off or self._deferred:  # more came of it
                return poll(0, MAX_EVENTS)
        return self._sleep()

    def _sleep(self) -> list[tuple[int, int]]:
        """Wait for something to happen, and learn from how long that took."""
        begin = perf_counter()
        sleep_s = self._sleep_time(None)
        if sleep_s is not None and 0 < sleep_s < SHORT_SLEEP_S and self._selectable:
            select.select((self._epoll,), (), (), sleep_s)  # epoll itself counts milliseconds
            sleep_s = 0
        ready = self._epoll.poll(sleep_s, MAX_EVENTS)
        if perf_counter() - begin < MOST_SPIN_S:
            self._spin_s = min(MOST_SPIN_S, self._spin_s * 2 or LEAST_SPIN_S)
        elif self._spin_s:
            self._spin_s = self._spin_s / 2 if self._spin_s > LEAST_SPIN_S else 0.0
        return ready

    def turn(self, timeout_s: float | None = None) -> int:
        """Run one turn, waiting at most ``timeout_s`` (None: until something happens).

        Returns how many descriptors were ready.
        """
        sleep_s = 0 if timeout_s == 0 else self._sleep_time(timeout_s)
        return self._serve(self._epoll.poll(sleep_s, MAX_EVENTS))

    def _serve(self, ready: list[tuple[int, int]]) -> int:
        handlers = self._handlers
        for fd, events in ready:
            handler = handlers.get(fd)
            if handler is not None:  # an earlier handler of this turn may have forgotten it
                handler(events)
        self._run_due()
        if self._deferred:
            self._run_deferred()
        return len(ready)

    def _sleep_time(self, timeout_s: float | None) -> float | None:
        if self._deferred:
            return 0
        deadline = self.timers.next_deadline()
        if deadline is None:
            return timeout_s
        # epoll counts in whole milliseconds and rounds up: a timer is never early
        wait = min(max(0.0, deadline - self.now()), LONGEST_SLEEP_S)
        return wait if timeout_s is None else min(wait, timeout_s)

    def _run_deferred(self) -> None:
        """What is deferred while deferred calls run waits for the next turn."""
        deferred, self._deferred = self._deferred, []
        for callback in deferred:
            callback()

    def _on_wake(self, events: int) -> None:
        os.eventfd_read(self._wake_fd)
        for _ in range(len(self._posted)):
            self._posted.popleft()()

    def close(self) -> None:
        """Give the loop's own descriptors back. What it watched is its owners'."""
        self._handlers.clear()
        self._epoll.close()
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
            self._wake_fd = -1
