# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration space: what software can set, what comes of it, what a description may say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.bus.pci.cards import describe

from vmwire.bus.pci.capabilities import Msi, MsiX, PciExpress, PowerManagement, SerialNumber
from vmwire.bus.pci.config import (
    BAR0,
    BUS_MASTER,
    COMMAND,
    INTERRUPT_LINE,
    INTX_DISABLE,
    IO_ENABLE,
    MEMORY_ENABLE,
    ROM,
    ROM_BAR,
    STATUS,
    Bar,
    ConfigSpace,
    Description,
)

ONES = 0xFFFFFFFF


def e1000() -> ConfigSpace:
    return ConfigSpace(describe("e1000", "pc"))


def igb() -> ConfigSpace:
    return ConfigSpace(describe("igb", "pc"))


# --- accesses


@pytest.mark.parametrize(("size", "value"), [(1, 0x86), (2, 0x8086), (4, 0x100E8086)])
def test_numbers_are_little_endian(size: int, value: int) -> None:
    assert e1000().read(0, size) == value


def test_unaligned_access_crosses_registers() -> None:
    config = e1000()
    assert config.read(1, 2) == 0x0E80
    config.write(INTERRUPT_LINE - 1, 4, 0xAABBCCDD)
    assert config.read(INTERRUPT_LINE, 2) == 0x01CC


def test_a_byte_write_leaves_its_neighbours() -> None:
    config = e1000()
    config.write(BAR0, 4, 0xFEB40000)
    config.write(BAR0 + 3, 1, 0x12)
    assert config.read(BAR0, 4) == 0x12B40000


@pytest.mark.parametrize(("offset", "size"), [(256, 1), (4096, 4), (-1, 4), (-4, 4), (1 << 64, 8)])
def test_outside_reads_as_ones_and_swallows_writes(offset: int, size: int) -> None:
    config = e1000()
    before = config.image
    config.write(offset, size, 0)
    assert config.read(offset, size) == (1 << 8 * size) - 1
    assert config.image == before


def test_an_access_over_the_end_is_answered_as_far_as_there_is_something() -> None:
    config = e1000()
    config.write(254, 4, 0x44332211)
    assert config.read(254, 4) == 0xFFFF2211


def test_too_large_and_negative_values_are_cut() -> None:
    config = e1000()
    config.write(INTERRUPT_LINE, 1, 0x1_0B)
    assert config.read(INTERRUPT_LINE, 2) == 0x010B
    config.write(INTERRUPT_LINE, 1, -1)
    assert config.read(INTERRUPT_LINE, 2) == 0x01FF


# --- BARs


def test_sizing_a_memory_bar_tells_its_size() -> None:
    config = e1000()
    config.write(BAR0, 4, ONES)
    assert -config.read(BAR0, 4) & ONES == 0x20000


def test_sizing_a_wide_bar_takes_two_registers() -> None:
    config = igb()
    config.write(0x1C, 4, ONES)
    config.write(0x20, 4, ONES)
    assert config.read(0x1C, 8) == (1 << 64) - 0x4000 | 4


def test_bars_answer_at_their_address_while_their_kind_is_enabled() -> None:
    config = e1000()
    config.write(BAR0, 4, 0xFEB40000)
    config.write(BAR0 + 4, 4, 0xC041)
    assert (config.bar_address(0), config.bar_address(1)) == (None, None)
    config.write(COMMAND, 2, MEMORY_ENABLE)
    assert (config.bar_address(0), config.bar_address(1)) == (0xFEB40000, None)
    config.write(COMMAND, 2, IO_ENABLE)
    assert (config.bar_address(0), config.bar_address(1)) == (None, 0xC040)
    assert config.bar_address(2) is None


def test_a_wide_bar_answers_above_4_gib() -> None:
    config = igb()
    config.write(COMMAND, 2, MEMORY_ENABLE)
    config.write(0x1C, 4, 0xFE004000)
    config.write(0x20, 4, 0x38)
    assert config.bar_address(3) == 0x38_FE004000


@pytest.mark.parametrize("address", [0, ONES])
def test_a_bar_that_is_not_placed_or_being_sized_answers_nowhere(address: int) -> None:
    config = e1000()
    config.write(COMMAND, 2, MEMORY_ENABLE | IO_ENABLE)
    for index in range(2):
        config.write(BAR0 + 4 * index, 4, address)
    config.write(ROM_BAR, 4, address | 1)
    assert [config.bar_address(index) for index in (0, 1, ROM)] == [None] * 3


