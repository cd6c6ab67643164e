# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A network started beside a "VM" that does nothing: for looking at its processes from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from vmwire.daemon import control, rundir

NULL_CONFIG: dict[str, Any] = {
    "netdevs": [["null", {"id": "u"}]],
    "devices": [["null", {"id": "n0", "netdev": "u"}]],
}

LAUNCHER = """
import json, os, sys
from vmwire.daemon import launch
arguments = json.loads(sys.argv[1])
if arguments.pop("follow", False):
    arguments["vm_pid"] = os.getpid()
config = arguments.pop("config")
lifeline = launch.start_detached(config, **arguments)
print(lifeline, flush=True)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def eventually(check: Callable[[], Any], timeout_s: float = 5.0) -> Any:
    """Wait for ``check`` to be true and return what it gave."""
    deadline = time.monotonic() + timeout_s
    while not (result := check()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
    return result


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def users_of(path: str) -> dict[int, str]:
    """Who has ``path`` open: pid -> name of the process."""
    found = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            links = (os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
            if path in links:
                with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                    found[int(pid)] = file.read().strip()
    return found


def stats_of(run_dir: str, restarts: int = 0) -> dict[str, Any]:
    """What the worker says, from the one after ``restarts`` others on; it may be dying just now."""

    def ask() -> dict[str, Any] | None:
        try:
            stats = control.ask(os.path.join(run_dir, rundir.CONTROL), "stats")
        except (ConnectionError, TimeoutError):
            return None
        return stats if stats["restarts"] >= restarts else None

    stats: dict[str, Any] = eventually(ask)
    return stats


class Instance:
    """A launcher that started a network and became ``command``. Ends everything when left."""

    def __init__(self, runtime: str, command: tuple[str, ...] = ("sleep", "60"), **arguments: Any):
        arguments.setdefault("config", NULL_CONFIG)
        environment = {**os.environ, "XDG_RUNTIME_DIR": runtime}
        self.base = os.path.join(runtime, "vmwire")
        self.vm = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, json.dumps(arguments), *command],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        assert self.vm.stdout is not None
        self.lifeline = int(self.vm.stdout.readline())
        self.path = os.path.join(self.base, str(self.vm.pid))

    def __enter__(self) -> Instance:
        return self

    def __exit__(self, *error: object) -> None:
        processes = self.processes()
        self.vm.kill()
        self.vm.wait()
        if self.vm.stdout is not None:
            self.vm.stdout.close()
        with contextlib.suppress(AssertionError):
            eventually(lambda: not any(map(is_alive, processes)))
        for pid in filter(is_alive, processes):
            os.kill(pid, signal.SIGKILL)

    def processes(self) -> dict[int, str]:
        return users_of(os.path.join(self.path, rundir.LOCK))

    def pid_of(self, name: str) -> int:
        """The pid of the keeper or the worker."""
        return next(pid for pid, comm in self.processes().items() if comm == f"vmwire-{name}")

    def stats(self) -> dict[str, Any]:
        return stats_of(self.path)

    def log(self) -> str:
        with open(os.path.join(self.path, rundir.LOG), encoding="utf-8") as file:
            return file.read()
