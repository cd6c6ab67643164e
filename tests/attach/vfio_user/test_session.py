# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A client against the server: everything that a machine asks for."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from struct import pack

import pytest

from tests.attach.vfio_user.copier import (
    BAR_SIZE,
    COUNT,
    FAULTS,
    GO,
    IDENT,
    LATER,
    LENGTH,
    LEVEL,
    NOTIFY,
    ROM_IMAGE,
    SCRATCH,
    SOURCE,
    TARGET,
    Served,
    open_fds,
)
from vmwire.bench.vfio_user import Client, RequestError, fired
from vmwire.bus.pci.vfio_user import (
    ACTION_MASK,
    ACTION_TRIGGER,
    ACTION_UNMASK,
    CONFIG,
    DATA_BOOL,
    DATA_EVENTFD,
    DATA_NONE,
    DMA_MAP,
    DMA_READABLE,
    DMA_WRITABLE,
    ERR,
    F_NO_REPLY,
    INTX,
    IRQ_SET,
    MSI,
    MSIX,
    REQ,
    ROM,
    VGA,
    Command,
    Header,
    pack_message,
    pack_version,
)

MASTER = 0x0006


@contextmanager
def no_event(kind: str) -> Iterator[int]:
    """Give a descriptor that can't be signalled as an event is."""
    if kind == "file":
        fds = [os.memfd_create("file")]
    elif kind == "path":
        fds = [os.open("/", os.O_PATH)]
    elif kind == "pipe":
        fds = list(os.pipe())
    elif kind == "socket":
        fds = [end.detach() for end in socket.socketpair()]
    else:
        fds = list(os.openpty())
    yield fds[-1]
    for fd in fds:
        os.close(fd)


def copy(pc: Client, source: int, target: int, length: int) -> bool:
    """Have the card copy; whether it did."""
    pc.write(CONFIG, 4, MASTER, 2)
    faults = pc.read(0, FAULTS)
    pc.write(0, SOURCE, source)
    pc.write(0, TARGET, target)
    pc.write(0, LENGTH, length)
    pc.write(0, GO, 1)
    return pc.read(0, FAULTS) == faults


# The beginning


def test_versions_are_agreed_on_in_these_bytes(served: Served) -> None:
    with Client(served.path) as pc:
        data = b'{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576}}\0'
        pc.send_bytes(pack("<HHIIIHH", 1, 1, 20 + len(data), 0, 0, 0, 0) + data)
        answer = pc.socket.recv(4096)
        assert answer[:4] == b"\1\0\1\0"
        assert answer[4:8] == pack("<I", len(answer))
        assert answer[8:20] == pack("<IIHH", 1, 0, 0, 0)
        assert answer[-1:] == b"\0"
        assert json.loads(answer[20:-1]) == {
            "capabilities": {
                "max_msg_fds": 16,
                "max_data_xfer_size": 1048576,
                "max_dma_maps": 1024,
                "pgsizes": 4096,
            }
        }


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (1, 1), (7, 1)])
def test_the_minor_version_is_one_that_both_know(served: Served, asked: int, given: int) -> None:
    with Client(served.path) as pc:
        answer = pc.ask(Command.VERSION, pack_version(0, asked, None))
        assert answer[:4] == pack("<HH", 0, given)


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\0\0\0", b"\1\0\0\0", b"\0\0\0\0{}", b"\0\0\0\0{\0", b'\0\0\0\0"x"\0',
        b'\0\0\0\0{"capabilities":"23"}\0', b'\0\0\0\0{"capabilities":{"max_msg_fds":"x"}}\0',
        b'\0\0\0\0{"capabilities":{"max_data_xfer_size":-1}}\0', b"\0\0\0\0\xff\xfe\0",
        b'\0\0\0\0{"capabilities":{"max_data_xfer_size":0}}\0',
        b"\0\0\0\0" + b"[" * 4000 + b"\0",
    ],
)  # fmt: skip
def test_a_version_that_makes_no_sense_is_refused_and_another_may_come(
    served: Served, payload: bytes
) -> None:
    with Client(served.path) as pc:
        with pytest.raises(RequestError) as error:
            pc.ask(Command.VERSION, payload)
        assert error.value.errno == errno.EINVAL
        pc.negotiate()
        assert pc.read(0, IDENT) == 0xC0B1E5


