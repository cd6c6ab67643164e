# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The device's side of a split ring against the driver's (``vmwire.bus.virtio.driver``)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from vmwire.bus.virtio.driver import U16, DriverRing
from vmwire.bus.virtio.queue import Chains, RingFault
from vmwire.bus.virtio.split import (
    AVAIL_F_NO_INTERRUPT,
    DESCRIPTOR,
    F_INDIRECT,
    F_NEXT,
    F_WRITE,
    MAX_INDIRECT,
    Layout,
    SplitQueue,
)
from vmwire.engine.arena import Arena
from vmwire.engine.memory import AddressFault, GuestMemory, Region

SIZE = 8


@dataclass
class Both:
    """Both sides of one ring."""

    arena: Arena
    driver: DriverRing
    device: SplitQueue
    wakes: list[int] = field(default_factory=list)

    def buffer(self, data: bytes) -> tuple[int, int]:
        address = self.arena.allocate(len(data))
        self.arena.write(address, data)
        return address, len(data)

    def word(self, address: int, value: int) -> None:
        self.arena.write(address, U16.pack(value))


live: list[Both] = []


@pytest.fixture(autouse=True)
def rings_end_with_their_test() -> Iterator[None]:
    yield
    while live:
        ring = live.pop()
        ring.device.close()
        ring.arena.close()


def both(*, writable: bool = False, **about: bool) -> Both:
    arena = Arena(1 << 20, 0x4000_0000)
    driver = DriverRing(arena, SIZE, **about)
    wakes: list[int] = []
    device = SplitQueue(
        arena.guest_memory(),
        driver.layout,
        writable=writable,
        notify=lambda: wakes.append(1),
        event_index=driver.event_index,
    )
    live.append(Both(arena, driver, device, wakes))
    return live[-1]


@pytest.fixture
def tx() -> Iterator[Both]:
    yield both()


@pytest.fixture
def rx() -> Iterator[Both]:
    yield both(writable=True)


def contents(chains: Chains) -> list[bytes]:
    return [b"".join(chains.views_of(index, index + 1)) for index in range(len(chains))]


# Taking


def test_an_empty_ring_gives_nothing(tx: Both) -> None:
    assert len(tx.device.take(10)) == 0


def test_single_buffers_come_in_order(tx: Both) -> None:
    for data in (b"one", b"two", b"three"):
        tx.driver.add([tx.buffer(data)], writable=False)
    chains = tx.device.take(10)
    assert contents(chains) == [b"one", b"two", b"three"]
    assert chains.lengths == [3, 3, 5]


def test_no_more_than_asked_for_are_taken(tx: Both) -> None:
    for data in (b"one", b"two", b"three"):
        tx.driver.add([tx.buffer(data)], writable=False)
    assert contents(tx.device.take(2)) == [b"one", b"two"]
    assert contents(tx.device.take(2)) == [b"three"]


def test_what_was_given_back_comes_again(tx: Both) -> None:
    for data in (b"one", b"two", b"three"):
        tx.driver.add([tx.buffer(data)], writable=False)
    tx.device.take(3)
    tx.device.give_back(2)
    assert contents(tx.device.take(3)) == [b"two", b"three"]


@pytest.mark.parametrize("indirect", [False, True])
def test_a_chain_of_buffers_is_one(indirect: bool) -> None:
    ring = both(indirect=indirect)
    ring.driver.add([ring.buffer(b"ab"), ring.buffer(b"cd"), ring.buffer(b"e")], writable=False)
    ring.driver.add([ring.buffer(b"fg")], writable=False)
    assert contents(ring.device.take(10)) == [b"abcde", b"fg"]


def test_the_ring_wraps_around_many_times() -> None:
    ring = both(indirect=True)
    rng = random.Random(1)
    buffers = [ring.buffer(bytes([n])) for n in range(200)]
    sent, got = 0, []
    while sent < 150_000:
        for _ in range(rng.randrange(1, SIZE + 1)):
            if ring.driver.free:
                ring.driver.add([buffers[sent % 200]], writable=False)
                sent += 1
        chains = ring.device.take(rng.randrange(1, SIZE + 1))
        got += [view[0] for view in chains.views]
        ring.device.complete(chains.tokens)
        ring.driver.used()
    assert got == [n % 200 for n in range(len(got))]
    assert len(got) > 140_000


def test_an_indirect_table_in_any_order_is_followed(tx: Both) -> None:
    table = tx.arena.allocate(16 * 4)
    a, b = tx.buffer(b"first"), tx.buffer(b"second")
    tx.arena.write(table, DESCRIPTOR.pack(*a, F_NEXT, 3))
    tx.arena.write(table + 48, DESCRIPTOR.pack(*b, 0, 0))
    tx.driver.describe(0, table, 64, F_INDIRECT)
    tx.driver.offer(0)
    tx.driver.publish()
    assert contents(tx.device.take(1)) == [b"firstsecond"]


