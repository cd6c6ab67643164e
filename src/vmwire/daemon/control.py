# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The control socket: questions to a running network, one JSON object a line.

    {"execute": "stats", "arguments": {}, "id": 1}   ->  {"return": {...}, "id": 1}
                                                     or  {"error": {"class": ..., "desc": ...}}

``arguments`` and ``id`` may be missing, as in QMP. Each answer is one line. It is for the owner
(and root): the socket's mode keeps others out, and so does a look at who they are, as a second
lock. Clients, and what one of them can make us hold, are bounded; garbage is answered with an
error, a line without an end closes the connection.

Runs on the worker's main thread, on a plain selector: asyncio would cost 8 MB and 40 ms of start.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

from vmwire.engine.host import FdStore
from vmwire.errors import ConfigError

logger = logging.getLogger(__name__)

MAX_LINE = 64 * 1024
MAX_CLIENTS = 16
MAX_UNSENT = 4 * 1024 * 1024
"""Answers that a client doesn't read; beyond, it is dropped."""
STORE_NAME = "control"

Command = Callable[[dict[str, Any]], dict[str, Any]]


class CommandError(Exception):
    """A request that can't be answered; ``kind`` is the class that QMP would give it."""

    def __init__(self, text: str, kind: str = "GenericError") -> None:
        super().__init__(text)
        self.kind = kind


class ControlServer:
    """Listens at ``path`` and answers with ``commands``."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        store: FdStore,
        path: str,
        commands: Mapping[str, Command],
    ) -> None:
        self._selector = selector
        self.commands = commands
        self.clients: set[Client] = set()
        self._listener = _listen(store, path)
        selector.register(self._listener, selectors.EVENT_READ, self._on_connection)

    def close(self) -> None:
        for client in list(self.clients):
            client.close()
        self._selector.unregister(self._listener)
        self._listener.close()

    def _on_connection(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it left again, or we are out of descriptors
            return
        if not _is_owner(connection) or len(self.clients) >= MAX_CLIENTS:
            connection.close()
            return
        self.clients.add(Client(self, self._selector, connection))

    def answer(self, line: bytes) -> dict[str, Any]:
        """One request, one answer; never an exception."""
        request: Any = None
        try:
            request = _parse(line)
            result: dict[str, Any] = {"return": self._execute(request)}
        except CommandError as error:
            result = {"error": {"class": error.kind, "desc": str(error)}}
        except (ConfigError, OSError) as error:
            result = {"error": {"class": "GenericError", "desc": str(error)}}
        if isinstance(request, dict) and "id" in request:
            result["id"] = request["id"]
        return result

    def _execute(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["execute"]
        command = self.commands.get(name)
        if command is None:
            raise CommandError(f"The command {name} has not been found", "CommandNotFound")
        return command(request.get("arguments", {}))


class Client:
    """One connection: lines in, lines out."""

    def __init__(
        self, server: ControlServer, selector: selectors.BaseSelector, connection: socket.socket
    ) -> None:
        self._server = server
        self._selector = selector
        self._socket = connection
        self._received = b""
        self._unsent = b""
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, self._on_ready)

    def close(self) -> None:
        self._server.clients.discard(self)
        self._selector.unregister(self._socket)
        self._socket.close()

    def _on_ready(self) -> None:
        """While answers wait to be read, no more questions are."""
        try:
            if self._unsent:
                self._send()
            elif not self._receive():
                self.close()
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def _receive(self) -> bool:
        data = self._socket.recv(MAX_LINE)
        *lines, rest = (self._received + data).split(b"\n")
        self._received = rest
        for line in lines:
            if line.strip():
                self._unsent += json.dumps(self._server.answer(line)).encode() + b"\n"
        if not data or len(rest) > MAX_LINE or len(self._unsent) > MAX_UNSENT:
            return False
        if self._unsent:
            self._send()
        return True

    def _send(self) -> None:
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        finally:
            events = selectors.EVENT_WRITE if self._unsent else selectors.EVENT_READ
            self._selector.modify(self._socket, events, self._on_ready)


def _listen(store: FdStore, path: str) -> socket.socket:
    kept = store.take(STORE_NAME)
    if kept is not None:
        listener = socket.socket(fileno=kept)
        listener.setblocking(False)
        return listener
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(MAX_CLIENTS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"Can't open the control socket '{path}': {error.strerror}") from error
    store.keep(STORE_NAME, listener.fileno())
    return listener


def _is_owner(connection: socket.socket) -> bool:
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", credentials)
    return uid in (0, os.getuid())


def _parse(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"Invalid JSON syntax: {error}") from error
    if not isinstance(request, dict) or not isinstance(request.get("execute"), str):
        raise CommandError("A request is an object with a member 'execute'")
    if not isinstance(request.get("arguments", {}), dict):
        raise CommandError("'arguments' must be an object")
    return request


# --- the asking side ----------------------------------------------------------------------------


def ask(
    path: str,
    execute: str,
    timeout_s: float = 2.0,
    arguments: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask the network behind ``path`` one question.

    Raises OSError when nobody answers in time, `CommandError` for an error as answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(path)
        request = {"execute": execute, "arguments": dict(arguments or {})}
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as stream:
            line = stream.readline(MAX_UNSENT)
    try:
        answer = json.loads(line)
    except ValueError:
        raise ConnectionError(f"no answer from {path}") from None
    if "error" in answer:
        raise CommandError(answer["error"]["desc"], answer["error"]["class"])
    result = answer["return"]
    assert isinstance(result, dict)
    return result
