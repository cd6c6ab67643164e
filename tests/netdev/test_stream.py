# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.netdev.sockets import Bed, framed, free_port

from vmwire import catalogue
from vmwire.errors import ConfigError
from vmwire.netdev.addresses import FdAddress, InetAddress, UnixAddress
from vmwire.netdev.stream import StreamOptions
from vmwire.options.table import table_of
from vmwire.wire.frame import Frame

INET = "addr.type=inet,addr.host=127.0.0.1,addr.port"


def there_and_back(sockets: Bed, one: Any, other: Any) -> None:
    sockets.until(lambda: one.port.carrier and other.port.carrier)
    one.port.send([Frame.of(b"there")])
    other.port.send([Frame.of(b"and back")])
    sockets.until(lambda: one.got and other.got)
    assert (one.data, other.data) == ([b"and back"], [b"there"])


@pytest.mark.parametrize(
    "address",
    [
        "addr.type=unix,addr.path={dir}/s",
        "addr.type=unix,addr.path={dir}/s,addr.abstract=on",
        "addr.type=unix,addr.path={dir}/s,addr.abstract=on,addr.tight=off",
        "addr.type=inet,addr.host=127.0.0.1,addr.port={port}",
        "addr.type=inet,addr.host=::1,addr.port={port},addr.ipv6=on,addr.ipv4=off",
        "addr.type=inet,addr.host=,addr.port={port}",
        "addr.type=inet,addr.host=127.0.0.1,addr.port={port},addr.numeric=on,addr.keep-alive=on,"
        "addr.keep-alive-idle=5,addr.keep-alive-interval=6,addr.keep-alive-count=7",
    ],
)
def test_server_and_client_meet_at_all_kinds_of_address(
    sockets: Bed, tmp_path: Path, address: str
) -> None:
    address = address.format(dir=tmp_path, port=free_port())
    _, one = sockets.add(f"stream,id=a,server=on,{address}")
    client, other = sockets.add(f"stream,id=b,{address}")
    there_and_back(sockets, one, other)
    if "keep-alive" in address:
        assert client.connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert client.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5


def test_a_server_takes_the_first_free_port_of_a_range(sockets: Bed) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sockets.add(f"stream,id=a,server=on,{INET}={port},addr.to={port + 20}")
        _, end = sockets.add(f"stream,id=b,{INET}={port + 1}")
        sockets.until(lambda: end.port.carrier)


def test_a_given_connection_and_a_given_listener(sockets: Bed) -> None:
    ours, peer = socket.socketpair()
    _, end = sockets.add(f"stream,id=a,addr.type=fd,addr.str={ours.detach()}")
    peer.send(framed(b"a" * 60))
    sockets.until(lambda: end.got)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    _, one = sockets.add(f"stream,id=b,server=on,addr.type=fd,addr.str={listener.detach()}")
    _, other = sockets.add(f"stream,id=c,{INET}={port}")
    there_and_back(sockets, one, other)