def test_a_chain_may_end_in_an_indirect_table(tx: Both) -> None:
    table = tx.arena.allocate(16)
    tx.arena.write(table, DESCRIPTOR.pack(*tx.buffer(b"tail"), 0, 0))
    tx.driver.describe(0, *tx.buffer(b"head"), F_NEXT, 5)
    tx.driver.describe(5, table, 16, F_INDIRECT)
    tx.driver.offer(0)
    tx.driver.publish()
    assert contents(tx.device.take(1)) == [b"headtail"]


def test_buffers_of_no_length_are_passed_over(tx: Both) -> None:
    tx.driver.add([tx.buffer(b"a"), (0xDEAD_0000_0000, 0), tx.buffer(b"b")], writable=False)
    assert contents(tx.device.take(1)) == [b"ab"]


def test_a_buffer_over_two_adjacent_regions_is_split() -> None:
    arena = Arena(1 << 16, 0)
    driver = DriverRing(arena, SIZE)
    start = 0x8000
    regions = [Region(0, arena.memory[:start]), Region(start, arena.memory[start:])]
    device = SplitQueue(GuestMemory(regions), driver.layout, writable=False, notify=lambda: None)
    arena.write(start - 2, b"abcd")
    driver.add([(start - 2, 4)], writable=False)
    chains = device.take(1)
    assert len(chains) == 1
    assert [bytes(view) for view in chains.views] == [b"ab", b"cd"]


def test_chains_of_several_buffers_stay_apart_when_joined() -> None:
    a, b, c, d = (memoryview(letter) for letter in (b"a", b"b", b"c", b"d"))
    singles = Chains([1, 2], [1, 1], [a, b])
    several = Chains([3, 4], [2, 1], [c, d, a], [2, 3])
    assert contents(singles.joined(1, singles)) == [b"b", b"a", b"b"]
    assert contents(singles.joined(1, several)) == [b"b", b"cd", b"a"]
    assert contents(several.joined(1, singles)) == [b"a", b"a", b"b"]
    assert contents(several.joined(0, several)) == [b"cd", b"a", b"cd", b"a"]
    assert contents(several.joined(2, several)) == [b"cd", b"a"]
    joined = several.joined(1, several)
    assert (joined.tokens, joined.lengths) == ([4, 3, 4], [1, 2, 1])
    assert b"".join(joined.views_of(1, 3)) == b"cda"


# Hostile rings


def offer(ring: Both, head: int) -> None:
    ring.driver.offer(head)
    ring.driver.publish()


def test_an_index_that_jumps_too_far_is_a_fault(tx: Both) -> None:
    tx.word(tx.driver.available + 2, SIZE + 1)
    with pytest.raises(RingFault, match="9 buffers in a ring of 8"):
        tx.device.take(1)


def test_an_index_that_goes_back_is_a_fault(tx: Both) -> None:
    tx.word(tx.driver.available + 2, 0xFFFF)
    with pytest.raises(RingFault, match="65535 buffers"):
        tx.device.take(1)


@pytest.mark.parametrize("head", [SIZE, 0xFFFF])
def test_a_head_outside_of_the_ring_is_a_fault(tx: Both, head: int) -> None:
    offer(tx, head)
    with pytest.raises(RingFault, match="head"):
        tx.device.take(1)


def test_a_next_outside_of_the_ring_is_a_fault(tx: Both) -> None:
    tx.driver.describe(0, *tx.buffer(b"a"), F_NEXT, SIZE)
    offer(tx, 0)
    with pytest.raises(RingFault, match="descriptor 8"):
        tx.device.take(1)


@pytest.mark.parametrize("length", [0, 1])
def test_a_loop_is_a_fault(tx: Both, length: int) -> None:
    address, _ = tx.buffer(b"a")
    tx.driver.describe(0, address, length, F_NEXT, 1)
    tx.driver.describe(1, address, length, F_NEXT, 0)
    offer(tx, 0)
    with pytest.raises(RingFault, match="end"):
        tx.device.take(1)


def test_a_loop_in_an_indirect_table_is_a_fault(tx: Both) -> None:
    table = tx.arena.allocate(32)
    tx.arena.write(table, DESCRIPTOR.pack(*tx.buffer(b"a"), F_NEXT, 0) * 2)
    tx.driver.describe(0, table, 32, F_INDIRECT)
    offer(tx, 0)
    with pytest.raises(RingFault, match="end"):
        tx.device.take(1)


