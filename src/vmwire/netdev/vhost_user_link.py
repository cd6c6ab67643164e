# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A vhost-user connection to a back end: scripts (``bus.virtio.front_end``) over a socket.

Scripts are followed one after the other, without waiting for the back end; one that isn't over
after ``LIMIT_S`` ends the connection, and so does whatever the back end says wrong. ``on_end`` is
told of the end once. Descriptors that are to be sent are copied at once and closed with their
script, so that whoever lent them may close his own.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from vmwire.bus.protocol import ProtocolError
from vmwire.bus.virtio.front_end import Dialogue, Script
from vmwire.engine.clock import Timer
from vmwire.engine.loop import ERROR, HANGUP, READ, WRITE, Loop

T = TypeVar("T")

LIMIT_S = 5.0
"""How long a back end may take to hear a script to its end."""
MOST_SCRIPTS = 64
"""Scripts that may wait for a back end that is slow."""
READ_BYTES = 4096


class _Job:
    """A script with what it needs: its descriptors, and who hears what came out."""

    def __init__(
        self, script: Script[Any], done: Callable[[Any], None], fds: Sequence[int]
    ) -> None:
        self.script = script
        self.done = done
        self.fds = fds

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = ()


class Copies:
    """Descriptors copied for a script: ``copies(fd)`` gives one of its own (-1 stays -1)."""

    def __init__(self) -> None:
        self.fds: list[int] = []

    def __call__(self, fd: int) -> int:
        if fd < 0:
            return fd
        self.fds.append(os.dup(fd))
        return self.fds[-1]


class Link:
    """Owns ``sock``."""

    def __init__(self, sock: socket.socket, loop: Loop, on_end: Callable[[str], None]) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop = loop
        self._on_end = on_end
        self._jobs: deque[_Job] = deque()
        self._dialogue: Dialogue[Any] | None = None
        self._rest = b""
        """What of a message the socket had no room for."""
        self._limit: Timer | None = None
        self._events = READ
        self.is_open = True
        """Whether nobody has hung up yet."""
        loop.watch(sock.fileno(), READ, self._on_events)

    def follow(self, script: Script[T], done: Callable[[T], None], fds: Sequence[int] = ()) -> None:
        """Follow a script when its turn comes. ``fds`` are closed with it."""
        job = _Job(script, done, fds)
        if not self.is_open or len(self._jobs) >= MOST_SCRIPTS:
            job.close()
            self.end("the back end doesn't listen any more")
            return
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._guarded(self._begin)

    def finish(self, limit_s: float) -> bool:
        """Wait until all scripts are over, but not for long; False: the connection has ended."""
        deadline = time.monotonic() + limit_s
        while self._jobs and self.is_open:
            wants = select.POLLIN | (select.POLLOUT if self._events & WRITE else 0)
            poll = select.poll()
            poll.register(self._socket, wants)
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                self.close()  # who has called us hears of it when his call is over
                self._loop.defer(lambda: self._on_end("the back end doesn't answer"))
            else:
                self._on_events(READ | (self._events & WRITE))
        return self.is_open

    def close(self) -> None:
        """Hang up. Harmless when called twice."""
        if not self.is_open:
            return
        self.is_open = False
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        if self._limit is not None:
            self._limit.cancel()
        while self._jobs:
            self._jobs.popleft().close()

    def end(self, reason: str) -> None:
        """Hang up because of ``reason``."""
        if self.is_open:
            self.close()
            self._on_end(reason)

    # Scripts

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except ProtocolError as error:
            self.end(str(error))
        except OSError as error:
            self.end(error.strerror or str(error))

    def _begin(self) -> None:
        """Begin with the next script."""
        self._limit = self._loop.call_later(LIMIT_S, self._too_late)
        self._dialogue = Dialogue(self._jobs[0].script)
        self._go_on()

    def _too_late(self) -> None:
        self.end(f"the back end hasn't answered in {LIMIT_S:g} s")

    def _go_on(self) -> None:
        """Say what is to be said until something is to be heard."""
        dialogue = self._dialogue
        while dialogue is not None and not dialogue.over:
            if dialogue.order is None:
                return
            if not self._rest:
                order = dialogue.order
                self._rest = order.message
                if not self._send(order.fds):
                    return
            elif not self._send(()):
                return
            dialogue.sent()
        if dialogue is not None:
            self._over(dialogue.result)

    def _send(self, fds: Sequence[int]) -> bool:
        """Send what is left of a message; whether all of it is gone."""
        try:
            sent = socket.send_fds(self._socket, [self._rest], fds, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
            if fds:  # they go with the first byte: say it all again
                self._rest = b""
        else:
            self._rest = self._rest[sent:]
            if not self._rest:
                self._watch(READ)
                return True
        self._watch(READ | WRITE)
        return False

    def _over(self, result: object) -> None:
        self._dialogue = None
        if self._limit is not None:
            self._limit.cancel()
        job = self._jobs.popleft()
        job.close()
        job.done(result)
        if self._jobs and self._dialogue is None and self.is_open:
            self._begin()

    def _watch(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self._loop.change(self._socket.fileno(), events)

    def _on_events(self, events: int) -> None:
        self._guarded(lambda: self._serve(events))

    def _serve(self, events: int) -> None:
        if events & WRITE:
            self._go_on()
        if self.is_open and events & (READ | HANGUP | ERROR):
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self.end("the back end has hung up")
            elif self._dialogue is None:
                raise ProtocolError("the back end speaks without being asked")
            else:
                self._dialogue.feed(data)
                self._go_on()
