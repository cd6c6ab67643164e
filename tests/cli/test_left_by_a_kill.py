# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a ``kill -9`` of all processes of a network leaves on the host is gone with the next
command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_serve import LAST_LINE
from tests.daemon.conftest import runtime
from tests.daemon.instance import eventually, is_alive, users_of
from tests.netdev.alone import alone, ip

__all__ = ["runtime"]

COMMAND = [sys.executable, "-m", "vmwire"]
OTHER = "dgram,remote.type=inet,remote.host=224.0.0.1,remote.port=1234"
PASST = """
import os, socket, sys
line = socket.socket(fileno=int(sys.argv[2]))
if child := os.fork():
    open("{folder}/pid", "w").write(str(child))
else:
    line.recv(1)
"""
"""A stand-in that does nothing until its socket ends."""


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


class Killed:
    """A network of two netdevs whose processes are killed at once."""

    def __init__(self, base: Path, *words: str) -> None:
        self.base = base
        command = [*COMMAND, "connect", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert LAST_LINE in iter(self.process.stdout.readline, "")

    def kill(self) -> None:
        (folder,) = (each for each in self.base.iterdir() if each.is_dir())
        processes = users_of(str(folder / "lock"))
        assert len(processes) == 2
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in processes:
                os.kill(pid, number)
        self.process.wait(20)
        eventually(lambda: not any(map(is_alive, processes)), 10)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def next_command(self) -> None:
        done = subprocess.run([*COMMAND, "list"], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        assert names(self.base) == {".lock"}


def check(runtime: str, words: list[str], is_there: Callable[[], object]) -> None:
    """Something is there while a network runs, and gone after a kill and the next command."""
    network = Killed(Path(runtime) / "vmwire", *words)
    try:
        eventually(is_there, 10)
        network.kill()
        network.next_command()
        eventually(lambda: not is_there(), 10)
    finally:
        network.close()


@alone
@pytest.mark.parametrize("netdev", ["tap,ifname=t7,script=no,downscript=no", "bridge,br=br0"])
def test_interfaces_are_gone(runtime: str, netdev: str) -> None:
    ip("link add br0 type bridge")
    before = ip("-br link").count("\n")
    check(runtime, [netdev, "user"], lambda: ip("-br link").count("\n") > before)


@alone
def test_the_script_for_the_end_is_run(runtime: str, tmp_path: Path) -> None:
    script = tmp_path / "down"
    script.write_text(f"#!/bin/sh\nip link show $1 && echo $1 > {tmp_path}/log\n")
    script.chmod(0o755)
    check(
        runtime,
        [f"tap,ifname=t7,script=no,downscript={script}", "user"],
        lambda: "t7" in ip("-br link"),
    )
    assert (tmp_path / "log").read_text() == "t7\n"


@pytest.mark.parametrize(
    "netdev",
    [
        "stream,server=on,addr.type=unix,addr.path={folder}/made",
        "dgram,local.type=unix,local.path={folder}/made,remote.type=unix,remote.path={folder}/far",
    ],
)
def test_sockets_are_gone(runtime: str, tmp_path: Path, netdev: str) -> None:
    check(
        runtime,
        [netdev.format(folder=tmp_path), "user"],
        lambda: (tmp_path / "made").is_socket(),
    )


def test_the_pid_file_is_gone(runtime: str, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    words = ["--pidfile", str(path), "user", OTHER]
    check(runtime, words, lambda: path.exists() and path.read_text())
    assert not path.exists()


def test_a_pid_file_that_somebody_else_has_by_now_stays(runtime: str, tmp_path: Path) -> None:
    words = ["--pidfile", str(tmp_path / "pid"), "user", OTHER]
    network = Killed(Path(runtime) / "vmwire", *words)
    network.kill()
    following = Killed(network.base, *words)  # which clears what the first one left
    try:
        assert (tmp_path / "pid").read_text() == f"{following.process.pid}\n"
    finally:
        following.process.terminate()
        following.process.communicate(timeout=20)
    assert not (tmp_path / "pid").exists()


def test_passt_ends(runtime: str, tmp_path: Path) -> None:
    passt = tmp_path / "passt"
    passt.write_text(f"#!{sys.executable}\n{PASST.format(folder=tmp_path)}")
    passt.chmod(0o755)
    pid = tmp_path / "pid"

    def runs() -> bool:
        return pid.exists() and bool(text := pid.read_text()) and is_alive(int(text))

    check(runtime, [f"passt,path={passt}", "user"], runs)
