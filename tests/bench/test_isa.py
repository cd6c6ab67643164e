# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""ISA cards on the bench: the smallest chip that has everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from vmwire.bench.isa import IsaNic
from vmwire.bench.machine import Bench
from vmwire.bus.isa.chip import IsaDescription, IsaSlot
from vmwire.errors import ConfigError
from vmwire.wire.frame import Frame
from vmwire.wire.port import Port

AT = 0x300
JUMPERS = IsaDescription(first_port=AT, ports=32, line=9)


class Chip:
    """Port 0: scratch. Port 1: the line. Port 2: send so many bytes at the end of the turn. Port
    16: bytes of what came, one after the other, in bytes or words."""

    def __init__(self, slot: IsaSlot) -> None:
        self.slot = slot
        self.port = Port(slot.name, self.receive)
        self.scratch = 0
        self.came = bytearray()

    def load(self, offset: int, size: int) -> int:
        if offset == 16:
            taken, self.came = self.came[:size], self.came[size:]
            return int.from_bytes(taken, "little")
        return self.scratch if offset == 0 else 0

    def store(self, offset: int, size: int, value: int) -> None:
        if offset == 0:
            self.scratch = value
        elif offset == 1:
            self.slot.set_line(bool(value))
        elif offset == 2:
            self.slot.defer(lambda: self.send(value))

    def send(self, size: int) -> None:
        self.port.send([Frame.of(bytes(size))])

    def receive(self, frames: Sequence[Frame]) -> int:
        self.came += b"".join(frame.tobytes() for frame in frames)
        return len(frames)

    def reset(self) -> None:
        self.scratch = 0
        self.slot.set_line(False)

    def save(self) -> dict[str, Any]:
        return {"scratch": self.scratch}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.scratch = state["scratch"]

    def set_link(self, up: bool) -> None:
        self.port.set_link(up)

    def stats(self) -> dict[str, object]:
        return {}


@pytest.fixture
def pc() -> Iterator[Bench]:
    with Bench(1 << 20) as machine:
        yield machine


@pytest.fixture
def nic(pc: Bench) -> IsaNic:
    return pc.insert_isa(JUMPERS, Chip, name="ne")


def test_ports_are_where_the_jumpers_say(pc: Bench, nic: IsaNic) -> None:
    pc.outb(AT, 0x5A)
    assert (pc.inb(AT), pc.inb(AT - 1), pc.inb(AT + 32)) == (0x5A, 0xFF, 0xFF)


def test_the_line_goes_straight_to_the_machines(pc: Bench, nic: IsaNic) -> None:
    pc.outb(AT + 1, 1)
    assert (pc.lines.level(9), nic.line_up) == (True, True)
    pc.outb(AT + 1, 0)
    assert not pc.lines.level(9)


def test_frames_go_both_ways(pc: Bench, nic: IsaNic) -> None:
    pc.outb(AT + 2, 60)
    assert nic.wire.take() == [bytes(60)]
    nic.wire.send(b"\1\2\3")
    assert (pc.inw(AT + 16), pc.inb(AT + 16)) == (0x0201, 3)


def test_the_machines_reset_is_the_cards(pc: Bench, nic: IsaNic) -> None:
    pc.outb(AT, 7)
    pc.outb(AT + 1, 1)
    pc.outb(0xCF9, 6)
    assert (pc.inb(AT), pc.lines.level(9)) == (0, False)


@pytest.mark.parametrize("first", [AT, AT - 31, AT + 31, 0xCF8, 0x511])
def test_ports_that_are_taken_are_refused(pc: Bench, nic: IsaNic, first: int) -> None:
    with pytest.raises(ConfigError, match="taken already"):
        pc.insert_isa(IsaDescription(first, 32, 10), Chip, name="other")


def test_a_bare_machine_has_no_slot() -> None:
    with Bench(1 << 20, bare=True) as pc, pytest.raises(ConfigError, match="No 'ISA' bus"):
        pc.insert_isa(JUMPERS, Chip)


@pytest.mark.parametrize("jumpers", [(0x300, 0, 9), (0xFFF8, 32, 9), (-1, 4, 9), (0x300, 32, 16)])
def test_jumpers_that_no_bus_has_are_a_slip(jumpers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError):
        IsaDescription(*jumpers)
