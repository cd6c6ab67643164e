# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What an Intel card costs by itself: on the bench, without a virtual machine or system calls.

The driver's side prepares the rings; only the accesses that make the card work are timed.
Microseconds per frame (or access, or interrupt), median and best of many rounds, and what the
median makes a second. Below that, how many register accesses a driver like Linux's needs a frame.

    python benchmarks/bench_e1000.py [--card e1000|e1000e] [--profile CASE]

The 82574L is driven with extended descriptors, as by Linux.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks.cases import Cases, run  # noqa: E402
from vmwire.bench import e1000_spec as spec  # noqa: E402
from vmwire.bench.e1000 import Context, E1000Driver, E1000Registers  # noqa: E402
from vmwire.bench.e1000e import EXTENDED, E1000eDriver  # noqa: E402
from vmwire.bench.machine import Bench  # noqa: E402
from vmwire.wire.frame import F_NEEDS_CSUM, GSO_TCPV4, NO_OFFLOAD, Frame, Offload  # noqa: E402
from vmwire.wire.port import EVERYTHING, Port  # noqa: E402

MAC = bytes.fromhex("525400123456")
CHECKSUM = Offload(F_NEEDS_CSUM, 0, 0, 0, 34, 16)
TSO = Offload(F_NEEDS_CSUM, GSO_TCPV4, 54, 1448, 34, 16)
HEADER = (
    MAC + bytes.fromhex("525500020202 0800 4500 0000 0000 4000 4006 0000 0a000202 0a00020f")
    + bytes.fromhex("1f90 9c40 00000001 00000001 5010 ffff 0000 0000")
)  # fmt: skip
SUPERFRAME = 54 + 44 * 1448
RING = 256


Drivers = Mapping[str, Callable[..., E1000Driver | E1000eDriver]]
DRIVERS: Drivers = {"e1000": E1000Driver, "e1000e": partial(E1000eDriver, layout=EXTENDED)}


class Rig:
    """One card and its driver."""

    frames = 1
    card = "e1000"

    def __init__(self, drivers: Drivers | None = None) -> None:
        self.pc = Bench(32 << 20)
        self.nic = self.pc.plug(self.card, mac=MAC, addr=4)
        self.driver = (drivers or DRIVERS)[self.card](self.pc, 4, ring=RING)
        self.driver.start(receive=spec.RCTL_BAM | spec.RCTL_SECRC)
        self.driver.write(spec.RXCSUM, spec.RXCSUM_IP | spec.RXCSUM_TCP_UDP)
        self.nic.wire.port.disconnect()
        self.port = Port("sink", len, accepts=EVERYTHING)
        self.port.connect(self.nic.function.port)
        self.pc.clock_step(1_000_000_000)
        self.driver.read(spec.ICR)

    def refill(self) -> None:
        """Make ready for a round."""


