# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vmwire.nic.e1000.filters import Filters
from vmwire.nic.e1000.registers import RCTL_BAM, RCTL_MPE, RCTL_UPE, Registers
from vmwire.nic.e1000.statistics import BROADCAST, RECEIVED, Statistics, group_of

ONES = 0xFFFFFFFF
GROUP = bytes.fromhex("01005e0000fb")


def test_counters_stop_at_all_ones() -> None:
    words = Registers().words
    words[Registers.GPRC.index] = ONES - 1
    words[Registers.PRC64.index] = ONES
    Statistics(words).passed(RECEIVED, [60, 60, 60], [0, 0, 0])
    assert (words[Registers.GPRC.index], words[Registers.PRC64.index]) == (ONES, ONES)


def test_pairs_carry_and_stop_at_all_ones() -> None:
    words = Registers().words
    low = Registers.GORCL.index
    words[low] = ONES
    counters = Statistics(words)
    counters.add_pair(low, 2)
    assert words[low : low + 2] == [1, 1]
    words[low], words[low + 1] = ONES - 5, ONES
    counters.add_pair(low, 100)
    assert words[low : low + 2] == [ONES, ONES]


def test_reading_the_upper_half_clears_both_and_the_lower_none() -> None:
    bank = Registers()
    counters = Statistics(bank.words)
    counters.add_pair(Registers.TORL.index, 7 << 32 | 5)
    assert bank.load32(Registers.TORL.offset) == 5
    assert counters.read_pair_high(Registers.TORL.index) == 7
    assert (bank.TORL, bank.TORH) == (0, 0)


@pytest.mark.parametrize(
    ("length", "name"),
    [
        (60, "PRC64"), (61, "PRC127"), (123, "PRC127"), (124, "PRC255"), (251, "PRC255"),
        (252, "PRC511"), (508, "PRC1023"), (1019, "PRC1023"), (1020, "PRC1522"), (9000, "PRC1522"),
    ],
)  # fmt: skip
def test_sizes_are_counted_with_the_fcs(length: int, name: str) -> None:
    bank = Registers()
    Statistics(bank.words).passed(RECEIVED, [length], [0])
    counted = {key for key, value in bank.dump().items() if key.startswith("PRC") and value}
    assert (counted, bank.GORCL) == ({name}, length + 4)


def test_groups_are_told_apart() -> None:
    assert [group_of(it) for it in (bytes(6), GROUP, BROADCAST)] == [0, 1, 2]


def filters(rctl: int = 0, **_: int) -> tuple[Registers, Filters]:
    bank = Registers()
    bank.RCTL = rctl
    return bank, Filters(bank.words)


def test_nothing_passes_without_a_filter() -> None:
    _, found = filters()
    assert [found.passes(it) for it in (bytes(6), GROUP, BROADCAST)] == [False] * 3


@pytest.mark.parametrize(
    ("rctl", "passing"),
    [
        (RCTL_BAM, [False, False, True]),
        (RCTL_UPE, [True, False, False]),
        (RCTL_MPE, [False, True, True]),
    ],
)
def test_modes_pass_their_kind(rctl: int, passing: list[bool]) -> None:
    _, found = filters(rctl)
    assert [found.passes(it) for it in (b"\x02" * 6, GROUP, BROADCAST)] == passing


def test_an_address_of_zeros_passes_only_while_it_is_valid() -> None:
    bank, found = filters()
    assert not found.passes(bytes(6))
    bank.words[Registers.RAH.index] = 1 << 31
    found.forget()
    assert found.passes(bytes(6))


def test_a_verdict_is_kept_until_it_is_forgotten() -> None:
    bank, found = filters(RCTL_BAM)
    assert found.passes(BROADCAST)
    bank.RCTL = 0
    assert found.passes(BROADCAST)
    found.forget()
    assert not found.passes(BROADCAST)


def test_a_flood_of_addresses_is_not_remembered_for_ever() -> None:
    _, found = filters(RCTL_UPE)
    for number in range(5000):
        found.passes((2 << 40 | number).to_bytes(6, "big"))
    assert len(found._verdicts) <= 1024
