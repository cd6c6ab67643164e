# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Running other programs that do something for a netdev: scripts, helpers, passt.

Each has a session of its own, is waited for, but not for ever, and what it says is kept: in a file
in memory, so that nothing waits for what it may leave in the background. That can't say more then.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from vmwire.errors import ConfigError

LONGEST_WORDS = 64 << 10
"""Bytes of what a program says that are looked at, from the end."""
MOST_WORDS = 16 << 20
"""Bytes that it may say."""
LOOK_S = 0.2
"""How often it is looked at how many they are."""


def run(
    words: Sequence[str], *, patience_s: float, pass_fds: Sequence[int] = ()
) -> tuple[int, list[str]]:
    """Run a program; return its status (negative: the signal that ended it) and what it said.

    Raises ``OSError`` if it can't be run, ``TimeoutError`` if it doesn't end in time, and
    ``ConfigError`` if it says too much; it and its children are killed then.
    """
    said = os.memfd_create("vmwire-said", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        try:
            if not _ends(process.pid, said, patience_s):
                most = f"{MOST_WORDS >> 20} MiB"
                raise ConfigError(f"{words[0]} says more than {most} and was killed")
        except (TimeoutError, ConfigError):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            status = process.wait()
            fcntl.fcntl(said, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        return status, _lines(said)
    finally:
        os.close(said)


def _ends(pid: int, said: int, patience_s: float) -> bool:
    """Wait for a program's end; False: it says too much. Raises ``TimeoutError``."""
    deadline = time.monotonic() + patience_s
    fd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while not poll.poll(1000 * max(0.0, min(LOOK_S, deadline - time.monotonic()))):
            if os.fstat(said).st_size > MOST_WORDS:
                return False
            if time.monotonic() >= deadline:
                raise TimeoutError
        return True
    finally:
        os.close(fd)


def _lines(fd: int) -> list[str]:
    size = os.fstat(fd).st_size
    data = os.pread(fd, LONGEST_WORDS, max(0, size - LONGEST_WORDS))
    return [line for line in data.decode(errors="replace").splitlines() if line.strip()]
