# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Telling whoever started us where we are: sd_notify(3), and a pid file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket

from vmwire.daemon.made import Made
from vmwire.errors import ConfigError


def sd_notify(state: str) -> None:
    """Send ``state`` (``READY=1``) to the service manager, if one listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)


class PidFile:
    """A file with our pid in it, locked while we live, removed when we end.

    It is claimed before anything starts, and written when everything stands.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(self.path, flags, 0o644)
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise ConfigError(f"'{path}' is locked by another process", "--pidfile") from None
        except OSError as error:
            raise ConfigError(f"Can't make '{path}': {error.strerror}", "--pidfile") from error
        os.ftruncate(self._fd, 0)  # what an earlier process wrote is no longer true

    def fileno(self) -> int:
        return self._fd

    def to_data(self) -> list[str | int]:
        """What a process that is executed in our place needs to have it."""
        return [self.path, self._fd]

    @classmethod
    def from_data(cls, data: list[str | int]) -> PidFile:
        """The pid file that this process has already; its lock stays over an execv."""
        pid_file = cls.__new__(cls)
        pid_file.path, pid_file._fd = str(data[0]), int(data[1])
        return pid_file

    @property
    def _words(self) -> str:
        return f"{os.getpid()}\n"

    def write_down(self, run_dir: str) -> None:
        """Have it go with a network's folder, should nobody be left to remove it."""
        Made(run_dir).note_text("pid file", self.path, self._words)

    def write(self) -> None:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, self._words.encode(), 0)

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        os.close(self._fd)
