# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""When a virtio device's state has to be saved anew: not for frames, but for all else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.nic.virtio.card import MAC, OTHER, Card, frame, make

from vmwire.bench.machine import Bench

Change = Callable[[Card], object]


@pytest.fixture
def card() -> Iterator[Card]:
    with Bench(16 << 20) as pc:
        made = make(pc, "modern-msix")
        made.driver.start()
        yield made


def test_frames_change_nothing_that_memory_does_not_tell(card: Card) -> None:
    before = card.device.revision
    card.driver.send(frame(OTHER))
    assert card.gets(frame(MAC)) == [frame(MAC)]
    assert card.device.revision == before


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.driver.command(0, 0, b"\1"),
        lambda card: card.driver.transport.set_status(card.driver.transport.status()),
        lambda card: card.driver.transport.reset_queue(0),  # type: ignore[attr-defined]
        lambda card: card.driver.transport.write(0x10, 2, 1),  # type: ignore[attr-defined]
        lambda card: card.set_link(False),
        lambda card: card.card.announce(),
        lambda card: card.driver.start(),
    ],
    ids=["request", "status", "ring reset", "vector", "link", "announcement", "start"],
)
def test_changes_of_all_else_are_told(card: Card, change: Change) -> None:
    before = card.device.revision
    change(card)
    assert card.device.revision != before


def test_memory_that_goes_and_comes_back_stops_no_ring_for_long(card: Card) -> None:
    dma = card.nic.function.dma  # type: ignore[union-attr]
    memory = dma.memory
    dma.memory = type(memory)()
    card.driver.send(frame(OTHER))
    assert card.wire.take() == []
    dma.memory = memory
    card.pc.settle()
    assert card.wire.take() == [frame(OTHER)]
    assert card.gets(frame()) == [frame()]
