# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vmwire.nic.registers import Array, Bank, Register


class Example(Bank, size=64):
    CTRL = Register(0x00, reset=0x40, mask=0xFF)
    CAUSE = Register(0x04, mask=0, clear_on_read=True)
    TABLE_OF = Array(0x10, 3, step=8, reset=7)
    PORT = Register(0x28)

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, int]] = []

    @CTRL.on_write
    @TABLE_OF.on_write
    def _on_write(self, value: int) -> None:
        self.heard.append(("write", value))

    @PORT.on_read
    def _read_port(self) -> int:
        return self.words[Example.PORT.index] + 1


class Derived(Example):
    @Example.PORT.on_write
    def _on_port(self, value: int) -> None:
        self.heard.append(("port", value))


def test_all_registers_have_their_value_after_reset() -> None:
    bank = Example()
    bank.store32(0, 1)
    bank.reset_registers()
    assert (bank.CTRL, bank.CAUSE, bank.TABLE_OF, bank.PORT) == (0x40, 0, [7, 7, 7], 0)


def test_only_bits_of_the_mask_are_written_and_the_handler_hears_all() -> None:
    bank = Example()
    bank.store32(0, 0x1234)
    assert (bank.load32(0), bank.heard) == (0x34, [("write", 0x1234)])


def test_what_is_declared_to_clear_is_cleared_by_reading() -> None:
    bank = Example()
    bank.CAUSE = 5
    bank.store32(4, 0xFF)
    assert [bank.load32(4), bank.load32(4)] == [5, 0]


def test_a_handler_of_an_array_hangs_on_each_of_its_words_and_not_between() -> None:
    bank = Example()
    for offset in range(0x10, 0x24, 4):
        bank.store32(offset, offset)
    assert bank.TABLE_OF == [value for _, value in bank.heard] == [0x10, 0x18, 0x20]
    assert bank.load32(0x14) == 0


def test_reading_goes_through_the_handler() -> None:
    bank = Example()
    bank.store32(0x28, 9)
    assert (bank.load32(0x28), bank.PORT) == (10, 9)


def test_a_subclass_hangs_effects_on_registers_that_it_inherits() -> None:
    plain, derived = Example(), Derived()
    for bank in (plain, derived):
        bank.store32(0x28, 3)
    assert (plain.heard, derived.heard) == ([], [("port", 3)])


def test_a_saved_block_restores_every_register() -> None:
    bank, other = Example(), Example()
    for offset in (0x00, 0x10, 0x18, 0x28):
        bank.store32(offset, 0x55)
    bank.CAUSE = 0xFFFFFFFF
    other.restore_registers(bank.save_registers())
    assert other.words == bank.words


def test_a_block_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="block of 3 bytes"):
        Example().restore_registers(b"abc")


def test_a_dump_names_registers_and_clears_nothing() -> None:
    bank = Example()
    bank.CAUSE = 3
    assert bank.dump()["CAUSE"] == bank.CAUSE == 3
    assert bank.dump()["TABLE_OF[1]"] == 7


def test_registers_that_overlap_fail_when_they_are_declared() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.B lies on A"):

        class Wrong(Bank, size=16):
            A = Array(0, 3)
            B = Register(8)


def test_a_register_outside_of_the_window_fails() -> None:
    with pytest.raises(TypeError, match="outside"):

        class Wrong(Bank, size=16):
            A = Register(16)


def test_an_offset_between_words_fails() -> None:
    with pytest.raises(TypeError, match="whole word"):
        Register(6)


def test_a_second_handler_for_a_register_fails() -> None:
    with pytest.raises(TypeError, match="A has a handler"):

        class Wrong(Bank, size=16):
            A = Register(0)

            @A.on_write
            def _one(self, value: int) -> None: ...

            @A.on_write
            def _two(self, value: int) -> None: ...


def test_a_handler_for_another_banks_register_fails() -> None:
    with pytest.raises(TypeError, match="hangs on CTRL"):

        class Wrong(Bank, size=16):
            A = Register(0)

            @Example.CTRL.on_write
            def _on_ctrl(self, value: int) -> None: ...


class Shared(Bank, size=64):
    ONE = Register(0x00, reset=1)
    TWO = Register(0x04, reset=2)


class Doing(Shared):
    heard = 0

    @Shared.ONE.on_write
    def _on_one(self, value: int) -> None:
        self.heard = value


class Having(Shared):
    TWO = Register(0x04, reset=22)
    THREE = Register(0x08, reset=3, clear_on_read=True)


Having.add_aliases({0x30: 0x00, 0x38: 0x08})


class Both(Doing, Having):
    pass


def test_a_bank_of_two_has_the_registers_and_handlers_of_both() -> None:
    bank = Both()
    assert (bank.ONE, bank.TWO, bank.THREE) == (1, 22, 3)
    bank.store32(0, 5)
    assert (bank.heard, bank.load32(8), bank.load32(8)) == (5, 3, 0)


def test_an_alias_is_the_register_itself_with_its_effects() -> None:
    bank = Both()
    bank.store32(0x30, 9)
    assert (bank.heard, bank.load32(0), bank.load32(0x30)) == (9, 9, 9)
    assert (bank.load32(0x38), bank.load32(0x08)) == (3, 0)


def test_hidden_registers_read_as_zero_in_that_bank_alone() -> None:
    bank = Both()
    bank.hide(["TWO", "THREE"])
    assert (bank.load32(4), bank.load32(8), bank.load32(0)) == (0, 0, 1)
    assert Both().load32(4) == 22
