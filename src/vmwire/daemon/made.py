# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Files that a network has made outside of its folder, written down in it.

Unix sockets at which netdevs, chardevs and filters are reached, and the pid file: who makes one
takes it away, but a ``kill -9`` of all processes leaves nobody to. What is written down goes with
the folder then, if it still is what was made: the same inode, or a file with the same words.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

FILE = "made.json"
MOST_WORDS = 4096

Facts = dict[str, Any]


class Made:
    """What the network with the folder ``run_dir`` has made, by names. Of one process at a time."""

    def __init__(self, run_dir: str) -> None:
        self._path = Path(run_dir) / FILE
        self._files = _read(self._path)

    def note_socket(self, name: str, fd: int) -> None:
        """Write down a descriptor's file, if it is a socket that has one."""
        found = _file_of(fd)
        if found is None:
            self.forget(name)
        else:
            self._note(name, found)

    def note_text(self, name: str, path: str, words: str) -> None:
        """Write down a file in which ``words`` will be."""
        self._note(name, {"path": os.path.abspath(path), "words": words})

    def forget(self, name: str) -> None:
        """It is gone, or somebody else's now. Harmless if it isn't known."""
        if self._files.pop(name, None) is not None:
            self._write()

    def _note(self, name: str, facts: Facts) -> None:
        if self._files.get(name) != facts:
            self._files[name] = facts
            self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: only a kill -9 would miss it
            fresh = self._path.with_name(f"{FILE}.new")
            fresh.write_text(json.dumps(self._files))
            fresh.replace(self._path)


def remove_made(run_dir: str) -> None:
    """Take away what a network has made and not taken away itself."""
    for facts in _read(Path(run_dir) / FILE).values():
        with contextlib.suppress(OSError):
            if _is_still(facts):
                os.unlink(facts["path"])


def _is_still(facts: Facts) -> bool:
    status = os.lstat(facts["path"])
    if "words" not in facts:
        return stat.S_ISSOCK(status.st_mode) and [status.st_dev, status.st_ino] == facts["inode"]
    if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_WORDS:
        return False
    words: object = facts["words"]
    return Path(facts["path"]).read_text(errors="replace") == words


def _file_of(fd: int) -> Facts | None:
    """The file that a Unix socket is bound to."""
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            path = sock.getsockname() if sock.family == socket.AF_UNIX else None
        if not isinstance(path, str) or not path:
            return None
        status = os.lstat(path)
    except OSError:  # no socket, or one that lost its file
        return None
    return {"path": os.path.abspath(path), "inode": [status.st_dev, status.st_ino]}


def _read(path: Path) -> dict[str, Facts]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and all(
        isinstance(each, dict) and isinstance(each.get("path"), str) for each in found.values()
    )
    return found if whole else {}
