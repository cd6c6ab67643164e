# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a front end may ask, and what it may not."""

from __future__ import annotations

import os
import random
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.attach.vhost_user.served import Served
from vmwire.attach.vhost_user.backend import PROTOCOL_FEATURES
from vmwire.attach.vhost_user.shared import MAX_SLOTS
from vmwire.bench.vhost_user import (
    PLAIN,
    USER_BASE,
    USUAL,
    FrontEnd,
    NetDriver,
    RingFds,
    addresses_of,
    region_of,
)
from vmwire.bench.virtio import U16, Arena, DriverRing
from vmwire.bus.virtio.features import (
    VHOST_F_LOG_ALL,
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_NET_F_MRG_RXBUF,
)
from vmwire.bus.virtio.vhost_user import (
    F_NEED_REPLY,
    PROTOCOL_F_REPLY_ACK,
    U64,
    VRING_F_LOG,
    VRING_STATE,
    LogInfo,
    RegionInfo,
    Request,
    RingAddresses,
    pack_message,
    pack_regions,
)
from vmwire.nic.virtio_net import FEATURES

FRAME = bytes(range(100))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    before = len(os.listdir("/proc/self/fd"))
    it = Served(tmp_path)
    yield it
    it.close()
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"


@pytest.fixture
def front(served: Served) -> Iterator[FrontEnd]:
    """A front end that may ask for acknowledgements."""
    end = FrontEnd(served.path)
    end.tell(Request.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL_F_REPLY_ACK))
    yield end
    end.close()


@pytest.fixture
def arena() -> Iterator[Arena]:
    it = Arena(1 << 20, 0x10_0000)
    yield it
    it.close()


@pytest.fixture
def fds() -> Iterator[RingFds]:
    it = RingFds.make()
    yield it
    it.close()


def state(index: int, number: int) -> bytes:
    return VRING_STATE.pack(index, number)


# What is answered


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


# Rings


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


# Memory


@contextmanager
def another() -> Iterator[Arena]:
    """A second arena at another place."""
    arena = Arena(1 << 16, 1 << 32)
    yield arena
    arena.close()


def test_memory_may_change_while_rings_run(served: Served) -> None:
    with NetDriver(served.path) as driver, another() as more:
        for arenas in ([driver.arena, more], [driver.arena], [more, driver.arena]):
            driver.front.share(arenas)
            driver.send(FRAME)
            assert driver.drained()
            assert served.deliver(FRAME)
            assert [data for data, _ in driver.receive()] == [FRAME]
        assert served.stats()["memory_bytes"] == driver.arena.size + more.size


def test_single_regions_come_and_go_while_rings_run(served: Served) -> None:
    with NetDriver(served.path) as driver, another() as more:
        info = region_of(more)
        for _ in range(3):
            driver.front.tell(Request.ADD_MEM_REG, info.pack(), [more.fd])
            driver.front.tell(Request.REM_MEM_REG, info.pack())
        driver.send(FRAME)
        assert driver.drained()
        assert served.stats()["memory_bytes"] == driver.arena.size


def test_a_region_that_is_replaced_does_not_break_its_rings(served: Served) -> None:
    with NetDriver(served.path) as driver:
        info = region_of(driver.arena)
        for size in (1 << 20, 0):
            driver.front.tell(Request.REM_MEM_REG, info.pack(), [driver.arena.fd])
            driver.send(FRAME)  # while its memory isn't there
            info = RegionInfo(info.guest_address, driver.arena.size - size, info.user_address, 0)
            driver.front.tell(Request.ADD_MEM_REG, info.pack(), [driver.arena.fd])
        assert driver.drained()
        served.wait(lambda: served.end.data == [FRAME, FRAME])
        assert served.stats()["faults"] == 0


def test_each_pair_of_queues_may_tell_of_the_same_region(
    served: Served, front: FrontEnd, arena: Arena
) -> None:
    for request in (Request.ADD_MEM_REG, Request.REM_MEM_REG):
        for _ in range(2):
            assert front.order(request, region_of(arena).pack(), [arena.fd])
            there = request is Request.ADD_MEM_REG
            assert served.stats()["memory_bytes"] == (arena.size if there else 0)


def test_a_region_that_stays_away_is_given_up_soon(served: Served) -> None:
    with NetDriver(served.path) as driver, another() as more:
        driver.front.tell(Request.ADD_MEM_REG, region_of(more).pack(), [more.fd])
        driver.front.tell(Request.REM_MEM_REG, region_of(more).pack())
        driver.send(FRAME)
        assert driver.drained()


