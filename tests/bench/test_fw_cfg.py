# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest

from vmwire.bench.fw_cfg import FwCfg
from vmwire.bench.machine import Bench

RAM = 1 << 20
STRUCTURE, TARGET = 0x1000, 0x2000
ERROR, READ, SKIP, SELECT, WRITE = 1, 2, 4, 8, 16


@pytest.fixture
def pc() -> Iterator[Bench]:
    with Bench(RAM) as machine:
        yield machine


@pytest.fixture
def fw_cfg(pc: Bench) -> FwCfg:
    assert pc.board is not None
    return pc.board.fw_cfg


def item(pc: Bench, number: int, size: int) -> bytes:
    pc.outw(0x510, number)
    return bytes(pc.inb(0x511) for _ in range(size))


@pytest.mark.parametrize(("number", "value"), [
    (0, b"QEMU"), (1, b"\3\0\0\0"), (2, bytes(16)), (3, RAM.to_bytes(8, "little")), (4, b"\0\0"),
    (5, b"\1\0"), (0xE, b"\0\0"), (0xF, b"\1\0"), (0x19, bytes(4)), (0x1234, bytes(4)),
])  # fmt: skip
def test_items_are_read_byte_by_byte(pc: Bench, number: int, value: bytes) -> None:
    assert item(pc, number, len(value)) == value
    assert pc.inb(0x511) == 0  # behind the end


def test_choosing_an_item_begins_it_anew(pc: Bench) -> None:
    assert [item(pc, 0, 2) for _ in range(2)] == [b"QE", b"QE"]
    assert pc.inb(0x511) == ord("M")


def test_only_bytes_are_read_and_only_words_choose(pc: Bench) -> None:
    item(pc, 0, 0)
    assert pc.inw(0x510) == 0
    pc.outb(0x510, 3)
    assert pc.inb(0x511) == ord("Q")


def test_named_items_stand_in_the_directory(pc: Bench, fw_cfg: FwCfg) -> None:
    fw_cfg.add_file("opt/b", b"two")
    fw_cfg.add_file("opt/a", b"first")
    directory = item(pc, 0x19, 4 + 2 * 64)
    assert directory[:4] == b"\0\0\0\2"
    assert directory[4:12] == b"\0\0\0\5" + b"\0\x21" + b"\0\0"
    assert directory[12:68] == b"opt/a".ljust(56, b"\0")
    assert directory[76:82] == b"opt/b\0"
    assert item(pc, 0x21, 6) == b"first\0"
    fw_cfg.add_file("opt/a", b"new")
    assert (item(pc, 0x19, 4), item(pc, 0x21, 3)) == (b"\0\0\0\2", b"new")


def dma(pc: Bench, control: int, length: int = 0, address: int = TARGET) -> int:
    """Have a transfer made; return what is left in the control word."""
    words = (control << 96 | length << 64 | address).to_bytes(16, "big")
    pc.write(STRUCTURE, words)
    pc.outl(0x514, 0)
    pc.outl(0x518, int.from_bytes(STRUCTURE.to_bytes(4, "little"), "big"))
    return int.from_bytes(pc.read(STRUCTURE, 4), "big")


def test_the_dma_port_says_that_it_is_there(pc: Bench) -> None:
    assert pc.inl(0x514).to_bytes(4, "little") + pc.inl(0x518).to_bytes(4, "little") == b"QEMU CFG"


def test_an_item_is_read_by_dma(pc: Bench) -> None:
    pc.write(TARGET, b"\xff" * 8)
    assert dma(pc, 0 << 16 | SELECT | READ, 6) == 0
    assert pc.read(TARGET, 8) == b"QEMU\0\0\xff\xff"


def test_bytes_can_be_skipped(pc: Bench) -> None:
    assert dma(pc, SELECT) == 0
    assert dma(pc, SKIP, 2) == 0
    assert dma(pc, READ, 2) == 0
    assert pc.read(TARGET, 2) == b"MU"
    assert dma(pc, SKIP, 0xFFFF_FFFF) == 0


@pytest.mark.parametrize(("control", "length", "address"), [
    (SELECT | READ, 4, RAM - 2), (SELECT | READ, 0xFFFF_FFFF, 0), (SELECT | WRITE, 4, TARGET),
    (SELECT | READ, 4, (1 << 64) - 1),
])  # fmt: skip
def test_what_cannot_be_transferred_is_an_error(
    pc: Bench, control: int, length: int, address: int
) -> None:
    assert dma(pc, control, length, address) == ERROR


def test_a_structure_that_is_nowhere_does_nothing(pc: Bench) -> None:
    pc.outl(0x514, 0xFFFF_FFFF)
    pc.outl(0x518, 0xFFFF_FFFF)
    assert item(pc, 0, 4) == b"QEMU"
