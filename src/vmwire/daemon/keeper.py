# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The keeper: the small process that owns what must not close, and restarts the worker.

Theory of operation. The keeper imports nothing of the network's stack: it forks, and the child
becomes the worker, which imports it. It then only waits, for

* the worker's end (its pidfd). A worker that dies during the first start is a failed start: its
  reason is reported and everything goes. Later, the next worker is forked at once, with the
  descriptors of the fd store and the same job; workers that keep dying young are started more and
  more slowly, but never given up while the VM lives;
* the worker's messages (`channel`): what to keep, what to drop, ready, failed;
* the VM's end. The *lifeline* is a pipe whose write end the VM has inherited, and with it whoever
  it forks: end of file says that all of them are gone, however they went. A VM behind a program
  that closes what it doesn't know (sudo) is followed by its pid as well: then both have to be gone;
* a signal to stop, in the foreground or from a person.

    STARTING ──ready──▶ RUNNING ──worker died──▶ WAITING ──time──▶ RUNNING
        │                  └─────VM gone, signal─────┴──▶ ENDING ──worker gone──▶ (end)
        └──failed──▶ (end)

An upgrade replaces the worker and then the keeper's own code (`succession`).

If the keeper itself is killed, the worker (which has copies of everything) starts a new one, that
*adopts* it: it is not its parent, so it knows it by pidfd only. A keeper in the foreground is the
command that the user typed; if that is killed, the worker ends everything instead.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from vmwire.daemon import channel as channels
from vmwire.daemon import logfile, process, rundir, succession
from vmwire.daemon.channel import Channel, Message
from vmwire.daemon.job import Handles, Job
from vmwire.daemon.notify import PidFile, sd_notify
from vmwire.daemon.store import KeptFds
from vmwire.daemon.succession import Succession

END_PATIENCE_S = 0.7
"""How long a worker may take to end cleanly."""


class Restarts:
    """How long to wait before the next worker: not at all, unless they keep dying young."""

    YOUNG_S = 10.0
    FREE = 5
    FIRST_WAIT_S = 0.5
    LONGEST_WAIT_S = 30.0

    def __init__(self) -> None:
        self._young = 0

    def wait_after(self, lived_s: float) -> float:
        self._young = self._young + 1 if lived_s < self.YOUNG_S else 1
        if self._young <= self.FREE:
            return 0.0
        doublings = min(self._young - self.FREE - 1, 10)
        return float(min(self.LONGEST_WAIT_S, self.FIRST_WAIT_S * 2**doublings))


