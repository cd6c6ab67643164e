# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A chip behind its bus: which accesses reach it, and what the bus answers by itself."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.bus.pci.cards import describe
from tests.bus.pci.test_interrupts import Seen

from vmwire.bus.pci.capabilities import MsiX
from vmwire.bus.pci.chip import Slot
from vmwire.bus.pci.config import BAR0, BUS_MASTER, COMMAND, ROM_BAR, Description
from vmwire.bus.pci.function import CONFIG, ROM, PciFunction
from vmwire.engine.clock import ManualClock, Timers
from vmwire.wire.frame import Frame
from vmwire.wire.port import Port

MSIX_BAR = 3
MSIX = 0x70


class Memory:
    """A chip whose registers are memory; it notes each access."""

    def __init__(self, slot: Slot, sizes: Mapping[int, int]) -> None:
        self.slot = slot
        self.port = Port(slot.name, self.receive)
        self.bars = {index: bytearray(size) for index, size in sizes.items()}
        self.accesses: list[tuple[int, int, int]] = []
        self.link = True
        self.resets = 0

    def receive(self, frames: Sequence[Frame]) -> int:
        return len(frames)

    def load(self, region: int, offset: int, size: int) -> int:
        self.accesses.append((region, offset, size))
        return int.from_bytes(self.bars[region][offset : offset + size], "little")

    def store(self, region: int, offset: int, size: int, value: int) -> None:
        self.accesses.append((region, offset, size))
        self.bars[region][offset : offset + size] = value.to_bytes(size, "little")

    def reset(self) -> None:
        self.resets += 1
        self.slot.interrupts.set_level(False)

    def save(self) -> dict[str, Any]:
        return {"bars": {index: bytes(bar) for index, bar in self.bars.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        for index, bar in state["bars"].items():
            self.bars[index][:] = bar

    def set_link(self, up: bool) -> None:
        self.link = up

    def stats(self) -> dict[str, object]:
        return {"accesses": len(self.accesses)}

    def take(self) -> list[tuple[int, int, int]]:
        accesses, self.accesses = self.accesses, []
        return accesses


class Card(PciFunction):
    """A function around such a chip."""

    chip: Memory

    def __init__(self, description: Description, rom: bytes = b"") -> None:
        sizes = {bar.index: bar.size for bar in description.bars}
        self.machine = Seen()
        super().__init__(
            description,
            lambda slot: Memory(slot, sizes),
            machine=self.machine,
            timers=Timers(ManualClock()),
            defer=lambda work: work(),
            random=bytes,
            name="card",
            rom=rom,
        )


def e1000() -> Card:
    return Card(describe("e1000", "pc"))


def igb() -> Card:
    return Card(describe("igb", "pc"))


# --- accesses to BARs


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (0, 2), (0, 4), (6, 2), (0x1FFFC, 4)])
def test_a_natural_access_reaches_the_chip_as_it_is(offset: int, size: int) -> None:
    card = e1000()
    card.write(0, offset, size, 0x44332211)
    assert card.read(0, offset, size) == 0x44332211 & (1 << 8 * size) - 1
    assert card.chip.take() == [(0, offset, size)] * 2


@pytest.mark.parametrize(
    ("offset", "size", "pieces"),
    [
        (0, 8, [(0, 4), (4, 4)]),
        (1, 4, [(1, 1), (2, 2), (4, 1)]),
        (2, 4, [(2, 2), (4, 2)]),
        (0, 3, [(0, 2), (2, 1)]),
        (3, 2, [(3, 1), (4, 1)]),
        (5, 8, [(5, 1), (6, 2), (8, 4), (12, 1)]),
    ],
)
def test_an_odd_access_is_split_as_a_32_bit_bus_does(
    offset: int, size: int, pieces: list[tuple[int, int]]
) -> None:
    card = e1000()
    value = int.from_bytes(bytes(range(1, size + 1)), "little")
    card.write(0, offset, size, value)
    assert card.chip.take() == [(0, *piece) for piece in pieces]
    assert card.chip.bars[0][offset : offset + size] == bytes(range(1, size + 1))
    assert card.read(0, offset, size) == value
    assert card.chip.take() == [(0, *piece) for piece in pieces]


@pytest.mark.parametrize("region", [-1, 2, 5, 8, 9, 1 << 40])
def test_a_region_that_is_not_there_reads_as_ones(region: int) -> None:
    card = e1000()
    card.write(region, 0, 4, 0)
    assert card.read(region, 0, 4) == 0xFFFFFFFF
    assert card.region_size(region) == 0
    assert card.chip.take() == []
    assert card.stats()["accesses outside"] == 2


