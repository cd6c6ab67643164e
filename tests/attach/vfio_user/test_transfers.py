# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The card reaches the machine's memory: shared, by messages, and what is no memory."""

from __future__ import annotations

import errno
import os
import socket
import time
from struct import pack

import pytest

from tests.attach.vfio_user.copier import (
    COUNT,
    FAULTS,
    GO,
    IDENT,
    LATER,
    LENGTH,
    SCRATCH,
    TARGET,
    Served,
    open_fds,
)
from tests.attach.vfio_user.moves import MASTER, copy
from vmwire.bench.vfio_user import Client, RequestError
from vmwire.bus.pci.vfio_user import (
    CONFIG,
    DMA_MAP,
    DMA_READABLE,
    DMA_WRITABLE,
    Command,
    Header,
)

# Memory


def test_the_card_copies_in_shared_memory(pc: Client) -> None:
    ram = pc.map(0x10000, 0x4000)
    ram[0:5] = b"hello"
    assert copy(pc, 0x10000, 0x13000, 5)
    assert ram[0x3000:0x3005] == b"hello"
    assert pc.dma_messages == 0


def test_the_card_reaches_no_memory_before_it_is_bus_master(pc: Client) -> None:
    pc.map(0, 0x1000)
    pc.write(0, LENGTH, 4)
    pc.write(0, GO, 1)
    assert pc.read(0, FAULTS) == 1


def test_a_file_is_mapped_from_its_offset(pc: Client) -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 0x3000)
    os.pwrite(fd, b"there", 0x2000)
    pc.map_fd(0x100000, 0x1000, fd, offset=0x2000)
    assert copy(pc, 0x100000, 0x100800, 5)
    assert os.pread(fd, 5, 0x2800) == b"there"
    os.close(fd)


def test_the_card_copies_by_messages_where_nothing_is_shared(pc: Client) -> None:
    far = pc.map_remote(0x8000_0000, 0x400000)
    far[0:4] = b"data"
    assert copy(pc, 0x8000_0000, 0x8000_1000, 0x1000)
    assert far[0x1000:0x1004] == b"data"
    assert pc.dma_messages == 2


def test_long_transfers_are_cut_at_what_the_machine_takes(served: Served) -> None:
    with Client(served.path) as pc:
        pc.negotiate(max_data_xfer_size=4096)
        far = pc.map_remote(0, 0x8000)
        far[0:0x2800] = bytes(range(256)) * 40
        assert copy(pc, 0, 0x4000, 0x2800)
        assert far[0x4000:0x6800] == far[0:0x2800]
        assert pc.dma_messages == 6


def test_a_range_may_run_from_shared_memory_into_the_other_kind(pc: Client) -> None:
    ram = pc.map(0, 0x1000)
    far = pc.map_remote(0x1000, 0x1000)
    ram[0xFFC:0x1000] = b"near"
    far[0:3] = b"far"
    assert copy(pc, 0xFFC, 0x100, 7)
    assert ram[0x100:0x107] == b"nearfar"
    assert copy(pc, 0x100, 0xFFE, 4)
    assert ram[0xFFE:0x1000] + far[:2] == b"near"


def test_messages_that_come_during_a_transfer_wait_and_are_then_served_in_order(pc: Client) -> None:
    pc.map_remote(0, 0x1000)
    pc.write(CONFIG, 4, MASTER, 2)
    pc.write(0, LENGTH, 16)
    pc.write(0, TARGET, 0x800)
    pc.post(0, GO, 1)
    numbers = [pc.tell(Command.REGION_READ, pack("<QII", COUNT, 0, 4)) for _ in range(50)]
    assert [pc.reply(number)[16:] for number in numbers] == [pack("<I", n) for n in range(50)]
    assert pc.read(0, FAULTS) == 0
    assert pc.dma_messages == 2


