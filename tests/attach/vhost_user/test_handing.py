# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Rings in somebody else's hands: when they go there, when they come back, and where they stand."""

from __future__ import annotations

import gc
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attach.vhost_user.served import FRAME, Served, state
from tests.attach.vhost_user.taker import FakeTaker, TakingEnd
from tests.engine.store import Store
from vmwire.bench.vhost_user import FrontEnd, NetDriver
from vmwire.bus.virtio.features import (
    VHOST_F_LOG_ALL,
    VIRTIO_NET_F_HOST_USO,
    VIRTIO_RING_F_EVENT_IDX,
)
from vmwire.bus.virtio.front_end import region_of
from vmwire.bus.virtio.vhost_user import U64, LogInfo, Request
from vmwire.engine.arena import Arena
from vmwire.nic.virtio_net import FEATURES
from vmwire.wire.capture import Capture

HEADER = bytes(12)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Other tests count descriptors."""
    yield
    gc.collect()


@pytest.fixture
def taker() -> FakeTaker:
    return FakeTaker()


@pytest.fixture
def served(tmp_path: Path, taker: FakeTaker) -> Iterator[Served]:
    gc.collect()  # what other tests' dead workers had
    before = len(os.listdir("/proc/self/fd"))
    it = Served(tmp_path, end=TakingEnd("end", taker), mq=True, queues=2)
    yield it
    it.close()
    assert taker.handed is None
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"


@pytest.fixture
def driver(served: Served) -> Iterator[NetDriver]:
    with NetDriver(served.path, features=FEATURES) as it:
        yield it


def by_taker(served: Served, taker: FakeTaker, driver: NetDriver) -> None:
    """A frame passes each way, by the taker."""
    served.wait(lambda: taker.handed is not None)
    driver.send(FRAME)
    assert served.loop.call(taker.send) == 1
    assert taker.got.pop() == HEADER + FRAME
    assert driver.drained()
    served.loop.call(lambda: taker.deliver(HEADER[:10] + b"\1\0" + FRAME))
    assert [data for data, _ in driver.receive()] == [FRAME]


def by_card(served: Served, driver: NetDriver) -> None:
    """A frame passes each way, by the card."""
    before = len(served.end.got)
    driver.send(FRAME)
    assert driver.drained()
    served.wait(lambda: served.has_got(before + 1))
    assert served.deliver(FRAME)
    assert [data for data, _ in driver.receive()] == [FRAME]


def test_rings_that_carry_frames_are_handed_on(
    served: Served, taker: FakeTaker, driver: NetDriver
) -> None:
    by_taker(served, taker, driver)
    handed = taker.handed
    assert handed is not None
    assert [ring.index for ring in handed.rings] == [0, 1]
    assert [ring.base for ring in handed.rings] == [0, 0]
    assert handed.features == driver.features & FEATURES
    (region,) = handed.regions
    assert region.info == region_of(driver.arena)
    at = handed.rings[0].addresses
    assert handed.here(at.descriptors, 16) - region.here == at.descriptors - at_start(driver)
    stats = served.stats()
    assert (stats["rx_frames"], stats["tx_frames"], stats["link"]) == (0, 0, True)
    assert stats["handed_on"] == {"rings": 2, "by": "a test"}


def at_start(driver: NetDriver) -> int:
    return region_of(driver.arena).user_address


def test_a_back_end_offers_only_what_the_taker_can_do(served: Served, taker: FakeTaker) -> None:
    taker.features &= ~VIRTIO_NET_F_HOST_USO
    with NetDriver(served.path, features=FEATURES) as driver:
        assert not driver.features & VIRTIO_NET_F_HOST_USO
        assert driver.features & VIRTIO_RING_F_EVENT_IDX
        by_taker(served, taker, driver)


def test_a_filter_brings_the_rings_back_until_it_has_gone(
    served: Served, taker: FakeTaker, driver: NetDriver
) -> None:
    by_taker(served, taker, driver)
    capture = Capture("c", io.BytesIO(), lambda: 0, served.loop.call_later)
    served.loop.call(lambda: served.nic.port.insert(capture.left, capture.right))
    assert taker.handed is None
    assert served.stats()["handed_on"] is None
    by_card(served, driver)
    served.loop.call(capture.close)
    by_taker(served, taker, driver)
    by_taker(served, taker, driver)


@pytest.mark.parametrize("end", ["card", "netdev"])
def test_a_pulled_cable_brings_them_back(
    served: Served, taker: FakeTaker, driver: NetDriver, end: str
) -> None:
    by_taker(served, taker, driver)
    pull = served.nic.set_link if end == "card" else served.end.port.set_link
    served.loop.call(lambda: pull(False))
    assert taker.handed is None
    driver.send(FRAME)
    assert driver.drained()  # and lost
    served.loop.call(lambda: pull(True))
    by_taker(served, taker, driver)
    assert not served.end.got


def test_a_wire_that_is_taken_away_brings_them_back(
    served: Served, taker: FakeTaker, driver: NetDriver
) -> None:
    by_taker(served, taker, driver)
    served.loop.call(served.nic.port.disconnect)
    assert taker.handed is None
    served.loop.call(lambda: served.nic.port.connect(served.end.port))
    by_taker(served, taker, driver)


def test_a_netdev_that_offers_no_more_gets_none(
    served: Served, taker: FakeTaker, driver: NetDriver
) -> None:
    by_taker(served, taker, driver)
    port = served.end.port
    assert isinstance(served.end, TakingEnd)
    served.loop.call(lambda: served.end.port.set_taker(None))  # type: ignore[attr-defined]
    assert taker.handed is None
    by_card(served, driver)
    assert port.link_up


def test_what_is_under_way_when_they_change_hands_goes_out_once(
    served: Served, taker: FakeTaker, driver: NetDriver
) -> None:
    by_taker(served, taker, driver)
    frames = [bytes([number]) * 100 for number in range(20)]
    for frame in frames[:10]:
        driver.send(frame)
    served.loop.call(lambda: served.nic.set_link(False))  # what the taker left is lost here
    served.loop.call(lambda: served.nic.set_link(True))
    assert driver.drained()
    served.wait(lambda: taker.handed is not None)
    for frame in frames[10:]:
        driver.send(frame)
    served.loop.call(taker.send)
    assert taker.got == [HEADER + frame for frame in frames[10:]]
    by_taker_bases = taker.handed
    assert by_taker_bases is not None and by_taker_bases.rings[1].base == 11


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (Request.SET_VRING_ENABLE, state(0, 1)),
        (Request.SET_FEATURES, None),
    ],
)
def test_a_message_about_rings_finds_them_at_home_and_then_they_go_again(
    served: Served,
    taker: FakeTaker,
    driver: NetDriver,
    request_: Request,
    payload: bytes | None,
) -> None:
    by_taker(served, taker, driver)
    driver.front.tell(request_, U64.pack(driver.features) if payload is None else payload)
    driver.front.barrier()
    served.wait(lambda: taker.times == 2)
    by_taker(served, taker, driver)


def test_a_ring_that_is_stopped_stands_where_the_taker_left_it(
    served: Served, taker: FakeTaker, driver: NetDriver
) -> None:
    for _ in range(3):
        by_taker(served, taker, driver)
    assert driver.front.stop_ring(1) == 3
    assert driver.front.stop_ring(0) == 3
    assert taker.handed is None


def test_a_disabled_pair_stays_here(served: Served, taker: FakeTaker) -> None:
    with NetDriver(served.path, features=FEATURES, pairs=2) as driver:
        served.wait(lambda: taker.queues == [0, 1, 2, 3])
        for index in (2, 3):
            driver.front.tell(Request.SET_VRING_ENABLE, state(index, 0))
        driver.front.barrier()
        served.wait(lambda: taker.queues == [0, 1])
        by_taker(served, taker, driver)


def test_other_memory_is_handed_on_anew(
    served: Served, taker: FakeTaker, driver: NetDriver
) -> None:
    by_taker(served, taker, driver)
    more = Arena(1 << 20, 0x4000_0000)
    driver.front.share([driver.arena, more])
    driver.front.barrier()
    served.wait(lambda: taker.handed is not None and len(taker.handed.regions) == 2)
    by_taker(served, taker, driver)
    more.close()


def test_a_machine_that_migrates_has_its_rings_here(
    served: Served, taker: FakeTaker, driver: NetDriver
) -> None:
    by_taker(served, taker, driver)
    fd = os.memfd_create("log")
    os.ftruncate(fd, 1 << 16)
    driver.front.ask(Request.SET_LOG_BASE, LogInfo(1 << 16, 0).pack(), [fd])
    driver.front.tell(Request.SET_FEATURES, U64.pack(driver.features | VHOST_F_LOG_ALL))
    driver.front.barrier()
    assert taker.handed is None
    by_card(served, driver)
    assert any(os.pread(fd, 1 << 16, 0))
    driver.front.tell(Request.SET_FEATURES, U64.pack(driver.features))
    driver.front.barrier()
    by_taker(served, taker, driver)
    os.close(fd)


def test_other_descriptors_to_signal_are_told_without_taking_rings_back(
    served: Served, taker: FakeTaker, driver: NetDriver
) -> None:
    by_taker(served, taker, driver)
    fresh = os.eventfd(0, os.EFD_NONBLOCK)
    driver.front.set_fd(Request.SET_VRING_CALL, 0, fresh)
    driver.front.barrier()
    (index, call, err), *_ = taker.signals
    assert (index, taker.times) == (0, 1)
    assert os.fstat(call) == os.fstat(fresh) and err >= 0
    os.close(fresh)


def test_a_taker_that_refuses_is_asked_again_when_something_changes(
    served: Served, taker: FakeTaker, caplog: pytest.LogCaptureFixture
) -> None:
    taker.refuses = "no more room"
    with NetDriver(served.path, features=FEATURES) as driver:
        by_card(served, driver)
        driver.front.tell(Request.SET_VRING_ENABLE, state(0, 1))
        driver.front.barrier()
        by_card(served, driver)
        warned = [each.message for each in caplog.records if each.levelno == logging.WARNING]
        assert warned == ["n0: rings stay with vmwire: no more room"]
        taker.refuses = ""
        driver.front.tell(Request.SET_VRING_ENABLE, state(0, 1))
        by_taker(served, taker, driver)


def test_a_taker_that_refuses_when_it_has_begun_leaves_rings_where_they_stand(
    served: Served, taker: FakeTaker, driver: NetDriver
) -> None:
    by_taker(served, taker, driver)
    taker.refuses, taker.too_late = "one ring is enough", True
    served.die()
    served.nic.hand_over()  # so that what is sent now waits for the next handing on
    driver.send(FRAME)
    served.nic.go_on()
    served.nic.chip.pause()
    served.run()
    served.wait(lambda: taker.times == 2)
    served.loop.call(served.nic.chip.unpause)
    assert taker.got == [HEADER + FRAME]
    by_card(served, driver)
    assert len(served.end.got) == 1  # and not what was sent before


@pytest.mark.parametrize("forgets", [False, True])
def test_a_taker_that_fails_leaves_rings_where_they_stand(
    served: Served,
    taker: FakeTaker,
    driver: NetDriver,
    forgets: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    by_taker(served, taker, driver)
    taker.forgets = forgets
    driver.send(FRAME)
    served.loop.call(lambda: taker.lost("it broke"))
    assert driver.drained()
    served.wait(lambda: served.has_got(1))
    by_card(served, driver)
    assert "rings are back at vmwire: it broke" in caplog.text
    assert taker.times == 1


def test_features_that_the_taker_lacks_keep_rings_here(
    served: Served, taker: FakeTaker, driver: NetDriver, caplog: pytest.LogCaptureFixture
) -> None:
    by_taker(served, taker, driver)
    taker.features &= ~VIRTIO_NET_F_HOST_USO
    driver.front.tell(Request.SET_VRING_ENABLE, state(0, 1))
    driver.front.barrier()
    by_card(served, driver)
    assert "the driver negotiated host_uso" in caplog.text


def test_a_driver_that_leaves_takes_its_rings_along(served: Served, taker: FakeTaker) -> None:
    with NetDriver(served.path, features=FEATURES) as driver:
        by_taker(served, taker, driver)
    served.wait(lambda: taker.handed is None)
    FrontEnd(served.path).close()


@pytest.mark.parametrize("on_purpose", [False, True])
@pytest.mark.parametrize("features", [FEATURES, FEATURES & ~VIRTIO_RING_F_EVENT_IDX])
def test_the_next_worker_finds_the_rings_where_the_taker_left_them(
    tmp_path: Path, features: int, on_purpose: bool
) -> None:
    store = Store()
    takers = [FakeTaker(features), FakeTaker(features)]
    first = Served(tmp_path, store, TakingEnd("end", takers[0]))
    with NetDriver(first.path, features=features) as driver:
        for _ in range(5):
            by_taker(first, takers[0], driver)
        first.die()
        if on_purpose:
            first.nic.hand_over()
            store.on_trial = True
        assert (takers[0].handed is None) == on_purpose
        driver.send(FRAME)
        if not on_purpose:
            takers[0].give_back()  # the kernel, when the process is gone
            first.bury()
        second = Served(tmp_path, store, TakingEnd("end", takers[1]))
        store.on_trial = False
        if on_purpose:
            first.bury()
        second.wait(lambda: takers[1].handed is not None)
        second.loop.call(takers[1].send)
        second.wait(lambda: takers[1].got + second.end.data != [])
        assert takers[1].got in ([HEADER + FRAME], []) and second.end.data in ([FRAME], [])
        takers[1].got.clear()
        assert driver.drained()
        for _ in range(300):
            by_taker(second, takers[1], driver)
    second.wait(lambda: takers[1].handed is None)
    second.close()


def test_who_stands_still_goes_on(served: Served, taker: FakeTaker, driver: NetDriver) -> None:
    by_taker(served, taker, driver)
    served.die()
    served.nic.hand_over()
    assert taker.handed is None
    served.nic.go_on()
    served.run()
    by_taker(served, taker, driver)