def test_nothing_is_served_before_the_version_and_no_second_one(served: Served) -> None:
    with Client(served.path) as pc:
        with pytest.raises(RequestError):
            pc.read(0, IDENT)
        with pytest.raises(RequestError):
            pc.write(0, SCRATCH, 5)
        pc.negotiate()
        assert pc.read(0, SCRATCH) == 0
        with pytest.raises(RequestError):
            pc.negotiate()


# What the card is


def test_the_device_is_described(pc: Client) -> None:
    assert pc.device_info() == (3, 9, 5)
    sizes = [pc.region_info(index) for index in range(9)]
    none = (0, 0)
    assert sizes == [
        (3, BAR_SIZE),
        (3, 0x20),
        (3, 0x1000),
        none,
        none,
        none,
        (1, 0x800),
        (3, 256),
        none,
    ]
    assert [pc.irq_info(index) for index in range(5)] == [(7, 1), (11, 4), (3, 3), (9, 1), (9, 1)]


@pytest.mark.parametrize(
    ("command", "payload"),
    [
        (Command.DEVICE_GET_INFO, pack("<IIII", 15, 0, 0, 0)),
        (Command.DEVICE_GET_REGION_INFO, pack("<IIIIQQ", 31, 0, 0, 0, 0, 0)),
        (Command.DEVICE_GET_REGION_INFO, pack("<IIIIQQ", 32, 0, 9, 0, 0, 0)),
        (Command.DEVICE_GET_IRQ_INFO, pack("<IIII", 15, 0, 0, 0)),
        (Command.DEVICE_GET_IRQ_INFO, pack("<IIII", 16, 0, 5, 0)),
        (Command.DEVICE_GET_REGION_IO_FDS, pack("<IIII", 16, 0, 9, 0)),
        (Command.DEVICE_GET_REGION_IO_FDS, pack("<IIII", 16, 1, 0, 0)),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(
    pc: Client, command: Command, payload: bytes
) -> None:
    with pytest.raises(RequestError) as error:
        pc.ask(command, payload)
    assert error.value.errno == errno.EINVAL


def test_there_are_no_descriptors_for_a_regions_accesses(pc: Client) -> None:
    question = pack("<IIII", 64, 0, 0, 0)
    assert pc.ask(Command.DEVICE_GET_REGION_IO_FDS, question) == pack("<IIII", 16, 0, 0, 0)


# Accesses


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 24])
def test_registers_are_read_in_any_size(pc: Client, size: int) -> None:
    pc.write(0, SCRATCH, 0x44332211)
    value = pc.read(0, SCRATCH, size)
    assert value.to_bytes(size, "little")[:4] == bytes.fromhex("11223344")[:size]


def test_a_read_and_its_answer_are_these_bytes(pc: Client) -> None:
    pc.write(0, SCRATCH, 0x44332211)
    pc.send_bytes(
        bytes.fromhex("05000900200000000000000000000000 0400000000000000 00000000 04000000")
    )
    assert pc.socket.recv(100) == bytes.fromhex(
        "05000900240000000100000000000000 0400000000000000 00000000 04000000 11223344"
    )


def test_a_posted_write_is_done_before_what_follows_and_not_answered(pc: Client) -> None:
    for value in range(200):
        pc.post(0, SCRATCH, value)
        assert pc.read(0, SCRATCH) == value
    assert pc.read(0, COUNT) == 0
    assert pc.read(0, COUNT) == 1


def test_many_messages_at_once_are_served_in_order(pc: Client) -> None:
    access = pack("<QII", COUNT, 0, 4)
    message = b"".join(pack_message(n, Command.REGION_READ, access) for n in range(300))
    pc.send_bytes(message)
    for number in range(300):
        assert pc.reply(number)[16:] == pack("<I", number)


def test_messages_may_come_in_pieces(pc: Client) -> None:
    message = pack_message(9, Command.REGION_READ, pack("<QII", IDENT, 0, 4))
    for place in range(len(message)):
        pc.send_bytes(message[place : place + 1])
        time.sleep(0.001)
    assert pc.reply(9)[16:] == pack("<I", 0xC0B1E5)


def test_the_rom_is_read_in_one_go_and_not_written(pc: Client) -> None:
    assert pc.read(ROM, 0, 0x800).to_bytes(0x800, "little") == ROM_IMAGE
    pc.write(ROM, 0, 0)
    assert pc.read(ROM, 0) == 0x03020100