def test_messages_that_wait_are_served_when_the_transfer_came_from_a_timer(pc: Client) -> None:
    pc.map_remote(0, 0x1000)
    pc.write(CONFIG, 4, MASTER, 2)
    pc.write(0, LENGTH, 16)
    pc.write(0, LATER, 1000)
    while pc.dma_messages == 0:
        number = pc.tell(Command.REGION_READ, pack("<QII", IDENT, 0, 4))
        assert pc.reply(number)[16:] == pack("<I", 0xC0B1E5)


def test_a_transfer_that_nobody_answers_is_a_fault_and_its_late_answer_is_passed_over(
    pc: Client,
) -> None:
    pc.map_remote(0, 0x1000)
    pc.write(CONFIG, 4, MASTER, 2)
    pc.write(0, LENGTH, 16)
    pc.post(0, GO, 1)
    time.sleep(1.3)
    assert pc.read(0, FAULTS) == 1
    assert pc.dma_messages == 1
    assert pc.read(0, IDENT) == 0xC0B1E5


def test_a_machine_that_waits_for_a_register_before_it_answers_is_answered(pc: Client) -> None:
    """QEMU holds one lock while it waits for a read, and needs it to serve the card's transfer."""
    pc.map_remote(0, 0x1000)[0:4] = b"data"
    pc.write(CONFIG, 4, MASTER, 2)
    pc.write(0, LENGTH, 4)
    pc.write(0, TARGET, 0x800)
    pc.post(0, GO, 1)
    pc.post(0, SCRATCH, 77)
    number = pc.tell(Command.REGION_READ, pack("<QII", SCRATCH, 0, 4))
    transfers = []
    while not transfers or transfers[-1].type != 1:
        header = Header.unpack(pc._read(16))
        transfers.append(header)
        payload = pc._read(header.size - 16)
    assert (transfers[-1].message_id, payload[16:]) == (number, pack("<I", 77))
    assert [header.command for header in transfers[:-1]] == [Command.DMA_READ]
    pc._serve_dma(transfers[0], pack("<QQ", 0, 4))
    assert pc.read(0, FAULTS) == 0
    assert pc.remote[0][0x800:0x804] == b"data"


def test_a_machine_that_goes_during_a_transfer_is_noticed(served: Served) -> None:
    for _ in range(5):
        with served.client() as pc:
            pc.map_remote(0, 0x1000)
            pc.write(CONFIG, 4, MASTER, 2)
            pc.write(0, LENGTH, 4)
            pc.write(0, LATER, 100)
            pc.socket.recv(16)
        served.wait(lambda: not served.nic.stats()["connected"])


def test_a_transfer_that_is_refused_is_a_fault(pc: Client) -> None:
    pc.map_remote(0, 0x1000)
    pc.remote.clear()
    assert not copy(pc, 0, 0x100, 4)


def test_rights_are_kept(pc: Client) -> None:
    ram = pc.map(0, 0x1000)
    source = pc.map(0x1000, 0x1000, DMA_READABLE)
    sink = pc.map(0x2000, 0x1000, DMA_WRITABLE)
    source[:4] = b"read"
    assert copy(pc, 0x1000, 0x2000, 4)
    assert sink[:4] == b"read"
    assert copy(pc, 0x1000, 0x10, 4)
    assert ram[0x10:0x14] == b"read"
    assert not copy(pc, 0, 0x1000, 4)
    assert not copy(pc, 0x2000, 0, 4)
    assert source[:4] == b"read"


