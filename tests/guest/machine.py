# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Drive one real guest: start QEMU, type at its serial console, speak QMP, end it cleanly.

The harness listens on two sockets of its own (console and QMP) and QEMU connects to them, so there
is nothing to poll for; `vmwire.bench.console` says how commands go over the console.

Everything that waits has a limit. What QEMU and the guest said is kept: `Machine.report()` is in
every error and, through conftest.py, in the report of a failed test.

    with Machine(qemu, ["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"]) as guest:
        guest.check("udhcpc -i eth0 -n -q")
        print(guest.check("wget -qO- http://10.0.2.2:8000/"))
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.guest import image
from vmwire.bench import console
from vmwire.bench.console import COMMAND_TIMEOUT_S, READY, GuestError, Result

BOOT_TIMEOUT_S = 90
CONNECT_TIMEOUT_S = 20
EXIT_TIMEOUT_S = 10
KERNEL_WORDS = (
    "console=ttyS0 quiet loglevel=1 panic=-1 random.trust_cpu=on tsc=reliable no_timer_check "
    "mitigations=off nokaslr cryptomgr.notests"
)
"""The kernel's tests of its own ciphers are half of what booting costs."""


class Machine:
    """One QEMU with its guest. `network` are the words about the network, as a user types them;
    `prefix` stands in front of QEMU (`["./vmwire"]`); `extra` are further words; `environment` is
    added to ours."""

    live: list[Machine] = []

    def __init__(
        self,
        qemu: str,
        network: Sequence[str] = (),
        *,
        prefix: Sequence[str] = (),
        extra: Sequence[str] = (),
        memory: Sequence[str] = ("-m", "256"),
        kernel_words: str = "",
        cpus: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.environment = dict(os.environ, **(environment or {}))
        self.folder = Path(tempfile.mkdtemp(prefix="vmwire-guest-"))
        self.command = [*prefix, qemu, *self._fixed(cpus, kernel_words), *memory, *network, *extra]
        self.console = Console(self.folder / "console.sock", self.report)
        self.qmp = Qmp(self.folder / "qmp.sock", self.report)
        self._stderr_path = self.folder / "stderr"
        self.process: subprocess.Popen[bytes] | None = None
        self.boot_seconds = 0.0

    def _fixed(self, cpus: int, kernel_words: str) -> list[str]:
        return [
            *("-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-cpu", "max"),
            *("-smp", str(cpus), "-kernel", str(image.kernel()), "-initrd", str(image.initramfs())),
            *("-append", f"{KERNEL_WORDS} {kernel_words}".strip()),
            *("-chardev", f"socket,id=console,path={self.folder}/console.sock"),
            *("-serial", "chardev:console"),
            *("-chardev", f"socket,id=qmp,path={self.folder}/qmp.sock"),
            *("-qmp", "chardev:qmp"),
        ]

    # --- life ----------------------------------------------------------------------------------

    def __enter__(self) -> Machine:
        self.start()
        try:
            self.wait_booted()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start QEMU and take its two connections; the guest is still booting then."""
        Machine.live.append(self)
        with open(self._stderr_path, "wb") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
            )
        self.console.accept(self.is_running)
        self.qmp.accept(self.is_running)

    def wait_booted(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        begin = time.monotonic()
        self.console.wait_for(READY, timeout_s)
        self.boot_seconds = time.monotonic() - begin

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None, "the machine has not been started"
        return self.process.pid

    def wait_ended(self, timeout_s: float = EXIT_TIMEOUT_S) -> int:
        """QEMU's exit status, once it ended by itself."""
        assert self.process is not None, "the machine has not been started"
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise GuestError(f"QEMU still runs after {timeout_s} s\n{self.report()}") from None

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(EXIT_TIMEOUT_S)

    def close(self) -> None:
        """End QEMU (politely, then not) and remove everything; a second call does nothing."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(EXIT_TIMEOUT_S)
        self.kill()
        self.console.close()
        self.qmp.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self in Machine.live:
            Machine.live.remove(self)

    def report(self) -> str:
        """What is known when something fails: command line, exit status, the end of both logs."""
        status = self.process.poll() if self.process else None
        state = "running" if status is None else f"not running, status {status}"
        return "\n".join(
            [
                f"$ {shlex.join(self.command)}",
                f"QEMU: {state}",
                "--- QEMU's output:",
                self.stderr()[-2000:],
                f"--- its last events: {self.qmp.last_events()}",
                "--- the guest's console:",
                self.console.log[-2000:].decode(errors="replace"),
            ]
        )

    def stderr(self) -> str:
        try:
            return self._stderr_path.read_text(errors="replace")
        except OSError:
            return ""

    # --- the guest's shell ---------------------------------------------------------------------

    def run(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> Result:
        """Run a shell command (or several lines) in the guest; output is stdout and stderr."""
        return self.console.run(command, timeout_s)

    def check(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """The same, for a command that must succeed; its output without the last newline."""
        result = self.run(command, timeout_s)
        if result.status:
            raise GuestError(
                f"guest: {command!r} ended with {result.status}: {result.output}\n{self.report()}"
            )
        return result.output.rstrip("\n")

    def lease(self, card: str = "eth0", timeout_s: float = COMMAND_TIMEOUT_S) -> dict[str, str]:
        """Get a DHCP lease for a card; what the server answered, by udhcpc's names."""
        self.check(f"udhcpc -i {card} -n -q -t 5 -T 2", timeout_s)
        lines = self.check(f"cat /run/lease.{card}").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def reboot(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        self.console.type("reboot -f\n")
        self.wait_booted(timeout_s)


class Console(console.Console):
    """The serial console's far end, to which QEMU connects."""

    def __init__(self, path: Path, report: Callable[[], str]) -> None:
        super().__init__(None, report)
        self._listener = _listen(path)

    def accept(self, is_running: Callable[[], bool]) -> None:
        self._socket = _accept(self._listener, is_running, self._report)

    def close(self) -> None:
        self._listener.close()
        super().close()


class Qmp:
    """QEMU's monitor. Events that came meanwhile are kept in `events`."""

    def __init__(self, path: Path, report: Callable[[], str]) -> None:
        self._listener = _listen(path)
        self._socket: socket.socket | None = None
        self._report = report
        self._pending = b""
        self.events: list[dict[str, Any]] = []

    def accept(self, is_running: Callable[[], bool]) -> None:
        self._socket = _accept(self._listener, is_running, self._report)
        self._socket.settimeout(CONNECT_TIMEOUT_S)
        self._message()
        self("qmp_capabilities")

    def __call__(
        self,
        command: str,
        timeout_s: float = COMMAND_TIMEOUT_S,
        *,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a QMP command; its `return`. An `error` answer is raised."""
        assert self._socket is not None, "the machine has not been started"
        request = {"execute": command, "arguments": dict(arguments or {})}
        self._socket.settimeout(timeout_s)
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._message()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise GuestError(f"QMP {command}: {answer['error'].get('desc')}")
            self.events.append(answer)

    def last_events(self) -> list[str]:
        """The names of the newest events, with a reason where there is one; never waits."""
        if self._socket:
            self._socket.settimeout(0)  # every other use sets a time-out of its own
        with contextlib.suppress(OSError):
            while self._socket and (data := self._socket.recv(65536)):
                self._pending += data
        *lines, self._pending = self._pending.split(b"\n")
        self.events += [json.loads(line) for line in lines]
        reasons = [(event.get("event"), event.get("data", {})) for event in self.events[-5:]]
        return [f"{name} {data.get('reason', '')}".strip() for name, data in reasons]

    def hmp(self, line: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """A line for the human monitor; what it printed."""
        text = self("human-monitor-command", timeout_s, arguments={"command-line": line})
        return str(text)

    def _message(self) -> dict[str, Any]:
        assert self._socket is not None, "the machine has not been started"
        while b"\n" not in self._pending:
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise GuestError(f"QMP: no answer in time\n{self._report()}") from None
            if not data:
                raise GuestError(f"QMP: connection closed\n{self._report()}")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        self._listener.close()
        if self._socket:
            self._socket.close()


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(os.fspath(path))
    listener.listen(1)
    return listener


def _accept(
    listener: socket.socket, is_running: Callable[[], bool], report: Callable[[], str]
) -> socket.socket:
    """QEMU's connection; an error as soon as QEMU ended instead."""
    listener.settimeout(0.2)
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            return listener.accept()[0]
        except TimeoutError:
            if not is_running():
                raise GuestError(f"QEMU ended before it ran\n{report()}") from None
    raise GuestError(f"QEMU did not connect in {CONNECT_TIMEOUT_S} s\n{report()}")


@contextlib.contextmanager
def both(*machines: Machine) -> Iterator[tuple[Machine, ...]]:
    """Several machines, booting at the same time."""
    try:
        for machine in machines:
            machine.start()
        for machine in machines:
            machine.wait_booted()
        yield machines
    finally:
        for machine in machines:
            machine.close()
