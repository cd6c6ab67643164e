# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a chip raises and what its machine sees: pin, MSI, MSI-X."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.bus.pci.cards import describe

from vmwire.bus.pci.capabilities import Msi
from vmwire.bus.pci.config import COMMAND, INTX_DISABLE, STATUS, ConfigSpace, Description
from vmwire.bus.pci.interrupts import Interrupts

MSI, MSIX = 0x50, 0x70
MSI_ON = 1
MSIX_ON, ALL_MASKED = 0x8000, 0x4000
UNMASKED = bytes(16)


class Seen:
    """A machine that notes what comes."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def intx(self, up: bool) -> None:
        self.events.append(("intx", up))

    def msi(self, vector: int) -> None:
        self.events.append(("msi", vector))

    def msix(self, vector: int) -> None:
        self.events.append(("msix", vector))

    def take(self) -> list[tuple[str, int]]:
        events, self.events = self.events, []
        return events


class Card:
    """A card with MSI at 0x50 and MSI-X at 0x70 (as igb has them), and its machine."""

    def __init__(self, description: Description | None = None) -> None:
        self.machine = Seen()
        self.config = ConfigSpace(description or describe("igb", "pc"))
        self.interrupts = Interrupts(self.machine, self.config)
        self.take = self.machine.take

    def configure(self, offset: int, size: int, value: int) -> None:
        self.config.write(offset, size, value)
        self.interrupts.on_config_changed()

    def unmask(self, vector: int, masked: bool = False) -> None:
        self.interrupts.store_table(16 * vector + 12, 4, int(masked))

    @property
    def status(self) -> bool:
        return bool(self.config.read(STATUS, 2) & 8)


def with_msi(vectors: int, *, maskable: bool = True) -> Card:
    msi = Msi(offset=MSI, vectors=vectors, maskable=maskable)
    return Card(replace(describe("e1000", "pc"), capabilities=(msi,)))


# --- the pin


def test_line_and_status_follow_the_level() -> None:
    card = Card()
    card.interrupts.set_level(True)
    assert (card.take(), card.status, card.interrupts.line) == ([("intx", True)], True, True)
    card.interrupts.set_level(True)
    assert card.take() == []
    card.interrupts.set_level(False)
    assert (card.take(), card.status, card.interrupts.line) == ([("intx", False)], False, False)


def test_disabling_intx_lowers_the_line_and_keeps_the_status() -> None:
    card = Card()
    card.interrupts.set_level(True)
    card.configure(COMMAND, 2, INTX_DISABLE)
    assert card.take() == [("intx", True), ("intx", False)]
    assert card.status
    card.configure(COMMAND, 2, 0)
    assert card.take() == [("intx", True)]


def test_a_level_raised_while_intx_is_disabled_shows_later() -> None:
    card = Card()
    card.configure(COMMAND, 2, INTX_DISABLE)
    card.interrupts.set_level(True)
    assert (card.take(), card.status) == ([], True)
    card.configure(COMMAND, 2, 0)
    assert card.take() == [("intx", True)]


def test_without_messages_enabled_none_is_sent() -> None:
    card = Card()
    card.interrupts.notify(0)
    assert card.take() == []
    assert card.interrupts.table.pending == 0


def test_a_new_machine_is_told_of_a_line_that_is_up() -> None:
    card, other = Card(), Seen()
    card.interrupts.set_level(True)
    card.interrupts.machine = other
    assert other.events == [("intx", True)]
    card.interrupts.set_level(False)
    assert other.events == [("intx", True), ("intx", False)]
    assert card.take() == [("intx", True)]
    card.interrupts.machine = third = Seen()
    assert third.events == []


# --- MSI


def test_with_msi_a_rise_sends_message_0() -> None:
    card = Card()
    card.configure(MSI + 2, 2, MSI_ON)
    for up in (True, True, False, True):
        card.interrupts.set_level(up)
    assert card.take() == [("msi", 0), ("msi", 0)]
    assert not card.status


def test_enabling_msi_lowers_the_line_and_disabling_raises_it_again() -> None:
    card = Card()
    card.interrupts.set_level(True)
    card.configure(MSI + 2, 2, MSI_ON)
    assert card.take() == [("intx", True), ("intx", False)]
    card.configure(MSI + 2, 2, 0)
    assert card.take() == [("intx", True)]


@pytest.mark.parametrize(("enabled", "sent"), [(0, 0), (1, 1), (2, 1), (3, 5), (7, 5)])
def test_messages_fold_into_as_many_as_are_allowed(enabled: int, sent: int) -> None:
    card = with_msi(8)
    card.configure(MSI + 2, 2, MSI_ON | enabled << 4)
    card.interrupts.notify(5)
    assert card.take() == [("msi", sent)]


def test_a_masked_message_is_pending_and_goes_when_unmasked() -> None:
    card = with_msi(4)
    card.configure(MSI + 2, 2, MSI_ON | 2 << 4)
    card.configure(MSI + 16, 4, 0b0110)
    for vector in (1, 1, 2, 3):
        card.interrupts.notify(vector)
    assert card.take() == [("msi", 3)]
    assert card.config.read(MSI + 20, 4) == 0b0110
    card.configure(MSI + 16, 4, 0b0100)
    assert card.take() == [("msi", 1)]
    assert card.config.read(MSI + 20, 4) == 0b0100


def test_pending_bits_can_not_be_written() -> None:
    card = with_msi(4)
    card.configure(MSI + 2, 2, MSI_ON)
    card.configure(MSI + 20, 4, 0xF)
    assert card.take() == []
    assert card.config.read(MSI + 20, 4) == 0


def test_the_message_carries_the_vector_in_its_low_bits() -> None:
    card = with_msi(4)
    card.configure(MSI + 2, 2, MSI_ON | 2 << 4)
    card.configure(MSI + 4, 4, 0xFEE01003)
    card.configure(MSI + 8, 4, 0x1)
    card.configure(MSI + 12, 2, 0x4044)
    assert card.interrupts.msi_message(3) == (0x1_FEE01000, 0x4047)


def test_msi_without_masks_is_sent_at_once() -> None:
    card = with_msi(2, maskable=False)
    card.configure(MSI + 2, 2, MSI_ON | 1 << 4)
    card.interrupts.notify(1)
    assert card.take() == [("msi", 1)]


# --- MSI-X


def test_vectors_are_masked_at_reset_and_latched() -> None:
    card = Card()
    card.configure(MSIX + 2, 2, MSIX_ON)
    card.interrupts.notify(3)
    card.interrupts.notify(3)
    assert card.take() == []
    assert card.interrupts.table.pending == 1 << 3
    card.unmask(2)
    assert card.take() == []
    card.unmask(3)
    assert (card.take(), card.interrupts.table.pending) == ([("msix", 3)], 0)
    card.interrupts.notify(3)
    assert card.take() == [("msix", 3)]


def test_the_function_mask_holds_everything_back() -> None:
    card = Card()
    for vector in (0, 1, 9):
        card.unmask(vector)
    card.configure(MSIX + 2, 2, MSIX_ON | ALL_MASKED)
    for vector in (9, 0, 5):
        card.interrupts.notify(vector)
    assert card.take() == []
    card.configure(MSIX + 2, 2, MSIX_ON)
    assert card.take() == [("msix", 0), ("msix", 9)]
    assert card.interrupts.table.pending == 1 << 5


def test_unmasking_under_the_function_mask_sends_nothing_yet() -> None:
    card = Card()
    card.configure(MSIX + 2, 2, MSIX_ON | ALL_MASKED)
    card.interrupts.notify(1)
    card.unmask(1)
    assert card.take() == []
    card.configure(MSIX + 3, 1, MSIX_ON >> 8)
    assert card.take() == [("msix", 1)]


def test_msix_comes_before_msi_and_the_pin() -> None:
    card = Card()
    card.unmask(0)
    card.configure(MSI + 2, 2, MSI_ON)
    card.configure(MSIX + 2, 2, MSIX_ON)
    card.interrupts.set_level(True)
    assert (card.take(), card.status) == ([], False)
    card.interrupts.notify(0)
    assert card.take() == [("msix", 0)]


@pytest.mark.parametrize("vector", [10, 2048, -1])
def test_a_vector_that_is_not_there_goes_nowhere(vector: int) -> None:
    card = Card()
    card.configure(MSIX + 2, 2, MSIX_ON)
    card.interrupts.notify(vector)
    assert card.take() == []
    assert card.interrupts.table.pending == 0


def test_a_machine_that_masks_by_itself_gets_every_message_at_once() -> None:
    card = Card()
    card.interrupts.machine_masks = True
    card.configure(MSIX + 2, 2, MSIX_ON | ALL_MASKED)
    card.interrupts.notify(4)
    assert card.take() == [("msix", 4)]
    card.configure(MSIX + 2, 2, 0)
    card.configure(MSI + 2, 2, MSI_ON)
    card.configure(MSI + 16, 4, 1)
    card.interrupts.notify(0)
    assert card.take() == [("msi", 0)]


def test_an_entry_holds_its_message() -> None:
    card = Card()
    for offset, value in ((32, 0xFEE0100F), (36, 1), (40, 0x4041), (44, 0xFFFFFFFE)):
        card.interrupts.store_table(offset, 4, value)
    assert card.interrupts.msix_message(2) == (0x1_FEE0100C, 0x4041)
    assert card.interrupts.table.load(44, 4) == 0


# --- reset, save, restore


def test_reset_lowers_the_line_and_masks_all() -> None:
    card = Card()
    card.interrupts.set_level(True)
    card.unmask(1)
    card.config.reset()
    card.interrupts.reset()
    assert card.take() == [("intx", True), ("intx", False)]
    assert not card.interrupts.level
    assert not card.status
    assert all(card.interrupts.table.masked(vector) for vector in range(10))


def moved(card: Card) -> Card:
    """A card of the same kind that takes over the state."""
    other = Card(card.config.description)
    other.config.restore(card.config.save())
    other.interrupts.restore(card.interrupts.save())
    return other


def test_a_line_that_is_up_survives_a_move() -> None:
    card = Card()
    card.interrupts.set_level(True)
    other = moved(card)
    assert (other.take(), other.status) == ([("intx", True)], True)


def test_pending_msix_survives_a_move() -> None:
    card = Card()
    card.configure(MSIX + 2, 2, MSIX_ON)
    card.interrupts.notify(7)
    other = moved(card)
    assert other.take() == []
    other.unmask(7)
    assert other.take() == [("msix", 7)]


def test_pending_msi_survives_a_move() -> None:
    card = with_msi(4)
    card.configure(MSI + 2, 2, MSI_ON | 2 << 4)
    card.configure(MSI + 16, 4, 0xF)
    card.interrupts.notify(2)
    other = moved(card)
    assert (other.take(), other.config.read(MSI + 20, 4)) == ([], 0b100)
    other.configure(MSI + 16, 4, 0)
    assert other.take() == [("msi", 2)]


@pytest.mark.parametrize(
    "change",
    [
        {"table": b""},
        {"table": None},
        {"pending": -1},
        {"pending": 1 << 10},
        {"pending": "1"},
        {"msi pending": 2},
    ],
)
def test_restore_refuses_what_save_did_not_give(change: dict[str, object]) -> None:
    card = Card()
    with pytest.raises(ValueError):
        card.interrupts.restore(card.interrupts.save() | change)
