# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What it takes to be a process of one's own: detach, let go of what was inherited, be woken.

A launcher that becomes a VM must not be able to tell that something was forked off: no child that
it never made (its SIGCHLD, its ``wait``), nobody else who holds its pipes open, no second reader
of its terminal. So: two forks with a new session in between, every descriptor closed but the few
that are ours, and signals as a fresh process has them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def detach(child: Callable[[], int]) -> None:
    """Run ``child`` in a process that is nobody's child, in a session of its own.

    Returns in the caller when it is on its way.
    """
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return
    # Whatever happens, no copy of the caller may come back to life behind this line.
    status = 1
    try:
        os.setsid()
        status = 0 if os.fork() else child()
    finally:
        os._exit(status)


def fork(child: Callable[[], int]) -> int:
    """Run ``child`` in a forked process; its result is the exit status. Returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        status = child()
    except BaseException:  # the last frame of this process: say it where the log is, then end
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor above 2 that isn't listed."""
    low = 3
    for fd in sorted({fd for fd in keep if fd > 2}):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 0x7FFFFFFF)


def set_standard_streams(log_fd: int) -> None:
    """Nothing to read, nothing printed; faults of the interpreter go to the log."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(log_fd, 2)
    os.close(null)
    # What sys.stderr was may be something else's (a test runner's), or have text waiting in it.
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )


def reset_signals() -> None:
    """Handlers and mask as a new process has them, but for SIGPIPE, which Python turns to EPIPE."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
        with contextlib.suppress(OSError):  # the C library keeps a few for itself
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class StopSignals:
    """Turns signals into a descriptor that gets readable: no code runs in between other code.

    ``ignored`` are left to somebody else (the worker of a network in the foreground leaves Ctrl-C
    to its keeper). What was ignored before stays so, as nohup and shells' background jobs want it;
    SIGTERM always ends.
    """

    def __init__(self, ignored: Iterable[signal.Signals] = ()) -> None:
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            if number in ignored:
                signal.signal(number, signal.SIG_IGN)
            elif number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _nothing)

    def fileno(self) -> int:
        return self._read_fd

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self._read_fd)
        os.close(self._write_fd)


def _nothing(number: int, frame: object) -> None:
    """A handler has to be there for the wake-up to be written."""


def kill(pidfd: int, number: int) -> None:
    """Signal the process of ``pidfd``; it may be gone."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)