class Keeper:
    """Runs one instance until its VM is gone; ``run`` returns 0, or 1 for a start that failed.

    ``on_report`` hears ``{"ready": facts}`` or ``{"failed": reason}`` once, for the first worker.
    A failed start is reported when nothing is left of it. The pid file, if there is one, is removed
    by whoever made it, or by the keeper that an upgrade put in its place.
    """

    def __init__(
        self,
        job: Job,
        handles: Handles,
        kept: KeptFds,
        on_report: Callable[[Message], None],
        *,
        pid_file: PidFile | None = None,
    ) -> None:
        self.job = job
        self.handles = handles
        self.kept = kept
        self._on_report = on_report
        self.pid_file = pid_file
        self._restarts = Restarts()
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._signals = process.StopSignals()
        self._channel: Channel | None = None
        self._pidfd = -1
        self._pid: int | None = None  # None: adopted, somebody else's child
        self._born = 0.0
        self._reported = False
        self._failure: Message | None = None
        self._alarm: tuple[float, Callable[[], None]] | None = None
        self._succession: Succession | None = None
        self._old_pid: int | None = None  # the worker before this one, killed and to be reaped
        self._ending = False
        self._done = False
        self.watch(self._signals.fileno(), self._end)
        for fd in (handles.lifeline, handles.vm):
            if fd is not None:
                self.watch(fd, partial(self._on_gone, fd))

    def run(self) -> int:
        """Fork the first worker and stay until the end."""
        self._start_worker()
        return self._loop()

    def run_adopting(self, channel: Channel, pidfd: int) -> int:
        """Look after a worker that runs already, and has been reported long ago."""
        return self.run_on(channel, pidfd, None)

    def run_on(self, channel: Channel, pidfd: int, pid: int | None) -> int:
        """The same; ``pid`` if it is our child."""
        self._reported = True
        self._attend(channel, pidfd, pid)
        return self._loop()

    # The loop

    def _loop(self) -> int:
        while not self._done:
            timeout = None
            if self._alarm is not None:
                timeout = max(0, int((self._alarm[0] - time.monotonic()) * 1000) + 1)
            for fd, _ in self._poll.poll(timeout):
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler()
            if self._alarm is not None and time.monotonic() >= self._alarm[0]:
                _, action = self._alarm
                self._alarm = None
                action()
        return self._clean_up()

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._poll.register(fd, select.POLLIN)
        self._handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def set_alarm(self, delay_s: float, action: Callable[[], None]) -> None:
        """There is one alarm: waiting, ending and handing over exclude each other."""
        self._alarm = (time.monotonic() + delay_s, action)

    def clear_alarm(self) -> None:
        self._alarm = None

    def _log(self, level: str, text: str) -> None:
        if logfile.LEVELS.index(level) <= logfile.LEVELS.index(self.job.log_level):
            logfile.write_line(self.handles.log, level, "keeper", text)

    # The worker

    def _start_worker(self) -> None:
        ours, theirs = channels.pair()

        def child() -> int:
            handles, kept = self.handles, self.kept
            streams = [0, 1, 2]
            process.reset_signals()
            process.close_all_but([*streams, *handles.fds(), *kept.fds(), theirs.fileno()])
            return _import_worker(self.job, handles, theirs, kept)

        pid = process.fork(child)
        theirs.close()
        self._attend(ours, os.pidfd_open(pid), pid)

    def _attend(self, channel: Channel, pidfd: int, pid: int | None) -> None:
        self._channel, self._pidfd, self._pid = channel, pidfd, pid
        self._born = time.monotonic()
        self.watch(channel.fileno(), self._on_message)
        self.watch(pidfd, self._on_worker_gone)

    def _on_message(self) -> None:
        assert self._channel is not None
        received = self._channel.receive()
        if received is None:
            self.unwatch(self._channel.fileno())  # its end is told by the pidfd
            return
        message, fds = received
        if "keep" in message:
            self.kept.put(message["keep"], fds[0])
        elif "drop" in message:
            self.kept.drop(message["drop"])
        elif "ready" in message:
            self._log("info", f"worker is ready after {time.monotonic() - self._born:.2f} s")
            self._report(message)
            self._follow_code()
        elif "edits" in message:
            self.job.edits, self.job.sockets = message["edits"], message["sockets"]
        elif "quit" in message:
            self._end()
        elif "upgrade" in message:
            self._upgrade(message["upgrade"])
        elif "quiet" in message:
            if self._succession is not None:
                self._succession.on_quiet()
        elif "not now" in message:
            if self._succession is not None:
                self._succession.fail(message["not now"])
        else:
            self._failure = message

    def _report(self, message: Message) -> None:
        if not self._reported:
            self._reported = True
            self._on_report(message)

    # Upgrades

    def _upgrade(self, code: Message) -> None:
        if self._ending or self._succession is not None:
            return
        self._log("info", f"upgrade to the code in {code['path'][0]}")
        try:
            self._succession = Succession(self, code["python"], code["path"])
        except OSError as error:
            self.succession_failed(f"{code['python']}: {error.strerror}")
        except ValueError as error:  # a word with a NUL is no argument
            self.succession_failed(f"{code['python']!r}: {error}")

    def tell_worker(self, message: Message) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def worker_pidfd(self) -> int:
        return self._pidfd

    def succession_failed(self, reason: str) -> None:
        """The worker goes on."""
        failed, self._succession = self._succession, None
        self.tell_worker({"resume": reason})
        still = "" if failed is None else f" (the network stood still for {failed.still_ms:.1f} ms)"
        self._log("error", f"upgrade failed: {reason}{still}")

    def succession_over(self, channel: Channel, pidfd: int, pid: int, kept: KeptFds) -> None:
        """The successor is the worker from now on, the one before is killed."""
        self._old_pid = self._pid
        self._forget_worker()
        self.kept.close()
        self.kept = kept
        self._attend(channel, pidfd, pid)

    def _follow_code(self) -> None:
        """Behind a worker of new code, become a keeper of that code."""
        succeeded, self._succession = self._succession, None
        if succeeded is None or self._channel is None:
            return
        self.job.upgrades += 1
        still = f"it stood still for {succeeded.still_ms:.1f} ms"
        self._log("info", f"the network was handed over; {still}")
        self._reap_old()
        kept = dict(self.kept.items())
        named = self.handles.named()
        state = {
            "job": self.job.to_data(),
            "handles": named,
            "kept": kept,
            "channel": self._channel.fileno(),
            "worker": [self._pid, self._pidfd],
            "pid file": None if self.pid_file is None else self.pid_file.to_data(),
        }
        fds = [*named.values(), *kept.values(), self._channel.fileno(), self._pidfd]
        fds += [] if self.pid_file is None else [self.pid_file.fileno()]
        try:
            succession.execute(state, succeeded.python, succeeded.path, fds)
        except OSError as error:
            self._log("error", f"the keeper stays in old code: {error}")

    def _reap_old(self) -> None:
        if self._old_pid is not None:
            os.waitpid(self._old_pid, 0)
            self._old_pid = None

    # The worker's end

    def _on_worker_gone(self) -> None:
        if self._succession is not None:
            self._succession.abandon()
            self._succession = None
            self._reap_old()
        while self._channel is not None and self._channel.fileno() in self._handlers:
            self._on_message()  # its last words
        how = self._reap()
        lived = time.monotonic() - self._born
        self._forget_worker()
        if self._ending:
            self._done = True
        elif not self._reported:
            self._failure = self._failure or {"failed": self._died_at_start(how)}
            self._done = True
        else:
            self._restart_after(lived, how)

    def _restart_after(self, lived: float, how: str) -> None:
        failure = self._failure
        self._failure = None
        reason = f": {failure['failed']['message']}" if failure else ""
        wait = self._restarts.wait_after(lived)
        self._log("error", f"worker {how} after {lived:.1f} s{reason}; next one in {wait:g} s")
        self.job.restarts += 1
        if wait:
            self.set_alarm(wait, self._start_worker)
        else:
            self._start_worker()

    def _reap(self) -> str:
        """Collect the worker, if it is ours, and say how it went."""
        if self._pid is None:
            return "ended"
        _, status = os.waitpid(self._pid, 0)
        if os.WIFSIGNALED(status):
            return f"was killed by signal {os.WTERMSIG(status)}"
        return f"ended with status {os.WEXITSTATUS(status)}"

    def _forget_worker(self) -> None:
        assert self._channel is not None
        for fd in (self._channel.fileno(), self._pidfd):
            self.unwatch(fd)
        self._channel.close()
        self._channel = None
        os.close(self._pidfd)
        self._pidfd = -1

    def _died_at_start(self, how: str) -> dict[str, Any]:
        text = f"the network {how} at its start"
        saved = None if self.job.foreground else logfile.save_crash_log(self.job.run_dir)
        return {"kind": "os", "errno": None, "path": None,
                "message": f"{text}; see {saved}" if saved else text}  # fmt: skip

    # The end

    def _on_gone(self, fd: int) -> None:
        """The lifeline or the VM's process ended; when none is left, so do we."""
        self.unwatch(fd)
        if not any(f in self._handlers for f in (self.handles.lifeline, self.handles.vm)):
            self._end()

    def _end(self) -> None:
        """Have the worker end, and end with it. A second time: stop being patient."""
        self._drain_signals()
        if self._pidfd < 0:
            self._done = True
        elif self._ending:
            self._kill()
        else:
            self._ending = True
            if self._succession is not None:
                self._succession.abandon()
                self._succession = None
            if self.job.foreground:
                sd_notify("STOPPING=1")
            process.kill(self._pidfd, signal.SIGTERM)
            self.set_alarm(END_PATIENCE_S, self._kill)

    def _drain_signals(self) -> None:
        try:
            os.read(self._signals.fileno(), 64)
        except BlockingIOError:
            pass

    def _kill(self) -> None:
        self._log("warning", "worker didn't end in time and is killed")
        process.kill(self._pidfd, signal.SIGKILL)

    def _clean_up(self) -> int:
        self.kept.close()
        if self.job.restarts:
            logfile.save_crash_log(self.job.run_dir)
        rundir.remove(self.job.run_dir, self.job.sockets)
        self._signals.close()
        if self._reported:
            return 0
        self._report(self._failure or {"failed": self._died_at_start("was stopped")})
        return 1


