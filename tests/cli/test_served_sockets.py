# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Socket wires of a network that serve mode runs: given descriptors, an upgrade, a crash."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netdev.sockets import framed

COMMAND = (sys.executable, "-m", "vmwire")
QUESTION = bytes.fromhex(
    "ffffffffffff525400123456080600010800060400015254001234560a00020f0000000000000a000202"
).ljust(60, b"\0")
ANSWER = bytes.fromhex("0806000108000604000252550a0002020a000202")


class Served:
    """A user network behind a socket that we opened."""

    def __init__(self) -> None:
        self.wire, theirs = socket.socketpair()
        self.wire.settimeout(20)
        fd = theirs.fileno()
        words = ["-netdev", f"socket,id=s,fd={fd}", "-netdev", "user,id=u"]
        for id in "su":
            words += ["-netdev", f"hubport,id=h{id},hubid=0,netdev={id}"]
        with theirs:
            self.process = subprocess.Popen(
                [*COMMAND, *words], pass_fds=[fd], stdout=subprocess.PIPE, text=True
            )
        assert self.process.stdout is not None
        assert "stands" in self.process.stdout.readline()

    def ask(self, question: bytes) -> None:
        """Send (the rest of) a question, and wait for its answer."""
        self.wire.sendall(question)
        size = int.from_bytes(self.wire.recv(4, socket.MSG_WAITALL), "big")
        assert ANSWER in self.wire.recv(size, socket.MSG_WAITALL)

    def worker(self) -> int:
        (task,) = Path(f"/proc/{self.process.pid}/task").iterdir()
        return int((task / "children").read_text().split()[0])

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.wire.close()


@pytest.fixture
def served(runtime: str) -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


def test_a_given_socket_is_a_wire_and_is_closed_at_the_end(served: Served) -> None:
    served.ask(framed(QUESTION))
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(20) == 0
    assert served.wire.recv(10) == b""


def test_an_upgrade_in_mid_frame_is_not_noticed(served: Served) -> None:
    served.ask(framed(QUESTION))
    question = framed(QUESTION)
    served.wire.sendall(question[:33])
    before = served.worker()
    words = [*COMMAND, "upgrade", str(served.process.pid)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert served.worker() != before
    served.ask(question[33:])
    served.ask(framed(QUESTION))


def test_a_crash_ends_a_given_stream(served: Served) -> None:
    os.kill(served.worker(), signal.SIGKILL)
    assert served.wire.recv(10) == b""
