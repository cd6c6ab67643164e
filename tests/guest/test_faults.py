# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""kill -9 of each process of a real VM's network, while the guest downloads."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from tests.daemon.conftest import runtime
from tests.daemon.instance import eventually, is_alive, stats_of, users_of
from tests.guest.machine import Machine
from tests.guest.peer import HostPeer, free_port

__all__ = ["runtime"]

pytestmark = pytest.mark.guest

BACK_AFTER_S = 2.0
"""How soon new connections must work again after the worker's death."""


class Running:
    """A guest that downloads without end, with an echo behind a forward."""

    def __init__(self, guest: Machine, folder: str, port: int) -> None:
        self.guest = guest
        self.folder = folder
        self.port = port

    def load(self, host: HostPeer) -> None:
        self.guest.lease()
        self.guest.check("socat TCP-LISTEN:7,fork,reuseaddr EXEC:cat,nofork >/dev/null 2>&1 &")
        # Rounds of 3 s, so that what a dead connection holds up ends too.
        request = f"(printf 'GET /{10 << 30} HTTP/1.0\\r\\n\\r\\n'; sleep 3)"
        fetch = f"{request} | socat - TCP:10.0.2.2:{host.http_port}"
        self.guest.check(f"(while :; do {fetch}; done) >/dev/null 2>&1 &")
        eventually(lambda: self.echoes(5), timeout_s=20)
        eventually(lambda: self.downloaded() > 1 << 20, timeout_s=20)

    def processes(self) -> dict[int, str]:
        return users_of(os.path.join(self.folder, "lock"))

    def pid_of(self, name: str) -> int:
        return next(pid for pid, comm in self.processes().items() if comm == f"vmwire-{name}")

    def restarts(self) -> int:
        return int(stats_of(self.folder)["restarts"])

    def echoes(self, timeout_s: float = 0.3) -> bool:
        """Whether a new connection reaches the guest and its answer comes back."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout_s) as connection:
                connection.settimeout(timeout_s)
                connection.sendall(b"are you there")
                return connection.recv(100) == b"are you there"
        except OSError:
            return False

    def downloaded(self) -> int:
        return int(self.guest.check("cat /sys/class/net/eth0/statistics/rx_bytes"))


@pytest.fixture
def running(qemu: str, prefix: list[str], host: HostPeer, runtime: str) -> Iterator[Running]:
    if not prefix:
        pytest.skip("there are no processes of vmwire's without the prefix")
    port = free_port()
    words = ["-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{port}-:7"]
    with Machine(qemu, [*words, "-device", "virtio-net-pci,netdev=n"], prefix=prefix) as guest:
        made = Running(guest, os.path.join(runtime, "vmwire", str(guest.pid)), port)
        made.load(host)
        yield made


def test_new_connections_work_soon_after_the_worker_is_killed(
    running: Running,
) -> None:
    for count in (1, 2):
        os.kill(running.pid_of("worker"), signal.SIGKILL)
        begin = time.monotonic()
        eventually(running.echoes, timeout_s=10)
        took = time.monotonic() - begin
        print(f"back {took:.2f} s after death {count}")
        assert took < BACK_AFTER_S
        assert running.restarts() == count
    before = running.downloaded()
    eventually(lambda: running.downloaded() > before + (1 << 20), timeout_s=20)
    running.guest.lease()


def test_keepers_death_is_not_noticed_and_the_worker_is_still_replaced(running: Running) -> None:
    worker, keeper = running.pid_of("worker"), running.pid_of("keeper")
    with socket.create_connection(("127.0.0.1", running.port), 5) as connection:
        connection.settimeout(5)
        os.kill(keeper, signal.SIGKILL)
        eventually(lambda: set(running.processes()) - {worker, keeper})
        connection.sendall(b"still there")
        assert connection.recv(100) == b"still there"
    os.kill(worker, signal.SIGKILL)
    eventually(running.echoes, timeout_s=10)


def test_nothing_is_left_of_a_killed_vm(running: Running) -> None:
    processes = list(running.processes())
    running.guest.kill()
    eventually(lambda: not any(map(is_alive, processes)), timeout_s=1)
    assert not os.path.exists(running.folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", running.port))