def _import_worker(job: Job, handles: Handles, channel: Channel, kept: KeptFds) -> int:
    from vmwire.daemon import worker

    return worker.main(job, handles, channel, kept)


# --- a new keeper for a worker that lost its own ------------------------------------------------


def spawn_adopter() -> tuple[Channel, int]:
    """Start a new keeper in a fresh, small process; returns the channel to it, and its pid.

    For the worker, which has threads and so must not simply fork.
    """
    return succession.spawn("vmwire.daemon.keeper:adopt")


def send_adoption(channel: Channel, job: Job, handles: Handles) -> None:
    """The worker's half of an adoption, but for the store (`WorkerStore.move_to`)."""
    pidfd = os.pidfd_open(os.getpid())
    named = {**handles.named(), "worker": pidfd}
    channel.send({"job": job.to_data(), "handles": list(named)}, list(named.values()))
    os.close(pidfd)


def adopt(fd: int) -> int:
    """The new keeper's main."""
    channel = Channel.adopt(fd)
    received = channel.receive()
    if received is None:
        return 1
    message, fds = received
    named = dict(zip(message["handles"], fds, strict=True))
    pidfd = named.pop("worker")
    name_process("vmwire-keeper")
    keeper = Keeper(Job.from_data(message["job"]), Handles(**named), KeptFds(), _nobody_asked)
    keeper._log("warning", "the keeper was lost; this is a new one")
    return keeper.run_adopting(channel, pidfd)


