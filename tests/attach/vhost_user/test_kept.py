# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A machine's connection goes on when its worker is followed by another one."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attach.vhost_user.served import Served
from tests.engine.store import Store
from vmwire.attach.vhost_user.kept import Record
from vmwire.bench.vhost_user import FrontEnd, NetDriver
from vmwire.bus.virtio.features import VIRTIO_RING_F_EVENT_IDX
from vmwire.bus.virtio.front_end import region_of
from vmwire.bus.virtio.vhost_user import HEADER, Request
from vmwire.engine.host import NotNow
from vmwire.errors import ConfigError
from vmwire.nic.virtio_net import FEATURES

FRAME = bytes(range(100))


class Workers:
    """One worker after the other on the same store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store()
        self.now = Served(folder, self.store)

    def crash(self) -> None:
        self.now.die()
        self.now.bury()
        self.now = Served(self.folder, self.store)

    def hand_over(self) -> None:
        self.now.die()
        self.now.nic.hand_over()
        self.store.on_trial = True
        old, self.now = self.now, Served(self.folder, self.store)
        self.store.on_trial = False
        old.bury()

    def follow(self, on_purpose: bool) -> None:
        if on_purpose:
            self.hand_over()
        else:
            self.crash()

    def record(self) -> Record:
        keeping = self.now.session.keeping
        assert keeping is not None and keeping.record is not None
        return keeping.record


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(tmp_path)
    yield workers
    workers.now.close()
    assert workers.store.kept == {}
    gc.collect()  # what failed successors had: other tests count descriptors


def exchange(workers: Workers, driver: NetDriver, count: int = 1) -> None:
    """Frames pass both ways, each once."""
    got = len(workers.now.end.got)
    for _ in range(count):
        driver.send(FRAME)
        assert driver.drained()
        assert workers.now.deliver(FRAME)
        assert [data for data, _ in driver.receive()] == [FRAME]
    workers.now.wait(lambda: len(workers.now.end.got) == got + count)


@pytest.mark.parametrize("on_purpose", [False, True])
@pytest.mark.parametrize("features", [FEATURES, FEATURES & ~VIRTIO_RING_F_EVENT_IDX])
def test_frames_pass_on_over_the_same_connection(
    workers: Workers, features: int, on_purpose: bool
) -> None:
    with NetDriver(workers.now.path, features=features) as driver:
        exchange(workers, driver, 5)
        before = workers.now.stats()["features"]
        workers.follow(on_purpose)
        exchange(workers, driver, 300)  # once around the ring
        stats = workers.now.stats()
        assert (stats["connections"], stats["protocol_errors"]) == (1, 0)
        assert stats["features"] == before
        driver.front.barrier()


def test_many_follow_each_other_on_purpose(workers: Workers) -> None:
    with NetDriver(workers.now.path) as driver:
        for _ in range(10):
            workers.hand_over()
            exchange(workers, driver)


@pytest.mark.parametrize("on_purpose", [False, True])
def test_what_the_guest_sent_meanwhile_is_sent_then(workers: Workers, on_purpose: bool) -> None:
    with NetDriver(workers.now.path) as driver:
        exchange(workers, driver)
        workers.now.die()
        driver.send(FRAME)
        workers.follow(on_purpose)
        assert driver.drained()
        workers.now.wait(lambda: len(workers.now.end.got) == 1)


def test_a_driver_that_waits_to_be_told_is_told_again(workers: Workers) -> None:
    with NetDriver(workers.now.path) as driver:
        exchange(workers, driver)
        workers.crash()
        assert driver.wait([0, 1], 1.0)


def test_memory_rings_and_questions_follow_the_next_worker(workers: Workers) -> None:
    with NetDriver(workers.now.path) as driver:
        exchange(workers, driver)
        workers.hand_over()
        driver.front.share([driver.arena])
        exchange(workers, driver)
        assert driver.front.stop_ring(0) == 2
        workers.crash()
        assert workers.now.stats()["queues"] == {1: "on"}


def test_a_message_that_was_being_served_ends_the_connection(workers: Workers) -> None:
    front = FrontEnd(workers.now.path)
    front.barrier()
    workers.now.die()
    workers.record().serving = True
    workers.crash()
    assert front.socket.recv(1) == b""
    assert workers.now.stats()["connected"] is False
    with NetDriver(workers.now.path) as driver:
        exchange(workers, driver)
    front.close()


def test_a_message_that_is_half_there_is_waited_for(workers: Workers) -> None:
    with NetDriver(workers.now.path) as driver:
        header = HEADER.pack(Request.GET_FEATURES, 1, 0)
        driver.front.send_bytes(header[:5])
        workers.now.wait(lambda: workers.now.session.channel.busy)
        workers.now.die()
        with pytest.raises(NotNow, match="in the middle"):
            workers.now.nic.hand_over()
        assert workers.record().serving
        driver.front.send_bytes(header[5:])
        workers.now.session.on_readable()
        driver.front.answer(Request.GET_FEATURES)
        workers.hand_over()
        exchange(workers, driver)


def test_a_connection_that_kills_workers_is_ended(workers: Workers) -> None:
    front = FrontEnd(workers.now.path)
    front.barrier()
    for _ in range(2):
        workers.crash()
        assert workers.now.stats()["connected"] is True
    workers.crash()
    assert front.socket.recv(1) == b""
    front.close()


def test_a_successor_that_offers_less_refuses_and_the_old_worker_goes_on(workers: Workers) -> None:
    with NetDriver(workers.now.path) as driver:
        exchange(workers, driver)
        old = workers.now
        old.die()
        old.nic.hand_over()
        workers.store.on_trial = True
        with pytest.raises(ConfigError, match="not offered any more"):
            Served(workers.folder, workers.store, guest_csum=False)
        workers.store.on_trial = False
        old.nic.go_on()
        old.run()
        exchange(workers, driver)


def test_a_state_of_another_version_is_refused(workers: Workers) -> None:
    front = FrontEnd(workers.now.path)
    front.barrier()
    record = workers.record()
    workers.now.die()
    record.write({"version": 99})
    workers.store.on_trial = True
    with pytest.raises(ConfigError, match="another version"):
        Served(workers.folder, workers.store)
    workers.store.on_trial = False
    front.close()


def test_descriptors_go_with_what_they_belong_to(workers: Workers) -> None:
    with NetDriver(workers.now.path) as driver:

        def names() -> set[str]:
            return {name.removeprefix("vhost-user n0 ") for name in workers.store.kept}

        region = f"region {region_of(driver.arena).guest_address:x}"
        assert names() >= {"connection", "record", region, "ring 0.12", "ring 0.13", "ring 1.12"}
        driver.front.stop_ring(0)
        workers.now.wait(lambda: "ring 0.12" not in names())
        driver.front.share([])
        driver.front.barrier()
        assert region not in names()
    workers.now.wait(lambda: names() == {"vhost-user n0"})


def test_a_connection_without_its_record_is_given_up(workers: Workers) -> None:
    ours, theirs = socket.socketpair()
    workers.store.keep("vhost-user n0 connection", theirs.fileno())
    theirs.close()
    workers.crash()
    assert ours.recv(1) == b""
    ours.close()
