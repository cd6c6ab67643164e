# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a front end may ask: features, rings."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from tests.attach.vhost_user.served import FRAME, Served, state
from vmwire.attach.vhost_user.backend import PROTOCOL_FEATURES
from vmwire.attach.vhost_user.shared import MAX_SLOTS
from vmwire.bench.vhost_user import (
    PLAIN,
    USUAL,
    FrontEnd,
    NetDriver,
    RingFds,
)
from vmwire.bus.virtio.driver import U16, DriverRing
from vmwire.bus.virtio.features import (
    VHOST_F_LOG_ALL,
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_NET_F_MRG_RXBUF,
)
from vmwire.bus.virtio.vhost_user import (
    F_NEED_REPLY,
    U64,
    Request,
)
from vmwire.engine.arena import Arena
from vmwire.nic.virtio_net import FEATURES


def test_features_and_limits_are_told(front: FrontEnd) -> None:
    # one pair of queues: so no MQ
    assert front.number(Request.GET_FEATURES) == (
        (FEATURES & ~(1 << 22)) | VHOST_F_LOG_ALL | VHOST_USER_F_PROTOCOL_FEATURES
    )
    assert front.number(Request.GET_PROTOCOL_FEATURES) == PROTOCOL_FEATURES == 0x801F
    assert front.number(Request.GET_QUEUE_NUM) == 1
    assert front.number(Request.GET_MAX_MEM_SLOTS) == MAX_SLOTS


def test_switched_off_features_and_more_queues_show(tmp_path: Path) -> None:
    served = Served(tmp_path, mrg_rxbuf=False, mq=True, queues=4)
    front = FrontEnd(served.path)
    features = front.number(Request.GET_FEATURES)
    assert not features & VIRTIO_NET_F_MRG_RXBUF
    assert features & 1 << 22
    assert front.number(Request.GET_QUEUE_NUM) == 4
    front.close()
    served.close()


@pytest.mark.parametrize("version", ["7.2", "11.1"])
def test_what_qemu_sends_before_the_guest_runs_is_served(served: Served, version: str) -> None:
    front = FrontEnd(served.path)
    fds = RingFds.make()
    flags = 0 if version == "7.2" else F_NEED_REPLY
    front.number(Request.GET_FEATURES)
    front.number(Request.GET_PROTOCOL_FEATURES)
    front.tell(Request.SET_PROTOCOL_FEATURES, U64.pack(0x801F))
    front.number(Request.GET_QUEUE_NUM)
    front.number(Request.GET_MAX_MEM_SLOTS)
    front.tell(Request.SET_OWNER)
    front.number(Request.GET_FEATURES)
    for index in (0, 1):
        for request in (Request.SET_VRING_CALL, Request.SET_VRING_ERR):
            front.tell(request, U64.pack(index), [fds.call], flags)
            if flags:
                assert front.answer(request) == U64.pack(0)
    for index in (0, 1):
        front.tell(Request.SET_VRING_ENABLE, state(index, 1), (), flags)
        if flags:
            assert front.answer(Request.SET_VRING_ENABLE) == U64.pack(0)
    front.barrier()
    front.close()
    fds.close()


def test_without_an_agreement_nobody_gets_acknowledgements(served: Served) -> None:
    front = FrontEnd(served.path)
    front.tell(Request.SET_OWNER, flags=F_NEED_REPLY)
    assert front.number(Request.GET_QUEUE_NUM) == 1
    front.close()


def test_a_request_that_nobody_knows_is_refused_or_passed_over(front: FrontEnd) -> None:
    assert not front.order(77, b"what")
    front.tell(77, b"what")
    front.tell(0)
    front.barrier()


def test_frames_pass_both_ways(served: Served) -> None:
    with NetDriver(served.path) as driver:
        driver.send(FRAME)
        assert driver.drained()
        served.wait(lambda: served.end.data == [FRAME])
        assert served.deliver(FRAME)
        assert [data for data, _ in driver.receive()] == [FRAME]


@pytest.mark.parametrize("features", [PLAIN, 0, USUAL])
def test_rings_without_protocol_features_are_enabled_at_once(served: Served, features: int) -> None:
    front = FrontEnd(served.path)
    front.tell(Request.SET_FEATURES, U64.pack(features))
    arena, fds = Arena(1 << 20), RingFds.make()
    front.share([arena])
    for index in (0, 1):
        front.start_ring(index, DriverRing(arena, 4), fds)
    front.barrier()
    assert served.stats()["link"]
    front.close()
    fds.close()
    arena.close()


def test_rings_with_protocol_features_wait_until_they_are_enabled(served: Served) -> None:
    with NetDriver(served.path) as driver:
        driver.front.tell(Request.SET_VRING_ENABLE, state(0, 0))
        driver.front.barrier()
        assert not served.stats()["link"]
        driver.front.tell(Request.SET_VRING_ENABLE, state(0, 1))
        driver.front.barrier()
        assert served.stats()["link"]


