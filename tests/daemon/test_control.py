# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import selectors
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon.instance import eventually
from vmwire.daemon import control
from vmwire.daemon.control import CommandError, ControlServer
from vmwire.engine.host import NoStore
from vmwire.errors import ConfigError


def _refuse(arguments: dict[str, Any]) -> dict[str, Any]:
    raise ConfigError("that can't be had")


class Server:
    """A control server with a thread of its own."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.selector = selectors.DefaultSelector()
        self.wake, self._wake_end = os.pipe()
        self.selector.register(self.wake, selectors.EVENT_READ)
        commands = {
            "stats": lambda arguments: {"sum": arguments.get("n", 0)},
            "big": lambda arguments: {"text": "x" * 1_000_000},
            "refuse": _refuse,
        }
        self.server = ControlServer(self.selector, NoStore(), path, commands)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while True:
            for key, _ in self.selector.select():
                if key.fd == self.wake:
                    return
                key.data()

    def close(self) -> None:
        os.write(self._wake_end, b"x")
        self.thread.join(5)
        self.server.close()
        os.close(self.wake)
        os.close(self._wake_end)

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(5)
        client.connect(self.path)
        return client

    def try_stats(self) -> object:
        try:
            return control.ask(self.path, "stats")
        except OSError:
            return None

    def ask(self, line: bytes) -> Any:
        with self.connect() as client:
            client.sendall(line + b"\n")
            with client.makefile("rb") as stream:
                return json.loads(stream.readline())


@pytest.fixture
def server(runtime: str) -> Iterator[Server]:
    made = Server(os.path.join(runtime, "control.sock"))
    yield made
    made.close()


def test_question_is_answered_with_its_id(server: Server) -> None:
    answer = server.ask(b'{"execute": "stats", "arguments": {"n": 7}, "id": "a"}')
    assert answer == {"return": {"sum": 7}, "id": "a"}


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[1]",
        b"{}",
        b'{"execute": 1}',
        b'{"execute": "stats", "arguments": 3}',
        b"\xff\xfe",
        b"[" * 60000,
    ],
)
def test_garbage_gets_an_error_and_the_connection_goes_on(server: Server, line: bytes) -> None:
    with server.connect() as client, client.makefile("rb") as stream:
        client.sendall(line + b"\n\n" + b'{"execute": "stats"}\n')
        assert json.loads(stream.readline())["error"]["class"] == "GenericError"
        assert json.loads(stream.readline()) == {"return": {"sum": 0}}


def test_unknown_command_and_refusal_are_errors(server: Server) -> None:
    assert server.ask(b'{"execute": "fly"}')["error"]["class"] == "CommandNotFound"
    assert server.ask(b'{"execute": "refuse", "id": 1}') == {
        "error": {"class": "GenericError", "desc": "that can't be had"},
        "id": 1,
    }


def test_line_without_an_end_closes_the_connection(server: Server) -> None:
    with server.connect() as client, pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(100):
            client.sendall(b"x" * control.MAX_LINE)
    assert server.ask(b'{"execute": "stats"}')["return"]


def test_client_that_does_not_read_costs_a_bounded_amount(server: Server) -> None:
    with server.connect() as client:
        client.sendall(b'{"execute": "big"}\n' * 8)
        client.settimeout(5)
        assert server.ask(b'{"execute": "stats"}')["return"]
    assert server.ask(b'{"execute": "stats"}')["return"]


def test_answer_larger_than_the_socket_arrives_whole(server: Server) -> None:
    assert len(server.ask(b'{"execute": "big"}')["return"]["text"]) == 1_000_000


def test_clients_are_limited_and_places_come_free(server: Server) -> None:
    clients = [server.connect() for _ in range(control.MAX_CLIENTS)]
    for client in clients:
        client.sendall(b'{"execute": "stats"}\n')
        assert client.recv(100)
    with server.connect() as one_more:
        assert one_more.recv(100) == b""
    for client in clients:
        client.close()
    eventually(lambda: server.try_stats() == {"sum": 0})


def test_socket_is_for_its_owner(server: Server) -> None:
    assert os.stat(server.path).st_mode & 0o777 == 0o600


def test_asking_raises_what_went_wrong(server: Server, runtime: str) -> None:
    with pytest.raises(CommandError, match="that can't be had"):
        control.ask(server.path, "refuse")
    with pytest.raises(FileNotFoundError):
        control.ask(os.path.join(runtime, "nobody.sock"), "stats")


def test_asking_somebody_who_hangs_up_is_an_error(runtime: str) -> None:
    path = os.path.join(runtime, "mute.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        with pytest.raises(OSError):
            control.ask(path, "stats")
        thread.join()


def test_path_that_can_not_be_had_is_the_users_error(runtime: str) -> None:
    with pytest.raises(ConfigError, match="Can't open the control socket"):
        ControlServer(selectors.DefaultSelector(), NoStore(), f"{runtime}/no/such", {})
