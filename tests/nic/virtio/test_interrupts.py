# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""How the card wakes its driver."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.nic.virtio.card import MAC, OTHER, Card, frame
from vmwire.bench.cards import Nic
from vmwire.bench.mmio import MmioNic
from vmwire.bench.virtio_pci import LEGACY_QUEUE_VECTOR, LEGACY_SELECT, LegacyPci, ModernPci
from vmwire.bus.virtio.features import VIRTIO_F_NOTIFY_ON_EMPTY, VIRTIO_RING_F_EVENT_IDX

Plug = Callable[..., Card]
PINS = ("modern", "legacy", "mmio-1", "mmio-2")


@pytest.mark.parametrize("transport", PINS, indirect=True)
def test_the_line_is_up_until_the_driver_has_read_why(card: Card) -> None:
    assert isinstance(card.nic, Nic | MmioNic)
    assert card.driver.transport.interrupt_status() == 0
    card.wire.send(frame())
    assert card.nic.irq_level
    assert card.driver.transport.interrupt_status() == 1
    assert not card.nic.irq_level
    assert card.driver.transport.interrupt_status() == 0


@pytest.mark.parametrize("transport", ["modern-msix", "legacy-msix"], indirect=True)
def test_each_queue_has_its_message(card: Card) -> None:
    assert isinstance(card.nic, Nic)
    card.nic.irq.messages.clear()
    card.wire.send(frame())
    card.driver.rings[1].want_interrupt()
    card.driver.send(frame(OTHER))
    card.driver.command(0, 0, b"\1")
    card.set_link(False)
    assert list(card.nic.irq.messages) == [1, 2, 3, 0]
    assert not card.nic.irq_level


@pytest.mark.parametrize("transport", ["modern-msix", "legacy-msix"], indirect=True)
def test_a_vector_that_is_not_there_is_refused(card: Card) -> None:
    transport = card.driver.transport
    if isinstance(transport, ModernPci):
        transport.write(0x16, 2, 0)
        transport.write(0x1A, 2, 9)
        assert transport.read(0x1A, 2) == 0xFFFF
    else:
        assert isinstance(transport, LegacyPci)
        transport.pc.outw(transport.base + LEGACY_SELECT, 0)
        transport.pc.outw(transport.base + LEGACY_QUEUE_VECTOR, 9)
        assert transport.pc.inw(transport.base + LEGACY_QUEUE_VECTOR) == 0xFFFF
    before = card.interrupts()
    card.wire.send(frame())
    assert card.interrupts() == before  # a queue without a vector is silent
    assert [data for data, _ in card.driver.receive()] == [frame()]


def test_a_burst_wakes_the_driver_once(card: Card) -> None:
    card.driver.transport.interrupt_status()
    before = card.interrupts()
    card.wire.send([frame(MAC, bytes([number])) for number in range(20)])
    assert card.interrupts() == before + 1


def test_a_driver_that_looks_by_itself_is_not_woken(plug: Plug) -> None:
    card = plug(driver={"features": VIRTIO_RING_F_EVENT_IDX})
    card.wire.send(frame())
    card.driver.transport.interrupt_status()
    before = card.interrupts()
    for _ in range(5):
        card.wire.send(frame())  # the event index still asks for the first
    assert card.interrupts() == before
    assert len(card.driver.receive()) == 6
    card.driver.rings[0].want_interrupt()
    card.wire.send(frame())
    assert card.interrupts() == before + 1


@pytest.mark.parametrize("transport", ["legacy"], indirect=True)
def test_an_empty_ring_is_told_to_a_driver_that_asked_for_that(plug: Plug) -> None:
    card = plug(driver={"features": VIRTIO_F_NOTIFY_ON_EMPTY})
    ring = card.driver.rings[1]
    card.driver.memory.write(ring.available, b"\1\0")  # no interrupts, please
    card.driver.send(frame(OTHER))
    assert card.driver.transport.interrupt_status() == 1


def test_a_cable_that_is_pulled_is_told(card: Card) -> None:
    transport, driver = card.driver.transport, card.driver
    assert driver.status & 1
    transport.interrupt_status()
    before = card.interrupts()
    card.set_link(False)
    assert not driver.status & 1
    assert card.interrupts() == before + 1
    if not getattr(transport, "msix", False):
        assert transport.interrupt_status() & 2
    card.set_link(True)
    assert driver.status & 1
    assert card.interrupts() == before + 2


def test_the_far_ends_cable_counts_too(card: Card) -> None:
    card.wire.set_link(False)
    assert not card.driver.status & 1
    card.wire.set_link(True)
    assert card.driver.status & 1
    assert card.gets(frame()) == [frame()]


@pytest.mark.parametrize("transport", ["modern"], indirect=True)
def test_without_vectors_there_is_no_msix(plug: Plug) -> None:
    card = plug(vectors=0)
    assert isinstance(card.nic, Nic)
    assert card.nic.function.config.msix is None
    assert card.gets(frame()) == [frame()]
