# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The scripts at the checkout's root, on a copy whose `.venv` holds a stand-in for Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Says who and where it is, and the words behind `-P -c PROGRAM`.
STAND_IN = '#!/bin/sh\nshift 3\necho "$$ $PWD"\nprintf "%s\\n" "$@"\nexit 7\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "a checkout"
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / "tools").mkdir()
    shutil.copy(ROOT / "vmwire", folder)
    (folder / "pyproject.toml").touch()
    os.utime(folder / "pyproject.toml", (time.time() - 10,) * 2)
    executable(folder / ".venv/bin/python", STAND_IN)
    executable(folder / "tools/environment", "#!/bin/sh\necho set up; exit 9\n")
    (folder / ".venv/vmwire-base.stamp").touch()
    return folder


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run(command: list[str], folder: Path) -> tuple[int, list[str], int, str]:
    """The pid that was started, and the lines, status and errors of it."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    output, errors = process.communicate(timeout=20)
    return process.pid, output.splitlines(), process.returncode, errors


def test_command_keeps_pid_folder_words_and_status(checkout: Path, tmp_path: Path) -> None:
    pid, lines, status, _ = run([str(checkout / "vmwire"), "qemu", "-name", "two words"], tmp_path)
    assert lines == [f"{pid} {tmp_path}", str(checkout / "vmwire"), "qemu", "-name", "two words"]
    assert status == 7


def test_link_keeps_its_name_as_the_first_word(checkout: Path, tmp_path: Path) -> None:
    link = tmp_path / "vmwire-qemu-system-x86_64"
    link.symlink_to(checkout / "vmwire")
    _, lines, status, _ = run([str(link), "-version"], tmp_path)
    assert (lines[1:], status) == ([str(link), "-version"], 7)


@pytest.mark.parametrize("missing", [".venv/bin/python", ".venv/vmwire-base.stamp"])
def test_set_up_runs_first_when_something_is_missing(checkout: Path, missing: str) -> None:
    (checkout / missing).unlink()
    _, lines, status, errors = run(["./vmwire", "list"], checkout)
    assert (lines, status, errors) == ([], 9, "set up\n")


def test_set_up_runs_again_when_the_requirements_changed(checkout: Path) -> None:
    os.utime(checkout / "pyproject.toml", (time.time() + 10,) * 2)
    assert run(["./vmwire", "list"], checkout)[2:] == (9, "set up\n")
