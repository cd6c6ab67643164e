# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Random accesses to Intel's cards: registers, descriptors, DMA targets, frames, the clock.

    python -m tests.nic.e1000.fuzz [CARD] [--seed N] [--seconds S]

Without a card the cards take turns, without --seconds it goes on without end.

A run is a row of *episodes*; each has a seed of its own and a fresh card, so that its recorded
script is short and complete. An episode fails when an exception leaves the card, or when a step
takes longer than ``MOST_SECONDS``; the script is then written beside (``CARD-SEED.txt``), and
``vmwire bench --replay FILE`` repeats it. Over all episodes memory must not grow.
"""

from __future__ import annotations

import argparse
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType

from tests.nic.e1000.card import CARDS, packet
from vmwire.bench import e1000_spec as spec
from vmwire.bench import e1000e_spec as spec_82574
from vmwire.bench.cards import Nic
from vmwire.bench.e1000 import Context, E1000Driver
from vmwire.bench.e1000e import EXTENDED, LEGACY, SPLIT, E1000eDriver
from vmwire.bench.machine import Bench
from vmwire.bench.pci import Allocator
from vmwire.wire.frame import Frame, Offload

RAM = 4 << 20
RINGS = (0x10_0000, 0x11_0000)
BUFFERS = 0x20_0000
STEPS = 150
MOST_SECONDS = 2.0
"""For one step, on a busy machine; a step is a few accesses."""
MOST_GROWTH_KIB = 24 << 10

HOT = (
    spec.CTRL, spec.STATUS, spec.EECD, spec.EERD, spec.CTRL_EXT, spec.MDIC, spec.VET, spec.ICR,
    spec.ITR, spec.ICS, spec.IMS, spec.IMC, spec.RCTL, spec.TCTL, spec.RDBAL, spec.RDBAH,
    spec.RDLEN, spec.RDH, spec.RDT, spec.RDTR, spec.RADV, spec.RSRPD, spec.TDBAL, spec.TDBAH,
    spec.TDLEN, spec.TDH, spec.TDT, spec.TIDV, spec.TXDCTL, spec.TADV, spec.RXCSUM, spec.MTA,
    spec.RAL, spec.RAH, spec.VFTA, spec.WUC, 0x0004, 0x5B50,
)  # fmt: skip
HOT_82574 = (
    spec_82574.EIAC, spec_82574.IAM, spec_82574.IVAR, *range(spec_82574.EITR, 0xFC, 4),
    spec_82574.EEWR, spec_82574.EXTCNF_CTRL, spec_82574.PSRCTL, spec_82574.RFCTL,
    spec_82574.MRQC, spec_82574.SWSM, spec_82574.FWSM, spec_82574.RETA, spec_82574.RSSRK,
    spec_82574.TSYNCTXCTL, spec_82574.TSYNCRXCTL, spec_82574.SYSTIML, spec_82574.TIMINCA,
    spec_82574.TIMADJL, spec_82574.TIMADJH, spec_82574.RXMTRL, spec_82574.TXSTMPL,
    spec_82574.RXSTMPL, spec_82574.RXSTMPH, spec_82574.TARC,
    *(register + 0x100 for register in (
        spec.RDBAL, spec.RDLEN, spec.RDH, spec.RDT, spec.TDBAL, spec.TDLEN, spec.TDH, spec.TDT,
        spec.RXDCTL, spec.TXDCTL, spec_82574.TARC,
    )),
)  # fmt: skip
"""What the 82574L has besides."""
EDGES = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0xFFF, 0xFFFF, 0x1_0000, 0xFFFFF, 0x7FFFFFFF,
         0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)  # fmt: skip
LENGTHS = (0, 1, 13, 14, 15, 59, 60, 61, 1514, 1518, 1519, 1522, 2044, 2048, 4096, 9014, 16_380,
           16_384, 65_535, 65_549)  # fmt: skip


class TooSlow(Exception):
    """A step took longer than it may."""


class Episode:
    """One card and what is done to it."""

    def __init__(self, seed: int, card: str | None = None) -> None:
        self.random = Random(seed)
        self.pc = Bench(RAM, seed=seed)
        self.script = self.pc.record()
        self.card = card or CARDS[seed % len(CARDS)]
        self.nic: Nic = self.pc.plug(self.card, addr=4)
        room = Allocator(BUFFERS)
        self.driver: E1000Driver | E1000eDriver
        self.hot: tuple[int, ...] = HOT
        if self.card == "e1000e":
            self.layout = self.random.choice((LEGACY, EXTENDED, SPLIT))
            self.driver = E1000eDriver(self.pc, 4, ring=8, room=room, layout=self.layout)
            self.hot += HOT_82574
        else:
            self.driver = E1000Driver(self.pc, 4, ring=8, room=room)
        self.base = self.driver.base
        self.steps: tuple[Callable[[], None], ...] = (
            self.hot_register, self.hot_register, self.any_register, self.odd_access, self.ports,
            self.tx_descriptors, self.tx_descriptors, self.rx_descriptors, self.frames, self.frames,
            self.wire, self.clock, self.clock, self.config, self.rings, self.tso, self.phy,
            self.memory,
        )  # fmt: skip
        if isinstance(self.driver, E1000eDriver):
            self.steps += (self.queues, self.queues, self.messages, self.stamps)
        self.count = 0

    def close(self) -> None:
        self.pc.close()

    def run(self) -> None:
        """Do the episode's steps; raises what goes wrong."""
        if self.random.random() < 0.7:
            self.rings()
        for _ in range(STEPS):
            step = self.random.choice(self.steps)
            with limited():
                step()
            self.nic.wire.received.clear()
            self.count += 1

    # --- values

    def value(self) -> int:
        if self.random.random() < 0.5:
            return self.random.choice(EDGES)
        return self.random.getrandbits(self.random.choice((4, 8, 16, 32)))

    def address(self) -> int:
        """Memory, the card's own window, its end, the rings themselves, nothing at all."""
        pick = self.random.choice
        base = pick((0, BUFFERS, *RINGS, RAM - 64, RAM, self.base, self.base + spec.TDT,
                     0xFFFF_FFFF, (1 << 64) - 8, 1 << 40))  # fmt: skip
        return base + pick((0, 0, 1, 3, 8, 16, 4096)) & (1 << 64) - 1

    def data(self, length: int) -> bytes:
        if self.random.random() < 0.4:
            return self.nearly_right(length)
        head = self.random.choice((
            bytes.fromhex("525400123456 525500020202 0800"),
            bytes.fromhex("ffffffffffff 525500020202 0806"),
            bytes.fromhex("01005e000001 525500020202 86dd"),
            bytes.fromhex("525400123456 525500020202 8100 0007 0800 45"),
            bytes.fromhex("525400123456 525500020202 0800 4500 05dc 1234 4000 4006"),
            bytes.fromhex("525400123456 525500020202 86dd 6000 0000 0100 0640"),
            bytes.fromhex("0180c2000001 525500020202 8808 0001 ffff"),
            b"",
        ))  # fmt: skip
        return (head + self.random.randbytes(64)).ljust(length, b"\x5a")[:length]

    def nearly_right(self, length: int) -> bytes:
        """A packet whose every field is right, or all but one."""
        payload = bytes(max(0, min(length, 9000) - 60))
        pick = self.random.choice
        data = bytearray(packet(pick((4, 6)), pick((6, 17)), payload, vlan=pick((False, True))))
        if pick((True, False)):
            data[self.random.randrange(12, min(60, len(data)))] = pick((0, 1, 0x45, 0x60, 0xFF))
        return bytes(data[: max(length, pick((0, 60)))])

    # --- steps

    def hot_register(self) -> None:
        register = self.random.choice(self.hot)
        if self.random.random() < 0.3:
            self.driver.read(register)
        else:
            self.driver.write(register, self.value())

    def any_register(self) -> None:
        register = self.random.randrange(0, 0x20000, 4)
        self.driver.write(register, self.value())
        self.driver.read(register)

    def odd_access(self) -> None:
        at = self.base + self.random.randrange(-8, 0x20008)
        size = self.random.choice((1, 2, 3, 4, 8, 16))
        self.pc.read(at, size)
        self.pc.write(at, self.random.randbytes(size))

    def ports(self) -> None:
        at = self.driver.ports + self.random.randrange(0, 64)
        self.pc.outl(self.driver.ports, self.value())
        self.pc.outl(at, self.value())
        self.pc.inl(at)
        self.pc.outb(at, self.value() & 0xFF)

    def rings(self) -> None:
        """Rings that make sense, mostly."""
        write, pick = self.driver.write, self.random.choice
        for base, ring in zip((spec.RDBAL, spec.TDBAL), RINGS, strict=True):
            write(base, ring)
            write(base + 4, 0)
            write(base + 8, pick((128, 256, 4096, 0x80, 0)))
            write(base + 16, pick((0, 0, 1, 7)))
            write(base + 24, pick((0, 5, 7, 8, 200)))
        write(spec.RCTL, spec.RCTL_EN | self.random.getrandbits(32) & ~spec.RCTL_LOOPBACK)
        if pick((True, False, False)):
            write(spec.RCTL, spec.RCTL_EN | self.random.getrandbits(32))
        write(spec.TCTL, spec.TCTL_EN | pick((0, spec.TCTL_PSP)))
        write(spec.CTRL, spec.CTRL_SLU | pick((0, spec.CTRL_VME, 1 << 27)))
        write(spec.RXCSUM, self.random.getrandbits(11))
        write(spec.IMS, self.random.getrandbits(17))
        write(pick((spec.ITR, spec.RDTR, spec.RADV, spec.TIDV, spec.TADV)), self.value())
        self.pc.clock_step(pick((0, 600_000_000)))

    def tx_descriptors(self) -> None:
        for _ in range(self.random.randrange(1, 9)):
            slot = self.random.randrange(16)
            self.pc.write(RINGS[1] + 16 * slot, self.tx_descriptor())
        self.driver.write(spec.TDT, self.random.choice((0, 1, 4, 7, 8, 15, self.value())))

    def tx_descriptor(self) -> bytes:
        random, pick = self.random, self.random.choice
        kind = random.random()
        if kind < 0.1:
            return random.randbytes(16)
        command = random.getrandbits(8)
        if kind < 0.35:
            return spec.TX_LEGACY.pack(
                self.address(), min(pick(LENGTHS), 0xFFFF), pick((0, 14, 40, 255)),
                command & ~spec.TX_DEXT, 0, pick((0, 14, 34, 255)), random.getrandbits(16),
            )  # fmt: skip
        if kind < 0.6:
            small = (0, 13, 14, 24, 34, 50, 54, 255)
            return spec.TX_CONTEXT.pack(
                pick(small), pick(small), pick((0, 33, 53, 0xFFFF)), pick(small), pick(small),
                pick((0, 60, 0xFFFF)),
                pick((0, 1, 0xFFFFF)) | (command | spec.TX_DEXT) << 24, 0,
                pick(small), pick((0, 1, 536, 1460, 0xFFFF)),
            )  # fmt: skip
        length = pick((*LENGTHS, 0xFFFFF))
        return spec.TX_DATA.pack(
            self.address(), length | spec.TX_DATA_TYPE | (command | spec.TX_DEXT) << 24,
            0, random.getrandbits(2), random.getrandbits(16),
        )  # fmt: skip

    def rx_descriptors(self) -> None:
        for slot in range(16):
            self.pc.write(RINGS[0] + 16 * slot, self.address().to_bytes(8, "little") + bytes(8))
        self.driver.write(spec.RDT, self.random.choice((0, 1, 4, 7, 8, 15, self.value())))

    def frames(self) -> None:
        frames = []
        for _ in range(self.random.randrange(1, 6)):
            data = self.data(self.random.choice(LENGTHS))
            offload = Offload()
            if self.random.random() < 0.3:
                offload = Offload(
                    self.random.getrandbits(2), self.random.choice((0, 1, 3, 4, 5, 0x81)),
                    self.random.choice(EDGES) & 0xFFFF, self.random.choice((0, 1, 536, 1460)),
                    self.random.choice((0, 34, 54, 0xFFFF)), self.random.choice((0, 6, 16, 0xFFFF)),
                )  # fmt: skip
            frames.append(Frame.of(data, offload))
        self.nic.wire.send(frames)

    def wire(self) -> None:
        wire = self.nic.wire
        self.random.choice((
            lambda: wire.set_link(False), lambda: wire.set_link(True), lambda: wire.set_link(True),
            lambda: wire.set_full(True), lambda: wire.set_full(False), lambda: wire.set_full(False),
            lambda: wire.accept_superframes(True), lambda: wire.accept_superframes(False),
            lambda: self.pc.reset(self.nic), lambda: self.pc.reload(self.nic),
            self.driver.statistics,
        ))()  # fmt: skip

    def clock(self) -> None:
        self.pc.clock_step(self.random.choice((1, 300, 50_000, 70_000_000, 1_000_000_000)))

    def config(self) -> None:
        if self.random.random() < 0.5:
            self.driver.pci.config_write(4, 7, 2)
            self.driver.pci.place(0, self.base)
        else:
            offset = self.random.randrange(0, 256)
            size = self.random.choice((1, 2, 4))
            offset &= ~(size - 1)
            self.driver.pci.config_write(offset, self.value() & (1 << 8 * size) - 1, size)
            self.driver.pci.config_read(offset, size)

    def tso(self) -> None:
        """A packet to be segmented, nearly right."""
        size = self.random.choice((100, 2000, 30_000, 65_000))
        self.pc.write(BUFFERS, self.data(200).ljust(256, b"\0"))
        context = Context(
            14, 24, 33, 34, 50, 0, self.random.random() < 0.8, self.random.random() < 0.8, True,
            size, self.random.choice((0, 54, 54, 54, 255)),
            self.random.choice((0, 1, 8, 1460, 1460)),
        )  # fmt: skip
        head = RINGS[1]
        word = spec.TX_DATA_TYPE | (spec.TX_DEXT | spec.TX_TSE | spec.TX_RS) << 24
        self.pc.write(head, context.pack(spec.TX_RS))
        self.pc.write(head + 16, spec.TX_DATA.pack(BUFFERS, word | 54, 0, 3, 0))
        self.pc.write(
            head + 32, spec.TX_DATA.pack(BUFFERS + 54, word | size | spec.TX_EOP << 24, 0, 3, 0)
        )
        self.driver.write(spec.TDH, 0)
        self.driver.write(spec.TDT, 3)

    # --- what the 82574L has besides

    def queues(self) -> None:
        """The second queue, RSS and the layouts of descriptors, mostly such as make sense."""
        write, pick, bits = self.driver.write, self.random.choice, self.random.getrandbits
        stride = pick((0, spec_82574.QUEUE_STRIDE))
        for base, ring in zip((spec.RDBAL, spec.TDBAL), RINGS, strict=True):
            write(base + stride, ring)
            write(base + stride + 8, pick((128, 256, 4096, 0)))
            write(base + stride + 16, pick((0, 0, 1, 7)))
            write(base + stride + 24, pick((0, 4, 7, 8, self.value())))
        write(spec_82574.MRQC, pick((0, 1, 1, bits(2))) | bits(5) << 16)
        for table in (spec_82574.RETA, spec_82574.RSSRK):
            write(table + 4 * bits(3), pick((0, 0x80808080, 0x80008000, bits(32))))
        write(spec_82574.RFCTL, pick((0, spec_82574.RFCTL_EXTENDED, bits(16))))
        write(spec_82574.PSRCTL, pick((0, 0x0004_0402, 0x0101_0101, bits(32))))
        split = pick((0, spec_82574.RCTL_SPLIT))
        write(spec.RCTL, spec.RCTL_EN | spec.RCTL_UPE | split | pick((0, bits(28))))
        write(spec.RXCSUM, bits(14))

    def messages(self) -> None:
        """MSI-X: its table, its switch, who interrupts by which vector."""
        pick, bits, driver = self.random.choice, self.random.getrandbits, self.driver
        assert isinstance(driver, E1000eDriver)
        if pick((True, False)):
            driver.enable_msix()
        else:
            table = driver.pci.bars[3].address
            self.pc.write(table + bits(14), self.random.randbytes(pick((1, 4, 8))))
        driver.write(spec_82574.IVAR, pick((bits(32), 0x0009_8080, 0xFFFF_FFFF)))
        driver.write(spec_82574.EIAC, bits(5) << 20)
        driver.write(spec.CTRL_EXT, bits(32))
        driver.write(spec_82574.EITR + 4 * (bits(3) % 5), self.value())
        driver.write(spec.IMS, bits(25))
        driver.write(spec.ICS, bits(25))

    def stamps(self) -> None:
        """The clock and what it stamps."""
        driver = self.driver
        assert isinstance(driver, E1000eDriver)
        driver.write(spec_82574.TIMINCA, self.random.choice((0x0100_0000 | 40 << 18, self.value())))
        driver.write(spec_82574.TSYNCRXCTL, self.random.getrandbits(5))
        driver.write(spec_82574.TSYNCTXCTL, self.random.getrandbits(5))
        driver.clock()
        driver.rx_stamp()
        driver.tx_stamp()

    def phy(self) -> None:
        random = self.random
        operation = random.choice((spec.MDIC_READ, spec.MDIC_WRITE, 0, 3 << 26))
        self.driver.write(
            spec.MDIC, operation | random.choice((0, 1, 1, 1, 31)) << 21
            | random.choice((0, random.getrandbits(5))) << 16 | random.getrandbits(16)
            | random.getrandbits(1) << 29
        )  # fmt: skip
        bus = 0 if random.random() < 0.3 else spec.EECD_CS | spec.EECD_REQ
        for _ in range(60):
            self.driver.write(spec.EECD, random.getrandbits(8) | bus)

    def memory(self) -> None:
        self.pc.write(self.random.choice(RINGS) + 16 * self.random.randrange(16),
                      self.random.randbytes(16))  # fmt: skip


