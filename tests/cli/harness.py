# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A qtest harness: it starts a machine (ours or QEMU's), plays its CPU, and talks to its monitor.

The machine connects to two sockets, as the harnesses that are around have it.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

TIMEOUT_S = 20


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    listener.settimeout(TIMEOUT_S)
    return listener


class Harness:
    """``irqs`` are the interrupt lines' changes since the last answer but one."""

    def __init__(
        self,
        program: Sequence[str],
        options: Sequence[str],
        folder: Path,
        *,
        pass_fds: Sequence[int] = (),
        qmp: bool = True,
    ) -> None:
        paths = {"qtest": folder / "qtest.sock", "qmp": folder / "qmp.sock"}
        listeners = {name: listen(path) for name, path in paths.items() if qmp or name == "qtest"}
        monitor = ["-chardev", f"socket,path={paths['qmp']},id=char0"]
        monitor += ["-mon", "chardev=char0,mode=control"]
        self.process = subprocess.Popen(
            [*program, "-qtest", f"unix:{paths['qtest']}", "-qtest-log", "none",
             *(monitor if qmp else []), "-display", "none", "-audio", "none", *options,
             "-accel", "qtest"],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=pass_fds,
        )  # fmt: skip
        self.irqs: list[str] = []
        self._streams: dict[str, BinaryIO] = {}
        for name, listener in listeners.items():
            connection, _ = listener.accept()
            connection.settimeout(TIMEOUT_S)
            self._streams[name] = connection.makefile("rwb", buffering=0)
            connection.close()
            listener.close()
            paths[name].unlink()
        if qmp:
            assert "QMP" in self.hear()
            self.qmp("qmp_capabilities")

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        status = self.process.wait(TIMEOUT_S)
        for stream in self._streams.values():
            stream.close()
        if self.process.stderr is not None:
            self.process.stderr.close()
        return status

    def leave(self, name: str) -> None:
        """Close one of the connections."""
        self._streams.pop(name).close()

    # qtest

    def ask(self, command: str) -> str:
        """The answer to a command."""
        self._streams["qtest"].write(command.encode() + b"\n")
        self.irqs = []
        while True:
            line = self._streams["qtest"].readline().decode().rstrip("\n")
            if not line.startswith("IRQ "):
                return line
            self.irqs.append(line)

    def _number(self, command: str) -> int:
        answer = self.ask(command).split()
        assert answer[0] == "OK", (command, answer)
        return int(answer[1], 16) if len(answer) > 1 else 0

    def inb(self, port: int) -> int:
        return self._number(f"inb {port:#x}")

    def inw(self, port: int) -> int:
        return self._number(f"inw {port:#x}")

    def inl(self, port: int) -> int:
        return self._number(f"inl {port:#x}")

    def outb(self, port: int, value: int) -> None:
        self._number(f"outb {port:#x} {value:#x}")

    def outw(self, port: int, value: int) -> None:
        self._number(f"outw {port:#x} {value:#x}")

    def outl(self, port: int, value: int) -> None:
        self._number(f"outl {port:#x} {value:#x}")

    def readl(self, address: int) -> int:
        return self._number(f"readl {address:#x}")

    def writel(self, address: int, value: int) -> None:
        self._number(f"writel {address:#x} {value:#x}")

    def read(self, address: int, length: int) -> bytes:
        return bytes.fromhex(self.ask(f"read {address:#x} {length:#x}").removeprefix("OK 0x"))

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        assert self.ask(f"write {address:#x} {len(data):#x} 0x{data.hex()}") == "OK"

    def clock_step(self, ns: int | None = None) -> int:
        return int(self.ask("clock_step" if ns is None else f"clock_step {ns}").split()[1])

    # QMP

    def hear(self) -> dict[str, Any]:
        """The next message of the monitor's."""
        message = json.loads(self._streams["qmp"].readline())
        assert isinstance(message, dict)
        return message

    def qmp(self, execute: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Carry a command out; its result. Events that come before the answer are in ``events``."""
        request = {"execute": execute, "arguments": dict(arguments or {})}
        self._streams["qmp"].write(json.dumps(request).encode() + b"\n")
        self.events: list[str] = []
        while True:
            message = self.hear()
            if "event" not in message:
                return message.get("return", message)
            self.events.append(message["event"])

    def event(self, name: str) -> dict[str, Any]:
        """Wait for an event; its data."""
        while True:
            message = self.hear()
            if message.get("event") == name:
                return dict(message.get("data", {}))
