# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``vmwire upgrade [PID|NAME|--all]``: have running networks go on in the code of this command.

Names are as `vmwire list` shows them; one that is alone needs none. Each network is taken over by
new processes while its VM runs (`vmwire.daemon.succession`). One that can't be goes on as it was:
that is one line on standard error, and exit status 1.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from vmwire.daemon import control, rundir, succession
from vmwire.errors import ConfigError

PATIENCE_S = 45.0
LOOK_AGAIN_S = 0.02
RUNNING = "running"


def main(argv: list[str]) -> int:
    """Upgrade; returns the exit status."""
    if argv in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        paths = chosen(argv)
    except (ConfigError, OSError) as error:
        print(f"vmwire: upgrade: {error}", file=sys.stderr)
        return 1
    return max([_upgrade(path) for path in paths])


# --- which --------------------------------------------------------------------------------------


def chosen(argv: list[str]) -> list[str]:
    """The run directories that the words mean."""
    if len(argv) > 1:
        raise ConfigError("takes one network: its PID or NAME, or --all")
    word = argv[0] if argv else None
    if word is not None and word.startswith("-") and word != "--all":
        raise ConfigError("invalid option (there is --all)", word)
    running = {os.path.basename(path): path for path in rundir.running()}
    if word is not None and word != "--all":
        return [_named(word, running)]
    if not running:
        raise ConfigError("no network of vmwire is running")
    if word is None and len(running) > 1:
        names = ", ".join(sorted(running))
        raise ConfigError(f"there is more than one network: {names}; name one, or --all")
    return list(running.values())


def _named(word: str, running: dict[str, str]) -> str:
    if word in running:
        return running[word]
    of_pid = [path for path in running.values() if str(rundir.read_facts(path).get("pid")) == word]
    if len(of_pid) == 1:
        return of_pid[0]
    if any(os.path.basename(path) == word for path in rundir.running_of_others()):
        raise ConfigError(f"the network {word} is somebody else's: only its owner can upgrade it")
    there = f" (there are: {', '.join(sorted(running))})" if running else ""
    raise ConfigError(f"no network {word} is running{there}")


# --- doing it -----------------------------------------------------------------------------------


def _upgrade(path: str) -> int:
    name = os.path.basename(path)
    try:
        pid = upgrade(os.path.join(path, rundir.CONTROL))
    except (ConfigError, OSError, control.CommandError) as error:
        print(f"vmwire: upgrade of {name}: {error}", file=sys.stderr)
        return 1
    print(f"{name}: taken over by worker {pid}")
    return 0


def upgrade(socket_path: str) -> int:
    """Upgrade the network behind a control socket; returns the new worker's pid.

    ConfigError says why the old one went on.
    """
    before = control.ask(socket_path, "stats")
    code = {"python": sys.executable, "path": succession.import_path()}
    control.ask(socket_path, "upgrade", arguments=code)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        time.sleep(LOOK_AGAIN_S)
        stats = _stats(socket_path)
        if stats is not None:
            pid = _outcome(before, stats)
            if pid is not None:
                return pid
        if time.monotonic() > deadline:
            raise ConfigError(f"not done after {PATIENCE_S:.0f} s; see its log")


def _stats(socket_path: str) -> dict[str, Any] | None:
    """None: whoever was asked is being replaced just now."""
    try:
        return control.ask(socket_path, "stats")
    except (ConnectionError, TimeoutError):
        return None


def _outcome(before: dict[str, Any], now: dict[str, Any]) -> int | None:
    """The new worker's pid; None: not yet. Raises ConfigError for a failure."""
    if now["pid"] == before["pid"]:
        if now["upgrade"] == RUNNING:
            return None
        raise ConfigError(f"{now['upgrade']}; the old worker goes on")
    if now["upgrades"] == before["upgrades"]:
        raise ConfigError("the worker died meanwhile, and was restarted; see its log")
    return int(now["pid"])
