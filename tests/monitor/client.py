# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A QMP client of a monitor, without a socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vmwire.monitor.machine import OnEvent, PciFunctionView
from vmwire.monitor.monitor import Monitor
from vmwire.monitor.session import Session


class Client:
    """Past the negotiation, unless ``negotiate`` is false."""

    def __init__(self, monitor: Monitor, *, negotiate: bool = True) -> None:
        self.lines: list[dict[str, Any]] = []
        self.session = Session(monitor, self._write)
        self.greeting = self.lines.pop()
        if negotiate:
            assert self.ask("qmp_capabilities") == {"return": {}}

    def _write(self, data: bytes) -> None:
        assert data.endswith(b"\r\n")
        self.lines.append(json.loads(data))

    def say(self, data: bytes) -> list[dict[str, Any]]:
        """What comes back for some bytes, events and all."""
        self.lines.clear()
        self.session.feed(data)
        return self.lines[:]

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a command."""
        return self.ask_with(command, arguments)

    def ask_with(self, command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The same with names of arguments that Python doesn't have."""
        request = {"execute": command, "arguments": dict(arguments)}
        return self.say(json.dumps(request).encode())[-1]

    def get(self, command: str, **arguments: Any) -> Any:
        """The result of a command that must succeed."""
        return self.ask(command, **arguments)["return"]

    def refused(self, command: str, **arguments: Any) -> tuple[str, str]:
        """Class and text of the error that a command must give."""
        error = self.ask(command, **arguments)["error"]
        return error["class"], error["desc"]

    def hmp(self, line: str) -> list[str]:
        """What the human monitor says to a line."""
        text: str = self.ask_with("human-monitor-command", {"command-line": line})["return"]
        assert not text or text.endswith("\r\n")
        return text.split("\r\n")[:-1]

    def events(self) -> list[tuple[str, Any]]:
        """Names and data of the events that came with the last answer."""
        return [(each["event"], each.get("data")) for each in self.lines if "event" in each]


class FakeMachine:
    """A machine that does nothing but tell."""

    name = "pc"

    def __init__(self) -> None:
        self.on_event: OnEvent = lambda event, data: None
        self.running = True
        self.functions: list[PciFunctionView] = []
        self.unplugged: list[str] = []

    def stop(self) -> None:
        self.running = False
        self.on_event("STOP", {})

    def cont(self) -> None:
        self.running = True
        self.on_event("RESUME", {})

    def pci_functions(self) -> list[PciFunctionView]:
        return self.functions

    def reset(self) -> None:
        self.on_event("RESET", {"guest": False, "reason": "host-qmp-system-reset"})

    def unplug(self, id: str) -> None:
        self.unplugged.append(id)

    def quit(self) -> None:
        self.on_event("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
