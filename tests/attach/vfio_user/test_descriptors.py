# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Which message descriptors belong to, and that none is left open."""

from __future__ import annotations

import os
from struct import pack

import pytest

from tests.attach.vfio_user.copier import (
    GO,
    IDENT,
    LATER,
    LENGTH,
    SCRATCH,
    Served,
    open_fds,
)
from tests.attach.vfio_user.moves import MASTER, copy
from vmwire.bench.vfio_user import Client, RequestError
from vmwire.bus.pci.vfio_user import (
    CONFIG,
    DMA_MAP,
    Command,
    pack_message,
)

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
