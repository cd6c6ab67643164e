# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""An upgrade, the keeper's half: another worker, of the code that is installed now, takes over.

Theory of operation. The worker is asked for an upgrade over its control socket and asks the keeper.
The keeper starts a fresh interpreter (nothing is forked from the code that runs), the *successor*,
and then one side waits for the other:

    PREPARING  the successor imports everything and looks at the job       -> prepared
    QUIET      the worker stands still and puts its state into the store   -> quiet
    OPENING    the successor is given the store and opens the network      -> opened
               ── the worker is killed, the successor is told to start ──
    (over)     the keeper executes the same new code in its own place      -> ready

Before the line a failure, a death or too much time ends the successor, and the worker goes on where
it stood still; the successor touches nothing until it is started (`FdStore.on_trial`). Behind the
line the successor is the worker, and its death is any worker's. A keeper that is killed before the
line leaves two that hear of it: the worker goes on and looks for a new keeper, the successor ends,
unless the worker is dead.

The keeper takes on the new code by execv: its pid, its children and its descriptors stay, and so
does the terminal of a network in the foreground.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from vmwire.daemon import channel as channels
from vmwire.daemon import process
from vmwire.daemon.channel import Channel, Message
from vmwire.daemon.job import Handles, Job
from vmwire.daemon.store import KeptFds

VERSION = 1
"""Of what keeper, worker and successor say to each other; a successor of another one refuses."""
PREPARE_S = 20.0
QUIET_S = 5.0
OPEN_S = 10.0

_RUN = """
import json, sys
try:
    sys.path[:] = json.loads(sys.argv[2])
    from {module} import {function} as main
except BaseException as error:
    import socket
    text = f"{{type(error).__name__}}: {{error}}"
    failed = {{"failed": {{"kind": "config", "message": text, "option": None}}}}
    told = socket.socket(fileno=int(sys.argv[1]))
    told.recv(1 << 18)  # what nobody has read would take the answer along
    told.send(json.dumps(failed).encode())
    sys.exit(1)
sys.exit(main(int(sys.argv[1])))
"""


def fresh_interpreter(function: str, fd: int, python: str, path: Sequence[str]) -> list[str]:
    """The words that run ``function`` ("module:name") with ``fd`` by code that is in ``path``.

    What can't be imported is told as a failed start, over ``fd``.
    """
    module, _, name = function.partition(":")
    code = _RUN.format(module=module, function=name)
    return [python, "-ISc", code, str(fd), json.dumps(list(path))]


def import_path() -> list[str]:
    """Where a fresh interpreter finds what this one runs."""
    package = sys.modules["vmwire"].__path__[0]
    return [os.path.dirname(os.path.abspath(package)), *map(os.path.abspath, sys.path)]


def spawn(
    function: str, python: str | None = None, path: Sequence[str] | None = None
) -> tuple[Channel, int]:
    """Start a fresh process; returns the channel to it, and its pid."""
    ours, theirs = channels.pair()
    fd = theirs.fileno()
    os.set_inheritable(fd, True)
    python = python or sys.executable
    words = fresh_interpreter(function, fd, python, import_path() if path is None else path)
    try:
        pid = os.posix_spawn(python, words, os.environ, setsigmask=())
    except (OSError, ValueError):
        ours.close()
        raise
    finally:
        theirs.close()
    return ours, pid


class Instance(Protocol):
    """What the keeper is to a succession."""

    job: Job
    handles: Handles
    kept: KeptFds

    def watch(self, fd: int, handler: Callable[[], None]) -> None: ...
    def unwatch(self, fd: int) -> None: ...
    def set_alarm(self, delay_s: float, action: Callable[[], None]) -> None: ...
    def clear_alarm(self) -> None: ...
    def tell_worker(self, message: Message) -> None: ...
    def worker_pidfd(self) -> int: ...
    def succession_failed(self, reason: str) -> None: ...
    def succession_over(self, channel: Channel, pidfd: int, pid: int, kept: KeptFds) -> None: ...


