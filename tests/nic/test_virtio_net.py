# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import random

import pytest

from tests.nic.guest import MERGEABLE, MODERN, Guest, frame, joined, reserve
from vmwire.bus.virtio.features import (
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_MTU,
    VIRTIO_RING_F_EVENT_IDX,
)
from vmwire.nic.virtio_net import FEATURES, SMALL_BUFFER_FRAME
from vmwire.wire.frame import (
    MAX_FRAME,
    Frame,
    Gso,
)
from vmwire.wire.port import PACKETS_ONLY, Accepts

# Features, link


def test_what_the_port_accepts_follows_the_driver() -> None:
    guest = Guest()
    accepts = guest.card.port.accepts
    assert accepts == Accepts(True, Gso.TCPV4 | Gso.TCPV6 | Gso.ECN | Gso.UDP_L4, MAX_FRAME)
    guest.card.negotiate(MODERN)
    assert guest.card.port.accepts == Accepts(largest=SMALL_BUFFER_FRAME)
    guest.card.negotiate(MODERN | VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO6)
    assert guest.card.port.accepts == Accepts(True, Gso.TCPV6, MAX_FRAME)
    guest.card.negotiate(MODERN | VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_ECN)
    assert guest.card.port.accepts == Accepts()  # no segmentation without checksums
    guest.card.negotiate(MERGEABLE | VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_USO4)
    assert guest.card.port.accepts == Accepts(True)
    both = VIRTIO_NET_F_GUEST_USO4 | VIRTIO_NET_F_GUEST_USO6
    guest.card.negotiate(MERGEABLE | VIRTIO_NET_F_GUEST_CSUM | both)
    assert guest.card.port.accepts == Accepts(True, Gso.UDP_L4)
    guest.card.reset()
    assert guest.card.port.accepts == PACKETS_ONLY


def test_an_mtu_bounds_what_is_received() -> None:
    guest = Guest(MERGEABLE | VIRTIO_NET_F_MTU)
    assert guest.card.set_mtu(1400)
    assert guest.card.port.accepts.largest == 1418
    assert not guest.card.set_mtu(67)
    assert not guest.card.set_mtu(65536)


def test_frames_before_the_driver_are_lost_and_counted() -> None:
    guest = Guest(start=False)
    end = joined(guest)
    assert not end.port.carrier
    assert end.port.send([Frame.of(frame(60))]) == 1
    assert end.port.drops == {"no carrier": 1}
    guest.start(1)
    assert not end.port.carrier
    guest.start(0)
    assert end.port.carrier


def test_a_stopped_queue_takes_the_carrier_and_lets_the_waiting_go() -> None:
    guest = Guest()
    end = joined(guest)
    assert end.port.send([Frame.of(frame(60))]) == 0
    guest.card.stop_queue(0)
    assert end.heard[-2:] == ["down", "resume"]


def test_a_stopped_queue_tells_where_it_stood() -> None:
    guest = Guest()
    end = joined(guest, room=1)
    guest.send(frame(60))
    guest.send(frame(61))
    guest.kick()
    queue = guest.card.stop_queue(1)
    assert queue is not None
    assert queue.position == 1  # type: ignore[attr-defined]
    end.make_room()
    guest.start(1, position=1)
    guest.kick()
    assert end.data == [frame(60), frame(61)]


def test_a_card_can_be_unplugged() -> None:
    guest = Guest()
    end = joined(guest)
    guest.card.set_link(False)
    assert not end.port.carrier
    guest.send(frame(60))
    guest.kick()
    assert guest.card.stats()["drops"] == {"no carrier": 1}
    guest.card.set_link(True)
    assert end.port.carrier


def test_a_paused_card_touches_nothing_and_catches_up() -> None:
    guest = Guest()
    end = joined(guest)
    guest.post(1600)
    guest.card.pause()
    guest.send(frame(60))
    guest.kick()
    assert end.got == []
    assert end.port.send([Frame.of(frame(61))]) == 0
    assert end.port.reserve(61) is None
    guest.card.unpause()
    guest.turn()
    assert end.data == [frame(60)]
    assert end.heard[-1] == "resume"
    assert end.port.send([Frame.of(frame(61))]) == 1