# --- the same keeper in new code ----------------------------------------------------------------


def carry_on(fd: int) -> int:
    """The main of a keeper that an upgrade has put in its own place (`succession.execute`)."""
    name_process("vmwire-keeper")
    state = succession.read_state(fd)
    kept = KeptFds()
    for name, each in state["kept"].items():
        kept.put(name, each)
    handles = Handles(**state["handles"])
    pid, pidfd = state["worker"]
    pid_file = None if state["pid file"] is None else PidFile.from_data(state["pid file"])
    fds = [*handles.fds(), *kept.fds(), state["channel"], pidfd]
    for each in [*fds, *([] if pid_file is None else [pid_file.fileno()])]:
        os.set_inheritable(each, False)
    keeper = Keeper(Job.from_data(state["job"]), handles, kept, _nobody_asked, pid_file=pid_file)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, process.STOP_SIGNALS)
    keeper._log("info", "the keeper has taken on the new code")
    status = keeper.run_on(Channel.adopt(state["channel"]), pidfd, pid)
    if pid_file is not None:
        pid_file.remove()
    return status


def _nobody_asked(message: Message) -> None:
    """An adopted worker was reported by the keeper before."""


def name_process(name: str) -> None:
    """What ps and top show; at most 15 bytes."""
    with open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name)