@contextmanager
def limited() -> Iterator[None]:
    """Let the body take ``MOST_SECONDS``, and no more even if it never ends."""

    def on_alarm(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlow(f"a step took longer than {MOST_SECONDS} s")

    # the processor's time, because others use the machine; no test's own alarm is touched
    previous = signal.signal(signal.SIGVTALRM, on_alarm)
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def run_episode(seed: int, folder: Path, card: str | None = None) -> int:
    """Run one; on a failure write its script into ``folder`` and raise. Returns its steps."""
    episode = Episode(seed, card)
    try:
        episode.run()
    except BaseException:
        path = folder / f"{episode.card}-{seed}.txt"
        episode.script.save(path)
        print(f"seed {seed} failed in step {episode.count}: {path}")
        raise
    finally:
        episode.close()
    return episode.count


def resident_kib() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("card", nargs="?", choices=CARDS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--folder", type=Path, default=Path.cwd())
    options = parser.parse_args()
    begin, seed, steps, warm = time.monotonic(), options.seed, 0, 0
    while options.seconds is None or time.monotonic() < begin + options.seconds:
        steps += run_episode(seed, options.folder, options.card)
        seed += 1
        done = seed - options.seed
        if done == 100:
            warm = resident_kib()
        if done % 100 == 0:
            grown = resident_kib() - warm
            print(f"{done} episodes, {steps} steps, {grown} KiB grown", flush=True)
            if grown > MOST_GROWTH_KIB:
                raise SystemExit(f"memory grows: {grown} KiB since the hundredth episode")
    print(f"{seed - options.seed} episodes, {steps} steps: nothing found")


if __name__ == "__main__":
    main()
