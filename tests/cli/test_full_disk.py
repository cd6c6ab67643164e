# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Captures on a disk that is full, becomes full, or can't be written any more after a crash."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cli import test_served_sockets
from tests.cli.test_served_sockets import COMMAND, QUESTION
from tests.daemon.instance import eventually
from tests.netdev.sockets import framed

ON_A_SMALL_DISK = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = 'mount -t tmpfs -o size=16k disk "$1" && shift && exec "$@"'
HUB = [
    *("-netdev", "socket,id=s,fd={fd}", "-netdev", "hubport,id=hs,hubid=0,netdev=s"),
    *("-netdev", "user,id=u", "-netdev", "hubport,id=hu,hubid=0,netdev=u"),
]
WAYS = {
    "object": [*HUB, "-object", "filter-dump,id=d,netdev=s,file={path}"],
    "capture": [*HUB, "--capture", "s={path}"],
    "old": ["-net", "nic", "-net", "user", "-net", "socket,fd={fd}", "-net", "dump,file={path}"],
}
FULL = "the capture ends: [Errno 28] No space left on device"


def words_of(way: str, path: object, fd: int) -> list[str]:
    return [word.format(path=path, fd=fd) for word in WAYS[way]]


class Served(test_served_sockets.Served):
    """The same with a capture, and what it says on standard error."""

    def __init__(self, way: str, path: object, before: Sequence[str] = ()) -> None:
        self.wire, theirs = socket.socketpair()
        self.wire.settimeout(20)
        words = [*before, *COMMAND, *words_of(way, path, theirs.fileno())]
        pipe = subprocess.PIPE
        with theirs:
            self.process = subprocess.Popen(
                words, pass_fds=[theirs.fileno()], stdout=pipe, stderr=pipe, text=True
            )
        assert self.process.stdout is not None
        assert any("stands" in line for line in self.process.stdout)

    def error(self) -> str:
        """The next line on standard error."""
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def ask_often(self, times: int) -> None:
        """Question and answer, some times."""
        for _ in range(times):
            self.ask(framed(QUESTION))

    def end(self) -> str:
        """The rest of standard error."""
        self.process.terminate()
        return self.process.communicate(timeout=20)[1]


@pytest.fixture
def serve(runtime: str) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(*arguments: Any) -> Served:
        started.append(Served(*arguments))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.mark.netns
@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_becomes_full_ends_the_capture_with_one_line_and_not_the_traffic(
    serve: Callable[..., Served], tmp_path: Path, way: str
) -> None:
    before = [*ON_A_SMALL_DISK, MOUNT, "sh", str(tmp_path)]
    served = serve(way, tmp_path / "d.pcap", before)
    served.ask_often(300)  # 150 bytes each
    assert FULL in served.error()
    served.ask_often(300)
    disk = Path(f"/proc/{served.worker()}/root{tmp_path}")
    assert [each.name for each in disk.iterdir()] == ["d.pcap"]
    assert 12_000 < (disk / "d.pcap").stat().st_size <= 16_384
    assert "capture" not in served.end()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_is_full_already_keeps_nobody_from_starting(
    serve: Callable[..., Served], way: str
) -> None:
    served = serve(way, "/dev/full")
    assert FULL in served.error()
    served.ask_often(10)
    assert "capture" not in served.end()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", ["/", "/nonexistent/d.pcap"])
def test_a_file_that_can_not_be_opened_is_one_line(way: str, path: str) -> None:
    wire, theirs = socket.socketpair()
    with wire, theirs:
        fd = theirs.fileno()
        words = [*COMMAND, *words_of(way, path, fd)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, pass_fds=[fd])
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("vmwire: ") and f"Could not open '{path}': " in line


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_that_is_gone_after_a_crash_costs_the_capture_and_not_the_network(
    serve: Callable[..., Served], tmp_path: Path, way: str
) -> None:
    folder = tmp_path / "captures"
    folder.mkdir()
    served = serve(way, folder / "d.pcap")
    (folder / "d.pcap").unlink()
    folder.rmdir()
    first = served.worker()
    os.kill(first, signal.SIGKILL)
    lines = iter(served.error, "")
    assert any("lost with the last worker" in line and "d.restart1.pcap" in line for line in lines)
    eventually(lambda: served.worker() != first, 20)
    assert served.process.poll() is None
