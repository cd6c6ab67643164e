# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A tap under ``vmwire connect``: it outlives its worker and an upgrade, and goes at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.cli.test_serve import LAST_LINE
from tests.daemon.conftest import runtime
from tests.daemon.instance import eventually, users_of
from tests.netdev.alone import alone, ip

__all__ = ["runtime"]

COMMAND = [sys.executable, "-m", "vmwire"]


def script(folder: Path, name: str, words: str = "true") -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {name} $1 >> {folder}/log\n{words}\n")
    path.chmod(0o755)
    return str(path)


def answers() -> bool:
    ping = ["ping", "-c1", "-W1", "10.0.2.2"]
    return subprocess.run(ping, capture_output=True, check=False).returncode == 0


@alone
def test_a_tap_outlives_worker_and_upgrade_and_its_scripts_run_once(
    runtime: str, tmp_path: Path
) -> None:
    up = script(tmp_path, "up", "ip addr add 10.0.2.9/24 dev $1; ip link set $1 up")
    tap = f"tap,ifname=tap7,script={up},downscript={script(tmp_path, 'down')}"
    words = [*COMMAND, "connect", tap, "user"]
    served = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert served.stdout is not None
    try:
        assert LAST_LINE in iter(served.stdout.readline, "")
        eventually(answers, 10)
        (folder,) = (each for each in (Path(runtime) / "vmwire").iterdir() if each.is_dir())
        processes = users_of(str(folder / "lock"))
        worker = next(pid for pid, comm in processes.items() if comm == "vmwire-worker")
        os.kill(worker, signal.SIGKILL)
        eventually(answers, 10)
        upgrade = subprocess.run(
            [*COMMAND, "upgrade", folder.name], capture_output=True, text=True, timeout=30
        )
        assert upgrade.returncode == 0, upgrade.stderr
        eventually(answers, 10)
        assert (tmp_path / "log").read_text() == "up tap7\n"
    finally:
        served.terminate()
        served.wait(20)
    assert (tmp_path / "log").read_text() == "up tap7\ndown tap7\n"
    eventually(lambda: "tap7" not in ip("link"))
