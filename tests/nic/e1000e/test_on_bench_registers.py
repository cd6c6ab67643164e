# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration space, reset values, NVM, semaphores and counters of the 82574L."""

from __future__ import annotations

import pytest

from tests.nic.e1000.card import MAC, frame_from, frame_to
from tests.nic.e1000e.card import Card82574, card_on_bench
from vmwire.bench import e1000_spec
from vmwire.bench import e1000e_spec as spec
from vmwire.bench.e1000e import E1000eDriver
from vmwire.bench.pci import PciDevice

# --- configuration space

CAPABILITIES = {0x01: 0xC8, 0x05: 0xD0, 0x10: 0xE0, 0x11: 0xA0}


def test_its_capabilities_are_where_drivers_know_them(card: Card82574) -> None:
    device = PciDevice(card.pc, 4)
    assert device.capabilities() == CAPABILITIES
    assert device.config_read(0xA0) == 0x0004_0011 | device.config_read(0xA1, 1) << 8
    assert (device.config_read(0xA4), device.config_read(0xA8)) == (3, 0x2003)


def test_its_subsystem_is_intels_unless_told(card: Card82574) -> None:
    assert PciDevice(card.pc, 4).config_read(0x2C) == 0x0000_8086


def test_a_subsystem_of_ones_own_shows_in_configuration_space() -> None:
    with card_on_bench(subsys=0x1234, subsys_ven=0xABCD) as card:
        assert PciDevice(card.pc, 4).config_read(0x2C) == 0x1234_ABCD
        card.pc.reset(card.nic)
        assert PciDevice(card.pc, 4).config_read(0x2C) == 0x1234_ABCD


@pytest.mark.parametrize(("properties", "tags", "masked"), [
    ({}, 0x8020, 0x0240_0000),
    ({"x_pcie_ext_tag": False}, 0x8000, 0x0240_0000),
    ({"x_pcie_err_unc_mask": False}, 0x8020, 0),
])  # fmt: skip
def test_properties_of_pci_express_are_in_force(
    properties: dict[str, bool], tags: int, masked: int
) -> None:
    with card_on_bench(**properties) as card:
        read = card.nic.function.config.read
        assert (read(0xE4, 4), read(0x108, 4)) == (tags, masked)


def test_extended_space_has_error_reporting_and_the_address_as_serial_number(
    card: Card82574,
) -> None:
    read = card.nic.function.config.read
    assert (read(0x100, 4), read(0x140, 4)) == (0x1402_0001, 0x0001_0003)
    serial = read(0x144, 4).to_bytes(4, "little") + read(0x148, 4).to_bytes(4, "little")
    assert serial[::-1] == MAC[:3] + b"\xff\xff" + MAC[3:]


# --- reset values

RESET = {
    e1000_spec.CTRL: 0x0014_0241, e1000_spec.STATUS: 0x0008_0283, e1000_spec.EECD: 0x300,
    e1000_spec.VET: 0x8100, e1000_spec.TIPG: 0x0060_2008, e1000_spec.LEDCTL: 0x0006_8302,
    spec.EXTCNF_CTRL: 8, e1000_spec.PBA: 0x0014_0014, spec.PBS: 0x28, spec.EEMNGCTL: 1 << 31,
    spec.EEWR: 2, spec.PSRCTL: 0x0004_0402, e1000_spec.RXDCTL: 0x0001_0000,
    e1000_spec.RXDCTL + 0x100: 0x0001_0000, spec.TARC: 0x403, spec.TARC + 0x100: 0x403,
    e1000_spec.RXCSUM: 0x300, e1000_spec.RAL: 0x1200_5452, e1000_spec.RAH: 0x8000_5634,
    e1000_spec.MANC: 1 << 28, spec.GCR: 0x0680_0200,
    e1000_spec.RCTL: 0, e1000_spec.TCTL: 0, e1000_spec.IMS: 0, spec.ITR: 0, spec.IVAR: 0,
    spec.MRQC: 0, spec.RFCTL: 0, spec.EIAC: 0, spec.IAM: 0,
}  # fmt: skip


def test_registers_hold_their_reset_values(card: Card82574) -> None:
    card.pc.reset(card.nic)
    card.driver = E1000eDriver(card.pc, 4)
    assert {hex(at): hex(card.driver.read(at)) for at in RESET} == {
        hex(at): hex(value) for at, value in RESET.items()
    }


def test_a_software_reset_gives_the_reset_values_again(
    card: Card82574, driver: E1000eDriver
) -> None:
    for register in (spec.IVAR, spec.EIAC, spec.IAM, spec.MRQC, spec.RFCTL, spec.PSRCTL):
        driver.write(register, 0x0101_0101)
    driver.reset()
    for register in (spec.IVAR, spec.EIAC, spec.IAM, spec.MRQC, spec.RFCTL, spec.PSRCTL):
        assert driver.read(register) == RESET[register]


