# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket

import pytest
from tests.netdev.sockets import Bed, framed, free_port

from vmwire.errors import ConfigError
from vmwire.netdev.addresses import HostPort
from vmwire.netdev.socket import SocketOptions
from vmwire.options.table import table_of
from vmwire.wire.frame import Frame


def test_a_given_socket_is_used_as_it_is(sockets: Bed) -> None:
    ours, peer = socket.socketpair()
    _, end = sockets.add(f"socket,id=s,fd={ours.detach()}")
    assert end.port.carrier
    peer.send(framed(b"a" * 60))
    sockets.turn()
    assert end.data == [b"a" * 60]
    end.port.send([Frame.of(b"b" * 60)])
    assert peer.recv(1000) == framed(b"b" * 60)


def test_the_peer_of_a_given_socket_sees_its_end_when_the_netdev_is_closed(sockets: Bed) -> None:
    ours, peer = socket.socketpair()
    netdev, end = sockets.add(f"socket,id=s,fd={ours.detach()}")
    netdev.close()
    assert peer.recv(10) == b""
    assert not end.port.carrier


def test_a_listener_takes_the_next_client_when_the_first_leaves(sockets: Bed) -> None:
    port = free_port()
    netdev, end = sockets.add(f"socket,id=s,listen=:{port}")
    assert not end.port.carrier
    first = socket.create_connection(("127.0.0.1", port))
    sockets.until(lambda: end.port.carrier)
    second = socket.create_connection(("127.0.0.1", port))
    second.send(framed(b"early"))
    sockets.turn()
    end.port.send([Frame.of(b"for the first")])
    assert first.recv(100) == framed(b"for the first")
    assert end.data == []
    first.close()
    sockets.until(lambda: end.data)
    assert end.data == [b"early"]
    assert end.heard == ["up", "down", "up"]
    assert netdev.stats()["connections"] == 2
    end.port.send([Frame.of(b"for the second")])
    assert second.recv(100) == framed(b"for the second")
    second.close()


@pytest.mark.parametrize("first", ["listen", "connect"])
def test_both_orders_of_start_lead_to_a_connection(
    sockets: Bed, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmwire.netdev.socket.RETRY_S", 0.02)
    port = free_port()
    texts = [f"socket,id=a,listen=127.0.0.1:{port}", f"socket,id=b,connect=127.0.0.1:{port}"]
    if first == "connect":
        texts.reverse()
    _, one = sockets.add(texts[0])
    sockets.turn()
    _, other = sockets.add(texts[1])
    sockets.until(lambda: one.port.carrier and other.port.carrier)
    one.port.send([Frame.of(b"there")])
    other.port.send([Frame.of(b"and back")])
    sockets.until(lambda: one.got and other.got)
    assert (one.data, other.data) == ([b"and back"], [b"there"])


def test_who_connects_comes_back_when_the_listener_was_restarted(
    sockets: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmwire.netdev.socket.RETRY_S", 0.02)
    port = free_port()
    listening, _ = sockets.add(f"socket,id=a,listen=127.0.0.1:{port}")
    _, end = sockets.add(f"socket,id=b,connect=localhost:{port}")
    sockets.until(lambda: end.port.carrier)
    listening.close()
    sockets.until(lambda: not end.port.carrier)
    sockets.add(f"socket,id=c,listen=127.0.0.1:{port}")
    sockets.until(lambda: end.port.carrier)


def test_ipv6_and_names_of_hosts(sockets: Bed) -> None:
    port = free_port()
    _, end = sockets.add(f"socket,id=a,listen=[::1]:{port}")
    sockets.add(f"socket,id=b,connect=[::1]:{port}")
    sockets.until(lambda: end.port.carrier)


def test_a_pulled_cable_stays_pulled_when_a_client_comes(sockets: Bed) -> None:
    port = free_port()
    netdev, end = sockets.add(f"socket,id=s,listen=127.0.0.1:{port}")
    netdev.set_link(False)
    with socket.create_connection(("127.0.0.1", port)):
        sockets.until(lambda: netdev.stats()["connections"])
        assert not end.port.carrier
        netdev.set_link(True)
        assert end.port.carrier


def test_options_are_written_as_they_were_typed() -> None:
    table = table_of(SocketOptions)
    for text in ("socket,id=s,listen=:7001", "socket,id=s,connect=[::1]:7001", "socket,id=s,fd=7"):
        assert table.to_text(table.from_text(text)) == text
    assert table.from_kwargs(id="s", listen="localhost:0x10").listen == HostPort("localhost", 16)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fd=99", "can't get socket option SO_TYPE"),
        ("fd=0x", "Invalid file descriptor number '0x'"),
        ("connect=nosuch.invalid:1", "can't resolve host address 'nosuch.invalid'"),
        (
            "listen=192.0.2.200:1234",
            "can't bind ip=192.0.2.200 to socket: Cannot assign requested address",
        ),
    ],
)
def test_what_is_found_at_the_opening_is_a_clear_error(sockets: Bed, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sockets.add(f"socket,id=s,{text}")
    assert caught.value.message == says


def test_two_listeners_at_one_port_are_an_error(sockets: Bed) -> None:
    port = free_port()
    sockets.add(f"socket,id=a,listen=:{port}")
    with pytest.raises(ConfigError, match="to socket: Address already in use"):
        sockets.add(f"socket,id=b,listen=:{port}")
