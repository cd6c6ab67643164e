# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The listening socket, and machines that come and go."""

from __future__ import annotations

import os
import resource
import socket
import stat
import time
from functools import partial
from pathlib import Path

import pytest

from tests.attach.vhost_user.served import Served
from tests.engine.store import Store
from vmwire.attach.listening import listen
from vmwire.attach.vhost_user import VhostUserNic
from vmwire.bench.vhost_user import FrontEnd, NetDriver
from vmwire.engine.host import Host
from vmwire.engine.loop import Loop
from vmwire.errors import ConfigError
from vmwire.network import Network
from vmwire.nic.options import VirtioNetPciOptions
from vmwire.options.values import LONGEST_SOCKET_PATH

FRAME = bytes(range(100))


def test_the_socket_is_its_owners_alone_and_goes_with_the_card(tmp_path: Path) -> None:
    served = Served(tmp_path)
    assert stat.S_IMODE(os.stat(served.path).st_mode) == 0o600
    served.close()
    assert not os.path.exists(served.path)


def test_a_machine_may_come_again(tmp_path: Path) -> None:
    served = Served(tmp_path)
    for number in range(1, 4):
        with NetDriver(served.path) as driver:
            driver.send(FRAME)
            assert driver.drained()
            assert served.deliver(FRAME)
            assert len(driver.receive()) == 1
        served.wait(partial(served.has_got, number))
    served.wait(lambda: not served.nic.stats()["connected"])
    assert served.stats()["connections"] == 3
    assert not served.stats()["link"]
    served.close()


def test_a_second_machine_is_turned_away(tmp_path: Path) -> None:
    served = Served(tmp_path)
    with NetDriver(served.path) as driver:
        other = FrontEnd(served.path)
        with pytest.raises(ConnectionError):
            other.barrier()
        other.close()
        driver.send(FRAME)
        assert driver.drained()
    served.close()


def followed(first: FrontEnd, path: str) -> FrontEnd:
    """In the engine's own turn, so that it sees both at once."""
    first.close()
    return FrontEnd(path)


def test_a_machine_that_has_just_gone_does_not_stand_in_the_way(tmp_path: Path) -> None:
    served = Served(tmp_path)
    for _ in range(20):
        first = FrontEnd(served.path)
        first.barrier()
        second = served.loop.call(partial(followed, first, served.path))
        second.barrier()
        second.close()
        served.wait(lambda: not served.nic.stats()["connected"])
    served.close()


def test_a_lack_of_descriptors_passes(tmp_path: Path) -> None:
    served = Served(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    front = socket.socket(socket.AF_UNIX)
    resource.setrlimit(resource.RLIMIT_NOFILE, (front.fileno() + 1, hard))
    try:
        front.connect(served.path)
        time.sleep(0.05)
        assert served.loop.call(lambda: served.nic.connections) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    served.wait(lambda: served.nic.connections == 1)
    front.close()
    served.close()


def test_a_restarted_worker_takes_the_socket_back(tmp_path: Path) -> None:
    store = Store()
    served = Served(tmp_path, store)
    inode = os.stat(served.path).st_ino
    served.die()
    waiting = FrontEnd(served.path)  # in the backlog meanwhile
    again = Served(tmp_path, store)
    assert os.stat(again.path).st_ino == inode
    waiting.barrier()
    waiting.close()
    again.close()
    assert store.kept == {}
    assert not os.path.exists(again.path)


def test_what_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "stale")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    listen(path).close()


def test_a_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "live")
    first = listen(path)
    with pytest.raises(ConfigError, match="another process"):
        listen(path)
    first.close()


def test_something_else_at_the_path_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="something else than a socket"):
        listen(str(path))
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_names_the_limit(tmp_path: Path) -> None:
    room = LONGEST_SOCKET_PATH - len(str(tmp_path)) - 1
    listen(str(tmp_path / ("x" * room))).close()
    with pytest.raises(ConfigError, match="at most 107"):
        listen(str(tmp_path / ("x" * (room + 1))))


@pytest.mark.parametrize("path", ["/nonexistent/folder/x.sock", "/proc/x.sock"])
def test_a_path_that_can_not_be_is_named(path: str) -> None:
    with pytest.raises(ConfigError, match=f"can't listen on {path}: "):
        listen(path)


def test_a_card_needs_a_socket() -> None:
    loop = Loop()
    with pytest.raises(ConfigError, match="socket=PATH"):
        VhostUserNic(VirtioNetPciOptions(id="n0")).open(Host(loop))
    loop.close()


def test_a_pulled_cable_stays_pulled_when_the_driver_starts(tmp_path: Path) -> None:
    with Network() as net:
        net.add_nic("virtio-net-pci", id="n0", socket=str(tmp_path / "n0"))
        net.set_link("n0", False)
        with NetDriver(str(tmp_path / "n0")) as driver:
            driver.send(FRAME)
            assert driver.drained()
            assert net.stats()["devices"]["n0"]["link"] is False
            net.set_link("n0", True)
            assert net.stats()["devices"]["n0"]["link"] is True


def test_statistics_tell_what_was_negotiated(tmp_path: Path) -> None:
    served = Served(tmp_path)
    assert served.stats()["connected"] is False
    with NetDriver(served.path) as driver:
        driver.send(FRAME)
        assert driver.drained()
        served.deliver(FRAME)
        stats = served.stats()
        assert (stats["tx_frames"], stats["tx_bytes"]) == (1, 100)
        assert (stats["rx_frames"], stats["rx_bytes"]) == (1, 100)
        assert stats["queues"] == {0: "on", 1: "on"}
        assert "mrg_rxbuf" in stats["features"]
        assert stats["memory_sealed"] is True
    served.close()
