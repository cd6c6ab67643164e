# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Becoming QEMU: `exec` with everything as the caller of vmwire left it.

Python changes three things at its start that a program executed from it would inherit: SIGPIPE and
SIGXFSZ are ignored, and in the C locale ``LC_CTYPE`` is added to the environment. All are put back:
the signals to their default (what they were before can't be seen any more), the environment to the
block that the kernel gave this process.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # importing typing costs some milliseconds
if TYPE_CHECKING:
    from typing import NoReturn

NOT_FOUND = 127
NOT_EXECUTABLE = 126


def execute(command: list[str]) -> NoReturn:
    """Replace this process by ``command``; where that can't be, say so and end as a shell does."""
    sys.stdout.flush()
    sys.stderr.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, inherited_environment())
    except OSError as error:
        print(f"vmwire: {command[0]}: {error.strerror}", file=sys.stderr)
        missing = isinstance(error, FileNotFoundError)
        sys.exit(NOT_FOUND if missing else NOT_EXECUTABLE)


def inherited_environment() -> dict[bytes, bytes]:
    """The environment that vmwire was started with."""
    try:
        with open("/proc/self/environ", "rb") as file:
            pairs = [entry.partition(b"=") for entry in file.read().split(b"\0") if entry]
        return {name: value for name, found, value in pairs if found}
    except OSError:
        return dict(os.environb)
