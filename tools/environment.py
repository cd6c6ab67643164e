# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Build the checkout's own environment, `.venv`: `environment.py base` for the command,
`environment.py test` for the tests besides. Run by ./vmwire and ./test with the system's Python.

It works where Debian leaves things out: without python3-venv (no ensurepip: the system's pip then
installs into the environment from outside) and where the system's pip refuses to touch the system
(PEP 668: nothing is ever installed there). The checkout's `src` comes in by a relative path file,
so the folder may be moved and nothing has to be built.

A stamp with the hash of pyproject.toml is written last. Without it the environment counts as
unfinished, so an interrupted run is simply done again; a lock lets concurrent first runs wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin/python"
PROJECT = ROOT / "pyproject.toml"
INSTALL_TIMEOUT_S = 900


def main(kind: str) -> None:
    with open(ROOT / ".venv.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kinds = ["base", "test"] if kind == "test" else ["base"]
        if not (_works() and all(_is_current(each) for each in kinds)):
            print(f"vmwire: setting up {VENV} (once)", file=sys.stderr, flush=True)
            _build(kinds)
        # ./vmwire and ./test compare times only: say that the hash was compared.
        for each in kinds:
            _stamp(each).touch()


def _stamp(kind: str) -> Path:
    return VENV / f"vmwire-{kind}.stamp"


def _hash() -> str:
    return hashlib.sha256(PROJECT.read_bytes()).hexdigest()


def _is_current(kind: str) -> bool:
    return _stamp(kind).is_file() and _stamp(kind).read_text() == _hash()


def _works() -> bool:
    """The environment's Python starts; it doesn't after an upgrade of the system's."""
    return _succeeds([str(PYTHON), "-c", "pass"])


def _build(kinds: list[str]) -> None:
    if not _works():
        shutil.rmtree(VENV, ignore_errors=True)
        # By the versioned name: if that Python goes, so does the link, and we notice.
        python = os.path.realpath(sys.executable)
        subprocess.run([python, "-m", "venv", "--without-pip", VENV], check=True)
    _install(_requirements(kinds))
    site = next(VENV.glob("lib/python3*/site-packages"))
    (site / "vmwire-checkout.pth").write_text(os.path.relpath(ROOT / "src", site) + "\n")
    for kind in kinds:
        draft = _stamp(kind).with_suffix(".draft")
        draft.write_text(_hash())
        draft.rename(_stamp(kind))


def _requirements(kinds: list[str]) -> list[str]:
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = project["optional-dependencies"]["test"] if "test" in kinds else []
    return [*project["dependencies"], *extras]


def _install(requirements: list[str]) -> None:
    done = subprocess.run(
        [*_pip(), "install", "--quiet", "--no-input", *requirements],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        timeout=INSTALL_TIMEOUT_S,
        # A user's settings for other installations must not lead this one elsewhere.
        env=dict(os.environ, PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1"),
    )
    if done.returncode:
        sys.exit(f"vmwire: pip could not install {', '.join(requirements)} (see above)")


def _pip() -> list[str]:
    """The words for a pip that installs into the environment: its own, or the system's."""
    inside = [str(PYTHON), "-m", "pip"]
    if _succeeds([*inside, "--version"]):
        return inside
    if _succeeds([str(PYTHON), "-m", "ensurepip", "--default-pip"]):
        return inside
    if _succeeds([sys.executable, "-m", "pip", "--version"]):
        return [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    sys.exit("vmwire: pip is missing: install it first (Debian: apt install python3-pip)")


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    main(sys.argv[1])
