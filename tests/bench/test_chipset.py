# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the PC has by itself: bridges, the routing of interrupts, hotplug, reset."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.bench.tiny import TINY, Tiny

from vmwire.bench.cards import Nic
from vmwire.bench.machine import Bench
from vmwire.bench.pci import PciDevice
from vmwire.errors import ConfigError

HOTPLUG = 0xAE00
EVENTS = 0xAFE0
PIN = 8
"""Where the test card's pin is set."""


@pytest.fixture
def pc() -> Iterator[Bench]:
    with Bench(1 << 20) as machine:
        yield machine


def card(pc: Bench, slot: int) -> Nic:
    nic = pc.insert(TINY, Tiny, addr=slot, name=f"card{slot}")
    PciDevice(pc, slot).enable()
    return nic


def set_pin(pc: Bench, slot: int, up: bool) -> None:
    pc.writel(0xE000_0000 + (slot << 24) + PIN, up)


def route(pc: Bench, *lines: int) -> None:
    PciDevice(pc, 1).config_write(0x60, int.from_bytes(bytes(lines), "little"))


@pytest.mark.parametrize(("slot", "function", "ids", "class_code", "header"), [
    (0, 0, (0x8086, 0x1237), 0x060000, 0x00),
    (1, 0, (0x8086, 0x7000), 0x060100, 0x80),
    (1, 1, (0x8086, 0x7010), 0x010180, 0x00),
    (1, 3, (0x8086, 0x7113), 0x068000, 0x00),
])  # fmt: skip
def test_what_is_built_in_is_found(
    pc: Bench, slot: int, function: int, ids: tuple[int, int], class_code: int, header: int
) -> None:
    device = PciDevice(pc, slot, function)
    assert device.ids == ids
    assert device.config_read(8) >> 8 == class_code
    assert device.config_read(0x0E, 1) == header


def test_where_nothing_is_reads_as_all_ones(pc: Bench) -> None:
    found = [PciDevice(pc, slot, function).ids for slot in range(32) for function in range(8)]
    assert sum(ids != (0xFFFF, 0xFFFF) for ids in found) == 4


# --- interrupts


def test_without_a_route_a_pin_leads_nowhere(pc: Bench) -> None:
    card(pc, 4)
    set_pin(pc, 4, True)
    assert not any(pc.lines.level(number) for number in range(24))


@pytest.mark.parametrize(("slot", "line"), [(2, 9), (3, 10), (4, 11), (5, 5), (6, 9)])
def test_a_slots_pin_is_led_by_the_register_of_its_pci_line(
    pc: Bench, slot: int, line: int
) -> None:
    card(pc, slot)
    route(pc, 5, 9, 10, 11)
    set_pin(pc, slot, True)
    assert [number for number in range(24) if pc.lines.level(number)] == [line]
    set_pin(pc, slot, False)
    assert not pc.lines.level(line)


def test_a_line_is_up_until_the_last_card_lets_go(pc: Bench) -> None:
    route(pc, 5, 5, 11, 11)
    for slot in (4, 8, 3):  # two on PCI's line D, one on C; both go to 11
        card(pc, slot)
        set_pin(pc, slot, True)
    for slot, still in ((4, True), (3, True), (8, False)):
        set_pin(pc, slot, False)
        assert pc.lines.level(11) is still


def test_a_new_route_takes_the_level_along(pc: Bench) -> None:
    card(pc, 4)
    route(pc, 5, 9, 10, 11)
    set_pin(pc, 4, True)
    route(pc, 5, 9, 10, 7)
    assert (pc.lines.level(11), pc.lines.level(7)) == (False, True)
    route(pc, 5, 9, 10, 0x80)
    assert not pc.lines.level(7)


def test_a_card_that_is_pulled_out_lets_its_line_go(pc: Bench) -> None:
    nic = card(pc, 4)
    route(pc, 5, 9, 10, 11)
    set_pin(pc, 4, True)
    pc.unseat(nic)
    assert not pc.lines.level(11)


def test_lines_are_told_once_they_are_intercepted(pc: Bench) -> None:
    told: list[tuple[int, bool]] = []
    pc.on_irq = lambda number, up: told.append((number, up))
    card(pc, 4)
    route(pc, 5, 9, 10, 11)
    set_pin(pc, 4, True)
    assert told == []
    pc.intercept(None)
    set_pin(pc, 4, False)
    pc.drive_line(3, True)
    assert told == [(11, False), (3, True)]


