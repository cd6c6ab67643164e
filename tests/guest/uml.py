# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""User-mode Linux (package user-mode-linux): a Linux that is a process, with the guests' initramfs
and a console of its own. ``words`` are further words of its command line: its network cards."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.guest import image
from vmwire.bench.console import COMMAND_TIMEOUT_S, READY, Console, GuestError

BOOT_TIMEOUT_S = 60
PROGRAM = "linux.uml"


class UserModeLinux:
    def __init__(self, words: Sequence[str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="vmwire-uml-"))
        ours, its = socket.socketpair()
        line = f"fd:{its.fileno()},fd:{its.fileno()}"
        with its, open(self._folder / "output", "wb") as output:
            self._process = subprocess.Popen(
                [PROGRAM, "mem=128M", f"initrd={image.initramfs()}", "rdinit=/init", "quiet",
                 "con=null", "console=ttyS0", f"ssl0={line}", f"uml_dir={self._folder}",
                 "vmwire.modules=", *words],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=[its.fileno()], start_new_session=True,
            )  # fmt: skip
        self._console = Console(ours, self._report)

    @staticmethod
    def is_there() -> bool:
        return shutil.which(PROGRAM) is not None

    def __enter__(self) -> UserModeLinux:
        try:
            self._console.wait_for(READY, BOOT_TIMEOUT_S)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, with the processes that are its own processes."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._console.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _report(self) -> str:
        said = (self._folder / "output").read_text(errors="replace")
        return f"{said[-1000:]}\n{self._console.log[-1000:].decode(errors='replace')}"

    def check(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a shell command that must succeed; return its output."""
        result = self._console.run(command, timeout_s)
        if result.status:
            raise GuestError(f"{command!r} ended with {result.status}: {result.output}")
        return result.output.rstrip("\n")