def test_a_listener_is_no_connection(sockets: Bed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = os.dup(listener.fileno())
        with pytest.raises(ConfigError, match="is not a connected stream socket"):
            sockets.add(f"stream,id=b,addr.type=fd,addr.str={fd}")


def test_connections_are_told_and_shown_as_qemu_does(sockets: Bed, tmp_path: Path) -> None:
    path = tmp_path / "s"
    server, end = sockets.add(f"stream,id=dut,server=on,addr.type=unix,addr.path={path}")
    assert server.info == "listening"
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        sockets.until(lambda: end.port.carrier)
        assert server.info == f"unix:{path}"
        assert sockets.events == [
            (
                "NETDEV_STREAM_CONNECTED",
                {"netdev-id": "dut", "addr": {"path": str(path), "type": "unix"}},
            )
        ]
    sockets.until(lambda: not end.port.carrier)
    assert sockets.events[1] == ("NETDEV_STREAM_DISCONNECTED", {"netdev-id": "dut"})
    assert server.info == "listening"


def test_a_clients_events_name_the_server(sockets: Bed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        client, end = sockets.add(f"stream,id=c,{INET}={port}")
        sockets.until(lambda: end.port.carrier)
        assert client.info == f"tcp:127.0.0.1:{port}"
    assert sockets.events[0][1]["addr"] == {
        "port": str(port), "ipv4": True, "host": "127.0.0.1", "type": "inet",
    }  # fmt: skip


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_client_with_an_interval_connects_whenever_there_is_a_server(
    sockets: Bed, host: str
) -> None:
    port = free_port()
    client, end = sockets.add(
        f"stream,id=c,reconnect-ms=20,addr.type=inet,addr.ipv6=off,addr.host={host},addr.port={port}"
    )
    sockets.turn()
    assert client.info == "connecting"
    for number in range(2):
        server, _ = sockets.add(f"stream,id=s{number},server=on,{INET}={port}")
        sockets.until(lambda: end.port.carrier)
        server.close()
        sockets.until(lambda: not end.port.carrier)
    assert [event for event, _ in sockets.events if event.endswith("DISCONNECTED")]
    assert client.connections == 2


def test_a_client_without_an_interval_tries_once(sockets: Bed) -> None:
    port = free_port()
    client, end = sockets.add(f"stream,id=c,{INET}={port}")
    sockets.until(lambda: client.info.startswith("error"))
    assert client.info == f"error: Failed to connect to '127.0.0.1:{port}': Connection refused"
    sockets.add(f"stream,id=s,server=on,{INET}={port}")
    sockets.loop.turn(0.05)
    assert not end.port.carrier


def test_a_dead_servers_socket_file_is_replaced_a_living_ones_is_not(
    sockets: Bed, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server, _ = sockets.add(f"stream,id=a,server=on,addr.type=unix,addr.path={path}")
    with pytest.raises(ConfigError, match="to socket: Address already in use"):
        sockets.add(f"stream,id=b,server=on,addr.type=unix,addr.path={path}")
    assert path.exists()
    server.close()
    assert not path.exists()


def test_json_says_the_same_as_dotted_keys() -> None:
    text = "stream,id=s,server=on,addr.type=inet,addr.host=::1,addr.port=5,addr.to=7,addr.ipv4=off"
    made = catalogue.parse("netdev", text)
    assert made == catalogue.parse("netdev", json.dumps({
        "type": "stream", "id": "s", "server": True,
        "addr": {"type": "inet", "host": "::1", "port": "5", "to": 7, "ipv4": False},
    }))  # fmt: skip
    assert made.addr == InetAddress(host="::1", port="5", to=7, ipv4=False)


@pytest.mark.parametrize(
    "text",
    [
        "stream,id=s,addr.type=unix,addr.path=/a,,b,reconnect-ms=5",
        "stream,id=s,addr.type=inet,addr.host=h,addr.port=1,addr.keep-alive=on,server=on",
        "stream,id=s,addr.type=fd,addr.str=7",
    ],
)
def test_options_are_written_as_they_were_typed(text: str) -> None:
    table = table_of(StreamOptions)
    assert table.to_text(table.from_text(text)) == text


def test_python_gives_addresses_as_dicts_or_as_they_are() -> None:
    table = table_of(StreamOptions)
    made = table.from_kwargs(id="s", addr={"type": "unix", "path": "/x", "abstract": True})
    assert made.addr == UnixAddress(path="/x", abstract=True)
    assert table.from_kwargs(id="s", addr=FdAddress(fd="5")).addr == FdAddress(fd="5")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("addr.type=unix,addr.path=/nonexistent/x", "can't bind unix=/nonexistent/x to socket: No"),
        (f"addr.type=unix,addr.path=/{'x' * 200}", "is too long"),
        ("addr.type=inet,addr.host=h,addr.port=1,addr.ipv4=off,addr.ipv6=off", "Cannot disable"),
        ("addr.type=inet,addr.host=127.0.0.1,addr.port=9,addr.to=8", "'to' is less than the port"),
        ("addr.type=inet,addr.host=nosuch.invalid,addr.port=1", "address resolution failed for"),
        ("addr.type=unix,addr.path=/x,addr.bogus=1", "Parameter 'addr.bogus' is unexpected"),
        ("addr=unix", "Invalid parameter type for 'addr', expected: object"),
        ("addr.type=unix,addr.path=/x,addr.abstract=maybe", "expects 'on' or 'off'"),
    ],
)
def test_what_can_not_be_is_one_clear_error(sockets: Bed, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sockets.add(f"stream,id=s,server=on,{text}")
    assert says in caught.value.message
