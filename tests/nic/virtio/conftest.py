# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.nic.virtio.card import TRANSPORTS, Card, make
from vmwire.bench.machine import Bench


@pytest.fixture
def pc() -> Iterator[Bench]:
    with Bench(16 << 20) as bench:
        yield bench


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plug(pc: Bench, transport: str) -> Callable[..., Card]:
    """Put a card in and start its driver (``driver=`` are the driver's own words)."""

    def put_in(**options: Any) -> Card:
        card = make(pc, transport, **options)
        card.driver.start()
        return card

    return put_in


@pytest.fixture
def card(plug: Callable[..., Card]) -> Card:
    return plug()
