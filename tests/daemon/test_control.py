# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import selectors
import socket
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import pytest

from tests.daemon.instance import eventually
from vmwire.daemon import control, control_server
from vmwire.daemon.control import CommandError
from vmwire.daemon.control_server import Calls, ControlServer
from vmwire.engine.host import NoStore
from vmwire.errors import ConfigError
from vmwire.monitor.monitor import Monitor
from vmwire.monitor.table import INT, Command, takes
from vmwire.network import Network

NEGOTIATE = b'{"execute": "qmp_capabilities"}\n'
STATS = b'{"execute": "stats"}\n'


def _refuse(monitor: Monitor) -> None:
    raise ConfigError("that can't be had")


COMMANDS = [
    Command("stats", lambda monitor, n=0: {"sum": n}, {"n": takes(INT)}),
    Command("big", lambda monitor: {"text": "x" * 1_000_000}, {}),
    Command("refuse", _refuse, {}),
]


class Server:
    """A control server with a thread of its own, over an empty network."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.network = Network()
        self.selector = selectors.DefaultSelector()
        self.calls = Calls(self.selector)
        self.monitor = Monitor(
            self.network, extra={each.name: each for each in COMMANDS}, post=self.calls.post
        )
        self.server = ControlServer(self.selector, NoStore(), path, self.monitor)
        self._ending = False
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self._ending:
            for key, _ in self.selector.select():
                key.data()

    def _end(self) -> None:
        self._ending = True

    def close(self) -> None:
        self.calls.post(self._end)
        self.thread.join(5)
        self.server.close()
        self.calls.close()
        self.network.close()

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(5)
        client.connect(self.path)
        return client

    def negotiate(self) -> tuple[socket.socket, BinaryIO]:
        """A connection that is past the greeting."""
        client = self.connect()
        stream = client.makefile("rb")
        client.sendall(NEGOTIATE)
        assert json.loads(stream.readline())["QMP"]
        assert json.loads(stream.readline()) == {"return": {}}
        return client, stream

    def try_stats(self) -> object:
        try:
            return control.ask(self.path, "stats")
        except OSError:
            return None

    def ask(self, line: bytes) -> Any:
        client, stream = self.negotiate()
        with client, stream:
            client.sendall(line + b"\n")
            return json.loads(stream.readline())


@pytest.fixture
def server(runtime: str) -> Iterator[Server]:
    made = Server(os.path.join(runtime, "control.sock"))
    yield made
    made.close()


def test_question_is_answered_with_its_id(server: Server) -> None:
    answer = server.ask(b'{"execute": "stats", "arguments": {"n": 7}, "id": "a"}')
    assert answer == {"return": {"sum": 7}, "id": "a"}


def test_nothing_is_answered_before_the_negotiation(server: Server) -> None:
    with server.connect() as client, client.makefile("rb") as stream:
        client.sendall(STATS)
        stream.readline()
        assert json.loads(stream.readline())["error"]["class"] == "CommandNotFound"


@pytest.mark.parametrize(
    "line",
    [b"not", b"[1]", b"{}", b'{"execute": 1}', b'{"execute": "stats", "arguments": 3}', b"\xff"],
)
def test_garbage_gets_an_error_and_the_connection_goes_on(server: Server, line: bytes) -> None:
    client, stream = server.negotiate()
    with client, stream:
        client.sendall(line + b"\n" + STATS)
        assert json.loads(stream.readline())["error"]["class"] == "GenericError"
        assert json.loads(stream.readline()) == {"return": {"sum": 0}}


def test_unknown_command_and_refusal_are_errors(server: Server) -> None:
    assert server.ask(b'{"execute": "fly"}')["error"]["class"] == "CommandNotFound"
    assert server.ask(b'{"execute": "refuse", "id": 1}') == {
        "error": {"class": "GenericError", "desc": "that can't be had"},
        "id": 1,
    }


def test_commands_of_a_machine_are_not_there(server: Server) -> None:
    for name in ("query-status", "system_reset", "query-pci", "quit"):
        answer = server.ask(json.dumps({"execute": name}).encode())
        assert answer["error"]["desc"] == f"The command {name} has not been found"


def test_word_without_an_end_costs_a_bounded_amount(server: Server) -> None:
    client, stream = server.negotiate()
    with client, stream:
        for _ in range(40):
            client.sendall(b"x" * 65536)
        assert json.loads(stream.readline())["error"]["desc"] == "JSON token size limit exceeded"
        client.sendall(b"\n" + STATS)
        assert json.loads(stream.readline()) == {"return": {"sum": 0}}


def test_client_that_does_not_read_answers_is_dropped(server: Server) -> None:
    client, stream = server.negotiate()
    with client, stream:
        client.sendall(b'{"execute": "big"}\n' * 8)
        assert server.ask(STATS)["return"]
        eventually(lambda: not server.server.clients)
    assert server.ask(STATS)["return"]


def test_client_that_does_not_read_events_is_dropped(server: Server) -> None:
    client, stream = server.negotiate()
    with client, stream:
        for _ in range(2 * control_server.MAX_UNSENT // 100_000):
            server.network.host.emit("TEST", {"pad": "x" * 100_000})
        eventually(lambda: not server.server.clients)
    assert server.ask(STATS)["return"]


def test_answer_larger_than_the_socket_arrives_whole(server: Server) -> None:
    assert len(server.ask(b'{"execute": "big"}')["return"]["text"]) == 1_000_000


def test_events_from_the_engines_thread_reach_every_client(server: Server) -> None:
    (one, first), (two, second) = server.negotiate(), server.negotiate()
    with one, two, first, second:
        server.network.host.emit("NIC_RX_FILTER_CHANGED", {"name": "n0"})
        for stream in (first, second):
            event = json.loads(stream.readline())
            assert event["event"] == "NIC_RX_FILTER_CHANGED"
            assert event["data"] == {"name": "n0"}
            assert set(event["timestamp"]) == {"seconds", "microseconds"}


def test_events_wait_for_a_client_that_is_slow(server: Server) -> None:
    client, stream = server.negotiate()
    with client, stream:
        for number in range(3000):
            server.network.host.emit("TEST", {"number": number, "pad": "x" * 100})
        for number in range(3000):
            assert json.loads(stream.readline())["data"]["number"] == number


def test_clients_are_limited_and_places_come_free(server: Server) -> None:
    clients = [server.negotiate() for _ in range(control_server.MAX_CLIENTS)]
    with server.connect() as one_more:
        assert one_more.recv(100) == b""
    for client, stream in clients:
        stream.close()
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
    with Network() as network, pytest.raises(ConfigError, match="Can't open the control socket"):
        monitor = Monitor(network)
        ControlServer(selectors.DefaultSelector(), NoStore(), f"{runtime}/no/such", monitor)
