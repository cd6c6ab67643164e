# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.bench.tiny import TINY, Tiny

from vmwire.bench.machine import Bench, Nic
from vmwire.bench.pci import PciDevice
from vmwire.errors import ConfigError

MEMORY = 0xE400_0000
PORTS = 0xC800


@pytest.fixture
def pc() -> Iterator[Bench]:
    with Bench(1 << 20) as machine:
        yield machine


@pytest.fixture
def nic(pc: Bench) -> Nic:
    return pc.insert(TINY, Tiny, addr=4, name="tiny", rom=b"\x55\xaa")


def chip_of(nic: Nic) -> Tiny:
    """The chip in the card."""
    chip = nic.function.chip
    assert isinstance(chip, Tiny)
    return chip


@pytest.fixture
def device(pc: Bench, nic: Nic) -> PciDevice:
    device = PciDevice(pc, 4)
    device.enable()
    return device


def config(slot: int, offset: int, function: int = 0, bus: int = 0) -> int:
    return 1 << 31 | bus << 16 | slot << 11 | function << 8 | offset


# --- RAM


@pytest.mark.parametrize(("size", "read", "write"), [
    (1, "readb", "writeb"), (2, "readw", "writew"), (4, "readl", "writel"), (8, "readq", "writeq"),
])  # fmt: skip
def test_ram_is_little_endian_at_every_width_and_place(
    pc: Bench, size: int, read: str, write: str
) -> None:
    value = int.from_bytes(bytes(range(1, size + 1)), "little")
    getattr(pc, write)(0x1003, value)
    assert getattr(pc, read)(0x1003) == value
    assert pc.read(0x1002, size + 2) == b"\0" + bytes(range(1, size + 1)) + b"\0"


def test_memset_fills_a_range_and_no_more(pc: Bench) -> None:
    pc.memset(0x100, 0x10, 0xA5)
    assert pc.read(0xFF, 0x12) == b"\0" + b"\xa5" * 16 + b"\0"


def test_what_is_not_there_reads_as_all_ones_and_takes_writes(pc: Bench) -> None:
    pc.writel(0xD000_0000, 1)
    pc.outb(0x300, 1)
    assert pc.readb(0xD000_0000) == 0xFF
    assert pc.readq(0xFFFF_FFFF_0000_0000) == 0xFFFF_FFFF_FFFF_FFFF
    assert (pc.inb(0x300), pc.inl(0x300)) == (0xFF, 0xFFFF_FFFF)


def test_an_access_over_the_end_of_ram_finds_what_is_there(pc: Bench) -> None:
    pc.writel(0xF_FFFE, 0x4433_2211)
    assert pc.readl(0xF_FFFE) == 0xFFFF_2211
    assert pc.read(0xF_FFFD, 6) == b"\0\x11\x22\xff\xff\xff"


def test_ram_leaves_room_for_cards_below_4_gib() -> None:
    with Bench((4 << 30) + 0x1000) as pc:
        pc.writel(0xBFFF_FFFC, 5)
        pc.writel(0xC000_0000, 6)
        pc.writel(0x1_4000_0FFC, 7)
        assert [pc.readl(at) for at in (0xBFFF_FFFC, 0xC000_0000, 0x1_4000_0FFC)] == [
            5, 0xFFFF_FFFF, 7,
        ]  # fmt: skip
        assert pc.readl(0x1_4000_1000) == 0xFFFF_FFFF


def test_more_ram_than_a_pc_can_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="0x10000000000"):
        Bench(1 << 41)


@pytest.mark.parametrize("access", [
    lambda pc: pc.writeb(0, 256),
    lambda pc: pc.outl(0, -1),
    lambda pc: pc.inl(0xFFFE),
    lambda pc: pc.readq((1 << 64) - 4),
    lambda pc: pc.read(-1, 4),
    lambda pc: pc.memset(0, 4, 256),
    lambda pc: pc.clock_step(-1),
])  # fmt: skip
def test_a_slip_of_the_user_is_told(pc: Bench, access: Callable[[Bench], object]) -> None:
    with pytest.raises(ValueError):
        access(pc)


# --- PCI configuration


