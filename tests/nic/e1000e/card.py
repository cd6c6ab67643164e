# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The 82574L on the bench, for what only it has; what it has in common with its elders is watched
in ``tests.nic.e1000``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.nic.e1000.card import MAC
from vmwire.bench.e1000_spec import RCTL_BAM, RCTL_SECRC
from vmwire.bench.e1000e import EXTENDED, E1000eDriver
from vmwire.bench.machine import Bench

STRIP = RCTL_BAM | RCTL_SECRC


class Card82574:
    """``pc``, ``nic``, and a ``driver`` that isn't started."""

    def __init__(self, pc: Bench, **properties: Any) -> None:
        self.pc = pc
        self.nic = pc.plug("e1000e", id="nic0", mac=MAC, addr=4, **properties)
        self.driver = E1000eDriver(pc, 4)

    def start(self, *, receive: int = STRIP, layout: str = EXTENDED, **about: Any) -> E1000eDriver:
        """Bring the card up; ``about`` goes to the driver."""
        self.driver = E1000eDriver(self.pc, 4, layout=layout, **about)
        return self.driver.start(receive=receive)

    def take(self) -> list[bytes]:
        """What came out on the wire."""
        return self.nic.wire.take()

    def vectors(self) -> list[int]:
        """The messages that came since this was asked last."""
        found = list(self.nic.irq.messages)
        self.nic.irq.messages.clear()
        return found


@contextmanager
def card_on_bench(**properties: Any) -> Iterator[Card82574]:
    with Bench(32 << 20) as pc:
        yield Card82574(pc, **properties)
