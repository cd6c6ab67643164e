# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.nic.e1000e.card import Card82574, card_on_bench
from vmwire.bench.e1000e import E1000eDriver


@pytest.fixture
def card() -> Iterator[Card82574]:
    """The 82574L, plugged in and nothing more."""
    with card_on_bench() as card:
        yield card


@pytest.fixture
def driver(card: Card82574) -> E1000eDriver:
    """A started driver of it, with extended descriptors, as Linux has it."""
    return card.start()
