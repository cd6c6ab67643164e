# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A helper process of the demo, seen from its parent: one JSON object a line, both ways."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any

END_S = 2.0
PR_SET_PDEATHSIG = 1
Start = Callable[..., "subprocess.Popen[Any]"]


class HelperError(Exception):
    """A helper has failed, or says that what was asked failed; the text is for the user."""


def module(name: str, *arguments: str) -> list[str]:
    """The words that run one of our modules as a program."""
    return [sys.executable, "-P", "-m", f"vmwire.cli.demo.{name}", *arguments]


def die_with_parent() -> None:
    """Let this process be killed when its parent is, however that comes (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Helper:
    """One process; ``start`` is ``subprocess.Popen`` or does the same elsewhere."""

    def __init__(self, command: list[str], start: Start = subprocess.Popen) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close())
        pipe = subprocess.PIPE
        self._process = start(command, stdin=pipe, stdout=pipe, stderr=self._errors)
        self._pending = b""

    def tell(self, **what: Any) -> None:
        """Write one line to it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise HelperError(self._last_words()) from None

    def hear(self, timeout_s: float) -> dict[str, Any] | None:
        """Its next line; None if there is none in time."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([fd], [], [], left)[0]:
                return None
            data = os.read(fd, 65536)
            if not data:
                raise HelperError(self._last_words())
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        said: dict[str, Any] = json.loads(line)
        return said

    def ask(self, timeout_s: float, **what: Any) -> dict[str, Any]:
        """Tell it something, and hear the answer."""
        self.tell(**what)
        return self.answer(timeout_s)

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Hear an answer, or why there is none."""
        said = self.hear(timeout_s)
        if said is None:
            raise HelperError(f"no answer within {timeout_s:g} s")
        if "failed" in said:
            raise HelperError(said["failed"])
        return said

    def _last_words(self) -> str:
        """The last line that it wrote to standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "its process ended"

    def close(self) -> None:
        """End it, kindly first."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(END_S)
        self._process.stdout.close()
        self._errors.close()
