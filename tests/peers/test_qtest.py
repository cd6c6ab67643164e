# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A harness can't tell vmwire's machine from QEMU's: the same commands, the same answers.

What differs, on purpose: where nothing is, memory reads as all ones here (as on a PC's bus) and as
zeros in QEMU; there is no BIOS, and none of a PC's devices that a network card has nothing to do
with (interrupt controllers, timers, keyboard ...), whose ports read as all ones; a command without
its arguments fails here and ends QEMU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import Harness
from tests.guest import provision
from vmwire.bench.pci import PciDevice

pytestmark = pytest.mark.peer

VMWIRE = [sys.executable, "-m", "vmwire"]
OPTIONS = ["-machine", "pc", "-nodefaults", "-m", "64M", "-device", "e1000,id=n0,addr=04.0"]
Pair = tuple[Harness, Harness]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    with (
        Harness(VMWIRE, OPTIONS, tmp_path / "ours") as ours,
        Harness([provision.qemu_newest()], OPTIONS, tmp_path / "theirs") as theirs,
    ):
        yield ours, theirs


def same(pair: Pair, commands: list[str]) -> None:
    answers = [[(line, pc.ask(line), pc.irqs) for line in commands] for pc in pair]
    assert answers[0] == answers[1]


def test_ram(pair: Pair) -> None:
    same(pair, [
        "writeq 0x1000 0x1122334455667788", "readq 0x1000", "readl 0x1002", "readw 0x1001",
        "readb 0x1007", "writeb 0x1000 0x1ff", "writew 0x1002 070000", "writel 4100 123",
        "read 0x1000 16", "write 0x1000 4 0x01020304", "write 0x1004 8 0x05", "read 0x1000 16",
        "write 0x1000 2 0x0a0b0c0d", "read 0x1000 4", "memset 0x1000 16 0xa5", "b64read 0x1000 7",
        "b64write 0x1000 3 AQID", "read 0x1000 4", "read 0x3fffffc 4",
    ])  # fmt: skip


def test_what_fails(pair: Pair) -> None:
    same(pair, [
        "frob", "frob 1 2", "INB 0x60", "rtas 1", "irq_intercept_in nothing", "clock_step 0",
        "irq_intercept_in n0", "set_irq_in nothing x 1 1", "endianness",
    ])  # fmt: skip


def test_time(pair: Pair) -> None:
    same(pair, ["clock_step 100", "clock_step 5", "clock_set 200", "clock_step -1", "clock_set 7",
                "clock_set 1000", "clock_step", "clock_set 27462700", "clock_step 10"])  # fmt: skip
    for pc in pair:
        assert 27462710 < pc.clock_step() <= 54925401


def test_interrupt_lines(pair: Pair) -> None:
    same(pair, [
        "outl 0xcf8 0x80000860", "inl 0xcfc", "outl 0xcfc 0x0b0a0905", "inl 0xcfc",
        "irq_intercept_in ioapic", "irq_intercept_in ioapic",
        "set_irq_in ioapic unnamed-gpio-in 3 1", "set_irq_in ioapic unnamed-gpio-in 3 1",
        "set_irq_in ioapic unnamed-gpio-in 3 0",
        "outl 0xcf8 0x80002010", "outl 0xcfc 0xe0000000", "outl 0xcf8 0x80002004", "outl 0xcfc 7",
        "writel 0xe00000d0 4", "writel 0xe00000c8 4", "readl 0xe00000c0", "readl 0xe00000c0",
        "clock_step 1000000",  # QEMU's card lets a while pass between two interrupts
        "writel 0xe00000c8 4", "writel 0xe00000d8 4", "clock_step 1000000",
        "writel 0xe00000d0 4", "outl 0xcf8 0x80000860", "outl 0xcfc 0x070a0905",
        "outl 0xcfc 0x800a0905",
    ])  # fmt: skip


@pytest.mark.parametrize("slot", [2, 3, 4, 5, 17, 31])
def test_which_line_a_slots_card_has(tmp_path: Path, slot: int) -> None:
    seen = []
    for name, program in (("ours", VMWIRE), ("theirs", [provision.qemu_newest()])):
        (tmp_path / name).mkdir()
        options = ["-machine", "pc", "-nodefaults", "-device", f"e1000,addr={slot:x}"]
        with Harness(program, options, tmp_path / name) as pc:
            PciDevice(pc, 1).config_write(0x60, 0x0B0A0905)
            base = PciDevice(pc, slot).enable()[0].address
            pc.ask("irq_intercept_in ioapic")
            pc.writel(base + 0xD0, 4)
            pc.writel(base + 0xC8, 4)
            seen.append(pc.irqs)
    assert seen[0] == seen[1] != []


def test_configuration_space_of_what_is_built_in(pair: Pair) -> None:
    for place in ((0, 0), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (5, 0)):
        ours, theirs = (
            [PciDevice(pc, *place).config_read(offset) for offset in range(0, 256, 4)]
            for pc in pair
        )
        assert ours == theirs, place


def test_the_configuration_ports(pair: Pair) -> None:
    same(pair, [
        "inl 0xcf8", "outl 0xcf8 0x80000002", "inl 0xcf8", "inw 0xcfc", "outw 0xcf8 5",
        "inl 0xcf8", "outl 0xcf8 0x80000000", "inw 0xcfe", "inb 0xcfd", "inl 0xcfc",
        "outl 0xcf8 0x00000000", "inl 0xcfc", "outl 0xcf8 0x80010000", "inl 0xcfc",
        "outl 0xcf8 0x80002110", "inl 0xcfc", "outb 0xcf9 2", "inb 0xcf9", "inl 0xcf8",
    ])  # fmt: skip


def test_the_firmware_configuration(pair: Pair) -> None:
    for item, size in ((0, 5), (1, 5), (2, 17), (3, 9), (4, 3), (5, 3), (0xE, 3), (0xF, 3)):
        same(pair, [f"outw 0x510 {item:#x}", *["inb 0x511"] * size])
    same(pair, [
        "inl 0x514", "inl 0x518", "inw 0x510", "outw 0x510 0",
        "write 0x1000 16 0x0000000a000000060000000000002000", "outl 0x514 0", "outl 0x518 0x100000",
        "read 0x1000 16", "read 0x2000 8",
    ])  # fmt: skip


def test_hotplug(pair: Pair) -> None:
    same(pair, ["irq_intercept_in ioapic", "inl 0xae00", "inl 0xae04", "inl 0xae08", "inl 0xae0c",
                "inl 0xae10", "inl 0xafe0", "outw 0xafe2 2", "inl 0xafe0"])  # fmt: skip
    for pc in pair:
        pc.qmp("device_add", {"driver": "e1000", "id": "hot", "addr": "06"})
    same(pair, ["endianness", "inl 0xafe0", "inl 0xae00", "inl 0xae00", "outw 0xafe0 2",
                "inl 0xafe0"])  # fmt: skip
    for pc in pair:
        pc.qmp("device_del", {"id": "hot"})
    same(pair, ["endianness", "inl 0xafe0", "inl 0xae04", "inl 0xae04", "outl 0xae08 0x40",
                "inl 0xae04", "inl 0xae0c", "outl 0xcf8 0x80003000", "inl 0xcfc"])  # fmt: skip
    assert [pc.event("DEVICE_DELETED") for pc in pair] == [
        {"device": "hot", "path": "/machine/peripheral/hot"}
    ] * 2


def test_a_reset(pair: Pair) -> None:
    for pc in pair:
        PciDevice(pc, 1).config_write(0x60, 0x0B0A0905)
        pc.ask("clock_step 77")
        pc.writel(0x1000, 5)
        pc.qmp("system_reset")
        assert "RESET" in pc.events or pc.event("RESET")
    same(pair, ["outl 0xcf8 0x80000860", "inl 0xcfc", "readl 0x1000", "clock_step 1"])
    same(pair, ["outb 0xcf9 6"])
    assert [pc.event("RESET") for pc in pair] == [{"guest": True, "reason": "guest-reset"}] * 2


def test_sigterm_ends_it_with_status_0(pair: Pair) -> None:
    assert [pc.end() for pc in pair] == [0, 0]
