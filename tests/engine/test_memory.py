# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

import pytest

from vmwire.engine.memory import (
    AddressFault,
    DirtyLog,
    GuestMemory,
    MappingError,
    Region,
    gather,
    map_log,
    map_region,
    scatter,
)

PAGE = 4096


def region(base: int, size: int, fill: int = 0) -> Region:
    return Region(base, memoryview(bytearray([fill]) * size))


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4 * PAGE)
    yield fd
    os.close(fd)


def test_a_view_is_the_memory_itself() -> None:
    low = region(0x1000, 0x100)
    GuestMemory([low]).view(0x1010, 4)[:] = b"abcd"
    assert bytes(low.view[0x10:0x14]) == b"abcd"


def test_ranges_in_different_regions_keep_their_order() -> None:
    memory = GuestMemory([region(0x3000, 0x100, 3), region(0x1000, 0x100, 1)])
    views = memory.views((0x3000, 0x1000, 0x30FF), (2, 1, 1))
    assert [bytes(view) for view in views] == [b"\3\3", b"\1", b"\3"]


def test_a_range_over_adjacent_regions_is_split() -> None:
    memory = GuestMemory([region(0x1000, 4, 1), region(0x1004, 4, 2), region(0x1008, 4, 3)])
    assert [bytes(view) for view in memory.views((0x1002,), (8,))] == [b"\1\1", b"\2" * 4, b"\3\3"]
    assert memory.read(0x1002, 8) == b"\1\1\2\2\2\2\3\3"
    with pytest.raises(AddressFault, match="one piece"):
        memory.view(0x1002, 8)


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (0xFFF, 1),
        (0xFFF, 2),
        (0x1100, 1),
        (0x10FF, 2),
        (0, 0),
        (0x1000, 1 << 63),
        ((1 << 64) - 1, 2),
        (0x1000, (1 << 64) - 1),
    ],
)
def test_what_is_not_there_is_a_fault(address: int, length: int) -> None:
    memory = GuestMemory([region(0x1000, 0x100)])
    memory.view(0x1000, 1)  # so that a region is remembered
    with pytest.raises(AddressFault):
        memory.views((address,), (length,))


def test_a_gap_between_regions_is_a_fault() -> None:
    memory = GuestMemory([region(0x1000, 4), region(0x1008, 4)])
    with pytest.raises(AddressFault):
        memory.views((0x1002,), (8,))


def test_memory_without_regions_has_nothing() -> None:
    with pytest.raises(AddressFault):
        GuestMemory().view(0, 1)


def test_overlapping_regions_are_refused() -> None:
    with pytest.raises(MappingError, match="overlap"):
        GuestMemory([region(0x1000, 0x100), region(0x10FF, 0x100)])


def test_a_mapping_shares_the_file_from_its_offset_on(memfd: int) -> None:
    os.pwrite(memfd, b"here", PAGE + 16)
    mapped = map_region(memfd, 0x8000, PAGE, PAGE + 16 - 8)
    assert bytes(mapped.view[8:12]) == b"here"
    mapped.view[8:12] = b"ours"
    assert os.pread(memfd, 4, PAGE + 16) == b"ours"
    assert (mapped.base, mapped.end) == (0x8000, 0x9000)
    mapped.close()


@pytest.mark.parametrize(
    ("size", "offset", "base"),
    [
        (4 * PAGE + 1, 0, 0),
        (PAGE, 4 * PAGE, 0),
        (PAGE, (1 << 64) - PAGE, 0),
        ((1 << 64) - 1, PAGE, 0),
        (0, 0, 0),
        (2 * PAGE, 0, (1 << 64) - PAGE),
    ],
)
def test_a_mapping_beyond_its_file_is_refused(
    memfd: int, size: int, offset: int, base: int
) -> None:
    with pytest.raises(MappingError):
        map_region(memfd, base, size, offset)


def test_what_is_not_a_file_is_not_mapped() -> None:
    ends = os.pipe()
    with pytest.raises(MappingError, match="file"):
        map_region(ends[0], 0, PAGE, 0)
    for fd in ends:
        os.close(fd)


def test_a_region_says_whether_it_is_sealed_against_shrinking(memfd: int) -> None:
    assert not map_region(memfd, 0, PAGE, 0).sealed
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    assert map_region(memfd, 0, PAGE, 0).sealed


def test_closing_a_region_that_is_looked_at_harms_nobody(memfd: int) -> None:
    mapped = map_region(memfd, 0, PAGE, 0)
    kept = mapped.view[:4]
    mapped.close()
    kept[:] = b"last"
    assert os.pread(memfd, 4, 0) == b"last"


def test_a_dirty_log_marks_each_page_touched() -> None:
    bitmap = bytearray(4)
    log = DirtyLog(memoryview(bitmap))
    log.mark(PAGE, 1)
    log.mark(8 * PAGE - 1, 2)
    log.mark(31 * PAGE, 0)
    assert bitmap == bytes([0b1000_0010, 0b1, 0, 0])


def test_a_dirty_log_takes_nothing_beyond_its_end() -> None:
    bitmap = bytearray(1)
    log = DirtyLog(memoryview(bitmap))
    log.mark(7 * PAGE, 3 * PAGE)
    log.mark(100 * PAGE, 1)
    log.mark((1 << 64) - 1, 1 << 40)
    assert bitmap == bytes([0b1000_0000])


def test_a_dirty_log_is_shared(memfd: int) -> None:
    log = map_log(memfd, 64, PAGE)
    log.mark(3 * PAGE, 1)
    assert os.pread(memfd, 1, PAGE) == b"\x08"
    log.close()
    with pytest.raises(MappingError):
        map_log(memfd, 64, 4 * PAGE - 8)


def test_scatter_and_gather_cross_views_of_any_size() -> None:
    memory = bytearray(8)
    whole = memoryview(memory)
    views = [whole[:0], whole[:3], whole[3:4], whole[4:]]
    scatter(b"abcdef", views)
    assert memory == b"abcdef\0\0"
    assert gather(views, 5) == b"abcde"
    assert gather(views, 100) == b"abcdef\0\0"
    assert gather([], 4) == b""