def test_configuration_space_is_sized_by_its_bars(pc: Client) -> None:
    assert pc.read(CONFIG, 0) == 0x56781234
    pc.write(CONFIG, 0x10, 0xFFFFFFFF)
    assert pc.read(CONFIG, 0x10) == 0xFFFFF000


@pytest.mark.parametrize("post", [False, True])
@pytest.mark.parametrize(
    ("region", "offset", "count"),
    [
        (0, BAR_SIZE - 3, 4), (0, BAR_SIZE, 4), (0, (1 << 64) - 4, 4), (0, (1 << 64) - 1, 8),
        (1, 0x1F, 2), (3, 0, 4), (VGA, 0, 1), (9, 0, 4), (0xFFFFFFFF, 0, 4), (CONFIG, 254, 4),
        (0, BAR_SIZE + 1, 0), (9, 0, 0), (0, 0, 0xFFFFFFFF), (0, 0, (1 << 20) + 1),
    ],
)  # fmt: skip
def test_accesses_outside_are_refused(
    pc: Client, region: int, offset: int, count: int, post: bool
) -> None:
    access = pack("<QII", offset, region, count)
    data = bytes(count if count < 16 else 0)
    if post:
        pc.tell(Command.REGION_WRITE, access + data, flags=F_NO_REPLY)
    else:
        for command, payload in (
            (Command.REGION_READ, access),
            (Command.REGION_WRITE, access + data),
        ):
            with pytest.raises(RequestError) as error:
                pc.ask(command, payload)
            assert error.value.errno == errno.EINVAL
    assert pc.read(0, IDENT) == 0xC0B1E5


@pytest.mark.parametrize(("region", "offset"), [(0, 0), (0, BAR_SIZE), (CONFIG, 4), (VGA, 0)])
def test_an_access_to_no_bytes_does_nothing(pc: Client, region: int, offset: int) -> None:
    nothing = pack("<QII", offset, region, 0)
    assert pc.ask(Command.REGION_READ, nothing) == nothing
    assert pc.ask(Command.REGION_WRITE, nothing) == nothing
    with pytest.raises(RequestError):
        pc.ask(Command.REGION_WRITE, nothing + b"\0")


def test_data_that_is_more_or_less_than_its_count_is_refused(pc: Client) -> None:
    for size in (0, 3, 5, 300):
        with pytest.raises(RequestError):
            pc.ask(Command.REGION_WRITE, pack("<QII", SCRATCH, 0, 4) + b"\1" * size)
    assert pc.read(0, SCRATCH) == 0


def test_reset_resets_card_and_configuration(pc: Client) -> None:
    pc.write(0, SCRATCH, 7)
    pc.write(CONFIG, 4, MASTER, 2)
    pc.reset()
    assert (pc.read(0, SCRATCH), pc.read(CONFIG, 4, 2)) == (0, 0)


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


# Interrupts


def test_the_pin_signals_once_until_it_is_unmasked_and_again_if_it_is_still_up(pc: Client) -> None:
    (fd,) = pc.wire(INTX)
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 1
    pc.write(0, LEVEL, 0)
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 0
    pc.unmask()
    assert fired(fd) == 1
    pc.write(0, LEVEL, 0)
    pc.unmask()
    assert fired(fd) == 0
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 1


def test_a_pin_that_is_up_signals_when_it_is_wired(pc: Client) -> None:
    pc.write(0, LEVEL, 1)
    (fd,) = pc.wire(INTX)
    assert fired(fd) == 1


def test_a_masked_pin_is_silent_and_a_disabled_one_too(pc: Client) -> None:
    (fd,) = pc.wire(INTX)
    pc.set_irqs(INTX, DATA_NONE | ACTION_MASK)
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 0
    pc.set_irqs(INTX, DATA_NONE | ACTION_UNMASK)
    assert fired(fd) == 1
    pc.write(CONFIG, 4, 0x0406, 2)
    pc.unmask()
    assert fired(fd) == 0
    pc.write(CONFIG, 4, 0x0006, 2)
    assert fired(fd) == 1


