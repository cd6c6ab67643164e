# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""DPDK's testpmd, without huge pages and without devices of the machine's."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def file_prefix() -> Iterator[str]:
    """A name for a process's files, which DPDK leaves behind."""
    prefix = f"vmwire{random.randrange(1 << 30)}"
    yield prefix
    for place in ("/var/run", os.environ.get("XDG_RUNTIME_DIR", "/tmp")):
        shutil.rmtree(Path(place, "dpdk", prefix), ignore_errors=True)


@contextlib.contextmanager
def testpmd(folder: Path, vdev: str, *words: str) -> Iterator[Path]:
    """Run it with one virtual device; gives the file that it writes to.

    It sends back each frame that it receives, with its addresses swapped (``macswap``), unless
    ``words`` say otherwise.
    """
    program = shutil.which("dpdk-testpmd")
    if program is None:
        pytest.skip("needs dpdk-testpmd (Debian: dpdk-dev)")
    log = folder / "testpmd.log"
    with file_prefix() as prefix, open(log, "wb") as output:
        process = subprocess.Popen(
            _command(program, prefix, vdev, words),
            stdin=subprocess.PIPE, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            yield log
        finally:
            end(process)


def _command(program: str, prefix: str, vdev: str, words: tuple[str, ...]) -> list[str]:
    return [
        program, "-l", "0-1", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry",
        f"--file-prefix={prefix}", "--vdev", vdev,
        "--", "--forward-mode=macswap", "--auto-start", "--no-flush-rx",
        "--total-num-mbufs=4096", "--stats-period=60", *words,
    ]  # fmt: skip


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Ask a program to end, and see to it."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


testpmd.__test__ = False  # type: ignore[attr-defined]  # its name is the program's
