# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Running other programs that do something for a netdev: scripts, helpers, passt.

Each has a session of its own, is waited for, but not for ever, and what it says is kept: in a file,
so that nothing waits for what it may leave in the background.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress

LONGEST_WORDS = 64 << 10
"""Bytes of what a program says that are looked at, from the end."""


def run(
    words: Sequence[str], *, patience_s: float, pass_fds: Sequence[int] = ()
) -> tuple[int, list[str]]:
    """Run a program; return its status (negative: the signal that ended it) and what it said.

    Raises ``OSError`` if it can't be run, and ``TimeoutError`` if it doesn't end in time; it and
    its children are killed then.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        try:
            status = process.wait(patience_s)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise TimeoutError from None
        return status, _lines(said.fileno())


def _lines(fd: int) -> list[str]:
    size = os.fstat(fd).st_size
    data = os.pread(fd, LONGEST_WORDS, max(0, size - LONGEST_WORDS))
    return [line for line in data.decode(errors="replace").splitlines() if line.strip()]
