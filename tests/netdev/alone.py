# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Tests that have a network namespace to themselves: each runs in a process of its own in one."""

from __future__ import annotations

import functools
import os
import subprocess
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from vmwire.attach import linux


def alone(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a child that is root in new user and network namespaces."""
    return pytest.mark.netns(_in_a_child(test, _become_root))


def alone_as_root(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a child that is root as we are, in a new network namespace: for what other
    users may do, who don't exist in a new user namespace."""
    return pytest.mark.root(_in_a_child(test, _leave_network))


def _in_a_child(test: Callable[..., None], prepare: Callable[[], None]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os._exit(_run_inside(prepare, test, arguments, writing))
        os.close(writing)
        with open(reading, errors="replace") as said:
            text = said.read()
        _, status = os.waitpid(child, 0)
        if status:
            pytest.fail(text or f"the test's process ended with status {status}", pytrace=False)

    return run


def _run_inside(
    prepare: Callable[[], None],
    test: Callable[..., None],
    arguments: dict[str, Any],
    writing: int,
) -> int:
    try:
        prepare()
        test(**arguments)
    except BaseException:  # the parent tells of it
        os.write(writing, traceback.format_exc().encode())
        return 1
    return 0


def _become_root() -> None:
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNET)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    ip("link set lo up")


def _leave_network() -> None:
    linux.unshare(linux.CLONE_NEWNET)
    ip("link set lo up")


def ip(words: str) -> str:
    """Run ip(8)."""
    done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
