# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""How the 82574L interrupts: the pin, MSI, and five vectors of MSI-X (data sheet, 7.4)."""

from __future__ import annotations

import pytest

from tests.nic.e1000.card import MAC, frame_from, frame_to
from tests.nic.e1000e.card import Card82574
from tests.nic.e1000e.test_on_bench_rss import EVERY_TYPE, KEY, SUITE, of_flow
from vmwire.bench import e1000_spec
from vmwire.bench import e1000e_spec as spec
from vmwire.bench.e1000e import E1000eDriver
from vmwire.bench.pci import PciDevice

QUEUES = spec.ICR_RXQ0 | spec.ICR_RXQ1 | spec.ICR_TXQ0 | spec.ICR_TXQ1
CAUSES = {
    spec.ICR_RXQ0: 0, spec.ICR_RXQ1: 1, spec.ICR_TXQ0: 2, spec.ICR_TXQ1: 3, spec.ICR_OTHER: 4,
}  # fmt: skip


@pytest.fixture
def messages(card: Card82574, driver: E1000eDriver) -> E1000eDriver:
    """A driver with five vectors, one for each cause, all unmasked, cleared as they are sent."""
    driver.enable_msix()
    driver.write(spec.EIAC, QUEUES | spec.ICR_OTHER)
    driver.write(e1000_spec.IMS, QUEUES | spec.ICR_OTHER | e1000_spec.ICR_LSC)
    card.vectors()
    return driver


# --- the pin


def test_a_read_clears_causes_once_they_have_interrupted(
    card: Card82574, driver: E1000eDriver
) -> None:
    """10.2.5.1: with a mask set and none asserted, a read leaves the causes alone."""
    driver.read(e1000_spec.ICR)
    driver.write(e1000_spec.IMS, e1000_spec.ICR_LSC)
    driver.write(e1000_spec.ICS, e1000_spec.ICR_RXT0)
    assert not card.nic.irq_level
    assert driver.read(e1000_spec.ICR) == driver.read(e1000_spec.ICR) == e1000_spec.ICR_RXT0
    driver.write(e1000_spec.ICS, e1000_spec.ICR_LSC)
    assert card.nic.irq_level
    both = e1000_spec.ICR_LSC | e1000_spec.ICR_RXT0
    assert driver.read(e1000_spec.ICR) == both | spec.ICR_ASSERTED
    assert driver.read(e1000_spec.ICR) == 0
    assert not card.nic.irq_level


def test_reading_the_cause_masks_what_iam_says(card: Card82574, driver: E1000eDriver) -> None:
    driver.write(e1000_spec.CTRL_EXT, driver.read(e1000_spec.CTRL_EXT) | spec.CTRL_EXT_IAME)
    driver.write(spec.IAM, 0xFFFF_FFFF)
    driver.write(e1000_spec.IMS, e1000_spec.ICR_LSC | e1000_spec.ICR_RXT0)
    driver.write(e1000_spec.ICS, e1000_spec.ICR_LSC)
    assert driver.read(e1000_spec.ICR) & e1000_spec.ICR_LSC
    assert driver.read(e1000_spec.IMS) == 0
    driver.write(e1000_spec.ICS, e1000_spec.ICR_RXT0)
    assert not card.nic.irq_level


# --- MSI


def test_msi_sends_one_message_for_each_interrupt(card: Card82574, driver: E1000eDriver) -> None:
    device = PciDevice(card.pc, 4)
    at = device.capabilities()[5]
    device.config_write(at + 4, 0xFEE0_0000)
    device.config_write(at + 12, 0x41, 2)
    device.config_write(at + 2, 0x81, 2)
    driver.write(e1000_spec.IMS, e1000_spec.ICR_RXT0)
    for _ in range(3):
        card.nic.wire.send(frame_to(MAC))
        driver.read(e1000_spec.ICR)
    assert len(card.vectors()) == 3
    assert not card.nic.irq_level


# --- MSI-X


@pytest.mark.parametrize(("cause", "vector"), CAUSES.items())
def test_each_cause_has_its_vector(
    card: Card82574, messages: E1000eDriver, cause: int, vector: int
) -> None:
    messages.write(e1000_spec.ICS, cause)
    assert card.vectors() == [vector]
    assert not card.nic.irq_level


def test_causes_are_cleared_as_they_are_sent_where_eiac_says(
    card: Card82574, messages: E1000eDriver
) -> None:
    messages.write(e1000_spec.ICS, spec.ICR_RXQ0)
    assert not messages.read(e1000_spec.ICS) & spec.ICR_RXQ0
    messages.write(e1000_spec.ICS, spec.ICR_RXQ0)
    assert card.vectors() == [0, 0]