@pytest.mark.parametrize("length", [0, 8, 17, 16 * (MAX_INDIRECT + 1), 0xFFFFFFF0])
def test_an_indirect_table_of_a_wrong_size_is_a_fault(tx: Both, length: int) -> None:
    tx.driver.describe(0, tx.arena.allocate(16), length, F_INDIRECT)
    offer(tx, 0)
    with pytest.raises(RingFault, match="indirect table"):
        tx.device.take(1)


def test_an_indirect_table_in_an_indirect_table_is_a_fault(tx: Both) -> None:
    table = tx.arena.allocate(16)
    tx.arena.write(table, DESCRIPTOR.pack(table, 16, F_INDIRECT, 0))
    tx.driver.describe(0, table, 16, F_INDIRECT)
    offer(tx, 0)
    with pytest.raises(RingFault, match="wrong way"):
        tx.device.take(1)


def test_an_indirect_descriptor_that_goes_on_is_a_fault(tx: Both) -> None:
    tx.driver.describe(0, tx.arena.allocate(16), 16, F_INDIRECT | F_NEXT, 1)
    offer(tx, 0)
    with pytest.raises(RingFault, match="indirect"):
        tx.device.take(1)


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("indirect", [False, True])
def test_a_buffer_that_goes_the_wrong_way_is_a_fault(
    writable: bool, place: int, indirect: bool
) -> None:
    ring = both(writable=writable, indirect=indirect)
    head = ring.driver.add([ring.buffer(b"a"), ring.buffer(b"b")], writable=writable)
    chain = ring.driver._chains[head]
    at = (
        ring.driver._tables[head] + 16 * place
        if indirect
        else ring.driver.descriptors + 16 * chain[place]
    )
    address, length, flags, following = DESCRIPTOR.unpack(ring.arena.view(at, 16))
    ring.arena.write(at, DESCRIPTOR.pack(address, length, flags ^ F_WRITE, following))
    with pytest.raises(RingFault, match="wrong way"):
        ring.device.take(1)


@pytest.mark.parametrize("segment", [(0, 4), (0x4000_0000 + (1 << 20) - 2, 4), ((1 << 64) - 1, 2)])
@pytest.mark.parametrize("more", [0, 1])
def test_an_address_without_memory_is_a_fault(
    tx: Both, segment: tuple[int, int], more: int
) -> None:
    tx.driver.add([tx.buffer(b"good")] * more + [segment], writable=False)
    with pytest.raises(RingFault, match="memory"):
        tx.device.take(1)


def test_a_ring_without_memory_can_not_be_made(tx: Both) -> None:
    layout = tx.driver.layout
    beyond = Layout(SIZE, layout.descriptors, layout.available, 0x4000_0000 + (1 << 20) - 8)
    with pytest.raises(AddressFault):
        SplitQueue(tx.arena.guest_memory(), beyond, writable=False, notify=lambda: None)


@pytest.mark.parametrize("seed", range(30))
def test_noise_in_the_ring_is_followed_or_a_fault(seed: int) -> None:
    rng = random.Random(seed)
    ring = both(writable=bool(seed & 1), indirect=True)
    low, high = ring.driver.descriptors, ring.driver.used_ring
    for _ in range(300):
        ring.arena.write(rng.randrange(low, high), rng.randbytes(rng.randrange(1, 4)))
        index = ring.device.position + rng.randrange(SIZE + 1)
        ring.word(ring.driver.available + 2, index & 0xFFFF)
        try:
            chains = ring.device.take(SIZE)
        except RingFault:
            ring = both(writable=bool(seed & 1), indirect=True)
        else:
            ring.device.complete(chains.tokens)


# Completing


def test_completed_chains_come_back_with_their_lengths(rx: Both) -> None:
    heads = [rx.driver.add([rx.buffer(bytes(16))], writable=True) for _ in range(3)]
    chains = rx.device.take(3)
    chains.views[1][:5] = b"hello"
    rx.device.complete(chains.tokens, [1, 5, 0])
    assert rx.driver.used() == list(zip(heads, [1, 5, 0], strict=True))


def test_completions_wrap_around(tx: Both) -> None:
    for count in (5, 6, 7, 8):
        heads = [tx.driver.add([tx.buffer(b"x")], writable=False) for _ in range(count)]
        tx.device.complete(tx.device.take(count).tokens)
        assert tx.driver.used() == [(head, 0) for head in heads]


def test_a_ring_that_is_made_anew_goes_on_where_it_was(tx: Both) -> None:
    for _ in range(3):
        tx.driver.add([tx.buffer(b"x")], writable=False)
    tx.device.complete(tx.device.take(2).tokens)
    tx.device.close()
    again = SplitQueue(
        tx.arena.guest_memory(),
        tx.driver.layout,
        writable=False,
        notify=lambda: None,
        position=tx.device.position,
    )
    again.complete(again.take(5).tokens)
    assert len(tx.driver.used()) == 3


