# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vmwire.nic.e1000.eeprom import CHECKSUM, CS, DI, DO, SK, WORDS, Eeprom, contents

MAC = bytes.fromhex("525400123456")
READ, WRITE, ERASE = 0b110, 0b101, 0b111
EWEN, EWDS, ERAL, WRAL = 0b100110000, 0b100000000, 0b100100000, 0b100010000


class Wires:
    """The Microwire bus, a bit at a time."""

    def __init__(self) -> None:
        self.eeprom = Eeprom(contents(MAC, 0x100E))

    def out(self, value: int, bits: int) -> Wires:
        for bit in reversed(range(bits)):
            level = CS | (DI if value >> bit & 1 else 0)
            self.eeprom.drive(level)
            self.eeprom.drive(level | SK)
        return self

    def take(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            self.eeprom.drive(CS)
            self.eeprom.drive(CS | SK)
            value = value << 1 | bool(self.eeprom.pins() & DO)
        return value

    def end(self) -> None:
        self.eeprom.drive(0)

    def word(self, address: int) -> int:
        found = self.out(READ << 6 | address, 9).take(16)
        self.end()
        return found

    def command(self, value: int, data: int | None = None) -> None:
        self.out(value, 9)
        if data is not None:
            self.out(data, 16)
        self.end()


@pytest.fixture
def wires() -> Wires:
    return Wires()


@pytest.mark.parametrize(
    ("device", "checksum"), [(0x100E, 0x79AD), (0x100C, 0x79B1), (0x100F, 0x79AB)]
)
def test_a_new_cards_words_add_up(device: int, checksum: int) -> None:
    words = contents(MAC, device)
    assert sum(words) & 0xFFFF == CHECKSUM
    assert (words[:3], words[11], words[13], words[63]) == (
        [0x5452, 0x1200, 0x5634], device, device, checksum,
    )  # fmt: skip


def test_every_word_reads_over_the_wires(wires: Wires) -> None:
    assert [wires.word(address) for address in range(WORDS)] == wires.eeprom.words


def test_a_zero_comes_in_front_of_the_data(wires: Wires) -> None:
    wires.out(READ << 6 | 4, 9)
    assert not wires.eeprom.pins() & DO


def test_reading_on_gives_the_words_behind_and_wraps(wires: Wires) -> None:
    wires.out(READ << 6 | 62, 9)
    assert [wires.take(16) for _ in range(3)] == [0xFFFF, 0x79AD, 0x5452]


def test_zeros_before_the_start_bit_are_nothing(wires: Wires) -> None:
    assert wires.out(0, 5).out(READ << 6 | 1, 9).take(16) == 0x1200


def test_nothing_is_written_until_that_is_enabled(wires: Wires) -> None:
    wires.command(WRITE << 6 | 5, 0xBEEF)
    assert wires.word(5) == 0
    wires.command(EWEN)
    wires.command(WRITE << 6 | 5, 0xBEEF)
    wires.command(EWDS)
    wires.command(WRITE << 6 | 5, 0)
    assert wires.word(5) == 0xBEEF


def test_a_write_that_is_cut_off_changes_nothing(wires: Wires) -> None:
    wires.command(EWEN)
    wires.out(WRITE << 6 | 5, 9).out(0xBE, 8).end()
    assert wires.word(5) == 0


def test_erasing_and_writing_all(wires: Wires) -> None:
    wires.command(EWEN)
    wires.command(ERASE << 6 | 5)
    assert wires.word(5) == 0xFFFF
    wires.command(WRAL, 0x1234)
    assert set(wires.eeprom.words) == {0x1234}
    wires.command(ERAL)
    assert set(wires.eeprom.words) == {0xFFFF}


def test_the_device_is_ready_when_it_is_selected(wires: Wires) -> None:
    wires.command(READ << 6)
    wires.eeprom.drive(CS)
    assert wires.eeprom.pins() & DO


def test_eerd_gives_a_word_when_it_is_started_and_nothing_beyond_the_last(wires: Wires) -> None:
    read = wires.eeprom.read_register
    assert read(1 << 8 | 1) == 0x1200 << 16 | 1 << 8 | 0x10
    assert read(0x500) == 0x500
    assert read(64 << 8 | 1) >> 16 == 0


def test_a_state_in_the_middle_of_a_word_goes_on_elsewhere(wires: Wires) -> None:
    other = Wires()
    wires.out(READ << 6 | 2, 9)
    high = wires.take(7)
    other.eeprom.restore(wires.eeprom.save())
    assert high << 9 | other.take(9) == 0x5634


def test_a_state_that_is_none_is_refused(wires: Wires) -> None:
    with pytest.raises(ValueError, match="EEPROM"):
        wires.eeprom.restore({"words": [1], "bus": []})
