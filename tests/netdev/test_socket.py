# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest
from tests.netdev.test_framing import framed
from tests.wire.boxes import End

from vmwire.engine.host import Host
from vmwire.engine.loop import Loop
from vmwire.errors import ConfigError
from vmwire.netdev.addresses import HostPort
from vmwire.netdev.socket import SocketNetdev, SocketOptions
from vmwire.options.table import table_of
from vmwire.wire.frame import Frame


class Bed:
    """Netdevs on one loop, each joined to an end of a wire."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.host = Host(self.loop)
        self.netdevs: list[SocketNetdev] = []

    def add(self, text: str) -> tuple[SocketNetdev, End]:
        netdev = SocketNetdev(table_of(SocketOptions).from_text(text))
        end = End("end")
        end.port.connect(netdev.port)
        netdev.open(self.host)
        self.netdevs.append(netdev)
        return netdev, end

    def until(self, there: Callable[[], object]) -> None:
        limit = time.monotonic() + 5
        while not there():
            assert time.monotonic() < limit, "it did not happen"
            self.loop.turn(0.01)

    def turn(self) -> None:
        while self.loop.turn(0):
            pass

    def close(self) -> None:
        for netdev in self.netdevs:
            netdev.close()
        self.loop.close()


@pytest.fixture
def bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_a_given_socket_is_used_as_it_is(bed: Bed) -> None:
    ours, peer = socket.socketpair()
    _, end = bed.add(f"socket,id=s,fd={ours.detach()}")
    assert end.port.carrier
    peer.send(framed(b"a" * 60))
    bed.turn()
    assert end.data == [b"a" * 60]
    end.port.send([Frame.of(b"b" * 60)])
    assert peer.recv(1000) == framed(b"b" * 60)


def test_the_peer_of_a_given_socket_sees_its_end_when_the_netdev_is_closed(bed: Bed) -> None:
    ours, peer = socket.socketpair()
    netdev, end = bed.add(f"socket,id=s,fd={ours.detach()}")
    netdev.close()
    assert peer.recv(10) == b""
    assert not end.port.carrier


def test_a_listener_takes_the_next_client_when_the_first_leaves(bed: Bed) -> None:
    port = free_port()
    netdev, end = bed.add(f"socket,id=s,listen=:{port}")
    assert not end.port.carrier
    first = socket.create_connection(("127.0.0.1", port))
    bed.until(lambda: end.port.carrier)
    second = socket.create_connection(("127.0.0.1", port))
    second.send(framed(b"early"))
    bed.turn()
    end.port.send([Frame.of(b"for the first")])
    assert first.recv(100) == framed(b"for the first")
    assert end.data == []
    first.close()
    bed.until(lambda: end.data)
    assert end.data == [b"early"]
    assert end.heard == ["up", "down", "up"]
    assert netdev.stats()["connections"] == 2
    end.port.send([Frame.of(b"for the second")])
    assert second.recv(100) == framed(b"for the second")
    second.close()


@pytest.mark.parametrize("first", ["listen", "connect"])
def test_both_orders_of_start_lead_to_a_connection(
    bed: Bed, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmwire.netdev.socket.RETRY_S", 0.02)
    port = free_port()
    texts = [f"socket,id=a,listen=127.0.0.1:{port}", f"socket,id=b,connect=127.0.0.1:{port}"]
    if first == "connect":
        texts.reverse()
    _, one = bed.add(texts[0])
    bed.turn()
    _, other = bed.add(texts[1])
    bed.until(lambda: one.port.carrier and other.port.carrier)
    one.port.send([Frame.of(b"there")])
    other.port.send([Frame.of(b"and back")])
    bed.until(lambda: one.got and other.got)
    assert (one.data, other.data) == ([b"and back"], [b"there"])


def test_who_connects_comes_back_when_the_listener_was_restarted(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmwire.netdev.socket.RETRY_S", 0.02)
    port = free_port()
    listening, _ = bed.add(f"socket,id=a,listen=127.0.0.1:{port}")
    _, end = bed.add(f"socket,id=b,connect=localhost:{port}")
    bed.until(lambda: end.port.carrier)
    listening.close()
    bed.until(lambda: not end.port.carrier)
    bed.add(f"socket,id=c,listen=127.0.0.1:{port}")
    bed.until(lambda: end.port.carrier)


def test_ipv6_and_names_of_hosts(bed: Bed) -> None:
    port = free_port()
    _, end = bed.add(f"socket,id=a,listen=[::1]:{port}")
    bed.add(f"socket,id=b,connect=[::1]:{port}")
    bed.until(lambda: end.port.carrier)


def test_a_pulled_cable_stays_pulled_when_a_client_comes(bed: Bed) -> None:
    port = free_port()
    netdev, end = bed.add(f"socket,id=s,listen=127.0.0.1:{port}")
    netdev.set_link(False)
    with socket.create_connection(("127.0.0.1", port)):
        bed.until(lambda: netdev.connections)
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
def test_what_is_found_at_the_opening_is_a_clear_error(bed: Bed, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bed.add(f"socket,id=s,{text}")
    assert caught.value.message == says


def test_two_listeners_at_one_port_are_an_error(bed: Bed) -> None:
    port = free_port()
    bed.add(f"socket,id=a,listen=:{port}")
    with pytest.raises(ConfigError, match="to socket: Address already in use"):
        bed.add(f"socket,id=b,listen=:{port}")
