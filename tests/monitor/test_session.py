# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The conversation itself. Texts are those of QEMU 11.1."""

from __future__ import annotations

import pytest

from tests.monitor.client import Client
from vmwire.monitor.monitor import Monitor
from vmwire.monitor.session import Session


def error(words: str, kind: str = "GenericError") -> dict[str, object]:
    return {"error": {"class": kind, "desc": words}}


NOT_YET = error("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound")


def test_greeting_says_who_answers_and_offers_nothing(monitor: Monitor) -> None:
    greeting = Client(monitor, negotiate=False).greeting["QMP"]
    assert greeting["capabilities"] == []
    assert greeting["version"]["qemu"] == {"major": 11, "minor": 1, "micro": 0}
    assert greeting["version"]["package"].startswith("vmwire ")


def test_nothing_but_the_negotiation_is_answered_first(monitor: Monitor) -> None:
    client = Client(monitor, negotiate=False)
    assert client.ask("query-version") == NOT_YET
    assert client.ask("nosuch") == NOT_YET
    assert client.ask("qmp_capabilities", bogus=1) == error("Parameter 'bogus' is unexpected")
    assert client.ask("qmp_capabilities", enable=5) == error(
        "Invalid parameter type for 'enable', expected: array"
    )
    assert client.ask("qmp_capabilities", enable=["oob"]) == error("Capability 'oob' not available")
    assert client.ask("query-version") == NOT_YET
    assert client.ask("qmp_capabilities", enable=[]) == {"return": {}}
    assert client.ask("query-name") == {"return": {}}


def test_negotiation_is_once(client: Client) -> None:
    words = "Capabilities negotiation is already complete, command ignored"
    assert client.ask("qmp_capabilities") == error(words, "CommandNotFound")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[1]", "QMP input must be a JSON object"),
        (b'"a"', "QMP input must be a JSON object"),
        (b"{}", "QMP input lacks member 'execute'"),
        (b'{"execute":1}', "QMP input member 'execute' must be a string"),
        (b'{"execute":null}', "QMP input member 'execute' must be a string"),
        (b'{"execute":"quit","arguments":3}', "QMP input member 'arguments' must be an object"),
        (b'{"execute":"quit","arguments":null}', "QMP input member 'arguments' must be an object"),
        (b'{"execute":"query-name","foo":3}', "QMP input member 'foo' is unexpected"),
        (b'{"exec-oob":"query-name"}', "QMP input member 'exec-oob' is unexpected"),
        (b'{"execute":"query-name","arguments":{"x":1}}', "Parameter 'x' is unexpected"),
        (b"nonsense ", "1:32: JSON parse error, invalid keyword 'nonsense'"),
    ],
)
def test_what_is_no_request_is_an_error_and_the_session_goes_on(
    client: Client, text: bytes, words: str
) -> None:
    session = client.say(text)
    assert session[0]["error"]["class"] == "GenericError"
    assert session[0]["error"]["desc"].split(": ")[-1] == words.split(": ")[-1]
    assert client.ask("query-name") == {"return": {}}


@pytest.mark.parametrize("id", [b"7", b'"a"', b'[1,{"a":null}]', b"null", b"1.5", b"false"])
def test_id_comes_back_with_answers_and_errors(client: Client, id: bytes) -> None:
    (answer,) = client.say(b'{"execute":"query-name","id":' + id + b"}")
    (refusal,) = client.say(b'{"id":' + id + b"}")
    assert "return" in answer and "error" in refusal
    assert answer["id"] == refusal["id"]


def test_many_requests_in_one_write_and_one_in_many(client: Client) -> None:
    requests = b'{"execute":"query-name","id":1}{"execute":"nosuch","id":2} {"execute":'
    assert [answer["id"] for answer in client.say(requests)] == [1, 2]
    assert client.say(b'"query-') == []
    assert client.say(b'name"') == []
    assert client.say(b"}") == [{"return": {}}]


def test_unknown_command_is_not_found(client: Client) -> None:
    words = "The command info network has not been found"
    assert client.ask("info network") == error(words, "CommandNotFound")


def test_events_are_told_after_the_negotiation_until_the_client_has_left(monitor: Monitor) -> None:
    early, late = Client(monitor, negotiate=False), Client(monitor)
    late.lines.clear()
    monitor.tell("TEST", {"a": 1})
    assert early.lines == []
    (event,) = late.lines
    assert event["event"] == "TEST" and event["data"] == {"a": 1}
    late.session.close()
    monitor.tell("TEST", {})
    assert len(late.lines) == 1
    assert monitor.listeners == []


def test_event_without_data_has_none_and_its_time_is_the_clocks(monitor: Monitor) -> None:
    monitor._now = lambda: 1234.5
    client = Client(monitor)
    client.lines.clear()
    monitor.tell("STOP", {})
    assert client.lines == [
        {"timestamp": {"seconds": 1234, "microseconds": 500000}, "event": "STOP"}
    ]


def test_nothing_is_done_or_written_once_closed(monitor: Monitor) -> None:
    written: list[bytes] = []

    def write(data: bytes) -> None:
        written.append(data)
        if len(written) == 3:
            session.close()  # as who finds out that nobody reads

    session = Session(monitor, write)
    session.feed(
        b'{"execute":"qmp_capabilities"}{"execute":"query-name"}'
        b'{"execute":"netdev_add","arguments":{"type":"hubport","id":"h","hubid":0}}'
    )
    assert len(written) == 3
    assert monitor.network.netdevs == {}
