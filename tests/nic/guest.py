# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A card with the driver's side of its rings in one process: no sockets, no loop, no threads."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from tests.wire.boxes import End
from vmwire.bus.virtio.driver import DriverRing
from vmwire.bus.virtio.features import (
    VIRTIO_F_VERSION_1,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
)
from vmwire.bus.virtio.split import SplitQueue
from vmwire.engine.arena import Arena
from vmwire.engine.memory import scatter
from vmwire.nic.virtio_net import FEATURES, VirtioNet
from vmwire.wire.frame import F_NEEDS_CSUM, GSO_TCPV4, NO_OFFLOAD, Offload

TSO = Offload(F_NEEDS_CSUM, GSO_TCPV4, 54, 1448, 34, 16)
LEGACY = 0
MODERN = VIRTIO_F_VERSION_1
MERGEABLE = MODERN | VIRTIO_NET_F_MRG_RXBUF


class Guest:
    """Negotiates ``features``, starts ``pairs`` pairs of queues and enables them."""

    live: list[Guest] = []

    def __init__(
        self, features: int = FEATURES, *, pairs: int = 1, size: int = 64, start: bool = True
    ) -> None:
        Guest.live.append(self)
        self.deferred: list[Callable[[], None]] = []
        self.faults: list[int] = []
        self.wakes: Counter[int] = Counter()
        self.card = VirtioNet("n0", self.deferred.append, on_fault=self.faults.append)
        self.arena = Arena(32 << 20, 0x10_0000)
        self.features = features
        self.header_size = 12 if features & (VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF) else 10
        self.card.negotiate(features)
        self.rings = [
            DriverRing(
                self.arena,
                size,
                event_index=bool(features & VIRTIO_RING_F_EVENT_IDX),
                indirect=bool(features & VIRTIO_RING_F_INDIRECT_DESC),
            )
            for _ in range(2 * pairs)
        ]
        self.buffers: dict[int, dict[int, list[tuple[int, int]]]] = {}
        if start:
            for index in range(2 * pairs):
                self.start(index)
            self.turn()

    def start(self, index: int, position: int = 0) -> SplitQueue:
        ring = self.rings[index]
        queue = SplitQueue(
            self.arena.guest_memory(),
            ring.layout,
            writable=not index & 1,
            notify=lambda: self.wakes.update([index]),
            position=position,
            event_index=ring.event_index,
        )
        self.card.enable_queue(index, True)
        self.card.start_queue(index, queue)
        return queue

    def close(self) -> None:
        self.card.reset()
        self.deferred.clear()
        self.arena.close()

    def turn(self, turns: int = 1) -> None:
        """End the loop's turn."""
        for _ in range(turns):
            deferred, self.deferred[:] = self.deferred[:], []
            for function in deferred:
                function()

    # Driver's side

    def send(
        self,
        data: bytes,
        offload: Offload = NO_OFFLOAD,
        *,
        cuts: tuple[int, ...] = (),
        ring: int = 1,
    ) -> None:
        """Send a frame; ``cuts`` are the places where one buffer ends and the next begins."""
        header = offload.packed.ljust(self.header_size, b"\0")
        self.send_raw(header + data, cuts, ring)

    def send_raw(self, data: bytes, cuts: tuple[int, ...] = (), ring: int = 1) -> None:
        places = [0, *cuts, len(data)]
        segments = []
        for start, stop in pairwise(places):
            address = self.arena.allocate(stop - start)
            self.arena.write(address, data[start:stop])
            segments.append((address, stop - start))
        self.rings[ring].add(segments, writable=False)

    def kick(self, index: int = 1) -> None:
        self.card.kick(index)

    def post(self, *sizes: int, ring: int = 0, fill: int = 0xEE) -> None:
        """Post one receive chain of buffers of these sizes, full of old bytes."""
        segments = []
        for size in sizes:
            address = self.arena.allocate(size)
            self.arena.write(address, bytes([fill]) * size)
            segments.append((address, size))
        head = self.rings[ring].add(segments, writable=True)
        self.buffers.setdefault(ring, {})[head] = segments

    def used(self, ring: int = 0) -> list[bytes]:
        """Return what the device wrote to each chain that came back."""
        found = []
        for head, length in self.rings[ring].used():
            segments = self.buffers[ring].pop(head)
            data = b"".join(self.arena.read(address, size) for address, size in segments)
            found.append(data[:length])
        return found

    def received(self, ring: int = 0) -> list[tuple[bytes, Offload]]:
        """Return the frames that came, merged."""
        parts = iter(self.used(ring))
        frames = []
        for data in parts:
            if self.header_size == 12:
                for _ in range(int.from_bytes(data[10:12], "little") - 1):
                    data += next(parts)
            frames.append((data[self.header_size :], Offload.unpack(data[:10])))
        return frames


def joined(guest: Guest, *, room: int = 1 << 30) -> End:
    """Return the other end of the card's wire."""
    end = End("end", room=room)
    end.port.connect(guest.card.port)
    return end


def frame(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def reserve(end: End, data: bytes, offload: Offload = NO_OFFLOAD, spare: int = 0) -> bool:
    views = end.port.reserve(len(data) + spare)
    if views is None:
        return False
    assert sum(len(view) for view in views) == len(data) + spare
    assert len(views[0]) >= min(138, len(data) + spare)
    scatter(data, views)
    end.port.commit(len(data), offload)
    return True
