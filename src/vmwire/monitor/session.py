# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""One client's QMP conversation, without the socket: bytes in, bytes out.

    session = Session(monitor, connection.sendall)
    session.feed(data)
    session.close()

Theory of operation. The greeting goes out first. Until the client has said ``qmp_capabilities``
nothing else is answered, and no events are told; from then on each request is carried out when it
is complete, in order, and answered with its ``id``. Events stand between answers, those that a
command causes before its own. We offer no capability, so ``exec-oob`` isn't known.

Input that isn't JSON, or isn't a request, is answered by an error, and the conversation goes on
(`vmwire.monitor.json_parser`). Whoever owns the socket bounds what a client leaves unread.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from vmwire.errors import ConfigError
from vmwire.monitor.basics import NEGOTIATE, NEGOTIATION
from vmwire.monitor.json_parser import JsonFault, JsonParser
from vmwire.monitor.monitor import Monitor
from vmwire.monitor.table import CommandError
from vmwire.monitor.version import VERSION

EXPECTING_NEGOTIATION = "Expecting capabilities negotiation with 'qmp_capabilities'"
NEGOTIATED = "Capabilities negotiation is already complete, command ignored"


class Session:
    """See the module. ``write`` is handed whole lines."""

    def __init__(self, monitor: Monitor, write: Callable[[bytes], None]) -> None:
        self._monitor = monitor
        self._write = write
        self._parser = JsonParser()
        self._negotiated = False
        self._closed = False
        self._send({"QMP": {"version": VERSION, "capabilities": []}})

    def close(self) -> None:
        """The client has left: tell it nothing more."""
        self._closed = True
        if self._send in self._monitor.listeners:
            self._monitor.listeners.remove(self._send)

    def feed(self, data: bytes) -> None:
        """Take what the client said, and answer what is complete."""
        for value in self._parser.feed(data):
            if self._closed:
                return
            if isinstance(value, JsonFault):
                self._send(_error(CommandError(str(value))))
            else:
                self._send(self._answer(value))

    def _send(self, message: dict[str, Any]) -> None:
        if not self._closed:
            self._write(json.dumps(message).encode() + b"\r\n")

    def _answer(self, request: Any) -> dict[str, Any]:
        """The answer to one request; never an exception."""
        about = {"id": request["id"]} if isinstance(request, dict) and "id" in request else {}
        try:
            name, arguments = _read(request)
            return {"return": self._execute(name, arguments), **about}
        except CommandError as error:
            return {**about, **_error(error)}

    def _execute(self, name: str, arguments: dict[str, Any]) -> Any:
        if name == NEGOTIATE and self._negotiated:
            raise CommandError(NEGOTIATED, "CommandNotFound")
        if name == NEGOTIATE:
            return self._negotiate(arguments)
        if not self._negotiated:
            raise CommandError(EXPECTING_NEGOTIATION, "CommandNotFound")
        return self._monitor.execute(name, arguments)

    def _negotiate(self, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            wanted = NEGOTIATION.read(arguments).get("enable", [])
        except ConfigError as error:
            raise CommandError(error.message) from error
        for capability in wanted:
            raise CommandError(f"Capability '{capability}' not available")
        self._negotiated = True
        self._monitor.listeners.append(self._send)
        return {}


def _error(error: CommandError) -> dict[str, Any]:
    return {"error": {"class": error.kind, "desc": str(error)}}


def _read(request: Any) -> tuple[str, dict[str, Any]]:
    """The command and the arguments of a request. Raises `CommandError`."""
    if not isinstance(request, dict):
        raise CommandError("QMP input must be a JSON object")
    for key, value in request.items():
        if key == "execute":
            if not isinstance(value, str):
                raise CommandError("QMP input member 'execute' must be a string")
        elif key == "arguments":
            if not isinstance(value, dict):
                raise CommandError("QMP input member 'arguments' must be an object")
        elif key != "id":
            raise CommandError(f"QMP input member '{key}' is unexpected")
    if "execute" not in request:
        raise CommandError("QMP input lacks member 'execute'")
    return request["execute"], request.get("arguments", {})
