# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A guest's shell on its serial console, driven from the host's end of that line.

A command goes to the shell between two markers that carry a number; what stands between them is its
output, and the closing marker has its status. The shell does not echo (init.sh), and a marker is
typed in two halves that only ``printf`` joins, so neither an echo nor a late line of an earlier
command can be mistaken for it. Everything that waits has a limit.

    ours, qemus = socket.socketpair()
    ...                                    # qemu -serial stdio, with stdin and stdout on qemus
    console = Console(ours)
    console.wait_for(READY, timeout_s=60)
    print(console.run("uname -r").output)
"""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

READY = b"VMWIRE-GUEST-READY"
"""What init.sh says when its shell is there."""
TYPE_TIMEOUT_S = 30
COMMAND_TIMEOUT_S = 30
LINE_BYTES = 1500
"""A longer line would be cut by the guest's terminal (4096): it is sent as a file, in pieces."""
INTERRUPT = "\x03\n"


class GuestError(Exception):
    """The guest did not do what was asked; the text has what is known."""


@dataclass(frozen=True)
class Result:
    """What a command printed (both streams), and its exit status."""

    output: str
    status: int


class Console:
    """The far end of a serial console: everything that came is in ``log``.

    ``report`` adds what else is known to the text of an error.
    """

    def __init__(
        self, connection: socket.socket | None = None, report: Callable[[], str] = lambda: ""
    ) -> None:
        self._socket = connection
        self._report = report
        self._number = 0
        self._read_to = 0
        self.log = b""

    @property
    def _line(self) -> socket.socket:
        assert self._socket is not None, "nothing is connected yet"
        return self._socket

    def type(self, text: str) -> None:
        """Type at the console."""
        self._line.settimeout(TYPE_TIMEOUT_S)
        self._line.sendall(text.encode())

    def wait_for(self, marker: bytes | re.Pattern[bytes], timeout_s: float) -> re.Match[bytes]:
        """Read until the marker; what follows it stays for the next call."""
        pattern = re.compile(re.escape(marker)) if isinstance(marker, bytes) else marker
        deadline = time.monotonic() + timeout_s
        while True:
            found = pattern.search(self.log, self._read_to)
            if found:
                self._read_to = found.end()
                return found
            self._read(deadline, pattern)

    def _read(self, deadline: float, pattern: re.Pattern[bytes]) -> None:
        self._line.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data = self._line.recv(65536)
        except TimeoutError:
            raise self._error(f"no {pattern.pattern!r} in time") from None
        except OSError as error:
            raise self._error(f"the console broke ({error.strerror})") from None
        if not data:
            raise self._error("the console closed")
        self.log += data

    def _error(self, text: str) -> GuestError:
        return GuestError(f"guest: {text}\n{self._report()}".rstrip())

    def run(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> Result:
        """Run a shell command, or several lines."""
        if len(command) > LINE_BYTES or "\n" in command:
            command = self._as_file(command)
        self._number += 1
        mark = f"{self._number:06d}"
        self.type(
            f"printf '\\n%s%s\\n' VMWIRE- BEGIN{mark}; {{ {command}\n}} </dev/null 2>&1; "
            f"printf '\\n%s%s %d.\\n' VMWIRE- END{mark} $?\n"
        )
        self.wait_for(f"VMWIRE-BEGIN{mark}\r\n".encode(), timeout_s)
        begin = self._read_to
        try:
            pattern = re.compile(rf"\r\nVMWIRE-END{mark} (\d+)\.\r\n".encode())
            end = self.wait_for(pattern, timeout_s)
        except GuestError:
            with contextlib.suppress(OSError):
                self.type(INTERRUPT)  # so that the shell takes the next command
            raise
        text = self.log[begin : end.start()].decode(errors="replace").replace("\r\n", "\n")
        return Result(text, int(end[1]))

    def _as_file(self, script: str) -> str:
        """Put a script into the guest in pieces; the words that run it."""
        path = f"/tmp/script{self._number}"
        for start in range(0, len(script), LINE_BYTES):
            mode = ">" if start == 0 else ">>"
            piece = shlex.quote(script[start : start + LINE_BYTES])
            self.type(f"printf %s {piece} {mode} {path}\n")
        return f". {path}"

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
