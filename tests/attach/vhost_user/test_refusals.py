# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a front end may not ask, and what that costs it."""

from __future__ import annotations

import os
import random
import select
import socket

import pytest

from tests.attach.vhost_user.served import FRAME, Served, state
from vmwire.attach.vhost_user.shared import MAX_SLOTS
from vmwire.bench.vhost_user import FrontEnd, NetDriver, RingFds
from vmwire.bus.virtio.driver import DriverRing
from vmwire.bus.virtio.front_end import USER_BASE, addresses_of, region_of
from vmwire.bus.virtio.vhost_user import (
    U64,
    LogInfo,
    RegionInfo,
    Request,
    RingAddresses,
    pack_message,
    pack_regions,
)
from vmwire.engine.arena import Arena


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
