# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.nic.e1000.card import KINDS, Card, Driver, card_on_bench


@pytest.fixture(params=KINDS)
def card(request: pytest.FixtureRequest) -> Iterator[Card]:
    """Each kind of card in turn, plugged in and nothing more."""
    with card_on_bench(request.param) as card:
        yield card


@pytest.fixture
def driver(card: Card) -> Driver:
    """A started driver of it."""
    return card.start()
