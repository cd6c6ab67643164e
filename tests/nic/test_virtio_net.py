# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import random

import pytest

from tests.nic.guest import Guest
from tests.wire.boxes import End
from vmwire.bench.virtio import U16
from vmwire.bus.virtio.features import (
    VIRTIO_F_VERSION_1,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU,
    VIRTIO_RING_F_EVENT_IDX,
)
from vmwire.engine.memory import scatter
from vmwire.nic.virtio_net import FEATURES, SMALL_BUFFER_FRAME
from vmwire.nic.virtio_queues import BATCH, FRAME_COST, TURN_BYTES
from vmwire.wire.frame import (
    F_DATA_VALID,
    F_NEEDS_CSUM,
    GSO_TCPV4,
    MAX_FRAME,
    NO_OFFLOAD,
    Frame,
    Gso,
    Offload,
)
from vmwire.wire.port import PACKETS_ONLY, Accepts

TSO = Offload(F_NEEDS_CSUM, GSO_TCPV4, 54, 1448, 34, 16)
LEGACY = 0
MODERN = VIRTIO_F_VERSION_1
MERGEABLE = MODERN | VIRTIO_NET_F_MRG_RXBUF


def joined(guest: Guest, **about: int) -> End:
    end = End("end", **about)  # type: ignore[arg-type]
    end.port.connect(guest.card.port)
    return end


def frame(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# Guest to wire


@pytest.mark.parametrize("features", [LEGACY, MODERN, MERGEABLE, FEATURES])
def test_a_frame_is_sent_with_its_offload(features: int) -> None:
    guest = Guest(features)
    end = joined(guest)
    guest.send(frame(60))
    guest.send(frame(9000), TSO)
    guest.kick()
    assert end.data == [frame(60), frame(9000)]
    assert [got.offload for got in end.got] == [NO_OFFLOAD, TSO]
    assert len(guest.rings[1].used()) == 2


@pytest.mark.parametrize("cuts", [(12,), (1,), (5, 11, 13), (3, 12, 20), (11,), (72 - 1,)])
@pytest.mark.parametrize("features", [MODERN, FEATURES])
def test_a_net_header_may_be_cut_anywhere(cuts: tuple[int, ...], features: int) -> None:
    guest = Guest(features)
    end = joined(guest)
    guest.send(frame(60), Offload(F_NEEDS_CSUM, 0, 0, 0, 34, 16), cuts=cuts)
    guest.kick()
    assert end.data == [frame(60)]
    assert end.got[0].offload.checksum_start == 34


def test_the_guest_is_woken_once_a_turn() -> None:
    guest = Guest()
    joined(guest)
    guest.turn()
    guest.wakes.clear()
    guest.rings[1].want_interrupt()
    for _ in range(10):
        guest.send(frame(60))
        guest.kick()
    assert not guest.wakes[1]
    guest.turn()
    assert guest.wakes[1] == 1


def test_a_refused_frame_stays_on_the_ring_until_there_is_room() -> None:
    guest = Guest()
    end = joined(guest, room=2)
    for seed in range(5):
        guest.send(frame(60, seed))
    guest.kick()
    assert len(end.got) == len(guest.rings[1].used()) == 2
    guest.kick()
    assert len(end.got) == 2
    end.make_room()
    guest.turn()
    assert end.data == [frame(60, seed) for seed in range(5)]
    assert len(guest.rings[1].used()) == 3


def test_a_turn_has_a_budget_of_bytes() -> None:
    guest = Guest(size=64)
    end = joined(guest)
    for _ in range(20):
        guest.send(frame(60000), TSO)
    guest.kick()
    assert TURN_BYTES <= sum(got.length for got in end.got) <= TURN_BYTES + 60000
    guest.turn(10)
    assert len(end.got) == 20


def test_small_frames_have_a_budget_too() -> None:
    guest = Guest(size=1024)
    end = joined(guest)
    for _ in range(1024):
        guest.send(frame(60))
    guest.kick()
    assert len(end.got) <= TURN_BYTES // FRAME_COST + BATCH
    guest.turn(10)
    assert len(end.got) == 1024


def test_frames_added_while_we_look_are_not_forgotten() -> None:
    guest = Guest()
    end = joined(guest)
    guest.kick()
    guest.rings[1].wants_kick()
    guest.send(frame(60))
    assert guest.rings[1].wants_kick()
    guest.kick()
    assert len(end.got) == 1


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\0" * 4, "too short"),
        (b"\0" * 12, "too short"),
        (b"\0" * 12 + b"\0" * 13, "too short"),
        (b"\0" * 12 + bytes(MAX_FRAME + 1), "too long"),
        (Offload(gso_type=GSO_TCPV4, segment_size=1).packed + bytes(80), "malformed offload"),
        (Offload(F_NEEDS_CSUM, GSO_TCPV4).packed + bytes(80), "malformed offload"),
        (Offload(F_NEEDS_CSUM, 0x7F, 0, 1).packed + bytes(80), "malformed offload"),
        (Offload(F_NEEDS_CSUM, 0, 0, 0, 60, 0).packed + bytes(62), "malformed offload"),
        (Offload(F_NEEDS_CSUM, 0, 0, 0, 0xFFFF, 0xFFFF).packed + bytes(80), "malformed offload"),
    ],
)
@pytest.mark.parametrize("cuts", [(), (3,)])
def test_what_is_no_frame_is_dropped_and_counted(
    raw: bytes, reason: str, cuts: tuple[int, ...]
) -> None:
    guest = Guest()
    end = joined(guest)
    guest.send(frame(60, 1))
    guest.send_raw(raw, cuts)
    guest.send(frame(60, 2))
    guest.kick()
    assert end.data == [frame(60, 1), frame(60, 2)]
    assert guest.card.drops == {reason: 1}
    assert len(guest.rings[1].used()) == 3


