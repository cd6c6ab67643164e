# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging

import pytest

from vmwire.daemon import logfile
from vmwire.daemon.log import LINES_PER_WINDOW, MAX_PLACES, WINDOW_S, LineFormatter, Thinning
from vmwire.errors import ConfigError


def record(text: str, *arguments: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("vmwire.x", level, "x.py", 1, text, arguments, None)


def test_flood_from_one_place_is_cut_and_counted() -> None:
    now = 0.0
    thinning = Thinning(lambda: now)
    passed = [thinning.filter(record("port %d is bad", i)) for i in range(100)]
    assert passed.count(True) == LINES_PER_WINDOW
    now = WINDOW_S
    after = record("port %d is bad", 100)
    assert thinning.filter(after)
    missed = 100 - LINES_PER_WINDOW
    assert after.getMessage() == f"port 100 is bad (and {missed} more like it before)"


def test_other_places_are_heard_during_a_flood() -> None:
    thinning = Thinning(lambda: 0.0)
    for _ in range(100):
        thinning.filter(record("noise"))
    assert thinning.filter(record("news"))
    assert thinning.filter(record("noise", level=logging.ERROR))


def test_memory_is_bounded_whatever_is_logged() -> None:
    thinning = Thinning(lambda: 0.0)
    for i in range(3 * MAX_PLACES):
        thinning.filter(record(f"made beforehand {i}"))
    assert len(thinning._places) <= MAX_PLACES


def test_what_a_guest_sends_can_not_forge_lines_or_steer_a_terminal() -> None:
    line = LineFormatter().format(record("name is %s", "a\n2026-01-01 error\x1b[2J"))
    first, second = line.split("\n")
    assert first.endswith("vmwire.x: name is a")
    assert second == "    2026-01-01 error\\x1b[2J"


def test_unknown_level_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"--log-level: No such level 'loud', .*error, warning"):
        logfile.check_level("loud")