# --- hotplug


def test_a_card_that_comes_while_the_machine_runs_is_told_by_an_event(pc: Bench) -> None:
    pc.hot = True
    pc.outw(EVENTS + 2, 2)
    card(pc, 6)
    assert (pc.inw(EVENTS), pc.lines.level(9)) == (2, True)
    assert pc.inl(HOTPLUG) == 1 << 6
    assert pc.inl(HOTPLUG) == 0  # reading takes it
    pc.outw(EVENTS, 2)
    assert (pc.inw(EVENTS), pc.lines.level(9)) == (0, False)


def test_an_event_that_is_not_enabled_raises_no_line(pc: Bench) -> None:
    pc.hot = True
    card(pc, 6)
    assert (pc.inw(EVENTS), pc.lines.level(9)) == (2, False)
    pc.outw(EVENTS + 2, 2)
    assert pc.lines.level(9)


def test_a_card_goes_when_the_guest_ejects_it(pc: Bench) -> None:
    nic = card(pc, 6)
    assert pc.ask_out(nic)
    assert not pc.ask_out(nic)
    assert pc.inl(HOTPLUG + 4) == 1 << 6
    assert "card6" in pc.cards
    pc.outl(HOTPLUG + 8, 1 << 6)
    assert "card6" not in pc.cards
    assert pc.inl(HOTPLUG + 4) == 0
    assert PciDevice(pc, 6).ids == (0xFFFF, 0xFFFF)
    assert pc.readl(0xE600_0000) == 0xFFFF_FFFF


def test_a_guest_may_eject_without_being_asked_but_not_what_is_built_in(pc: Bench) -> None:
    card(pc, 6)
    assert pc.inl(HOTPLUG + 12) == 0xFFFF_FFFC
    pc.outl(HOTPLUG + 8, 0xFFFF_FFFF)
    assert not pc.cards
    assert PciDevice(pc, 1).ids == (0x8086, 0x7000)


def test_another_bus_has_no_slots(pc: Bench) -> None:
    card(pc, 6)
    pc.outl(HOTPLUG + 16, 1)
    pc.outl(HOTPLUG + 8, 1 << 6)
    assert "card6" in pc.cards
    assert pc.inl(HOTPLUG + 16) == 1


def test_an_ejected_place_can_be_taken_again(pc: Bench) -> None:
    pc.unseat(card(pc, 6))
    assert card(pc, 6).devfn == 6 << 3


# --- reset


def test_a_reset_resets_cards_and_routes_and_keeps_ram_and_clock(pc: Bench) -> None:
    card(pc, 4)
    route(pc, 5, 9, 10, 11)
    set_pin(pc, 4, True)
    pc.writel(0x1000, 5)
    pc.clock_step(77)
    pc.outb(0xCF9, 6)
    assert not pc.lines.level(11)
    assert PciDevice(pc, 1).config_read(0x60) == 0x8080_8080
    assert PciDevice(pc, 4).config_read(4, 2) == 0
    assert (pc.readl(0x1000), pc.now_ns) == (5, 77)


def test_the_reset_port_is_a_byte_beside_the_configuration_address(pc: Bench) -> None:
    pc.outl(0xCF8, 0x8000_2004)
    pc.outb(0xCF9, 2)
    assert (pc.inb(0xCF9), pc.inl(0xCF8)) == (2, 0x8000_2004)


def test_a_reset_ejects_what_was_asked_to_go(pc: Bench) -> None:
    pc.ask_out(card(pc, 6))
    card(pc, 5)
    pc.reset_all()
    assert set(pc.cards) == {"card5"}


# --- messages, and no PC at all


def test_messages_are_writes_to_ram(pc: Bench) -> None:
    pc.message(0x1000, 0x1234_5678)
    pc.message(0xFEE0_0000, 5)  # where nobody is
    assert pc.readl(0x1000) == 0x1234_5678


def test_a_bare_machine_takes_no_card() -> None:
    with Bench(1 << 20, bare=True) as pc, pytest.raises(ConfigError, match="No 'PCI' bus"):
        pc.plug("e1000", addr=4)
