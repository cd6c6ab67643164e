# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Random accesses to virtio cards: registers, rings, requests, frames, the far end, reloads.

    python -m tests.nic.virtio.fuzz [--seed N] [--seconds S]

Each *episode* has a seed of its own and a fresh card. It fails when an exception leaves the card,
when a step takes longer than ``MOST_SECONDS``, or when the card doesn't work again after a reset.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from random import Random

from tests.nic.e1000.fuzz import limited
from tests.nic.virtio.card import MAC, OTHER, TRANSPORTS, Card, frame, make
from vmwire.bench.machine import Bench
from vmwire.bench.virtio_mmio import Mmio
from vmwire.bench.virtio_pci import LegacyPci, ModernPci
from vmwire.bus.virtio.device import NEEDS_RESET
from vmwire.wire.frame import Frame, Offload

RAM = 8 << 20
STEPS = 120
EDGES = (0, 1, 2, 3, 4, 7, 8, 15, 0x40, 0xFF, 0x100, 0xFFFF, 0x10000, 0x100000, 0x7FFFFFFF,
         0x80000000, 0xFFFFFFFF)  # fmt: skip


class Episode:
    """One card and what is done to it."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.pc = Bench(RAM, seed=seed)
        options = {"mq": True, "queues": 2} if random.random() < 0.3 else {}
        self.card: Card = make(self.pc, random.choice(TRANSPORTS), **options)
        self.card.driver.start()

    def run(self) -> int:
        """Do everything; return how many steps there were."""
        random = self.random
        steps: list[Callable[[], None]] = [
            self.write_register, self.write_register, self.read_register, self.write_ring,
            self.write_ring, self.kick, self.kick, self.send, self.receive, self.command, self.link,
            self.reload, self.start_again, self.bus_master, self.pass_time,
        ]  # fmt: skip
        for _ in range(STEPS):
            with limited():
                random.choice(steps)()
        with limited():
            self.check()
        return STEPS

    def close(self) -> None:
        self.pc.close()

    def number(self) -> int:
        """A number that may be at some edge."""
        random = self.random
        if random.random() < 0.6:
            return random.choice(EDGES)
        return random.getrandbits(random.choice((4, 8, 16, 32)))

    # Steps

    def _place(self) -> tuple[bool, int]:
        """Somewhere among the registers: whether it is a port, and its address."""
        random, transport = self.random, self.card.driver.transport
        if isinstance(transport, LegacyPci) or (
            isinstance(transport, ModernPci) and 0 in transport.bars and random.random() < 0.3
        ):
            return True, transport.bars[0].address + random.randrange(32)
        if isinstance(transport, Mmio):
            return False, transport.base + random.randrange(0x120)
        assert isinstance(transport, ModernPci)
        start = random.choice((0, 0, 0, 0x1000, 0x2000, 0x3000))
        return False, transport.bars[4].address + start + random.randrange(0x40)

    def write_register(self) -> None:
        port, address = self._place()
        size = self.random.choice((1, 2, 4))
        address &= -size
        value = self.number() & (1 << 8 * size) - 1
        if port:
            {1: self.pc.outb, 2: self.pc.outw, 4: self.pc.outl}[size](address, value)
        else:
            self.pc.write(address, value.to_bytes(size, "little"))

    def read_register(self) -> None:
        port, address = self._place()
        if port:
            self.pc.inl(address & -4)
        else:
            self.pc.read(address, self.random.choice((1, 2, 4, 8)))

    def write_ring(self) -> None:
        """Change something in a ring, or in what it points to."""
        random = self.random
        ring = random.choice(list(self.card.driver.rings.values()))
        start = random.choice((ring.descriptors, ring.available, ring.used_ring))
        size = random.choice((1, 2, 4, 8, 16))
        data = self.number().to_bytes(16, "little")[:size]
        self.pc.write(start + random.randrange(64), data)

    def kick(self) -> None:
        ring = self.random.choice(list(self.card.driver.rings.values()))
        if self.random.random() < 0.5:
            ring.next = (ring.next + self.random.choice((1, 2, 300))) & 0xFFFF
            ring.publish()
        self.card.driver.transport.kick(self.random.choice(list(self.card.driver.rings)))

    def send(self) -> None:
        ring = self.card.driver.rings[1]
        if ring.free > 4:
            header = Offload(*(self.random.choice((0, 1, 3, 5, 60, 0xFF)) for _ in range(6)))
            length = self.random.choice((14, 60, 1514, 9000))
            self.card.driver.send(
                frame(OTHER, length=length), header, pieces=self.random.choice((1, 2, 4))
            )
        self.card.wire.take()

    def receive(self) -> None:
        lengths = [self.random.choice((14, 60, 1514, 4000)) for _ in range(3)]
        self.card.wire.send([Frame.of(frame(MAC, length=length)) for length in lengths])

    def command(self) -> None:
        driver = self.card.driver
        ring = driver.rings.get(driver.control_index)
        if ring is not None and ring.free > 4:
            room = driver.memory.allocate(64)
            said = bytes((self.random.randrange(7), self.random.randrange(6)))
            self.pc.write(room, said + self.random.randbytes(20))
            parts = [(room, self.random.choice((1, 2, 3, 8, 30)), 0), (room + 60, 1, 2)]
            ring.add_parts(parts)
            driver.transport.kick(driver.control_index)

    def link(self) -> None:
        self.card.set_link(self.random.random() < 0.7)

    def reload(self) -> None:
        self.card.reload()

    def start_again(self) -> None:
        if self.random.random() < 0.3:
            self.restart()

    def bus_master(self) -> None:
        transport = self.card.driver.transport
        if isinstance(transport, ModernPci | LegacyPci):
            transport.pci.config_write(4, self.random.choice((3, 7, 7)), 2)

    def pass_time(self) -> None:
        self.pc.clock_step(self.random.choice((0, 1000, 200_000_000)))

    def restart(self) -> None:
        driver = self.card.driver
        driver.memory.room.next = 0x10_0000
        if isinstance(driver.transport, ModernPci | LegacyPci):
            driver.transport.pci.config_write(4, 7, 2)
        driver.start()

    def check(self) -> None:
        """After a reset the card works."""
        self.card.set_link(True)
        self.restart()
        card = self.card
        card.wire.take()
        assert not card.driver.transport.status() & NEEDS_RESET
        card.driver.receive()
        card.wire.send([frame(MAC, b"whole")])
        assert frame(MAC, b"whole") in [data for data, _ in card.driver.receive()]
        card.driver.send(frame(OTHER, b"whole"))
        assert frame(OTHER, b"whole") in card.wire.take()


def run_episode(seed: int) -> int:
    episode = Episode(seed)
    try:
        return episode.run()
    except BaseException:
        print(f"seed {seed}, {type(episode.card.driver.transport).__name__}")
        raise
    finally:
        episode.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    if options.seed is not None:
        run_episode(options.seed)
        return
    end = time.monotonic() + options.seconds
    seed = 0
    while time.monotonic() < end:
        run_episode(seed)
        seed += 1
    print(f"{seed} episodes")


if __name__ == "__main__":
    main()