def test_the_host_bridge_and_the_isa_bridge_are_there_to_read(pc: Bench) -> None:
    for slot, ids in ((0, 0x1237_8086), (1, 0x7000_8086)):
        pc.outl(0xCF8, config(slot, 0))
        pc.outl(0xCFC, 0)
        assert pc.inl(0xCFC) == ids


@pytest.mark.parametrize(
    "address", [config(9, 0), config(4, 0, function=1), config(4, 0, bus=1), 0x2000]
)
def test_a_function_that_is_not_there_reads_as_all_ones(pc: Bench, nic: Nic, address: int) -> None:
    pc.outl(0xCF8, address)
    assert pc.inl(0xCFC) == 0xFFFF_FFFF
    assert pc.inw(0xCFE) == 0xFFFF


def test_the_byte_is_chosen_by_the_port_or_by_the_low_bits_of_the_address(
    pc: Bench, nic: Nic
) -> None:
    pc.outl(0xCF8, config(4, 0))
    assert [pc.inb(0xCFC + i) for i in range(4)] == [0x34, 0x12, 0x78, 0x56]
    assert pc.inw(0xCFE) == 0x5678
    pc.outl(0xCF8, config(4, 2))
    assert (pc.inw(0xCFC), pc.inb(0xCFC)) == (0x5678, 0x78)


def test_the_address_register_takes_only_32_bits_at_once(pc: Bench) -> None:
    pc.outl(0xCF8, config(1, 0))
    pc.outb(0xCF8, 0x55)
    assert pc.inl(0xCF8) == config(1, 0)
    assert pc.inb(0xCF8) == 0xFF


def test_a_driver_sizes_and_places_the_bars(device: PciDevice) -> None:
    memory, ports = device.bars[0], device.bars[1]
    assert (memory.is_io, memory.size, memory.address) == (False, 0x1000, MEMORY)
    assert (ports.is_io, ports.size, ports.address) == (True, 0x20, PORTS)
    assert device.ids == (0x1234, 0x5678)


# --- where the BARs answer


def test_a_bar_answers_where_the_driver_put_it(pc: Bench, nic: Nic, device: PciDevice) -> None:
    pc.writel(MEMORY, 0xDEAD_BEEF)
    assert pc.readl(MEMORY) == 0xDEAD_BEEF
    assert pc.inl(PORTS) == 0xDEAD_BEEF
    assert pc.readw(MEMORY + 2) == 0xDEAD
    device.place(0, 0xF000_0000)
    assert pc.readl(0xF000_0000) == 0xDEAD_BEEF
    assert pc.readl(MEMORY) == 0xFFFF_FFFF


@pytest.mark.parametrize(("command", "memory", "io"), [
    (0, False, False), (1, False, True), (2, True, False), (7, True, True),
])  # fmt: skip
def test_the_command_register_gates_each_space(
    pc: Bench, nic: Nic, device: PciDevice, command: int, memory: bool, io: bool
) -> None:
    device.config_write(4, command, 2)
    assert (pc.readl(MEMORY) == 0) is memory
    assert (pc.inl(PORTS) == 0) is io


def test_ram_wins_over_a_bar_that_is_put_on_it(pc: Bench, nic: Nic, device: PciDevice) -> None:
    device.place(0, 0x1000)
    pc.writel(0x1000, 5)
    assert chip_of(nic).stores == []


def test_the_rom_answers_while_its_own_enable_is_set(pc: Bench, device: PciDevice) -> None:
    device.config_write(0x30, 0xFFFF_FFFF)
    assert device.config_read(0x30) == 0xFFFF_F801
    device.config_write(0x30, 0xE500_0001)
    assert pc.read(0xE500_0000, 4) == b"\x55\xaa\xff\xff"
    device.config_write(0x30, 0xE500_0000)
    assert pc.readb(0xE500_0000) == 0xFF


def test_a_bus_reset_takes_the_bars_away(pc: Bench, nic: Nic, device: PciDevice) -> None:
    pc.reset(nic)
    assert pc.readl(MEMORY) == 0xFFFF_FFFF
    assert device.config_read(4, 2) == 0