@pytest.mark.parametrize("offset", [-4, -1, 0x20000, 1 << 64])
@pytest.mark.parametrize("size", [1, 4, 5])
def test_an_offset_outside_reads_as_ones(offset: int, size: int) -> None:
    card = e1000()
    card.write(0, offset, size, 0)
    assert card.read(0, offset, size) == (1 << 8 * size) - 1
    assert card.chip.take() == []


def test_an_access_over_the_end_reaches_what_is_there() -> None:
    card = e1000()
    card.write(0, 0x1FFFE, 8, 0x8877665544332211)
    assert card.read(0, 0x1FFFE, 4) == 0xFFFF2211
    assert card.chip.take() == [(0, 0x1FFFE, 2)] * 2


@pytest.mark.parametrize("size", [0, -1, -8])
def test_an_access_of_no_size_is_none(size: int) -> None:
    card = e1000()
    for region in (0, 6, 7):
        card.write(region, 0, size, 1)
        assert card.read(region, 0, size) == 0
    assert card.chip.take() == []


def test_a_value_too_large_is_cut() -> None:
    card = e1000()
    card.write(0, 8, 2, -1)
    card.write(0, 1, 3, -2)
    assert card.chip.bars[0][:12] == b"\0\xfe\xff\xff\0\0\0\0\xff\xff\0\0"


def test_bars_answer_whatever_the_command_register_says() -> None:
    card = e1000()
    card.write(0, 0, 4, 7)
    assert card.read(0, 0, 4) == 7


def test_random_accesses_read_what_was_written() -> None:
    chance = random.Random(3)
    card = Card(describe("pcnet", "pc"))
    model = bytearray(32)
    for _ in range(2000):
        offset, size = chance.randrange(-4, 36), chance.randrange(1, 9)
        data = chance.randbytes(size)
        card.write(0, offset, size, int.from_bytes(data, "little"))
        if 0 <= offset < 32:
            inside = min(size, 32 - offset)
            model[offset : offset + inside] = data[:inside]
        offset, size = chance.randrange(32), chance.randrange(1, 9)
        wanted = bytes(model[offset : offset + size]).ljust(size, b"\xff")
        assert card.read(0, offset, size) == int.from_bytes(wanted, "little")
    assert card.chip.bars[0] == model
    for _region, offset, size in card.chip.take():
        assert size in (1, 2, 4)
        assert offset % size == 0


# --- the ROM


def test_a_rom_reads_padded_to_its_bar() -> None:
    card = Card(replace(describe("e1000", "pc"), rom_size=0), rom=b"\x55\xaa" + bytes(3000))
    assert card.region_size(ROM) == 4096
    assert card.read(ROM, 0, 2) == 0xAA55
    assert card.read(ROM, 3000, 4) == 0xFFFF0000
    assert card.read(ROM, 4095, 1) == 0xFF
    card.write(CONFIG, ROM_BAR, 4, 0xFFFFFFFF)
    assert card.read(CONFIG, ROM_BAR, 4) == 0xFFFFF001


def test_a_described_rom_bar_keeps_its_size() -> None:
    card = Card(describe("e1000", "pc"), rom=b"\x55\xaa")
    assert card.region_size(ROM) == 256 * 1024
    assert card.read(ROM, 0, 4) == 0xFFFFAA55


def test_a_rom_can_not_be_written() -> None:
    card = Card(describe("e1000", "pc"), rom=b"\x55\xaa")
    card.write(ROM, 0, 4, 0)
    assert card.read(ROM, 0, 2) == 0xAA55
    assert card.stats()["writes to the ROM"] == 1


# --- configuration space


def test_configuration_is_region_7() -> None:
    card = e1000()
    assert card.region_size(CONFIG) == 256
    assert card.read(CONFIG, 0, 4) == 0x100E8086
    card.write(CONFIG, BAR0, 4, 0xFFFFFFFF)
    assert card.read(CONFIG, BAR0, 4) == 0xFFFE0000
    assert card.chip.take() == []


def test_the_bus_master_bit_opens_memory_to_the_card() -> None:
    card = e1000()
    assert not card.dma.enabled
    card.write(CONFIG, COMMAND, 2, BUS_MASTER)
    assert card.dma.enabled
    card.write(CONFIG, COMMAND, 1, 0)
    assert not card.dma.enabled


def test_a_function_level_reset_resets_the_card() -> None:
    card = igb()
    card.write(CONFIG, COMMAND, 2, BUS_MASTER)
    card.interrupts.set_level(True)
    card.write(CONFIG, 0xA8, 2, 0x8000)
    assert card.chip.resets == 1
    assert card.machine.events == [("intx", True), ("intx", False)]
    assert card.config.command == 0
    assert not card.dma.enabled


# --- MSI-X in a BAR