class Succession:
    """One attempt. Raises OSError or ValueError if there can't even be another process."""

    def __init__(self, instance: Instance, python: str, path: Sequence[str]) -> None:
        self.instance = instance
        self.python, self.path = python, path
        self._channel, self._pid = spawn("vmwire.daemon.successor:main", python, path)
        self._channel.set_timeout(OPEN_S)
        self._pidfd = os.pidfd_open(self._pid)
        self._kept = KeptFds()
        self._still_from: float | None = None
        instance.watch(self._channel.fileno(), self._on_message)
        instance.watch(self._pidfd, self._on_gone)
        named = instance.handles.named()
        job = {"version": VERSION, "job": instance.job.to_data(), "handles": list(named)}
        self._tell(job, list(named.values()))
        self._wait(PREPARE_S, "is not ready to begin")

    @property
    def still_ms(self) -> float:
        """For how long the network stands still by now."""
        return 0.0 if self._still_from is None else (time.monotonic() - self._still_from) * 1000

    def _wait(self, seconds: float, what: str) -> None:
        reason = f"it {what} after {seconds:g} s"
        self.instance.set_alarm(seconds, lambda: self.fail(reason))

    def _tell(self, message: Message, fds: Sequence[int] = ()) -> None:
        """To a successor that is gone nothing is told: its end is."""
        try:
            self._channel.send(message, fds)
        except OSError as error:  # it doesn't listen, or there are too many descriptors
            self.fail(f"it can't be told: {error}")

    def _on_message(self) -> None:
        received = self._channel.receive()
        if received is None:
            self.instance.unwatch(self._channel.fileno())  # its end is told by the pidfd
            self._has_ended = True
            return
        message, fds = received
        if "keep" in message:
            self._kept.put(message["keep"], fds[0])
        elif "drop" in message:
            self._kept.drop(message["drop"])
        elif "prepared" in message:
            self._still_from = time.monotonic()
            self.instance.tell_worker({"quiesce": True})
            self._wait(QUIET_S, "had nothing to take over")
        elif "opened" in message:
            self._take_over()
        elif "failed" in message:
            self.fail(message["failed"]["message"])

    def on_quiet(self) -> None:
        """The worker stands still and has put everything down."""
        self._kept = self.instance.kept.copy()
        for name, fd in self._kept.items():
            self._tell({"keep": name}, [fd])
        opening = {"open": self.instance.job.to_data()}  # edited since it was looked at, perhaps
        self._tell(opening, [self.instance.worker_pidfd()])
        self._wait(OPEN_S, "has not opened the network")

    def _take_over(self) -> None:
        self._let_go()
        # It stands still and wouldn't do anything more; killed, it can't be told to by mistake
        process.kill(self.instance.worker_pidfd(), signal.SIGKILL)
        self._channel.send({"start": True})
        self.instance.succession_over(self._channel, self._pidfd, self._pid, self._kept)

    def _on_gone(self) -> None:
        while self._alive and not self._has_ended and self._channel.readable():
            self._on_message()  # its last words
        if self._alive:
            self.fail("it ended")

    _alive = True
    _has_ended = False

    def fail(self, reason: str) -> None:
        """End the successor, and have the worker go on."""
        if self._alive:
            self.abandon()
            self.instance.succession_failed(reason)

    def abandon(self) -> None:
        """End the successor, because nothing is to be taken over any more."""
        if not self._alive:
            return
        self._let_go()
        process.kill(self._pidfd, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._pidfd)
        self._channel.close()
        self._kept.close()

    def _let_go(self) -> None:
        self._alive = False
        self.instance.clear_alarm()
        for fd in (self._channel.fileno(), self._pidfd):
            self.instance.unwatch(fd)


# --- the keeper in new code ---------------------------------------------------------------------


def execute(state: dict[str, Any], python: str, path: Sequence[str], fds: Sequence[int]) -> None:
    """Become a keeper of the code in ``path``, that goes on from ``state``. OSError: not possible.

    Signals wait until the new keeper listens to them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, process.STOP_SIGNALS)
    text = json.dumps({"version": VERSION, **state}).encode()
    fd = os.memfd_create("vmwire-keeper")
    try:
        os.write(fd, text)
        for each in (fd, *fds):
            os.set_inheritable(each, True)
        os.execv(python, fresh_interpreter("vmwire.daemon.keeper:carry_on", fd, python, path))
    finally:
        os.close(fd)
        for each in fds:
            os.set_inheritable(each, False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, process.STOP_SIGNALS)


def read_state(fd: int) -> dict[str, Any]:
    """What `execute` left, in the new code. ValueError if it is of another version."""
    with open(fd, "rb") as file:
        file.seek(0)
        state: dict[str, Any] = json.load(file)
    if state.get("version") != VERSION:
        raise ValueError(f"a keeper's state of version {state.get('version')}")
    return state