def test_a_received_frame_and_a_sent_one_interrupt_by_their_own_vectors(
    card: Card82574, messages: E1000eDriver
) -> None:
    card.nic.wire.send(frame_to(MAC))
    assert card.vectors() == [0]
    messages.send(frame_from())
    assert card.vectors() == [2]
    messages.second.send(frame_from())
    assert card.vectors() == [3]


def test_the_second_queues_frames_interrupt_by_its_vector(
    card: Card82574, messages: E1000eDriver
) -> None:
    messages.start_rss(KEY, [1] * 128, EVERY_TYPE)
    card.nic.wire.send(of_flow(SUITE[0]))
    assert card.vectors() == [1]


def test_a_pulled_cable_is_another_cause(card: Card82574, messages: E1000eDriver) -> None:
    card.nic.wire.set_link(False)
    assert card.vectors() == [4]
    assert messages.read(e1000_spec.ICR) & e1000_spec.ICR_LSC


def test_several_causes_may_share_a_vector(card: Card82574, messages: E1000eDriver) -> None:
    messages.write(spec.IVAR, messages.ivar({"rx0": 1, "tx0": 1, "other": 0}))
    for cause, vectors in ((spec.ICR_RXQ0, [1]), (spec.ICR_TXQ0, [1]), (spec.ICR_OTHER, [0])):
        messages.write(e1000_spec.ICS, cause)
        assert card.vectors() == vectors


def test_a_cause_without_a_valid_vector_is_silent(card: Card82574, messages: E1000eDriver) -> None:
    messages.write(spec.IVAR, messages.ivar({"rx0": 0}))
    messages.write(e1000_spec.ICS, spec.ICR_TXQ0)
    assert card.vectors() == []


def test_masked_causes_are_silent(card: Card82574, messages: E1000eDriver) -> None:
    messages.write(e1000_spec.IMC, spec.ICR_RXQ0)
    card.nic.wire.send(frame_to(MAC))
    assert card.vectors() == []
    messages.write(e1000_spec.IMS, spec.ICR_RXQ0)
    assert card.vectors() == [0]


def test_a_message_masks_what_iam_says_where_eiame_asks(
    card: Card82574, messages: E1000eDriver
) -> None:
    control = messages.read(e1000_spec.CTRL_EXT)
    messages.write(e1000_spec.CTRL_EXT, control | spec.CTRL_EXT_EIAME)
    messages.write(spec.IAM, spec.ICR_RXQ0)
    messages.write(e1000_spec.ICS, spec.ICR_RXQ0)
    messages.write(e1000_spec.ICS, spec.ICR_RXQ0)
    assert card.vectors() == [0]
    assert not messages.read(e1000_spec.IMS) & spec.ICR_RXQ0
    messages.write(e1000_spec.ICS, spec.ICR_TXQ0)
    assert card.vectors() == [2]


def test_each_vector_has_its_own_throttle(card: Card82574, messages: E1000eDriver) -> None:
    """EITR, in units of 256 ns: at least so long from one message to the next."""
    messages.write(spec.EITR, 1000)
    for _ in range(10):
        messages.write(e1000_spec.ICS, spec.ICR_RXQ0)
        messages.write(e1000_spec.ICS, spec.ICR_TXQ0)
        card.pc.clock_step(20_000)
    found = card.vectors()
    assert found.count(2) == 10
    assert 1 <= found.count(0) <= 2
    card.pc.clock_step(256_000)
    assert card.vectors() == [0]
    card.pc.clock_step(10_000_000)
    assert card.vectors() == []


def test_a_burst_is_one_message(card: Card82574, messages: E1000eDriver) -> None:
    card.nic.wire.send([frame_to(MAC)] * 20)
    assert card.vectors() == [0]
    for _ in range(20):
        messages.send(frame_from(), kick=False)
    messages.kick()
    assert card.vectors() == [2]


def test_a_vector_that_the_table_masks_waits(card: Card82574, messages: E1000eDriver) -> None:
    entry = messages.pci.bars[3].address
    card.pc.writel(entry + 12, 1)
    card.nic.wire.send(frame_to(MAC))
    assert card.vectors() == []
    assert card.pc.readl(entry + 0x2000) & 1
    card.pc.writel(entry + 12, 0)
    assert card.vectors() == [0]


def test_after_a_reset_no_message_comes(card: Card82574, messages: E1000eDriver) -> None:
    messages.write(spec.EITR, 1000)
    messages.write(e1000_spec.ICS, spec.ICR_RXQ0)
    messages.write(e1000_spec.ICS, spec.ICR_RXQ0)
    card.vectors()
    messages.reset()
    card.pc.clock_step(1_000_000_000)
    assert card.vectors() == []