def test_vet_is_zero_after_a_reset_where_that_is_asked() -> None:
    with card_on_bench(init_vet=False) as card:
        assert card.start().read(e1000_spec.VET) == 0


def test_the_flash_window_is_there_and_does_nothing(card: Card82574) -> None:
    flash = card.driver.pci.bars[1].address
    card.pc.writel(flash, 0x1234_5678)
    assert card.pc.readl(flash) in (0, 0xFFFF_FFFF)


# --- NVM


def test_the_nvm_has_the_address_and_a_right_checksum(card: Card82574) -> None:
    words = [card.driver.eeprom_read(word) for word in range(spec.NVM_WORDS)]
    assert b"".join(word.to_bytes(2, "little") for word in words[:3]) == MAC
    assert sum(words) & 0xFFFF == 0xBABA
    assert (words[0x0D], words[0x0E]) == (spec.DEVICE_ID, 0x0000)
    assert (words[0x0F], words[0x10]) == (0x8058, 0x0000)


def test_a_written_word_is_read_back_and_survives_resets(card: Card82574) -> None:
    driver = card.driver
    driver.eeprom_write(0x2F, 0xA55A)
    assert driver.eeprom_read(0x2F) == 0xA55A
    driver.reset()
    assert driver.eeprom_read(0x2F) == 0xA55A


def test_a_new_address_in_the_nvm_holds_after_a_reset(card: Card82574) -> None:
    card.driver.eeprom_write(0, 0x0B0A)
    card.driver.reset()
    assert card.driver.read(e1000_spec.RAL) & 0xFFFF == 0x0B0A


@pytest.mark.parametrize("word", [64, 0x7F, 0x3FFF])
def test_words_beyond_the_nvm_are_answered_too(card: Card82574, word: int) -> None:
    card.driver.eeprom_read(word)
    card.driver.eeprom_write(word, 1)


# --- semaphores


def test_the_semaphore_is_handed_out_once(card: Card82574) -> None:
    driver = card.driver
    assert driver.take_semaphore()
    assert not driver.take_semaphore()
    driver.give_semaphore()
    assert driver.take_semaphore()


def test_a_reset_gives_the_semaphore_back(card: Card82574) -> None:
    assert card.driver.take_semaphore()
    card.pc.reset(card.nic)
    assert E1000eDriver(card.pc, 4).take_semaphore()


def test_the_phy_can_be_owned_and_given_up(card: Card82574) -> None:
    for _ in range(2):
        card.driver.own_phy()
        assert card.driver.phy_read(e1000_spec.PHY_ID1) == 0x0141
        card.driver.disown_phy()
        assert not card.driver.read(spec.EXTCNF_CTRL) & spec.EXTCNF_SW_OWNS_MDIO


def test_pages_of_the_phy_keep_their_registers_apart(card: Card82574) -> None:
    driver = card.driver
    driver.paged_phy_write(2, 21, 0x1046)
    driver.paged_phy_write(0, 21, 0)
    assert driver.paged_phy_read(2, 21) & 7 == 6
    driver.phy_write(spec.PHY_PAGE, 0)
    assert driver.phy_read(e1000_spec.PHY_ID1) == 0x0141


def test_the_phy_says_when_its_reset_is_over(card: Card82574) -> None:
    driver = card.driver
    driver.write(e1000_spec.CTRL, driver.read(e1000_spec.CTRL) | e1000_spec.CTRL_PHY_RST)
    card.pc.clock_step(1_000_000)
    driver.write(e1000_spec.CTRL, driver.read(e1000_spec.CTRL) & ~e1000_spec.CTRL_PHY_RST)
    card.pc.clock_step(50_000_000)
    assert driver.read(spec.EEMNGCTL) & 1 << 18
    driver.start()


# --- counters


def test_interrupts_are_counted(card: Card82574, driver: E1000eDriver) -> None:
    driver.interrupt_statistics()
    driver.write(e1000_spec.IMS, e1000_spec.ICR_LSC)
    driver.write(e1000_spec.ICS, e1000_spec.ICR_LSC)
    driver.read(e1000_spec.ICR)
    assert driver.interrupt_statistics() == {"IAC": 1}


def test_frames_of_both_queues_are_counted_together(card: Card82574, driver: E1000eDriver) -> None:
    driver.statistics()
    driver.send(frame_from())
    driver.second.send(frame_from(61))
    card.nic.wire.send(frame_to(MAC))
    found = driver.statistics()
    assert (found["GPTC"], found["GPRC"]) == (2, 1)
