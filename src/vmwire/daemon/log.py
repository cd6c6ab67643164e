# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The worker's logging: whole lines on standard error, which is the log file; floods are thinned.

A guest or a peer can make some line of code complain as often as it likes. So each place in the
code (told by logger, level and the message before its arguments are filled in) gets a few lines a
minute; what is left out is counted and said with the next line that passes. The number of places
is fixed by the code, so memory and the log's growth are bounded whatever the arguments are.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from vmwire.daemon.logfile import stamp

WINDOW_S = 60.0
LINES_PER_WINDOW = 5
MAX_PLACES = 1000
"""Messages that somebody formatted before logging them would each be a place of their own."""


class Thinning(logging.Filter):
    """Lets through `LINES_PER_WINDOW` records of each place in each window."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._places: dict[tuple[str, int, str], list[float]] = {}  # start of window, seen, cut

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._now()
        key = (record.name, record.levelno, str(record.msg))
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            place = self._places[key] = [now, 0, 0]
        missed = 0
        if now - place[0] >= WINDOW_S:
            missed = int(place[2])
            place[:] = [now, 0, 0]
        place[1] += 1
        if place[1] > LINES_PER_WINDOW:
            place[2] += 1
            return False
        if missed:
            record.msg = f"{record.msg} (and {missed} more like it before)"
        return True


class LineFormatter(logging.Formatter):
    """The same line as `logfile.write_line` writes, and nothing that could forge a second one."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        head, *rest = text.split("\n")
        level = record.levelname.lower()
        prefix = f"{stamp(record.created)} {level} worker[{os.getpid()}]: {record.name}: "
        return "\n    ".join([prefix + _printable(head), *map(_printable, rest)])


def _printable(text: str) -> str:
    """Bytes of a guest's choosing (host names, paths) must not steer a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def start(level: str) -> None:
    """Log to standard error from now on."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    handler.addFilter(Thinning())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.raiseExceptions = False  # a full disk is no reason to print tracebacks into the log