def test_the_pin_is_unmasked_by_an_event_of_the_machines(served: Served, pc: Client) -> None:
    (fd,) = pc.wire(INTX)
    resample = os.eventfd(0, os.EFD_NONBLOCK)
    pc.set_irqs(INTX, DATA_EVENTFD | ACTION_UNMASK, fds=[resample])
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 1
    os.eventfd_write(resample, 1)
    served.wait(lambda: served.nic.stats()["signals"] == 2)
    assert fired(fd) == 1
    pc.set_irqs(INTX, DATA_EVENTFD | ACTION_UNMASK)
    os.eventfd_write(resample, 1)
    pc.read(0, IDENT)
    assert fired(fd) == 0
    os.close(resample)


@pytest.mark.parametrize(("index", "offset", "enable"), [(MSI, 0x42, 0x21), (MSIX, 0x62, 0x8000)])
def test_messages_arrive_at_their_own_descriptors(
    pc: Client, index: int, offset: int, enable: int
) -> None:
    fds = pc.wire(index, 0, 3)
    pc.write(CONFIG, offset, enable, 2)
    for vector in (2, 0, 2):
        pc.write(0, NOTIFY, vector)
    assert [fired(fd) for fd in fds] == [1, 0, 2]


@pytest.mark.parametrize("index", [MSI, MSIX])
def test_a_masked_message_is_kept_once(pc: Client, index: int) -> None:
    fds = pc.wire(index, 0, 3)
    pc.write(CONFIG, 0x42 if index == MSI else 0x62, 0x21 if index == MSI else 0x8000, 2)
    pc.set_irqs(index, DATA_BOOL | ACTION_MASK, 0, 3, b"\0\1\0")
    for _ in range(3):
        pc.write(0, NOTIFY, 1)
    pc.write(0, NOTIFY, 2)
    assert [fired(fd) for fd in fds] == [0, 0, 1]
    pc.set_irqs(index, DATA_NONE | ACTION_UNMASK, 0, 3)
    assert [fired(fd) for fd in fds] == [0, 1, 0]


def test_a_message_before_its_descriptor_is_kept_unless_the_kind_is_switched_off(
    pc: Client,
) -> None:
    pc.write(CONFIG, 0x62, 0x8000, 2)
    pc.write(0, NOTIFY, 1)
    fds = pc.wire(MSIX, 0, 3)
    assert [fired(fd) for fd in fds] == [0, 1, 0]
    pc.set_irqs(MSIX, DATA_EVENTFD | ACTION_TRIGGER, 1)
    pc.write(0, NOTIFY, 1)
    pc.set_irqs(MSIX, DATA_NONE | ACTION_TRIGGER, 0, 0)
    pc.write(0, NOTIFY, 0)
    assert [fired(fd) for fd in fds] == [0, 0, 0]


def test_an_interrupt_without_a_descriptor_is_let_go(pc: Client) -> None:
    before = open_fds()
    (fd,) = pc.wire(INTX)
    pc.set_irqs(INTX, DATA_EVENTFD | ACTION_TRIGGER)
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 0
    os.close(fd)
    assert open_fds() == before


@pytest.mark.parametrize("index", [INTX, MSI, MSIX, ERR, REQ])
def test_the_machine_may_trigger_by_itself(pc: Client, index: int) -> None:
    (fd,) = pc.wire(index)
    pc.set_irqs(index, DATA_NONE | ACTION_TRIGGER)
    pc.set_irqs(index, DATA_BOOL | ACTION_TRIGGER, data=b"\1")
    pc.set_irqs(index, DATA_BOOL | ACTION_TRIGGER, data=b"\0")
    assert fired(fd) == 2


