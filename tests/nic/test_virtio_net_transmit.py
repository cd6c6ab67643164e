# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.nic.guest import LEGACY, MERGEABLE, MODERN, TSO, Guest, frame, joined
from vmwire.bus.virtio.driver import U16
from vmwire.nic.virtio_net import FEATURES
from vmwire.nic.virtio_queues import BATCH, FRAME_COST, TURN_BYTES
from vmwire.wire.frame import F_NEEDS_CSUM, GSO_TCPV4, MAX_FRAME, NO_OFFLOAD, Offload


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
