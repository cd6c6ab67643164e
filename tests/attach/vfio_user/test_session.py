# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A client against the server: the version, what the device is, register accesses."""

from __future__ import annotations

import errno
import json
import time
from struct import pack

import pytest

from tests.attach.vfio_user.copier import (
    BAR_SIZE,
    COUNT,
    IDENT,
    ROM_IMAGE,
    SCRATCH,
    Served,
)
from tests.attach.vfio_user.moves import MASTER
from vmwire.bench.vfio_user import Client, RequestError
from vmwire.bus.pci.vfio_user import (
    CONFIG,
    F_NO_REPLY,
    ROM,
    VGA,
    Command,
    pack_message,
    pack_version,
)

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
