# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What drivers may choose by registers that all transports have, and what they may not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.nic.virtio.card import Card, make

from vmwire.bench.machine import Bench
from vmwire.bench.virtio_pci import ModernPci

DRIVER_FEATURE_SELECT, DRIVER_FEATURE, QUEUE_SELECT, QUEUE_SIZE = 0x08, 0x0C, 0x16, 0x18


@pytest.fixture
def card() -> Iterator[Card]:
    with Bench(16 << 20) as pc:
        yield make(pc, "modern-msix")


@pytest.fixture
def transport(card: Card) -> ModernPci:
    found = card.driver.transport
    assert isinstance(found, ModernPci)
    return found


@pytest.mark.parametrize("half", [2, 33, 0xFFFFFFFF])
def test_features_have_two_halves_and_no_more(card: Card, transport: ModernPci, half: int) -> None:
    before = card.device.features
    transport.write(DRIVER_FEATURE_SELECT, 4, half)
    transport.write(DRIVER_FEATURE, 4, 0xFFFFFFFF)
    assert card.device.features == before


@pytest.mark.parametrize(("size", "taken"), [(0, 256), (2048, 256), (256, 256), (128, 128)])
def test_a_ring_is_no_larger_than_it_may_be_and_never_empty(
    transport: ModernPci, size: int, taken: int
) -> None:
    transport.write(QUEUE_SELECT, 2, 0)
    transport.write(QUEUE_SIZE, 2, size)
    assert transport.queue_size(0) == taken
