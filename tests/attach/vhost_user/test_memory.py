# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The machine's memory as it comes and goes, and the log of what was written there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.attach.vhost_user.served import FRAME, Served
from vmwire.bench.vhost_user import FrontEnd, NetDriver
from vmwire.bus.virtio.features import (
    VHOST_F_LOG_ALL,
)
from vmwire.bus.virtio.front_end import addresses_of, region_of
from vmwire.bus.virtio.vhost_user import (
    U64,
    VRING_F_LOG,
    LogInfo,
    RegionInfo,
    Request,
)
from vmwire.engine.arena import Arena


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
