# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Somebody else who serves rings, by mappings of its own; and a wire's end that has such a one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from tests.wire.boxes import End
from vmwire.bus.virtio.handed_on import Handed, NotTaken, TakingPort
from vmwire.bus.virtio.split import Layout, SplitQueue
from vmwire.engine.memory import GuestMemory, Region, gather, map_region, scatter
from vmwire.nic.virtio_net import FEATURES
from vmwire.wire.port import EVERYTHING, Room

FAR_TOO_MANY = 1 << 30


class FakeTaker:
    """Keeps what is sent (with its header), and sends what ``deliver`` is given.

    ``refuses``: why it takes nothing. ``forgets``: it doesn't know where the rings stand.
    """

    def __init__(self, features: int = FEATURES) -> None:
        self.features = features
        self.refuses = ""
        self.too_late = False
        """Refuse only when the transmit ring has been served once."""
        self.forgets = False
        self.handed: Handed | None = None
        self.times = 0
        """How often rings were handed on."""
        self.changed: Callable[[], None] = lambda: None
        """Called while rings go either way: what a netdev does then is heard of at the card."""
        self.lost: Callable[[str], None] = lambda why: None
        self.got: list[bytes] = []
        self.signals: list[tuple[int, int, int]] = []
        self._regions: list[Region] = []
        self._queues: dict[int, SplitQueue] = {}

    @property
    def queues(self) -> list[int]:
        """The rings that it serves."""
        return sorted(self._queues)

    def take(self, handed: Handed, lost: Callable[[str], None]) -> None:
        if self.refuses and not self.too_late:
            raise NotTaken(self.refuses)
        assert self.handed is None, "handed on twice"
        self.handed, self.lost = handed, lost
        self.times += 1
        self.changed()
        self._regions = [
            map_region(each.fd, each.here, each.info.size, each.info.offset)
            for each in handed.regions
        ]
        guest = GuestMemory(
            map_region(each.fd, each.info.guest_address, each.info.size, each.info.offset)
            for each in handed.regions
        )
        self._regions += guest.regions
        for ring in handed.rings:
            at = ring.addresses
            offset = handed.regions[0].info.user_address - handed.regions[0].info.guest_address
            layout = Layout(
                ring.size, at.descriptors - offset, at.available - offset, at.used - offset
            )
            self._queues[ring.index] = SplitQueue(
                guest, layout, writable=not ring.index & 1,
                notify=lambda call=ring.call: os.eventfd_write(call, 1),  # type: ignore[misc]
                position=ring.base, event_index=True,
            )  # fmt: skip
        if self.refuses:
            self.send()
            self.give_back()
            raise NotTaken(self.refuses)

    def send(self, index: int = 1) -> int:
        """Take what a ring has; return how many chains."""
        queue = self._queues[index]
        chains = queue.take(queue.size)
        for at, length in enumerate(chains.lengths):
            self.got.append(gather(chains.views_of(at, at + 1), length))
        queue.complete(chains.tokens)
        queue.flush()
        queue.want_kicks()
        return len(chains)

    def deliver(self, data: bytes, index: int = 0) -> None:
        """Put a frame into a ring."""
        queue = self._queues[index]
        chains = queue.take(1)
        scatter(data, chains.views)
        queue.complete(chains.tokens, [len(data)])
        queue.flush()

    def signal(self, index: int, call: int, err: int) -> None:
        self.signals.append((index, call, err))

    def give_back(self) -> Mapping[int, int]:
        assert self.handed is not None, "given back twice"
        self.changed()
        self.handed = None
        bases = {index: queue.position for index, queue in self._queues.items()}
        for queue in self._queues.values():
            queue.close()
        for region in self._regions:
            region.close()
        self._queues, self._regions = {}, []
        return {} if self.forgets else bases

    def stats(self) -> Mapping[str, Any]:
        return {"by": "a test"}


class TakingEnd(End):
    """An end of a wire that can take rings."""

    def __init__(self, name: str, taker: FakeTaker) -> None:
        super().__init__(name)
        self.port: TakingPort = TakingPort(name, self.receive, accepts=EVERYTHING)
        self.port.taker = taker
        taker.changed = self._change

    def _change(self) -> None:
        """As a tap does: there is room for reservations only while the tap is its own."""
        self.port.set_room(Room(self.reserve, self.commit, self.cancel))
        self.port.set_room(None)