class Transmit(Rig):
    """``frames`` at once of ``size`` bytes."""

    def __init__(self, size: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        frame = (HEADER + bytes(1500))[:size]
        for _ in range(RING):
            self.driver.send(frame, kick=False)
        self.tail = 0

    def run(self) -> None:
        self.tail = (self.tail + self.frames) % RING
        self.driver.write(spec.TDT, self.tail)


class TransmitSuperframe(Rig):
    """``frames`` superframes at once, each a context and 17 data descriptors."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.frame = HEADER + bytes(SUPERFRAME - 54)
        self.context = Context(
            14, 24, 33, 34, 50, 0, segment=True, payload=SUPERFRAME - 54, header=54, mss=1448
        )

    def refill(self) -> None:
        for _ in range(self.frames):
            self.driver.send_extended(
                self.frame, self.context, options=3, pieces=[54, *[4096] * 15], kick=False
            )

    def run(self) -> None:
        self.driver.kick()


class Receive(Rig):
    """``frames`` of ``size`` bytes, ``batch`` at once, with ``offload`` still to be done."""

    def __init__(self, size: int, frames: int, batch: int, offload: Offload = NO_OFFLOAD) -> None:
        super().__init__()
        self.frames = frames
        self.batch = [Frame.of(HEADER.ljust(size, b"\0"), offload)] * batch

    def refill(self) -> None:
        head = self.driver.read(spec.RDH)
        self.driver.write(spec.RDT, (head - 1) % RING)

    def run(self) -> None:
        for _ in range(0, self.frames, len(self.batch)):
            assert self.port.send(self.batch) == len(self.batch)


class Access(Rig):
    """A register read or written, 100 times."""

    frames = 100

    def __init__(self, access: Callable[[Rig], object]) -> None:
        super().__init__()
        self.access = access

    def run(self) -> None:
        access = self.access
        for _ in range(self.frames):
            access(self)


def interrupt(case: Rig) -> None:
    """One whole interrupt: cause, line up, the handler's read, line down."""
    case.driver.write(spec.ICS, spec.ICR_RXT0)
    case.driver.read(spec.ICR)


class Interrupts(Access):
    """100 interrupts."""

    def __init__(self) -> None:
        super().__init__(interrupt)
        self.driver.write(spec.IMS, spec.ICR_RXT0)


CASES: Cases = {
    "tx 64 B, 64 at once": lambda: Transmit(64, 64),
    "tx 64 B, 1 at once": lambda: Transmit(64, 1),
    "tx 1514 B, 64 at once": lambda: Transmit(1514, 64),
    "tx 1514 B, 1 at once": lambda: Transmit(1514, 1),
    "tx superframe of 44 segments, 4 at once": lambda: TransmitSuperframe(4),
    "tx superframe of 44 segments, 1 at once": lambda: TransmitSuperframe(1),
    "rx 64 B, 64 at once": lambda: Receive(64, 192, 64),
    "rx 64 B, 1 at once": lambda: Receive(64, 192, 1),
    "rx 1514 B, 64 at once": lambda: Receive(1514, 192, 64),
    "rx 1514 B, 1 at once": lambda: Receive(1514, 192, 1),
    "rx 1514 B, checksum to do, 64 at once": lambda: Receive(1514, 192, 64, CHECKSUM),
    "rx superframe of 44 segments": lambda: Receive(SUPERFRAME, 4, 1, TSO),
    "register read": lambda: Access(lambda case: case.driver.read(spec.STATUS)),
    "register write": lambda: Access(lambda case: case.driver.write(spec.ITR, 0)),
    "register read, without the bench": lambda: Access(
        lambda case: case.nic.function.read(0, spec.STATUS, 4)
    ),
    "register write, without the bench": lambda: Access(
        lambda case: case.nic.function.write(0, spec.ITR, 4, 0)
    ),
    "interrupt": Interrupts,
}


class Counting(E1000Registers):
    """Counts its accesses of registers."""

    reads = 0
    writes = 0

    def read(self, register: int) -> int:
        self.reads += 1
        return super().read(register)

    def write(self, register: int, value: int) -> None:
        self.writes += 1
        super().write(register, value)


class CountingE1000(Counting, E1000Driver):
    """The 8254x's."""


class CountingE1000e(Counting, E1000eDriver):
    """The 82574L's."""


COUNTING: Drivers = {
    "e1000": CountingE1000,
    "e1000e": partial(CountingE1000e, layout=EXTENDED),
}


def accesses(frames: int) -> tuple[float, float, float, float]:
    """Reads and writes a frame of a driver like Linux's, ``frames`` an interrupt: out, then in.

    Out: one tail for the batch; the interrupt's read of the causes, mask, unmask. In: the same,
    and one tail for each 16 buffers given back.
    """
    case = Rig(COUNTING)
    driver = case.driver
    assert isinstance(driver, CountingE1000 | CountingE1000e)
    driver.write(spec.IMS, spec.ICR_TXDW | spec.ICR_RXT0)
    found = []
    for sending in (True, False):
        driver.reads = driver.writes = 0
        if sending:
            for _ in range(frames):
                driver.send(bytes(64), kick=False)
            driver.kick()
        else:
            case.port.send([Frame.of(HEADER.ljust(64, b"\0"))] * frames)
        if case.nic.irq_level:
            assert driver.read(spec.ICR)
            driver.write(spec.IMC, 0xFFFFFFFF)
            if not sending:
                driver.receive(give_back=False)
                for _ in range(-(-frames // 16)):
                    driver.write(spec.RDT, (driver.rx_next - 1) % RING)
            driver.write(spec.IMS, spec.ICR_TXDW | spec.ICR_RXT0)
        found += [driver.reads / frames, driver.writes / frames]
    return found[0], found[1], found[2], found[3]


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--card", choices=list(DRIVERS), default=Rig.card)
    options, words = parser.parse_known_args()
    Rig.card = options.card
    title = f"{Rig.card}: microseconds per frame, access or interrupt"
    if not run("what a frame costs in an Intel card (--card e1000 or e1000e)", title, CASES, words):
        return
    print(f"\n{'register accesses per frame':42} out: reads  writes    in: reads  writes")
    for frames in (1, 8, 64):
        row = accesses(frames)
        out, into = row[:2], row[2:]
        print(f"{f'{frames} an interrupt':42} {out[0]:10.3f} {out[1]:7.3f}", end=" ")
        print(f"{into[0]:12.3f} {into[1]:7.3f}")


if __name__ == "__main__":
    main()