@pytest.mark.parametrize(
    ("argsz", "flags", "index", "start", "count", "data", "fds"),
    [
        (3, 33, INTX, 0, 1, b"", 0),
        (20, 33, 5, 0, 0, b"", 0),
        (20, 8 | 16, MSIX, 0, 0, b"", 0),
        (20, 8 | 1 | 2, MSIX, 0, 1, b"\1", 0),
        (20, 33 | 64, MSIX, 0, 1, b"", 0),
        (20, 8 | 1, MSIX, 2, 2, b"", 0),
        (20, 8 | 1, MSIX, 4, 0, b"", 0),
        (20, 32 | 4, MSIX, 1, 0xFFFFFFFF, b"", 0),
        (20, 8 | 1, ERR, 0, 1, b"", 0),
        (20, 16 | 1, REQ, 0, 1, b"", 0),
        (20, 32 | 1, ERR, 0, 2, b"", 0),
        (20, 32 | 1, MSIX, 1, 0, b"", 0),
        (20, 8 | 1, MSIX, 0, 0, b"", 0),
        (20, 32 | 2, MSIX, 0, 0, b"", 0),
        (21, 32 | 2, MSIX, 0, 1, b"\0", 1),
        (20, 32 | 1, MSIX, 0, 1, b"", 1),
        (20, 32 | 4, MSIX, 0, 2, b"", 1),
        (20, 32 | 4, MSIX, 0, 1, b"", 2),
        (21, 32 | 2, MSIX, 0, 2, b"\1", 0),
        (23, 32 | 2, MSIX, 0, 2, b"\1\1\1", 0),
        (20, 32 | 1, MSIX, 0, 1, b"x", 0),
    ],
)
def test_wiring_that_makes_no_sense_is_refused_and_its_descriptors_are_closed(
    pc: Client, argsz: int, flags: int, index: int, start: int, count: int, data: bytes, fds: int
) -> None:
    before = open_fds()
    events = [os.eventfd(0) for _ in range(fds)]
    payload = IRQ_SET.pack(argsz, flags, index, start, count) + data
    with pytest.raises(RequestError) as error:
        pc.ask(Command.DEVICE_SET_IRQS, payload, events)
    assert error.value.errno == errno.EINVAL
    for fd in events:
        os.close(fd)
    pc.read(0, IDENT)
    assert open_fds() == before


def test_a_descriptor_that_is_full_holds_nobody_up(pc: Client) -> None:
    fd = os.eventfd(2**64 - 2 & 0x7FFFFFFF)
    os.eventfd_write(fd, 2**63)
    os.eventfd_write(fd, 2**63 - 2**31 - 1)
    pc.set_irqs(REQ, DATA_EVENTFD | ACTION_TRIGGER, fds=[fd])
    pc.set_irqs(REQ, DATA_NONE | ACTION_TRIGGER)
    assert pc.read(0, IDENT) == 0xC0B1E5
    os.close(fd)


@pytest.mark.parametrize("action", [ACTION_TRIGGER, ACTION_MASK, ACTION_UNMASK])
@pytest.mark.parametrize("kind", ["file", "path", "pipe", "socket", "terminal"])
def test_what_is_no_event_descriptor_is_refused_and_closed(
    pc: Client, kind: str, action: int
) -> None:
    before = open_fds()
    with no_event(kind) as fd:
        held = open_fds()
        with pytest.raises(RequestError) as error:
            pc.set_irqs(INTX, DATA_EVENTFD | action, fds=[fd])
        assert error.value.errno == errno.EINVAL
        assert open_fds() == held
    assert open_fds() == before
    assert pc.read(0, IDENT) == 0xC0B1E5


def test_wrong_descriptors_behind_right_ones_change_nothing(pc: Client) -> None:
    (fd,) = pc.wire(MSIX)
    good, bad = os.eventfd(0), os.memfd_create("file")
    with pytest.raises(RequestError):
        pc.set_irqs(MSIX, DATA_EVENTFD | ACTION_TRIGGER, 0, 2, fds=[good, bad])
    pc.set_irqs(MSIX, DATA_NONE | ACTION_TRIGGER)
    assert fired(fd) == 1
    os.close(good)
    os.close(bad)


def test_a_descriptor_that_counts_down_by_ones_unmasks_once_for_each_write(
    served: Served, pc: Client
) -> None:
    (fd,) = pc.wire(INTX)
    resample = os.eventfd(1000, os.EFD_SEMAPHORE)
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 1
    pc.set_irqs(INTX, DATA_EVENTFD | ACTION_UNMASK, fds=[resample])
    served.wait(lambda: served.nic.stats()["signals"] == 2)
    for _ in range(20):
        pc.read(0, IDENT)
    assert served.stats()["signals"] == 2
    os.eventfd_write(resample, 1)
    served.wait(lambda: served.nic.stats()["signals"] == 3)
    os.close(resample)


# Descriptors between messages


