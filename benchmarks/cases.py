# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Timing of small things inside this process: a case's rounds, a table of medians, a profile.

A benchmark is a dictionary of names and makers of cases, and calls ``run``.
"""

from __future__ import annotations

import argparse
import cProfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

SECONDS = 0.4
"""How long a case's rounds go on."""
PROFILED = 200


class Case(Protocol):
    """``refill`` is the driver's part of a round, ``run`` the card's; only the latter is timed."""

    @property
    def frames(self) -> int:
        """How many frames (or accesses, or interrupts) a round is."""

    def refill(self) -> None:
        """Make ready for a round."""

    def run(self) -> None:
        """One round."""


Cases = Mapping[str, Callable[[], Case]]


def rounds(case: Case) -> Iterator[float]:
    """Yield what each round cost, in seconds."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        case.refill()
        begin = time.perf_counter()
        case.run()
        yield time.perf_counter() - begin


def profile(case: Case) -> None:
    """Print where the time of a case goes."""
    profiler = cProfile.Profile()
    for _ in range(PROFILED):
        case.refill()
        profiler.runcall(case.run)
    profiler.print_stats("tottime")


def table(title: str, cases: Cases) -> None:
    """Time all cases and print a line each."""
    print(f"{title:42}  median    best   a second")
    for name, make in cases.items():
        case = make()
        costs = sorted(cost / case.frames * 1e6 for cost in rounds(case))
        median = costs[len(costs) // 2]
        print(f"{name:42} {median:7.2f} {costs[0]:7.2f} {1e6 / median:10,.0f}", flush=True)


def run(description: str, title: str, cases: Cases, words: Sequence[str] | None = None) -> bool:
    """Do what ``words`` (the command line) ask for: one case's profile, or (True) the table."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--profile", metavar="CASE", choices=list(cases))
    chosen = parser.parse_args(words).profile
    if chosen:
        profile(cases[chosen]())
        return False
    table(title, cases)
    return True
