# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The log as a file: opening it, and writing a line without the logging machinery.

The keeper writes a handful of lines in its life and stays small by not importing ``logging``.
The file is opened for appending by whoever starts an instance, and inherited: keeper and workers
write whole lines to the same descriptor.

A log in the run directory goes with it at the end, unless a worker died before its time: then it
is kept as ``crash.log`` beside the run directories (one per user, the latest).
"""

from __future__ import annotations

import contextlib
import os
import time

from vmwire.daemon.rundir import LOG
from vmwire.errors import ConfigError

CRASH_LOG = "crash.log"
LEVELS = ("error", "warning", "info", "debug")


def open_log(path: str) -> int:
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise ConfigError(f"Can't open the log '{path}': {error.strerror}", "--log") from error


def check_level(level: str) -> str:
    if level not in LEVELS:
        known = ", ".join(LEVELS)
        raise ConfigError(f"No such level '{level}', use one of: {known}", "--log-level")
    return level


def stamp(seconds: float) -> str:
    """Local time to the millisecond."""
    whole = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}"


def write_line(fd: int, level: str, who: str, text: str) -> None:
    """One line; a full disk or a closed terminal is no reason to stop working."""
    line = f"{stamp(time.time())} {level} {who}[{os.getpid()}]: {text}\n"
    with contextlib.suppress(OSError):
        os.write(fd, line.encode(errors="backslashreplace"))


def save_crash_log(run_dir: str) -> str | None:
    """Move the log out of a run directory that is about to go. Returns where it is now."""
    target = os.path.join(os.path.dirname(run_dir), CRASH_LOG)
    try:
        os.replace(os.path.join(run_dir, LOG), target)
    except OSError:
        return None
    return target