def test_descriptors_belong_to_the_message_that_they_were_sent_with(pc: Client) -> None:
    """A window without one, a reset, and a window with one arrive as one lump."""
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 0x1000)
    window = DMA_MAP.pack(32, 3, 0, 0x4000, 0x1000)
    pc.write(0, LATER, 0)
    pc.send_bytes(
        pack_message(1, Command.DMA_MAP, DMA_MAP.pack(32, 3, 0, 0x1000, 0x1000))
        + pack_message(2, Command.DEVICE_RESET)
    )
    pc.send_bytes(pack_message(3, Command.DMA_MAP, window), [fd])
    pc.send_bytes(pack_message(4, Command.DMA_MAP, DMA_MAP.pack(32, 3, 0, 0x6000, 0x1000)))
    for number in (1, 2, 3, 4):
        pc.reply(number)
    pc.remote[0x1000] = bytearray(b"far!".ljust(0x1000, b"\0"))
    assert copy(pc, 0x1000, 0x4000, 4)
    assert os.pread(fd, 4, 0) == b"far!"
    os.close(fd)


def test_messages_sent_in_one_go_leave_the_descriptors_with_the_first(pc: Client) -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 0x1000)
    pc.send_bytes(
        pack_message(1, Command.DMA_MAP, DMA_MAP.pack(32, 3, 0, 0x4000, 0x1000))
        + pack_message(2, Command.DMA_MAP, DMA_MAP.pack(32, 3, 0, 0x6000, 0x1000)),
        [fd],
    )
    pc.reply(1)
    pc.reply(2)
    pc.remote[0x6000] = bytearray(b"far!".ljust(0x1000, b"\0"))
    assert copy(pc, 0x6000, 0x4000, 4)
    assert os.pread(fd, 4, 0) == b"far!"
    os.close(fd)


def test_descriptors_where_none_belong_are_refused_and_closed(pc: Client) -> None:
    before = open_fds()
    fds = [os.eventfd(0) for _ in range(16)]
    for command, payload in (
        (Command.REGION_READ, pack("<QII", IDENT, 0, 4)),
        (Command.REGION_WRITE, pack("<QIII", SCRATCH, 0, 4, 9)),
        (Command.DEVICE_RESET, b""),
        (Command.DMA_MAP, DMA_MAP.pack(32, 3, 0, 0, 4096)),
    ):
        with pytest.raises(RequestError):
            pc.ask(command, payload, fds)
    for fd in fds:
        os.close(fd)
    assert pc.read(0, SCRATCH) == 0
    assert open_fds() == before


def test_nothing_is_served_behind_what_broke_the_connection_during_a_transfer(
    served: Served, pc: Client
) -> None:
    pc.ask(Command.DMA_MAP, DMA_MAP.pack(32, 3, 0, 0, 0x1000))
    pc.write(CONFIG, 4, MASTER, 2)
    pc.write(0, LENGTH, 4)
    fds = [os.eventfd(0) for _ in range(17)]

    def send() -> int:
        pc.post(0, GO, 1)
        pc.send_bytes(pack_message(1, Command.DEVICE_RESET), fds)
        return pc.tell(Command.REGION_READ, pack("<QII", IDENT, 0, 4))

    number = served.loop.call(send)  # in the engine's thread: it finds all of them at once
    for fd in fds:
        os.close(fd)
    with pytest.raises(ConnectionError):
        pc.reply(number)
    assert served.stats()["protocol_errors"] == 1


def test_descriptors_without_use_are_closed_before_the_answer(pc: Client) -> None:
    """A window is mapped then and needs its own no more."""
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 0x1000)
    before = open_fds()
    pc.ask(Command.DMA_MAP, DMA_MAP.pack(32, 3, 0, 0x1000, 0x1000), [fd])
    assert open_fds() == before + 1  # what Python's mapping keeps
    with pytest.raises(RequestError):
        pc.ask(Command.DMA_MAP, DMA_MAP.pack(32, 3, 0, 0x1000, 0x1000), [fd])
    assert open_fds() == before + 1
    pc.unmap_all()
    assert open_fds() == before
    os.close(fd)


def test_too_many_descriptors_end_the_connection_and_are_closed(served: Served) -> None:
    before = open_fds()
    pc = served.client()
    fds = [os.eventfd(0) for _ in range(40)]
    with pytest.raises(ConnectionError):
        pc.ask(Command.DEVICE_RESET, b"", fds)
    pc.close()
    for fd in fds:
        os.close(fd)
    served.wait(lambda: not served.nic.stats()["connected"])
    assert open_fds() == before
    assert served.stats()["protocol_errors"] == 1
