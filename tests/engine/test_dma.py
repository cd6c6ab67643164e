# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vmwire.engine.dma import Dma
from vmwire.engine.memory import AddressFault, DirtyLog, GuestMemory, Region


class Far:
    """Memory that is reached by messages: 16 bytes at 0x9000."""

    def __init__(self) -> None:
        self.data = bytearray(16)

    def read(self, address: int, length: int) -> bytes:
        return bytes(self.data[address - 0x9000 :][:length])

    def write(self, address: int, data: bytes) -> None:
        self.data[address - 0x9000 : address - 0x9000 + len(data)] = data


@pytest.fixture
def dma() -> Dma:
    made = Dma()
    halves = [Region(base, memoryview(bytearray(16))) for base in (0x1000, 0x1010)]
    made.memory = GuestMemory(halves)
    made.enabled = True
    return made


def test_what_is_written_is_read_also_across_two_regions(dma: Dma) -> None:
    dma.write_all(0x100C, [b"abc", memoryview(b"defgh")])
    assert dma.read(0x100C, 8) == b"abcdefgh"
    assert [bytes(view) for view in dma.gather((0x100C, 0x1010), (2, 2))] == [b"ab", b"ef"]


@pytest.mark.parametrize("address", [0, 0xFFF, 0x1020, (1 << 64) - 4])
def test_an_access_beyond_the_memory_is_a_fault(dma: Dma, address: int) -> None:
    with pytest.raises(AddressFault):
        dma.read(address, 8)
    with pytest.raises(AddressFault):
        dma.write(address, bytes(8))


def test_a_card_that_is_no_bus_master_reaches_nothing(dma: Dma) -> None:
    dma.enabled = False
    with pytest.raises(AddressFault):
        dma.read(0x1000, 1)
    with pytest.raises(AddressFault):
        dma.write(0x1000, b"x")


def test_memory_that_is_not_shared_is_asked_for(dma: Dma) -> None:
    dma.remote = far = Far()
    dma.write(0x9004, b"far")
    assert bytes(far.data[4:7]) == b"far" == dma.read(0x9004, 3)
    assert [bytes(view) for view in dma.gather((0x1000, 0x9004), (1, 3))][1] == b"far"


def test_written_pages_are_logged(dma: Dma) -> None:
    bitmap = bytearray(8)
    dma.log = DirtyLog(memoryview(bitmap))
    dma.write(0x1008, b"x")
    assert bitmap == b"\x02" + bytes(7)


@pytest.mark.parametrize("second", [0x1010, 0x100E, 0x9004])
def test_a_burst_is_written_wherever_its_parts_go(dma: Dma, second: int) -> None:
    dma.remote = Far()
    dma.write_each([0x1001, second], [b"one", memoryview(b"four")])
    assert (dma.read(0x1001, 3), dma.read(second, 4)) == (b"one", b"four")


def test_a_burst_is_logged_too(dma: Dma) -> None:
    bitmap = bytearray(8)
    dma.log = DirtyLog(memoryview(bitmap))
    dma.write_each([0x1001, 0x1010], [b"one", b"two"])
    assert bitmap == b"\x02" + bytes(7)


def test_a_burst_with_a_part_nowhere_is_a_fault(dma: Dma) -> None:
    with pytest.raises(AddressFault):
        dma.write_each([0x1001, 0x2000], [b"one", b"two"])
