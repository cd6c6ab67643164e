# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A driver's ring with a buffer for each descriptor, against the device's side of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vmwire.bus.virtio.driver import USED_ENTRY, BufferRing
from vmwire.bus.virtio.queue import RingFault
from vmwire.bus.virtio.split import SplitQueue
from vmwire.engine.arena import Arena

SIZE = 8


class Both:
    def __init__(self, writable: bool, event_index: bool) -> None:
        self.arena = Arena(1 << 20, 0x10_0000)
        self.ring = BufferRing(self.arena, SIZE, 256, writable=writable, event_index=event_index)
        self.woken = 0
        self.device = SplitQueue(
            self.arena.guest_memory(), self.ring.layout,
            writable=writable, notify=self._wake, event_index=event_index,
        )  # fmt: skip

    def _wake(self) -> None:
        self.woken += 1

    def says(self, index: int, *entries: tuple[int, int]) -> None:
        """Have the used ring say something that no device may."""
        for place, entry in enumerate(entries):
            self.arena.write(self.ring.used_ring + 4 + 8 * place, USED_ENTRY.pack(*entry))
        self.arena.write(self.ring.used_ring + 2, index.to_bytes(2, "little"))

    def close(self) -> None:
        self.device.close()
        self.ring.close()
        self.arena.close()


@pytest.fixture(params=[False, True], ids=["flags", "event index"])
def both(request: pytest.FixtureRequest) -> Iterator[Both]:
    it = Both(True, request.param)
    yield it
    it.close()


def test_buffers_go_round_and_round_in_order(both: Both) -> None:
    ring, device = both.ring, both.device
    ring.lend([0, 1, 2, 3, 4])
    for number in range(100):
        chains = device.take(3)
        for view in chains.views:
            view[:1] = bytes([number])
        device.complete(chains.tokens, [number + 1] * 3)
        ids, lengths = ring.take_back(SIZE)
        assert ids == [(3 * number + place) % 5 for place in range(3)]
        assert lengths == [number + 1] * 3
        assert [ring.slots[id][0] for id in ids] == [number] * 3
        ring.lend(ids)


def test_a_column_is_one_number_of_each_buffer(both: Both) -> None:
    column = both.ring.column("I", 8)
    both.ring.slots[3][8:12] = b"\1\2\0\0"
    assert column.tolist() == [0, 0, 0, 0x201, 0, 0, 0, 0]


def test_no_more_is_taken_back_than_asked_for(both: Both) -> None:
    both.ring.lend(range(6))
    both.device.complete(both.device.take(6).tokens, [1] * 6)
    assert [both.ring.take_back(4)[0], both.ring.take_back(4)[0]] == [[0, 1, 2, 3], [4, 5]]
    assert both.ring.take_back(4) == ([], [])


def test_the_driver_is_woken_when_it_asked_to_be(both: Both) -> None:
    both.ring.lend(range(4))
    both.ring.want_interrupt()
    assert not both.ring.has_used()
    both.device.complete(both.device.take(1).tokens, [1])
    both.device.flush()
    assert both.woken == 1 and both.ring.has_used()
    both.ring.refuse_interrupts()
    both.device.complete(both.device.take(1).tokens, [1])
    both.device.flush()
    assert both.woken == 1


@pytest.mark.parametrize(
    ("index", "entries"),
    [
        (1, [(SIZE, 1)]),
        (1, [(7, 1)]),
        (2, [(0, 1), (0, 1)]),
        (1, [(0, 257)]),
        (SIZE + 1, [(0, 1)]),
        (0xFFFF, [(0, 1)]),
    ],
    ids=["no such", "not lent", "twice", "too long", "too far", "backwards"],
)
def test_what_cant_be_is_a_fault(both: Both, index: int, entries: list[tuple[int, int]]) -> None:
    both.ring.lend([0, 1])
    both.says(index, *entries)
    with pytest.raises(RingFault):
        both.ring.take_back(SIZE)


def test_what_is_sent_has_the_length_that_was_set() -> None:
    both = Both(False, True)
    ring = both.ring
    ring.slots[2][:3] = b"abc"
    ring.lengths[2] = 3
    ring.lend([2])
    assert bytes(both.device.take(1).views[0]) == b"abc"
    both.device.complete([2])
    ring.mine.remove(2)
    ring.reclaim()
    assert sorted(ring.mine) == list(range(SIZE))
    both.close()