def test_long_accesses_reach_registers_in_aligned_pieces(
    pc: Bench, nic: Nic, device: PciDevice
) -> None:
    pc.write(MEMORY + 0x101, bytes(range(1, 10)))
    assert chip_of(nic).stores == [
        (0, 0x101, 1, 1), (0, 0x102, 2, 0x302), (0, 0x104, 4, 0x7060504), (0, 0x108, 2, 0x908),
    ]  # fmt: skip


# --- cards, interrupts, wires, time


def test_a_card_reads_memory_only_as_bus_master(pc: Bench, nic: Nic, device: PciDevice) -> None:
    pc.write(0x2000, b"a frame of some sort")
    pc.writel(MEMORY, 0x2000)
    device.config_write(4, 3, 2)
    pc.writel(MEMORY + 4, 7)
    assert nic.wire.take() == []
    device.config_write(4, 7, 2)
    pc.writel(MEMORY + 4, 7)
    assert nic.wire.take() == [b"a frame"]
    assert nic.wire.take() == []


def test_frames_reach_the_card_and_its_interrupt_is_seen(pc: Bench, nic: Nic) -> None:
    assert nic.wire.send([b"one", bytearray(b"two")]) == 2
    assert nic.wire.send(b"three") == 1
    assert chip_of(nic).received == [b"one", b"two", b"three"]
    assert nic.irq_level
    assert nic.irq.edges == 1


def test_edges_are_counted(pc: Bench, nic: Nic, device: PciDevice) -> None:
    for level in (1, 1, 0, 1, 0):
        pc.writel(MEMORY + 8, level)
    assert (nic.irq.edges, nic.irq_level) == (2, False)


def test_a_pulled_cable_takes_no_frames(nic: Nic) -> None:
    nic.wire.set_link(False)
    assert not nic.function.port.carrier
    nic.wire.send(b"lost")
    assert chip_of(nic).received == []


def test_timers_fire_at_their_own_nanosecond(pc: Bench, nic: Nic, device: PciDevice) -> None:
    for delay in (1, 999, 1024, 102_400, 3_333_333):
        pc.writel(MEMORY + 8, 0)
        pc.writel(MEMORY + 0xC, delay)
        pc.clock_step(delay - 1)
        assert not nic.irq_level
        pc.clock_step(1)
        assert nic.irq_level


def test_the_clock_stands_still_by_itself_and_steps_to_the_next_timer(
    pc: Bench, nic: Nic, device: PciDevice
) -> None:
    pc.clock_set(5000)
    pc.writel(MEMORY + 0xC, 250)
    assert pc.clock_step() == 5250
    assert nic.irq_level
    assert pc.clock_step() == 5250
    assert pc.clock_set(100) == 5250
    assert pc.now_ns == 5250


def test_several_cards_have_their_own_places_and_names(pc: Bench) -> None:
    first, second = pc.insert(TINY, Tiny), pc.insert(TINY, Tiny)
    assert (first.devfn, second.devfn) == (2 << 3, 3 << 3)
    assert list(pc.cards) == ["nic0", "nic1"]
    assert pc.insert(TINY, Tiny, addr="1f.7").devfn == 0xFF
    for slot in (2, 3):
        PciDevice(pc, slot).enable()
    pc.writel(0xE200_0000, 1)
    assert (pc.readl(0xE200_0000), pc.readl(0xE300_0000)) == (1, 0)


@pytest.mark.parametrize("how", [{"addr": 0}, {"addr": 32}, {"addr": "4.8"}, {"name": "tiny"}])
def test_a_place_or_name_that_cannot_be_had_is_told(
    pc: Bench, nic: Nic, how: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        pc.insert(TINY, Tiny, **how)


def test_an_unknown_card_is_told(pc: Bench) -> None:
    with pytest.raises(ConfigError, match="not a valid device model"):
        pc.plug("e10000")


def test_a_card_that_works_without_end_is_a_bug_that_shows(pc: Bench, nic: Nic) -> None:
    slot = chip_of(nic).slot

    def again() -> None:
        slot.defer(again)

    slot.defer(again)
    with pytest.raises(RuntimeError, match="without end"):
        pc.readl(0)