def test_an_empty_buffer_is_dropped_and_counted() -> None:
    guest = Guest()
    joined(guest)
    guest.rings[1].add([(guest.arena.base, 0)], writable=False)
    guest.kick()
    assert guest.card.drops == {"too short": 1}


def test_a_broken_ring_is_told_once_and_left_alone() -> None:
    guest = Guest()
    end = joined(guest)
    guest.arena.write(guest.rings[1].available + 2, U16.pack(1000))
    guest.kick()
    guest.kick()
    assert guest.faults == [1]
    assert guest.card.faults == 1
    assert not guest.card.port.link_up
    assert "1000 buffers" in str(guest.card.stats()["queues"])
    assert end.got == []


def test_a_broken_ring_works_again_once_it_is_made_anew() -> None:
    guest = Guest()
    end = joined(guest)
    guest.arena.write(guest.rings[1].available + 2, U16.pack(1000))
    guest.kick()
    guest.card.stop_queue(1)
    guest.arena.write(guest.rings[1].available + 2, U16.pack(0))
    guest.start(1)
    guest.send(frame(60))
    guest.kick()
    assert end.data == [frame(60)]


def test_a_disabled_queue_discards_what_is_sent() -> None:
    guest = Guest()
    end = joined(guest)
    guest.card.enable_queue(1, False)
    guest.send(frame(60))
    guest.kick()
    assert end.got == []
    assert len(guest.rings[1].used()) == 1
    assert guest.card.drops == {"queue disabled": 1}


# Wire to guest


@pytest.mark.parametrize("features", [LEGACY, MODERN, MERGEABLE, FEATURES])
def test_a_frame_is_received_behind_its_header(features: int) -> None:
    guest = Guest(features)
    end = joined(guest)
    guest.post(1600)
    guest.post(1600)
    end.port.send([Frame.of(frame(60, 1)), Frame.of(frame(1500, 2))])
    raw = guest.used()
    size = guest.header_size
    assert [data[size:] for data in raw] == [frame(60, 1), frame(1500, 2)]
    assert [data[:size] for data in raw] == [bytes(10) + b"\1\0"[: size - 10]] * 2


@pytest.mark.parametrize("sizes", [(12, 1600), (10, 2, 1600), (5, 5, 5, 1600), (1600, 1)])
def test_a_chain_of_receive_buffers_is_filled_in_order(sizes: tuple[int, ...]) -> None:
    guest = Guest(MODERN)
    end = joined(guest)
    guest.post(*sizes)
    end.port.send([Frame((memoryview(frame(100))[:50], memoryview(frame(100))[50:]), 100)])
    assert guest.received() == [(frame(100), NO_OFFLOAD)]


def test_a_long_frame_takes_as_many_buffers_as_it_needs() -> None:
    guest = Guest()
    end = joined(guest)
    for _ in range(10):
        guest.post(1536)
    end.port.send([Frame.of(frame(60)), Frame.of(frame(5000), TSO), Frame.of(frame(70))])
    raw = guest.used()
    assert [len(data) for data in raw] == [72, 1536, 1536, 1536, 5012 - 3 * 1536, 82]
    assert [raw[1][10:12], raw[5][10:12]] == [b"\4\0", b"\1\0"]
    assert raw[1][:10] == TSO.packed
    assert raw[1][12:] + raw[2] + raw[3] + raw[4] == frame(5000)


def test_a_frame_that_does_not_fit_now_is_refused_until_the_guest_has_room() -> None:
    guest = Guest()
    end = joined(guest)
    guest.post(1536)
    assert end.port.send([Frame.of(frame(60)), Frame.of(frame(3000), TSO)]) == 1
    assert "resume" not in end.heard
    guest.rings[0].wants_kick()
    guest.post(1536)
    assert guest.rings[0].wants_kick()
    guest.kick(0)
    assert end.heard[-1] == "resume"
    assert end.port.send([Frame.of(frame(3000), TSO)]) == 0
    guest.post(1536)
    assert end.port.send([Frame.of(frame(3000), TSO)]) == 1
    assert [data for data, _ in guest.received()] == [frame(60), frame(3000)]


