# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The Python guest on a real card and a real user network: it does what a guest does."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vmwire.bench.guest import IpGuest
from vmwire.bench.pattern import pattern
from vmwire.bench.vhost_user import NetDriver
from vmwire.network import Network
from vmwire.wire.frame import NO_OFFLOAD, Offload

GATEWAY = "10.0.2.2"
SIZE = 1_500_000
WAIT_S = 20.0


class LossyCard:
    """A card that loses some of the frames with data on their way out."""

    def __init__(self, card: NetDriver, seed: int) -> None:
        self._card = card
        self._random = random.Random(seed)
        self.lost = 0
        self.receive = card.receive

    def send(self, frame: bytes, offload: Offload = NO_OFFLOAD) -> None:
        if len(frame) > 200 and self._random.random() < 0.15:
            self.lost += 1
            return
        self._card.send(frame, offload)


@dataclass
class Bed:
    """A card on a user network, and the host's port that leads to the guest's port 80."""

    card: NetDriver
    forward_port: int


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    with Network() as net:
        net.add_netdev("user", id="u", hostfwd=["tcp:127.0.0.1:0-:80"])
        path = str(tmp_path / "n")
        net.add_nic("virtio-net-pci", id="n", netdev="u", socket=path)
        forward = net.stats()["netdevs"]["u"]["forwards"][0]
        with NetDriver(path, buffer_size=66000) as driver:
            yield Bed(driver, int(forward.split(":")[2].split("-")[0]))


@pytest.fixture
def card(bed: Bed) -> NetDriver:
    return bed.card


@pytest.fixture
def guest(card: NetDriver) -> IpGuest:
    guest = IpGuest(card)
    guest.lease_by_dhcp()
    return guest


@contextlib.contextmanager
def served(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port of the host's loopback, where ``talk`` has one connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)

        def run() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as connection:
                connection.settimeout(WAIT_S)
                talk(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(WAIT_S)


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 20), b""))


def test_lease_is_what_the_network_gives(card: NetDriver) -> None:
    lease = IpGuest(card).lease_by_dhcp()
    assert (lease.address, lease.prefix) == ("10.0.2.15", 24)
    assert (lease.gateway, lease.dns, lease.mtu) == (GATEWAY, "10.0.2.3", 1500)


def test_gateway_answers(guest: IpGuest) -> None:
    assert 0 < guest.ping(GATEWAY) < 2
    assert 0 < guest.ping(GATEWAY, size=1400) < 2


def test_address_of_nobody_is_a_timeout(guest: IpGuest) -> None:
    with pytest.raises(TimeoutError, match=r"10\.0\.2\.77"):
        guest.find(socket.inet_aton("10.0.2.77"), timeout_s=0.1)


def test_what_is_sent_comes_back(guest: IpGuest) -> None:
    with served(echo) as port, guest.connect(GATEWAY, port) as connection:
        connection.send(b"some words")
        assert connection.receive() == b"some words"
        connection.finish()
        assert connection.receive() == b""


@pytest.mark.parametrize("superframes", [True, False])
def test_megabytes_come_whole_in_both_directions(card: NetDriver, superframes: bool) -> None:
    guest = IpGuest(card, superframes=superframes)
    guest.lease_by_dhcp()
    data = b"".join(pattern(SIZE))
    heard: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        heard.append(read_all(connection))
        connection.sendall(data)

    with served(talk) as port, guest.connect(GATEWAY, port) as connection:
        connection.send(data)
        connection.finish()
        assert connection.receive_all() == data
    assert heard == [data]
    assert not guest.drops


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_lost_is_sent_again(card: NetDriver, seed: int) -> None:
    lossy = LossyCard(card, seed)
    guest = IpGuest(lossy)
    guest.lease_by_dhcp()
    data = b"".join(pattern(1_000_000))
    heard: list[bytes] = []
    with (
        served(lambda connection: heard.append(read_all(connection))) as port,
        guest.connect(GATEWAY, port) as connection,
    ):
        connection.send(data)
        connection.finish()
    assert lossy.lost > 0 and connection.resent > 0
    assert heard == [data]


def test_closed_port_is_refused(guest: IpGuest) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            guest.connect(GATEWAY, unused.getsockname()[1])
    assert not guest.connections


def test_reset_ends_a_connection(guest: IpGuest) -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(1)
        linger = b"\1\0\0\0\0\0\0\0"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    with served(reset) as port:
        connection = guest.connect(GATEWAY, port)
        connection.send(b"x")
        with pytest.raises(ConnectionResetError):
            connection.receive()


def test_connection_from_outside_is_taken(bed: Bed, guest: IpGuest) -> None:
    port = bed.forward_port
    listener = guest.listen(80)
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
        client.sendall(b"knock")
        connection = listener.accept()
        assert connection.peer[0] == GATEWAY
        assert connection.receive() == b"knock"
        connection.send(b"come in")
        assert client.recv(100) == b"come in"
        client.shutdown(socket.SHUT_WR)
        assert connection.receive() == b""
        connection.close()
        assert client.recv(100) == b""


def test_connection_to_a_port_where_nobody_listens_is_reset(bed: Bed, guest: IpGuest) -> None:
    port = bed.forward_port
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
        guest.turn(1.0)
        guest.turn(0.1)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_datagrams_go_both_ways(guest: IpGuest) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(WAIT_S)
        port = guest.open_udp()
        port.send(GATEWAY, server.getsockname()[1], b"question")
        data, client = server.recvfrom(100)
        server.sendto(data + b"?", client)
        assert port.receive() == (GATEWAY, server.getsockname()[1], b"question?")


def test_refused_datagram_is_told(guest: IpGuest) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        number = unused.getsockname()[1]
    port = guest.open_udp()
    port.send(GATEWAY, number, b"x")
    guest.until(lambda: port.errors, 5.0, "the refusal")
    assert len(guest.icmp_errors) == 1
