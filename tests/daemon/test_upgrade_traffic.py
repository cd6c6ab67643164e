# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a guest and the outside see of an upgrade, and of a worker's death, without a VM."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.daemon.instance import Instance, eventually, stats_of
from tests.daemon.test_upgrade import changed_copy, vmwire_upgrade
from vmwire.bench.guest import IpGuest
from vmwire.bench.vhost_user import NetDriver

GATEWAY = "10.0.2.2"


@dataclass
class Pair:
    """A guest behind a running network."""

    instance: Instance
    guest: IpGuest
    forwarded: int

    def netdev(self, restarts: int = 0) -> dict[str, Any]:
        netdev: dict[str, Any] = stats_of(self.instance.path, restarts)["netdevs"]["u"]
        return netdev

    def upgrade(self, path: str | None = None) -> None:
        done = vmwire_upgrade(str(self.instance.vm.pid), path=path)
        assert (done.returncode == 0) is (path is None), done.stderr

    def crash(self) -> None:
        os.kill(self.instance.pid_of("worker"), signal.SIGKILL)
        stats_of(self.instance.path, restarts=1)


@pytest.fixture
def pair(runtime: str) -> Iterator[Pair]:
    path = os.path.join(runtime, "n0.sock")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "netdevs": [["user", {"id": "u", "hostfwd": [f"tcp:127.0.0.1:{port}-:7"]}]],
        "devices": [["virtio-net-pci", {"id": "n0", "netdev": "u", "socket": path}]],
    }
    with Instance(runtime, config=config) as instance, NetDriver(path) as driver:
        guest = IpGuest(driver)
        guest.lease_by_dhcp()
        yield Pair(instance, guest, port)


@contextlib.contextmanager
def connected(pair: Pair) -> Iterator[tuple[Any, socket.socket]]:
    """A connection from the guest to a server of the host: the guest's end, the server's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        ours = pair.guest.connect(GATEWAY, server.getsockname()[1])
        theirs, _ = server.accept()
        theirs.settimeout(5)
        ours.send(b"hello")
        assert theirs.recv(100) == b"hello"
        with theirs:
            yield ours, theirs


def test_a_connection_is_reset_at_both_ends_and_a_new_one_works(pair: Pair) -> None:
    with connected(pair) as (ours, theirs):
        pair.upgrade()
        with pytest.raises(ConnectionResetError):
            theirs.recv(100)
        with pytest.raises(ConnectionResetError):
            ours.receive(timeout_s=5)  # without having said anything
    with connected(pair):
        pass


def test_a_connection_goes_on_if_nobody_takes_over(pair: Pair, tmp_path: Any) -> None:
    text = "def prepare(self, build):\n    raise ValueError('not me')\nWorker.prepare = prepare\n"
    bad = changed_copy(str(tmp_path / "bad"), "daemon/worker.py", text)
    with connected(pair) as (ours, theirs):
        pair.upgrade(bad)
        ours.send(b"still there")
        assert theirs.recv(100) == b"still there"
        theirs.sendall(b"so are we")
        assert ours.receive() == b"so are we"
        theirs.close()
        assert ours.receive() == b""  # an end, no reset


def test_a_guests_udp_port_stays_the_same_outside(pair: Pair) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        endpoint = pair.guest.open_udp()
        seen = set()
        for _ in range(3):
            endpoint.send(GATEWAY, server.getsockname()[1], b"ping")
            _, source = server.recvfrom(100)
            seen.add(source)
            pair.upgrade()
            server.sendto(b"pong", source)
            assert endpoint.receive(timeout_s=5)[2] == b"pong"
        assert len(seen) == 1


@pytest.mark.parametrize("crash", [False, True])
def test_a_lease_is_remembered(pair: Pair, crash: bool) -> None:
    before = pair.netdev()["leases"]
    assert before
    if crash:
        pair.crash()
    else:
        pair.upgrade()
    assert pair.netdev(int(crash))["leases"] == before
    assert pair.guest.ping(GATEWAY) < 2


@pytest.mark.parametrize("crash", [False, True])
def test_a_forward_reaches_the_guest_at_once(pair: Pair, crash: bool) -> None:
    if crash:
        pair.crash()
    else:
        pair.upgrade()
    listener = pair.guest.listen(7)
    client: list[socket.socket] = []
    connecting = threading.Thread(
        target=lambda: client.append(socket.create_connection(("127.0.0.1", pair.forwarded), 5))
    )
    connecting.start()
    with listener.accept() as ours:
        connecting.join()
        client[0].sendall(b"hello")
        assert ours.receive() == b"hello"
        client[0].close()


def test_the_machine_sees_no_end_of_its_connection(pair: Pair) -> None:
    pair.upgrade()
    pair.crash()
    stats = stats_of(pair.instance.path, restarts=1)["devices"]["n0"]
    assert (stats["connected"], stats["connections"]) == (True, 1)
    eventually(lambda: pair.guest.ping(GATEWAY) < 2)