def test_memory_goes_with_the_connection(served: Served) -> None:
    with NetDriver(served.path) as driver:
        inode = os.fstat(driver.arena.fd).st_ino
        driver.send(FRAME)
        assert driver.drained()
        assert served.deliver(FRAME)
        assert driver.receive()
    served.wait(lambda: not served.nic.stats()["connected"])
    assert served.stats()["memory_bytes"] == 0
    with open("/proc/self/maps") as maps:
        assert not [line for line in maps if "vmwire-arena" in line and f" {inode} " in line]


# The dirty log


def dirty_pages(log: int) -> set[int]:
    bits = os.pread(log, 1 << 16, 0)
    return {page for page in range(len(bits) * 8) if bits[page >> 3] >> (page & 7) & 1}


def test_what_is_written_to_the_guest_is_logged(served: Served) -> None:
    with NetDriver(served.path) as driver:
        assert served.deliver(FRAME)  # so that the card has buffers in stock
        assert driver.receive()
        log = os.memfd_create("log", os.MFD_CLOEXEC)
        os.ftruncate(log, 1 << 16)
        features = driver.features | VHOST_F_LOG_ALL
        reply = driver.front.ask(Request.SET_LOG_BASE, LogInfo(1 << 16, 0).pack(), [log])
        assert reply == U64.pack(0)
        driver.front.tell(Request.SET_FEATURES, U64.pack(features))
        for index in (0, 1):
            used = driver.rings[index].used_ring
            driver.front.tell(
                Request.SET_VRING_ADDR,
                addresses_of(index, driver.rings[index], VRING_F_LOG, used).pack(),
            )
        driver.front.barrier()
        buffers = sorted(driver._buffers[0].values())[1:4]
        assert served.deliver(bytes(4000))
        assert driver.receive()
        page = 4096
        expected = {driver.rings[0].used_ring // page}
        for address, size in zip(buffers, (1536, 1536, 4012 - 3072), strict=True):
            expected |= set(range(address // page, (address + size - 1) // page + 1))
        assert expected <= dirty_pages(log)
        driver.send(FRAME)
        assert driver.drained()
        assert driver.rings[1].used_ring // page in dirty_pages(log)

        driver.front.tell(Request.SET_FEATURES, U64.pack(driver.features))
        driver.front.barrier()
        os.pwrite(log, bytes(1 << 16), 0)
        driver.send(FRAME)
        assert driver.drained()
        assert dirty_pages(log) == set()
        os.close(log)


def test_a_log_beyond_its_file_is_refused(front: FrontEnd) -> None:
    log = os.memfd_create("log", os.MFD_CLOEXEC)
    os.ftruncate(log, 4096)
    for size, offset in ((4096, 4096), (8192, 0), (4096, (1 << 64) - 1), ((1 << 64) - 1, 2)):
        assert not front.order(Request.SET_LOG_BASE, LogInfo(size, offset).pack(), [log])
    os.close(log)


# What is not let through


@pytest.mark.parametrize("size", [0, 3, 65536, 0xFFFFFFFF])
def test_a_ring_of_a_wrong_size_is_refused(front: FrontEnd, size: int) -> None:
    assert not front.order(Request.SET_VRING_NUM, state(0, size))


@pytest.mark.parametrize("index", [2, 255, 0xFFFFFFFF])
def test_a_ring_that_is_not_there_is_refused(front: FrontEnd, fds: RingFds, index: int) -> None:
    assert not front.order(Request.SET_VRING_NUM, state(index, 4))
    assert not front.order(Request.SET_VRING_BASE, state(index, 4))
    assert not front.order(Request.GET_VRING_BASE, state(index, 0))
    assert not front.order(Request.SET_VRING_ENABLE, state(index, 1))
    assert not front.order(Request.SET_VRING_ADDR, RingAddresses(index, 0, 0, 0, 0, 0).pack())
    assert not front.order(Request.SET_VRING_KICK, U64.pack(index & 0xFF), [fds.kick])


def test_a_running_ring_keeps_its_size_place_and_features(served: Served) -> None:
    with NetDriver(served.path) as driver:
        front, ring = driver.front, driver.rings[0]
        assert not front.order(Request.SET_VRING_NUM, state(0, 4))
        assert not front.order(Request.SET_VRING_BASE, state(0, 4))
        elsewhere = addresses_of(0, ring)
        assert front.order(Request.SET_VRING_ADDR, elsewhere.pack())
        moved = RingAddresses(0, 0, elsewhere.descriptors + 16, elsewhere.used,
                              elsewhere.available, 0)  # fmt: skip
        assert not front.order(Request.SET_VRING_ADDR, moved.pack())
        assert not front.order(Request.SET_FEATURES, U64.pack(0))


def test_features_that_were_not_offered_are_refused(front: FrontEnd) -> None:
    assert not front.order(Request.SET_FEATURES, U64.pack(1 << 34))
    assert not front.order(Request.SET_PROTOCOL_FEATURES, U64.pack(1 << 40))


def test_a_base_beyond_sixteen_bits_is_refused(front: FrontEnd) -> None:
    assert not front.order(Request.SET_VRING_BASE, state(0, 0x10000))


def test_a_ring_without_size_or_memory_does_not_start(
    front: FrontEnd, fds: RingFds, arena: Arena
) -> None:
    assert not front.order(Request.SET_VRING_KICK, U64.pack(0), [fds.kick])
    ring = DriverRing(arena, 4)
    front.tell(Request.SET_VRING_NUM, state(0, 4))
    front.tell(Request.SET_VRING_ADDR, addresses_of(0, ring).pack())
    assert not front.order(Request.SET_VRING_KICK, U64.pack(0), [fds.kick])
    front.share([arena])
    beyond = RingAddresses(0, 0, USER_BASE + arena.base + arena.size - 16, 0, 0, 0)
    front.tell(Request.SET_VRING_ADDR, beyond.pack())
    assert not front.order(Request.SET_VRING_KICK, U64.pack(0), [fds.kick])


@pytest.mark.parametrize(
    "request_", [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR]
)
def test_only_event_descriptors_are_taken(front: FrontEnd, request_: Request) -> None:
    ends = os.pipe()
    pair = socket.socketpair()
    file = os.memfd_create("x", os.MFD_CLOEXEC)
    for fd in (ends[1], pair[0].fileno(), file):
        assert not front.order(request_, U64.pack(0), [fd])
    for fd in (*ends, file):
        os.close(fd)
    for one in pair:
        one.close()


def test_a_descriptor_too_many_or_too_few_is_refused(front: FrontEnd, fds: RingFds) -> None:
    assert not front.order(Request.SET_VRING_CALL, U64.pack(0))
    assert not front.order(Request.SET_VRING_CALL, U64.pack(0x100), [fds.call])
    assert not front.order(Request.SET_VRING_CALL, U64.pack(0), [fds.call, fds.kick])
    assert not front.order(Request.SET_OWNER, b"", [fds.call])
    assert not front.order(Request.SET_VRING_KICK, U64.pack(0x100))  # we don't poll


@pytest.mark.parametrize(
    "change",
    [
        {"size": 1 << 21},
        {"size": 0},
        {"size": (1 << 64) - 1},
        {"offset": 1 << 20},
        {"offset": (1 << 64) - 4096},
        {"guest_address": (1 << 64) - 4096},
    ],
)
def test_a_region_that_can_not_be_is_refused(
    front: FrontEnd, arena: Arena, change: dict[str, int]
) -> None:
    whole = region_of(arena)
    facts = {name: getattr(whole, name) for name in RegionInfo.__slots__} | change
    info = RegionInfo(**facts)
    assert not front.order(Request.SET_MEM_TABLE, pack_regions([info]), [arena.fd])
    assert not front.order(Request.ADD_MEM_REG, info.pack(), [arena.fd])


def test_a_memory_table_needs_its_descriptors(front: FrontEnd, arena: Arena) -> None:
    one = pack_regions([region_of(arena)])
    assert not front.order(Request.SET_MEM_TABLE, one)
    assert not front.order(Request.SET_MEM_TABLE, one, [arena.fd] * 2)
    assert not front.order(Request.ADD_MEM_REG, region_of(arena).pack())


def test_regions_that_overlap_are_refused(front: FrontEnd, arena: Arena) -> None:
    info = region_of(arena)
    both = pack_regions([info, info])
    assert not front.order(Request.SET_MEM_TABLE, both, [arena.fd] * 2)
    assert front.order(Request.SET_MEM_TABLE, pack_regions([info]), [arena.fd])
    shifted = RegionInfo(info.guest_address + 4096, 4096, info.user_address, 0)
    assert not front.order(Request.ADD_MEM_REG, shifted.pack(), [arena.fd])


def test_there_is_an_end_to_memory_slots(front: FrontEnd, arena: Arena) -> None:
    for slot in range(MAX_SLOTS):
        info = RegionInfo(slot << 20, 4096, slot << 20, 0)
        assert front.order(Request.ADD_MEM_REG, info.pack(), [arena.fd])
    beyond = RegionInfo(MAX_SLOTS << 20, 4096, 0, 0)
    assert not front.order(Request.ADD_MEM_REG, beyond.pack(), [arena.fd])


@pytest.mark.parametrize(
    "data",
    [
        pack_message(Request.SET_FEATURES, b"1234567"),
        pack_message(Request.SET_FEATURES, b"123456789"),
        pack_message(Request.SET_MEM_TABLE, b""),
        pack_message(Request.SET_MEM_TABLE, bytes(4000)),
        pack_message(Request.GET_FEATURES, b"1"),
        pack_message(Request.SET_VRING_NUM, state(9, 4)),
        pack_message(Request.SET_VRING_KICK, U64.pack(0)),
        b"\1\0\0\0" + b"\2\0\0\0" + b"\0\0\0\0",
        b"\1\0\0\0" + b"\1\0\0\0" + b"\xff\xff\xff\xff",
        b"\1\0\0\0" + b"\1\0\0\0" + b"\1\x10\0\0",
    ],
)
def test_what_can_not_be_answered_ends_the_connection(served: Served, data: bytes) -> None:
    front = FrontEnd(served.path)
    front.send_bytes(data)
    with pytest.raises(ConnectionError):
        front.barrier()
    front.close()
    served.wait(lambda: not served.nic.stats()["connected"])
    assert served.stats()["protocol_errors"] == 1
    with NetDriver(served.path) as driver:
        driver.send(FRAME)
        assert driver.drained()


def test_too_many_descriptors_end_the_connection(served: Served) -> None:
    front = FrontEnd(served.path)
    fds = [os.eventfd(0) for _ in range(40)]
    front.send_bytes(pack_message(Request.SET_OWNER), fds)
    with pytest.raises(ConnectionError):
        front.barrier()
    front.close()
    for fd in fds:
        os.close(fd)


def test_a_message_may_come_in_pieces(served: Served) -> None:
    front = FrontEnd(served.path)
    fd = os.eventfd(0)
    front.send_bytes(pack_message(Request.SET_VRING_CALL, U64.pack(0))[:5], [fd])
    for byte in pack_message(Request.SET_VRING_CALL, U64.pack(0))[5:]:
        front.send_bytes(bytes([byte]))
    front.barrier()
    front.close()
    os.close(fd)


def test_messages_may_come_glued_together(served: Served) -> None:
    front = FrontEnd(served.path)
    front.send_bytes(pack_message(Request.SET_OWNER) * 50 + pack_message(Request.GET_QUEUE_NUM))
    assert front.answer(Request.GET_QUEUE_NUM) == U64.pack(1)
    front.close()


@pytest.mark.parametrize("size", [1, 11, 12, 19])
def test_a_message_that_breaks_off_leaves_nothing(served: Served, size: int) -> None:
    front = FrontEnd(served.path)
    fd = os.eventfd(0)
    front.send_bytes(pack_message(Request.SET_VRING_CALL, U64.pack(0))[:size], [fd])
    os.close(fd)
    front.close()
    served.wait(lambda: served.nic.connections == 1 and not served.nic.stats()["connected"])


def test_a_front_end_that_never_reads_is_cut_off(served: Served) -> None:
    front = FrontEnd(served.path)
    with pytest.raises(OSError):
        while True:
            front.send_bytes(pack_message(Request.GET_FEATURES) * 100)
    front.close()
    served.wait(lambda: not served.nic.stats()["connected"])


@pytest.mark.parametrize("seed", range(10))
def test_no_order_of_messages_hurts_the_server(served: Served, seed: int) -> None:
    rng = random.Random(seed)
    arena, fds = Arena(1 << 20), RingFds.make()
    rings = [DriverRing(arena, 4) for _ in range(2)]
    payloads = [
        b"", U64.pack(0), U64.pack(1), U64.pack(0x101), state(0, 4), state(1, 4), state(1, 0),
        region_of(arena).pack(), pack_regions([region_of(arena)]), addresses_of(0, rings[0]).pack(),
        addresses_of(1, rings[1]).pack(), LogInfo(4096, 0).pack(), rng.randbytes(16),
        U64.pack(rng.getrandbits(64)),
    ]  # fmt: skip
    choices = [[], [fds.kick], [fds.call], [arena.fd], [arena.fd, fds.kick]]
    front = FrontEnd(served.path)
    for _ in range(400):
        request = rng.choice(list(Request))
        try:
            front.send_bytes(pack_message(request, rng.choice(payloads)), rng.choice(choices))
            os.eventfd_write(fds.kick, 1)
            if select.select([front.socket], [], [], 0)[0] and not front.socket.recv(4096):
                raise ConnectionResetError
        except OSError:
            front.close()
            front = FrontEnd(served.path)
    front.close()
    served.wait(lambda: not served.nic.stats()["connected"])
    fds.close()
    arena.close()