def test_no_kick_is_asked_for_while_there_are_buffers() -> None:
    guest = Guest()
    end = joined(guest)
    assert end.port.send([Frame.of(frame(60))]) == 0
    guest.post(1536)
    guest.kick(0)
    assert end.port.send([Frame.of(frame(60))]) == 1
    guest.rings[0].wants_kick()
    guest.post(1536)
    assert not guest.rings[0].wants_kick()


def test_a_frame_that_fits_no_buffer_ever_is_dropped() -> None:
    guest = Guest(MODERN | VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4)
    end = joined(guest)
    guest.post(1600)
    end.port.send([Frame.of(frame(3000), TSO), Frame.of(frame(60))])
    assert guest.received() == [(frame(60), NO_OFFLOAD)]
    assert guest.card.drops == {"too long for the guest's buffers": 1}


def test_a_frame_that_a_full_ring_can_not_hold_is_dropped() -> None:
    guest = Guest(size=4)
    end = joined(guest)
    for _ in range(4):
        guest.post(100)
    assert end.port.send([Frame.of(frame(1000)), Frame.of(frame(60))]) == 2
    assert guest.received() == [(frame(60), NO_OFFLOAD)]


@pytest.mark.parametrize("size", [0, 1, 11])
def test_a_buffer_too_small_for_a_header_breaks_the_ring(size: int) -> None:
    guest = Guest()
    end = joined(guest)
    guest.post(size)
    end.port.send([Frame.of(frame(60))])
    assert guest.faults == [0]
    assert guest.card.drops == {"broken queue": 1}


def test_nothing_of_an_old_buffer_is_handed_to_the_guest() -> None:
    guest = Guest()
    end = joined(guest)
    guest.post(2000, fill=0xAA)
    end.port.send([Frame.of(b"\1" * 60)])
    assert guest.used() == [bytes(10) + b"\1\0" + b"\1" * 60]


def test_a_driver_that_checks_itself_is_not_told_of_checksums() -> None:
    guest = Guest(MERGEABLE)
    end = joined(guest)
    guest.post(1600)
    end.port.send([Frame.of(frame(60), Offload(F_DATA_VALID))])
    assert guest.used()[0][:12] == bytes(10) + b"\1\0"


# Reservations


def reserve(end: End, data: bytes, offload: Offload = NO_OFFLOAD, spare: int = 0) -> bool:
    views = end.port.reserve(len(data) + spare)
    if views is None:
        return False
    assert sum(len(view) for view in views) == len(data) + spare
    assert len(views[0]) >= min(138, len(data) + spare)
    scatter(data, views)
    end.port.commit(len(data), offload)
    return True


@pytest.mark.parametrize("sizes", [(1600,), (12, 1588), (10, 2, 1588), (40, 1560), (150, 1450)])
@pytest.mark.parametrize("size", [14, 60, 138, 139, 1500])
def test_a_reservation_is_the_guests_own_buffer(sizes: tuple[int, ...], size: int) -> None:
    guest = Guest()
    end = joined(guest)
    guest.post(*sizes)
    assert reserve(end, frame(size))
    assert guest.received() == [(frame(size), NO_OFFLOAD)]


def test_a_long_reservation_spans_buffers_and_gives_back_what_it_does_not_need() -> None:
    guest = Guest()
    end = joined(guest)
    for _ in range(50):
        guest.post(1536)
    assert reserve(end, frame(3000), TSO, spare=60000)
    assert reserve(end, frame(60))
    raw = guest.used()
    assert [len(data) for data in raw] == [1536, 3012 - 1536, 72]
    assert raw[0][:12] == TSO.packed + b"\2\0"
    assert raw[0][12:] + raw[1] == frame(3000)
    assert guest.rings[0].free == 64 - 50 + 3


@pytest.mark.parametrize("size", [1, 1524, 1525, 3060, 3061])
def test_a_reservation_ends_exactly_with_its_buffers(size: int) -> None:
    guest = Guest()
    end = joined(guest)
    for _ in range(50):
        guest.post(1536)
    assert reserve(end, frame(size), spare=100)
    assert guest.received() == [(frame(size), NO_OFFLOAD)]


def test_a_cancelled_reservation_takes_nothing() -> None:
    guest = Guest()
    end = joined(guest)
    guest.post(1536)
    assert end.port.reserve(1000) is not None
    end.port.cancel()
    assert reserve(end, frame(60))
    assert len(guest.received()) == 1


def test_a_reservation_without_room_is_refused_until_there_is() -> None:
    guest = Guest()
    end = joined(guest)
    guest.post(1536)
    assert end.port.reserve(3000) is None
    guest.rings[0].wants_kick()
    guest.post(1536)
    assert guest.rings[0].wants_kick()
    guest.kick(0)
    assert end.heard[-1] == "resume"
    assert reserve(end, frame(3000), TSO)


def test_a_legacy_reservation_starts_behind_a_header_of_its_own() -> None:
    guest = Guest(LEGACY)
    end = joined(guest)
    guest.post(10, 1518)
    assert reserve(end, frame(1500))
    assert guest.received() == [(frame(1500), NO_OFFLOAD)]


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