def test_the_rom_has_an_enable_bit_of_its_own() -> None:
    config = e1000()
    config.write(COMMAND, 2, MEMORY_ENABLE)
    config.write(ROM_BAR, 4, 0xFEB80000)
    assert config.bar_address(ROM) is None
    config.write(ROM_BAR, 4, 0xFEB80001)
    assert config.bar_address(ROM) == 0xFEB80000
    config.write(COMMAND, 2, 0)
    assert config.bar_address(ROM) is None


# --- command, status, power


def test_command_bits_are_told_one_by_one() -> None:
    config = e1000()
    config.write(COMMAND, 2, BUS_MASTER | INTX_DISABLE)
    assert (config.bus_master, config.intx_disabled) == (True, True)
    assert (config.io_enabled, config.memory_enabled) == (False, False)
    assert config.command == BUS_MASTER | INTX_DISABLE


def test_the_interrupt_bit_can_not_be_written() -> None:
    config = e1000()
    config.set_interrupt_status(True)
    config.write(STATUS, 2, 0xFFFF)
    config.write(STATUS, 2, 0)
    assert config.read(STATUS, 2) == 0x0008


def test_a_card_asleep_neither_answers_nor_is_a_bus_master() -> None:
    config = igb()
    config.write(COMMAND, 2, BUS_MASTER | MEMORY_ENABLE)
    config.write(BAR0, 4, 0xFEB00000)
    config.write(0x44, 2, 3)
    assert (config.power_state, config.bus_master, config.bar_address(0)) == (3, False, None)
    config.write(0x44, 2, 0)
    assert (config.power_state, config.bus_master, config.bar_address(0)) == (0, True, 0xFEB00000)


def test_a_function_level_reset_is_asked_for_once() -> None:
    config = igb()
    assert not config.take_reset_request()
    config.write(0xA8, 2, 0x8000)
    assert (config.take_reset_request(), config.take_reset_request()) == (True, False)
    assert config.read(0xA8, 2) == 0


@pytest.mark.parametrize(("offset", "size", "value"), [(0xA9, 1, 0x80), (0xA6, 4, 0x8000_0000)])
def test_a_function_level_reset_may_be_part_of_any_write(
    offset: int, size: int, value: int
) -> None:
    config = igb()
    config.write(offset, size, value)
    assert config.take_reset_request()


def test_a_card_that_can_not_reset_itself_ignores_the_wish() -> None:
    config = ConfigSpace(describe("e1000e", "pc"))
    config.write(0xE8, 2, 0x8000)
    assert not config.take_reset_request()


# --- errors of PCI Express


def test_reported_errors_are_cleared_by_writing_ones() -> None:
    config = ConfigSpace(describe("e1000e", "q35"))
    config.show(0x104, 4, 0x00140000)
    config.write(0x104, 4, 0x00040000)
    assert config.read(0x104, 4) == 0x00100000


def test_error_masks_can_be_set_bit_by_bit_as_far_as_errors_exist() -> None:
    config = ConfigSpace(describe("e1000e", "q35"))
    for offset in range(0x100, 0x12C, 4):
        config.write(offset, 4, ONES)
    written = [config.read(offset, 4) for offset in range(0x100, 0x12C, 4)]
    header, capabilities = 0x14020001, 0x1E0  # ECRC can be generated and checked; both are enabled
    masks = [0x03FFF030, 0x03FFF030, 0, 0xF1C1]
    assert written == [header, 0, *masks, capabilities, 0, 0, 0, 0]


def test_a_serial_number_can_not_be_written() -> None:
    config = ConfigSpace(describe("e1000e", "q35"))
    before = config.image
    config.write(0x140, 12, -1)
    assert config.image == before


def test_extended_bytes_that_nothing_claims_stay_zero() -> None:
    config = ConfigSpace(describe("e1000e", "q35"))
    before = config.image
    for offset in (0x12C, 0x13C, 0x14C, 0x200, 0xFFC):
        config.write(offset, 4, ONES)
    assert config.image == before


# --- reset, save, restore


@pytest.mark.parametrize("name", ["e1000", "igb", "virtio-net-pci"])
def test_reset_brings_back_the_first_image(name: str) -> None:
    config = ConfigSpace(describe(name, "pc"))
    before = config.image
    for offset in range(0, config.size, 4):
        config.write(offset, 4, ONES)
    config.write(0xA8, 2, 0x8000)
    config.reset()
    assert config.image == before == bytes(config)
    assert not config.take_reset_request()


@pytest.mark.parametrize("name", ["e1000", "igb", "virtio-net-pci"])
def test_what_was_written_survives_save_and_restore(name: str) -> None:
    config, other = (ConfigSpace(describe(name, "pc")) for _ in range(2))
    for offset in range(0, config.size, 4):
        config.write(offset, 4, 0x5A5A5A5A)
    other.restore(config.save())
    assert other.image == config.image


