# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.nic.e1000.card import FAMILY, Card, card_on_bench
from vmwire.bench.e1000 import E1000Driver


@pytest.fixture(params=FAMILY)
def card(request: pytest.FixtureRequest) -> Iterator[Card]:
    """Each member of the family in turn, plugged in and nothing more."""
    with card_on_bench(request.param) as card:
        yield card


@pytest.fixture
def driver(card: Card) -> E1000Driver:
    """A started driver of it."""
    return card.start()