def test_an_announcement_is_a_broadcast_with_the_guests_address() -> None:
    guest = Guest()
    end = joined(guest)
    mac = bytes.fromhex("525400123456")
    guest.card.announce(mac)
    (data,) = end.data
    assert data == bytes.fromhex(
        "ffffffffffff 525400123456 8035 0001 0800 06 04 0003"
        "525400123456 00000000 525400123456 00000000"
    ).ljust(60, b"\0")


# Several queues


def flow(number: int, size: int = 60) -> bytes:
    header = bytes(12) + b"\x08\0" + bytes(12) + bytes(8) + number.to_bytes(4, "big")
    return header.ljust(size, b"\1")


def test_a_flow_stays_on_one_of_several_queues() -> None:
    guest = Guest(pairs=4)
    end = joined(guest)
    for index in range(0, 8, 2):
        for _ in range(64):
            guest.post(1600, ring=index)
    assert not end.port.reserves
    for number in range(32):
        end.port.send([Frame.of(flow(number)), Frame.of(flow(number))])
    per_queue = [[data for data, _ in guest.received(index)] for index in range(0, 8, 2)]
    assert sum(len(frames) for frames in per_queue) == 64
    assert sum(1 for frames in per_queue if frames) > 1
    for frames in per_queue:
        assert all(frames.count(data) == 2 for data in frames)


def test_all_transmit_queues_are_served() -> None:
    guest = Guest(pairs=3)
    end = joined(guest)
    for index in (1, 3, 5):
        guest.send(frame(60, index), ring=index)
        guest.kick(index)
    assert end.data == [frame(60, index) for index in (1, 3, 5)]


def test_one_enabled_pair_of_several_reserves() -> None:
    guest = Guest(pairs=2)
    end = joined(guest)
    guest.card.enable_queue(2, False)
    assert end.port.reserves


# Everything at once


@pytest.mark.parametrize("features", [MODERN, MERGEABLE | VIRTIO_RING_F_EVENT_IDX, FEATURES])
def test_random_traffic_arrives_whole_and_in_order(features: int) -> None:
    rng = random.Random(5)
    guest = Guest(features)
    end = joined(guest)
    expected, got = [], []
    for _ in range(300):
        while guest.rings[0].free > 2 and rng.random() < 0.9:
            guest.post(rng.randrange(1530, 4000))
        data = rng.randbytes(rng.randrange(14, 1518))
        if rng.random() < 0.5:
            taken = end.port.send([Frame.of(data)]) == 1
        else:
            taken = reserve(end, data, spare=rng.choice([0, 0, 10]))
        if taken:
            expected.append(data)
        got += [data for data, _ in guest.received()]
        guest.turn()
    assert got == expected
    assert len(got) > 200


@pytest.mark.parametrize("seed", range(20))
def test_no_noise_in_its_rings_hurts_the_card(seed: int) -> None:
    rng = random.Random(seed)
    guest = Guest()
    end = joined(guest)
    for index in (0, 1):
        ring = guest.rings[index]
        guest.arena.write(ring.descriptors, rng.randbytes(16 * 64))
        for slot in range(64):  # mostly plausible descriptors
            if rng.random() < 0.8:
                address = guest.arena.base + rng.randrange(1 << 24)
                ring.describe(
                    slot, address, rng.randrange(3000), rng.randrange(8), rng.randrange(64)
                )
    for _ in range(50):
        for index in (0, 1):
            ring = guest.rings[index]
            ring.offer(rng.randrange(66))
            ring.publish()
            guest.kick(index)
        end.port.send([Frame.of(os.urandom(rng.randrange(14, 5000)))])
        if end.port.reserves and (views := end.port.reserve(100)):
            assert sum(len(view) for view in views) == 100
            end.port.commit(60)
        guest.turn()
    assert len(guest.faults) <= 2