def test_restore_takes_nothing_that_software_could_not_have_set() -> None:
    config = e1000()
    before = config.image
    forged = b"\xff" * 256
    config.restore({"image": forged})
    assert config.image != before
    assert config.read(0, 4) == 0x100E8086
    assert config.read(BAR0, 4) == 0xFFFE0000


@pytest.mark.parametrize("state", [{}, {"image": b"short"}, {"image": None}])
def test_restore_refuses_what_save_did_not_give(state: dict[str, object]) -> None:
    config = e1000()
    before = config.image
    with pytest.raises(ValueError):
        config.restore(state)
    assert config.image == before


# --- descriptions

PLAIN = describe("e1000", "pc")


@pytest.mark.parametrize(
    "bars",
    [
        (Bar(0, "memory", 0x3000),),
        (Bar(0, "memory", 8),),
        (Bar(0, "io", 2),),
        (Bar(6, "memory", 0x1000),),
        (Bar(-1, "memory", 0x1000),),
        (Bar(5, "memory", 0x1000, wide=True),),
        (Bar(0, "memory", 0x1000, wide=True), Bar(1, "io", 32)),
        (Bar(0, "memory", 0x1000), Bar(0, "io", 32)),
    ],
)
def test_impossible_bars_are_refused(bars: tuple[Bar, ...]) -> None:
    with pytest.raises(ValueError):
        ConfigSpace(replace(PLAIN, bars=bars))


@pytest.mark.parametrize(
    "capabilities",
    [
        (PowerManagement(offset=0x3C, capabilities=2),),
        (PowerManagement(offset=0xFC, capabilities=2),),
        (PowerManagement(offset=0x41, capabilities=2),),
        (PowerManagement(offset=0x40, capabilities=2), Msi(offset=0x44)),
        (SerialNumber(offset=0x140, number=1),),
        (SerialNumber(offset=0xFFC, number=1),),
    ],
)
def test_capabilities_that_do_not_fit_are_refused(capabilities: tuple[Msi, ...]) -> None:
    with pytest.raises(ValueError):
        ConfigSpace(replace(PLAIN, capabilities=capabilities))


@pytest.mark.parametrize(("length", "size"), [(0, 0), (1, 2048), (2048, 2048), (70000, 131072)])
def test_a_rom_bar_is_the_power_of_two_that_holds_the_rom(length: int, size: int) -> None:
    assert PLAIN.with_rom(bytes(length)).rom_size == size


def test_without_a_rom_its_register_is_dead() -> None:
    config = ConfigSpace(PLAIN.with_rom(b""))
    config.write(ROM_BAR, 4, ONES)
    assert config.read(ROM_BAR, 4) == 0


@pytest.mark.parametrize(
    ("vectors", "wide", "maskable", "control", "written"),
    [
        (1, False, False, 0x0000, 0x0001),
        (2, True, False, 0x0082, 0x0093),
        (8, True, True, 0x0186, 0x01B7),
        (32, False, True, 0x010A, 0x017B),
    ],
)
def test_msi_tells_and_enables_as_many_messages_as_there_are(
    vectors: int, wide: bool, maskable: bool, control: int, written: int
) -> None:
    msi = Msi(offset=0x40, vectors=vectors, wide=wide, maskable=maskable)
    config = ConfigSpace(replace(PLAIN, capabilities=(msi,)))
    assert config.read(0x42, 2) == control
    config.write(0x42, 2, 0xFFFF)
    assert config.read(0x42, 2) == written
    if maskable:
        config.write(0x40 + msi.mask_offset, 4, ONES)
        assert config.read(0x40 + msi.mask_offset, 8) == (1 << vectors) - 1


def test_a_capability_says_nothing_that_it_was_not_told() -> None:
    express = PciExpress(offset=0x40)
    config = ConfigSpace(replace(PLAIN, capabilities=(express,)))
    for offset in range(0x40, 0x7C, 4):
        config.write(offset, 4, ONES)
    registers = {at: config.read(at, 4) for at in range(0x40, 0x7C, 4)}
    set_bits = {at: value for at, value in registers.items() if value}
    assert set_bits == {0x40: 0x00020010, 0x44: 0x8020, 0x4C: 0x411, 0x50: 0x110000}


def test_a_description_finds_its_capabilities_by_kind() -> None:
    card: Description = describe("igb", "pc")
    found = card.capability(MsiX)
    assert found is not None
    assert (found.vectors, found.pending_size) == (10, 8)
    assert PLAIN.capability(MsiX) is None