def enable_msix(card: Card) -> None:
    card.write(CONFIG, MSIX + 2, 2, 0x8000)


def test_table_and_pending_bits_never_reach_the_chip() -> None:
    card = igb()
    card.write(MSIX_BAR, 0, 4, 0xFEE00000)
    card.write(MSIX_BAR, 0x2000, 4, 0xFFFFFFFF)
    assert card.read(MSIX_BAR, 0, 4) == 0xFEE00000
    assert card.read(MSIX_BAR, 0x2000, 8) == 0
    assert card.chip.take() == []


@pytest.mark.parametrize("offset", [160, 0x1FFC, 0x2008, 0x3FFC])
def test_the_rest_of_that_bar_is_the_chips(offset: int) -> None:
    card = igb()
    card.write(MSIX_BAR, offset, 4, 5)
    assert card.read(MSIX_BAR, offset, 4) == 5
    assert card.chip.take() == [(MSIX_BAR, offset, 4)] * 2


def test_an_access_over_the_tables_end_is_split() -> None:
    card = igb()
    card.write(MSIX_BAR, 156, 8, 0x00000007_00000000)
    assert card.chip.take() == [(MSIX_BAR, 160, 4)]
    assert not card.interrupts.table.masked(9)


def test_a_table_may_begin_anywhere_in_its_bar() -> None:
    msix = MsiX(
        offset=0x40, vectors=2, table_bar=0, table_offset=0x100, pending_bar=0, pending_offset=0x80
    )
    card = Card(replace(describe("e1000", "pc"), capabilities=(msix,)))
    card.write(0, 0x110, 4, 0xFEE01000)
    card.write(0, 0x11C, 4, 0)
    assert card.interrupts.msix_message(1) == (0xFEE01000, 0)
    assert (card.read(0, 0x110, 4), card.read(0, 0x10C, 4)) == (0xFEE01000, 1)
    card.write(CONFIG, 0x42, 2, 0x8000)
    card.interrupts.notify(0)
    assert (card.read(0, 0x80, 4), card.chip.take()) == (1, [])
    for offset in (0, 0x7C, 0x88, 0xFC, 0x120):
        card.write(0, offset, 4, 1)
        assert card.chip.take() == [(0, offset, 4)]


def test_a_whole_entry_written_at_once_sets_the_message() -> None:
    card = igb()
    entry = (0xFEE01000).to_bytes(8, "little") + (0x4123).to_bytes(4, "little") + bytes(4)
    card.write(MSIX_BAR, 16, 16, int.from_bytes(entry, "little"))
    assert card.interrupts.msix_message(1) == (0xFEE01000, 0x4123)


def test_a_masked_vector_shows_as_pending_and_goes_when_unmasked() -> None:
    card = igb()
    enable_msix(card)
    card.interrupts.notify(9)
    assert card.read(MSIX_BAR, 0x2000, 8) == 1 << 9
    assert card.read(MSIX_BAR, 0x2001, 1) == 2
    card.write(MSIX_BAR, 9 * 16 + 12, 4, 0)
    assert card.machine.events == [("msix", 9)]
    assert card.read(MSIX_BAR, 0x2000, 8) == 0


# --- the whole card


def test_reset_reaches_chip_configuration_and_line() -> None:
    card = igb()
    enable_msix(card)
    card.write(CONFIG, COMMAND, 2, BUS_MASTER)
    card.interrupts.notify(1)
    before = igb().config.image
    card.reset()
    assert card.chip.resets == 1
    assert card.config.image == before
    assert card.read(MSIX_BAR, 0x2000, 8) == 0
    assert not card.dma.enabled


def test_the_whole_state_moves_to_another_card() -> None:
    card, other = igb(), igb()
    enable_msix(card)
    card.write(CONFIG, COMMAND, 2, BUS_MASTER)
    card.write(0, 0x100, 4, 0xCAFE)
    card.interrupts.notify(2)
    other.restore(card.save())
    assert other.dma.enabled
    assert other.read(0, 0x100, 4) == 0xCAFE
    other.write(MSIX_BAR, 2 * 16 + 12, 4, 0)
    assert other.machine.events == [("msix", 2)]
    assert other.save() != card.save()


@pytest.mark.parametrize("missing", ["config", "interrupts", "chip"])
def test_a_state_with_something_missing_is_refused(missing: str) -> None:
    state = igb().save()
    del state[missing]
    with pytest.raises(ValueError, match=missing):
        igb().restore(state)


def test_link_and_counters_are_the_chips() -> None:
    card = e1000()
    card.set_link(False)
    assert not card.chip.link
    assert card.port is card.chip.port
    card.read(0, 0, 4)
    assert card.stats() == {"accesses": 1}
