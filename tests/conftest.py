# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Which tests run where.

A plain run takes everything fast. Real guests, real peers and what takes minutes are asked for
(`--guests`, `--peers`, `--long`, or by `-m`). A test that needs what this machine can't give is
skipped, and the closing lines say which and why. In CI (the variable `CI` is set) a guest or peer
test that was asked for and can't run is a failure, because nobody reads skips there.
Every test has a time limit, so that a hung guest can't hang the run.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

import pytest
from hypothesis import settings

# A busy machine is no failure, and a run that can't be repeated is no help.
settings.register_profile("vmwire", deadline=None, derandomize=True)
settings.load_profile("vmwire")

# A shell that runs us in the background has Ctrl-C ignored, and what we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ASKED_BY = {"guest": "--guests", "peer": "--peers", "long": "--long"}
LEFT_OUT = "left out: ask with "
LIMITS_S = {"long": 1800, "guest": 300, "peer": 300}
LIMIT_S = 60


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vmwire")
    group.addoption("--guests", action="store_true", help="boot real guests under QEMU")
    group.addoption("--peers", action="store_true", help="run against real peer programs")
    group.addoption("--long", action="store_true", help="also what takes minutes")
    group.addoption(
        "--guest-prefix",
        default="./vmwire",
        help="the word in front of QEMU's command line; empty: QEMU's own network, which shows "
        "that a guest test itself is right",
    )


# --- what this machine can do ------------------------------------------------------------------


def _without_root() -> str | None:
    return None if os.geteuid() == 0 else "needs root"


@functools.cache
def _without_namespaces() -> str | None:
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs /dev/net/tun"
    if not shutil.which("unshare"):
        return "needs unshare (util-linux)"
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    probe = subprocess.run(["unshare", *rights, "--net", "true"], capture_output=True, timeout=20)
    return "needs network namespaces (root or user namespaces)" if probe.returncode else None


MISSING: dict[str, Callable[[], str | None]] = {
    "root": _without_root,
    "netns": _without_namespaces,
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = set(re.findall(r"(?<!not )\b\w+", config.option.markexpr or ""))
    for item in items:
        for mark, option in ASKED_BY.items():
            asked = config.getoption(option) or mark in chosen
            if item.get_closest_marker(mark) and not asked:
                item.add_marker(pytest.mark.skip(reason=LEFT_OUT + option))
        for mark, missing in MISSING.items():
            if item.get_closest_marker(mark) and (reason := missing()):
                item.add_marker(pytest.mark.skip(reason=reason))


# --- reports -----------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    real = item.get_closest_marker("guest") or item.get_closest_marker("peer")
    if report.skipped and real and os.environ.get("CI") and LEFT_OUT not in _reason(report):
        report.outcome = "failed"
        report.longrepr = f"could not run, which in CI is a failure: {_reason(report)}"
    machines = sys.modules.get("tests.guest.machine")
    if report.failed and machines:
        for number, machine in enumerate(machines.Machine.live):
            report.sections.append((f"guest {number}", machine.report()))
    return report


def _reason(report: Any) -> str:
    longrepr = report.longrepr
    return str(longrepr[2] if isinstance(longrepr, tuple) else longrepr)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(_reason(report).removeprefix("Skipped: ") for report in skipped)
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"not run: {count} ({reason.removeprefix('left out: ')})")


# --- time limits -------------------------------------------------------------------------------


def _limit(item: pytest.Item) -> int:
    return max([LIMIT_S, *(LIMITS_S[mark] for mark in LIMITS_S if item.get_closest_marker(mark))])


def _limited(item: pytest.Item) -> Generator[None, None, None]:
    limit = _limit(item)

    def on_alarm(*_: object) -> None:
        pytest.fail(f"took longer than {limit} s")

    previous = signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(limit)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    return (yield from _limited(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    return (yield from _limited(item))