def test_read_only_memory_may_come_with_a_descriptor_that_cannot_write(
    pc: Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rom") / "rom"
    path.write_bytes(b"image".ljust(0x1000, b"\0"))
    fd = os.open(path, os.O_RDONLY)
    pc.map_fd(0x1000, 0x1000, fd, flags=DMA_READABLE)
    os.close(fd)
    ram = pc.map(0x4000, 0x1000)
    assert copy(pc, 0x1000, 0x4000, 5)
    assert ram[:5] == b"image"


def test_unmapped_memory_is_gone_and_may_come_again(pc: Client) -> None:
    for _ in range(30):
        ram = pc.map(0, 0x2000)
        ram[0:2] = b"ok"
        assert copy(pc, 0, 0x100, 2)
        pc.unmap(0, 0x2000)
        assert not copy(pc, 0, 0x100, 2)


def test_everything_is_unmapped_at_once(pc: Client) -> None:
    pc.map(0, 0x1000)
    pc.map_remote(0x1000, 0x1000)
    pc.unmap_all()
    assert not copy(pc, 0, 0x100, 2)
    pc.map(0, 0x2000)
    assert copy(pc, 0, 0x1100, 2)


@pytest.mark.parametrize(
    ("flags", "address", "size", "number"),
    [
        (3, 0x1000, 0x1000, errno.EEXIST),
        (3, 0x0000, 0x1001, errno.EEXIST),
        (3, 0x1FFF, 0x1000, errno.EEXIST),
        (3, 0x0000, 0x8000, errno.EEXIST),
        (3, 0x8000, 0, errno.EINVAL),
        (3, (1 << 64) - 0x1000, 0x1001, errno.EINVAL),
        (3, 0x8000, (1 << 64) - 1, errno.EINVAL),
        (0, 0x8000, 0x1000, errno.EINVAL),
        (4, 0x8000, 0x1000, errno.EINVAL),
    ],
)
def test_a_window_that_does_not_fit_is_refused(
    pc: Client, flags: int, address: int, size: int, number: int
) -> None:
    pc.map_remote(0x1000, 0x1000)
    with pytest.raises(RequestError) as error:
        pc.ask(Command.DMA_MAP, DMA_MAP.pack(32, flags, 0, address, size))
    assert error.value.errno == number
    pc.map_remote(0x8000, 0x1000)


def test_windows_are_limited_in_number(pc: Client) -> None:
    for number in range(1024):
        pc.ask(Command.DMA_MAP, DMA_MAP.pack(32, 3, 0, number << 12, 0x1000))
    with pytest.raises(RequestError) as error:
        pc.ask(Command.DMA_MAP, DMA_MAP.pack(32, 3, 0, 1 << 40, 0x1000))
    assert error.value.errno == errno.ENOSPC


@pytest.mark.parametrize("kind", ["socket", "short", "eventfd"])
def test_a_descriptor_that_is_no_memory_is_refused_and_closed(pc: Client, kind: str) -> None:
    before = open_fds()
    for _ in range(5):
        if kind == "socket":
            fd = socket.socket(socket.AF_UNIX).detach()
        elif kind == "eventfd":
            fd = os.eventfd(0)
        else:
            fd = os.memfd_create("short")
        with pytest.raises(RequestError) as error:
            pc.map_fd(0, 0x1000, fd)
        assert error.value.errno == errno.EINVAL
        os.close(fd)
    pc.read(0, IDENT)
    assert open_fds() == before


@pytest.mark.parametrize(
    ("payload", "number"),
    [
        (pack("<IIQQ", 23, 0, 0x1000, 0x1000), errno.EINVAL),
        (pack("<IIQQ", 24, 1, 0x1000, 0x1000), errno.EINVAL),
        (pack("<IIQQ", 24, 2, 0x1000, 0), errno.EINVAL),
        (pack("<IIQQ", 24, 0, 0x1000, 0x800), errno.ENOENT),
        (pack("<IIQQ", 24, 0, 0, 0x1000), errno.ENOENT),
        (pack("<IIQQ", 24, 0, 0x1800, 0x800), errno.ENOENT),
    ],
)
def test_an_unmapping_that_does_not_fit_is_refused(pc: Client, payload: bytes, number: int) -> None:
    pc.map_remote(0x1000, 0x1000)
    with pytest.raises(RequestError) as error:
        pc.ask(Command.DMA_UNMAP, payload)
    assert error.value.errno == number
    pc.unmap(0x1000, 0x1000)
