# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a frame costs between a guest's ring and the wire, without system calls and without a guest.

The driver's side prepares a ring full of buffers; only the card's side is timed. Microseconds per
frame, median and best of many rounds:

    python benchmarks/ring.py [--profile CASE]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from tests.nic.guest import Guest  # noqa: E402

from benchmarks.cases import Cases, run  # noqa: E402
from vmwire.nic.virtio_net import FEATURES  # noqa: E402
from vmwire.wire.frame import F_NEEDS_CSUM, GSO_TCPV4, Frame, Offload  # noqa: E402
from vmwire.wire.port import EVERYTHING, Port  # noqa: E402

TSO = Offload(F_NEEDS_CSUM, GSO_TCPV4, 54, 1448, 34, 16)
SUPERFRAME = 65226
RING = 1024

Segments = list[tuple[int, int]]


class Driver:
    """One guest, which makes a ring full of buffers ready for each round."""

    def __init__(self, queue: int, chain: Sequence[int], frames: int) -> None:
        self.frames = frames
        self.guest = Guest(FEATURES, size=RING)
        self.port = Port("sink", len, accepts=EVERYTHING)
        self.port.connect(self.guest.card.port)
        self.ring = self.guest.rings[queue]
        self.writable = queue == 0
        allocate = self.guest.arena.allocate
        count = RING if self.writable else frames
        self.chains: list[Segments] = [
            [(allocate(size), size) for size in chain] for _ in range(count)
        ]
        self.posted: dict[int, Segments] = {}

    def refill(self) -> None:
        for head, _ in self.ring.used():
            self.chains.append(self.posted.pop(head))
        while self.chains:
            chain = self.chains.pop()
            self.posted[self.ring.add(chain, writable=self.writable, publish=False)] = chain
        self.ring.publish()


class Transmit(Driver):
    """``frames`` at once of ``size`` bytes in ``cuts`` buffers each."""

    def __init__(self, size: int, cuts: int, frames: int) -> None:
        super().__init__(1, [12 + size // cuts] + [size // cuts] * (cuts - 1), frames)
        for chain in self.chains:
            self.guest.arena.write(chain[0][0], TSO.packed)

    def run(self) -> None:
        self.guest.card.kick(1)
        while self.guest.deferred:
            self.guest.turn()


class Receive(Driver):
    """``frames`` of ``size`` bytes copied into buffers of ``buffer`` bytes, ``batch`` at once."""

    def __init__(self, size: int, buffer: int, frames: int, batch: int = 1) -> None:
        super().__init__(0, [buffer], frames)
        self.batch = [Frame.of(bytes(size), TSO)] * batch

    def run(self) -> None:
        for _ in range(0, self.frames, len(self.batch)):
            assert self.port.send(self.batch)
        self.guest.turn()


class Reserve(Driver):
    """``frames`` of ``size`` bytes reserved and committed, without writing them."""

    def __init__(self, size: int, buffer: int, frames: int) -> None:
        super().__init__(0, [buffer], frames)
        self.size = size

    def run(self) -> None:
        for _ in range(self.frames):
            assert self.port.reserve(self.size)
            self.port.commit(self.size, TSO)
        self.guest.turn()


CASES: Cases = {
    "tx 64 B, 64 at once": lambda: Transmit(64, 1, 64),
    "tx 64 B, 1 at once": lambda: Transmit(64, 1, 1),
    "tx 1514 B in 2 buffers, 64 at once": lambda: Transmit(1514, 2, 64),
    "tx superframe in 18 buffers, 4 at once": lambda: Transmit(SUPERFRAME, 18, 4),
    "tx superframe in 18 buffers, 1 at once": lambda: Transmit(SUPERFRAME, 18, 1),
    "rx 64 B, 64 at once": lambda: Receive(64, 1536, 256, 64),
    "rx 64 B, 1 at once": lambda: Receive(64, 1536, 256),
    "rx superframe copied, buffers of 1.5K": lambda: Receive(SUPERFRAME, 1536, 16),
    "rx superframe copied, buffers of 4K": lambda: Receive(SUPERFRAME, 4096, 32),
    "rx superframe reserved, buffers of 1.5K": lambda: Reserve(SUPERFRAME, 1536, 16),
    "rx superframe reserved, buffers of 4K": lambda: Reserve(SUPERFRAME, 4096, 32),
    "rx 1514 B reserved": lambda: Reserve(1514, 1536, 256),
}


def main() -> None:
    run("what a frame costs in the ring", "microseconds per frame", CASES)


if __name__ == "__main__":
    main()