def test_a_ring_stops_where_it_is_and_goes_on_there(served: Served) -> None:
    with NetDriver(served.path) as driver:
        for _ in range(3):
            driver.send(FRAME)
        assert driver.drained()
        assert driver.front.stop_ring(1) == 3
        assert not served.stats()["link"]
        driver.send(FRAME)
        driver.front.start_ring(1, driver.rings[1], driver.fds[1], base=3)
        assert driver.drained()
        served.wait(lambda: len(served.end.got) == 4)
        assert served.stats()["link"]


def test_stopping_a_ring_that_never_ran_is_harmless(front: FrontEnd) -> None:
    front.tell(Request.SET_VRING_BASE, state(1, 7))
    assert front.stop_ring(1) == 7


def test_kicks_that_were_served_are_not_left_behind(served: Served) -> None:
    with NetDriver(served.path) as driver:
        os.eventfd_write(driver.fds[1].kick, 1)
        driver.front.stop_ring(1)
        assert not select.select([driver.fds[1].kick], [], [], 0)[0]


def test_a_new_call_descriptor_is_used_from_then_on(served: Served) -> None:
    with NetDriver(served.path) as driver:
        fds = RingFds.make()
        driver.front.set_fd(Request.SET_VRING_CALL, 0, fds.call)
        driver.front.barrier()
        driver.rings[0].want_interrupt()
        assert served.deliver(FRAME)
        assert select.select([fds.call], [], [], 5)[0]
        assert not select.select([driver.fds[0].call], [], [], 0)[0]
        fds.close()


def test_a_driver_may_poll_its_used_ring(served: Served) -> None:
    with NetDriver(served.path) as driver:
        driver.front.tell(Request.SET_VRING_CALL, U64.pack(0x100))
        driver.front.barrier()
        assert served.deliver(FRAME)
        assert [data for data, _ in driver.receive(0.1)] == [FRAME]


def test_a_broken_ring_is_told_by_its_error_descriptor(served: Served) -> None:
    with NetDriver(served.path) as driver:
        driver.arena.write(driver.rings[1].available + 2, U16.pack(9999))
        os.eventfd_write(driver.fds[1].kick, 1)
        assert select.select([driver.fds[1].error], [], [], 5)[0]
        assert served.stats()["faults"] == 1
        driver.front.barrier()


def test_a_driver_may_start_over_on_the_same_connection(served: Served) -> None:
    with NetDriver(served.path) as driver:
        driver.send(FRAME)
        assert driver.drained()
        for index in (0, 1):
            driver.front.stop_ring(index)
        driver.front.tell(Request.SET_FEATURES, U64.pack(VHOST_USER_F_PROTOCOL_FEATURES))
        for index in (0, 1):
            driver.rings[index] = DriverRing(driver.arena, 16)
            driver.front.start_ring(index, driver.rings[index], driver.fds[index])
        driver.header_size = 10
        driver.send(FRAME)
        assert driver.drained()
        served.wait(lambda: served.end.data == [FRAME, FRAME])


def test_reset_owner_stops_the_rings(served: Served) -> None:
    with NetDriver(served.path) as driver:
        driver.front.tell(Request.RESET_OWNER)
        driver.front.barrier()
        assert served.stats()["queues"] == {}


def test_all_pairs_of_queues_carry_frames(tmp_path: Path) -> None:
    served = Served(tmp_path, mq=True, queues=3)
    with NetDriver(served.path, pairs=3, features=USUAL | 1 << 22) as driver:
        for pair in range(3):
            driver.send(FRAME, pair=pair)
        assert driver.drained()
        served.wait(lambda: len(served.end.got) == 3)
        for number in range(16):
            assert served.deliver(bytes(12) + b"\x08\0" + bytes(16) + bytes([number] * 30))
        got: list[bytes] = []
        while len(got) < 16:
            frames = driver.receive()
            assert frames
            got += [data for data, _ in frames]
    served.close()


def test_an_announcement_goes_out(served: Served) -> None:
    with NetDriver(served.path) as driver:
        driver.front.tell(Request.SEND_RARP, bytes.fromhex("5254001234560000"))
        driver.front.barrier()
        assert served.end.data[0][6:14] == bytes.fromhex("5254001234568035")


def test_an_mtu_is_taken_or_refused(front: FrontEnd) -> None:
    assert front.order(Request.NET_SET_MTU, U64.pack(1400))
    assert not front.order(Request.NET_SET_MTU, U64.pack(67))
    assert not front.order(Request.NET_SET_MTU, U64.pack(1 << 40))