# Telling the driver


def test_the_driver_is_woken_once_for_many(tx: Both) -> None:
    for _ in range(3):
        tx.driver.add([tx.buffer(b"x")], writable=False)
    for token in tx.device.take(3).tokens:
        tx.device.complete([token])
    tx.device.flush()
    tx.device.flush()
    assert len(tx.wakes) == 1


def test_nothing_completed_wakes_nobody_after_the_first_time(tx: Both) -> None:
    tx.device.flush()
    tx.wakes.clear()
    tx.device.flush()
    assert not tx.wakes


def test_a_driver_that_wants_no_interrupt_gets_none(tx: Both) -> None:
    tx.word(tx.driver.available, AVAIL_F_NO_INTERRUPT)
    tx.driver.add([tx.buffer(b"x")], writable=False)
    tx.device.complete(tx.device.take(1).tokens)
    tx.device.flush()
    assert not tx.wakes


def complete_one(ring: Both) -> int:
    """Complete one chain; return how often the driver was woken for it."""
    before = len(ring.wakes)
    ring.driver.add([(ring.arena.base, 1)], writable=False)
    ring.device.complete(ring.device.take(1).tokens)
    ring.device.flush()
    ring.driver.used()
    return len(ring.wakes) - before


def test_an_event_index_wakes_the_driver_exactly_when_it_is_passed() -> None:
    ring = both(event_index=True)
    assert complete_one(ring) == 1  # the first one always
    ring.driver.want_interrupt(after=2)
    assert [complete_one(ring) for _ in range(5)] == [0, 0, 1, 0, 0]
    ring.driver.want_interrupt()
    assert complete_one(ring) == 1


def test_an_event_index_works_where_indexes_wrap() -> None:
    ring = both(event_index=True)
    for _ in range(0xFFFD):
        complete_one(ring)
    ring.driver.want_interrupt(after=3)
    assert [complete_one(ring) for _ in range(5)] == [0, 0, 0, 1, 0]


# Being told


@pytest.mark.parametrize("event_index", [False, True])
def test_a_driver_kicks_only_when_asked_to(event_index: bool) -> None:
    ring = both(event_index=event_index)

    def add() -> bool:
        ring.driver.add([(ring.arena.base, 1)], writable=False)
        return ring.driver.wants_kick()

    assert add()  # a fresh ring
    ring.device.refuse_kicks()
    ring.device.take(5)
    assert not add()
    ring.device.take(5)
    assert not ring.device.want_kicks()
    assert add()


@pytest.mark.parametrize("event_index", [False, True])
def test_asking_for_kicks_tells_of_buffers_that_are_there(event_index: bool) -> None:
    ring = both(event_index=event_index)
    ring.device.refuse_kicks()
    ring.driver.add([(ring.arena.base, 1)], writable=False)
    assert ring.device.want_kicks()


def test_kicks_can_be_asked_for_beyond_what_was_given_back() -> None:
    ring = both(event_index=True)
    ring.driver.add([(ring.arena.base, 1)], writable=False)
    ring.driver.wants_kick()
    ring.device.refuse_kicks()
    ring.device.take(1)
    ring.device.give_back(1)
    assert not ring.device.want_kicks(1)
    ring.driver.add([(ring.arena.base, 1)], writable=False)
    assert ring.driver.wants_kick()


# The dirty log


def test_writes_are_logged_with_their_places(rx: Both) -> None:
    logged: list[tuple[int, int]] = []
    rx.device.dirty = lambda address, length: logged.append((address, length))
    rx.device.used_log = 0x1000
    a, b = rx.buffer(bytes(8)), rx.buffer(bytes(8))
    rx.driver.add([a, b], writable=True)
    rx.driver.add([rx.buffer(bytes(8))], writable=True)
    chains = rx.device.take(2)
    rx.device.give_back(1)
    rx.device.complete(chains.tokens[:1], [11])
    assert logged == [(a[0], 8), (b[0], 3), (0x1004, 8), (0x1000, 4)]


def test_a_transmit_ring_logs_only_its_own_words(tx: Both) -> None:
    logged: list[tuple[int, int]] = []
    tx.device.dirty = lambda address, length: logged.append((address, length))
    tx.device.used_log = 0x1000
    tx.driver.add([tx.buffer(b"x")], writable=False)
    tx.device.complete(tx.device.take(1).tokens)
    assert logged == [(0x1004, 8), (0x1000, 4)]
