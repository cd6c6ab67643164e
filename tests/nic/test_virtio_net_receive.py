# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.nic.guest import LEGACY, MERGEABLE, MODERN, TSO, Guest, frame, joined, reserve
from vmwire.bus.virtio.features import VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4
from vmwire.nic.virtio_net import FEATURES
from vmwire.wire.frame import F_DATA_VALID, NO_OFFLOAD, Frame, Offload


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
