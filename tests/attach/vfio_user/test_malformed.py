# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Messages that nobody should send: each gets its error, and the next good one still works."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from functools import partial
from struct import pack

import pytest

from tests.attach.vfio_user.copier import GO, IDENT, LATER, Served, open_fds
from vmwire.bench.vfio_user import Client, RequestError
from vmwire.bus.pci.vfio_user import (
    DMA_MAP,
    F_NO_REPLY,
    HEADER,
    MAX_MESSAGE,
    Command,
    pack_message,
)

SERVED = {
    Command.DMA_MAP: 32, Command.DMA_UNMAP: 24, Command.DEVICE_GET_INFO: 16,
    Command.DEVICE_GET_REGION_INFO: 32, Command.DEVICE_GET_REGION_IO_FDS: 16,
    Command.DEVICE_GET_IRQ_INFO: 16, Command.DEVICE_SET_IRQS: 20, Command.REGION_READ: 16,
    Command.REGION_WRITE: 16, Command.DEVICE_RESET: 0,
}  # fmt: skip
"""Payload bytes of each command (at least)."""
EDGES = (0, 1, 3, 4, 5, 7, 16, 255, 4096, 1 << 20, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

Make = Callable[[random.Random, int], bytes]


def unknown_command(chance: random.Random, number: int) -> bytes:
    command = chance.choice([0, 11, 12, 14, 15, 19, 99, 0x7FFF, 0xFFFF])
    return pack_message(number, command, chance.randbytes(chance.randrange(64)))


def too_short(chance: random.Random, number: int) -> bytes:
    command = chance.choice([command for command, size in SERVED.items() if size])
    return pack_message(number, command, chance.randbytes(chance.randrange(SERVED[command])))


def too_long(chance: random.Random, number: int) -> bytes:
    fixed = [c for c in SERVED if c not in (Command.DEVICE_SET_IRQS, Command.REGION_WRITE)]
    command = chance.choice(fixed)
    return pack_message(
        number, command, chance.randbytes(SERVED[command] + chance.randrange(1, 99))
    )


def less_than_a_header(chance: random.Random, number: int) -> bytes:
    return HEADER.pack(number, chance.choice(list(SERVED)), chance.randrange(16), 0, 0)


def more_than_anything(chance: random.Random, number: int) -> bytes:
    body = bytes(MAX_MESSAGE - 16 + chance.randrange(1, 99_999))
    return pack_message(number, chance.choice(list(SERVED)), body)


def strange_flags(chance: random.Random, number: int) -> bytes:
    flags = chance.choice([2, 15, 0x20, 0x21, 0x40, 0x80000000, 0xFFFFFFEF, 1])
    return pack_message(number, Command.DEVICE_RESET, b"", flags)


MAKERS = (
    unknown_command, too_short, too_long, less_than_a_header, more_than_anything, strange_flags,
)  # fmt: skip


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_malformed_message_is_refused_and_the_next_one_served(pc: Client, make: Make) -> None:
    chance = random.Random(f"vfio-user {make.__name__}")
    before = open_fds()
    for number in range(6 if make is more_than_anything else 200):
        pc.send_bytes(make(chance, number))
        with pytest.raises(RequestError) as error:
            pc.reply(number)
        assert error.value.errno == errno.EINVAL
        assert pc.read(0, IDENT) == 0xC0B1E5
    assert open_fds() == before


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_malformed_message_that_wants_no_reply_gets_none(pc: Client, make: Make) -> None:
    chance = random.Random(f"vfio-user {make.__name__}")
    for number in range(3):
        message = bytearray(make(chance, number))
        message[8] |= F_NO_REPLY
        pc.send_bytes(bytes(message))
        assert pc.read(0, IDENT) == 0xC0B1E5
    assert not pc._replies


def random_payload(chance: random.Random, command: Command) -> bytes:
    """Right in length, and made of numbers that lie at the edges of something."""
    words = SERVED[command] // 4
    payload = pack(f"<{words}I", *(chance.choice(EDGES) for _ in range(words)))
    if command in (Command.DEVICE_SET_IRQS, Command.REGION_WRITE):
        payload += chance.randbytes(chance.choice([0, 1, 4, 8, 100]))
    return payload


@pytest.mark.parametrize("seed", range(4))
def test_numbers_at_the_edges_are_survived(served: Served, pc: Client, seed: int) -> None:
    """Whatever comes of each message, it is answered once, and nothing piles up."""
    chance = random.Random(seed)
    before = open_fds()
    extra = [os.eventfd(0), os.memfd_create("x")]
    for _ in range(1500):
        command = chance.choice(list(SERVED))
        fds = chance.choices(extra, k=chance.choice([0, 0, 0, 1, 2]))
        number = pc.tell(command, random_payload(chance, command), fds)
        try:
            pc.reply(number)
        except RequestError as error:
            assert error.errno in (errno.EINVAL, errno.EEXIST, errno.ENOENT, errno.ENOSPC)
        assert not pc._replies
    for fd in extra:
        os.close(fd)
    assert pc.read(0, IDENT) == 0xC0B1E5
    pc.unmap_all()
    for index in range(5):
        pc.set_irqs(index, 33, 0, 0)
    assert open_fds() == before
    assert served.stats()["connections"] == 1


def test_noise_ends_at_most_the_connection(served: Served) -> None:
    chance = random.Random(7)
    before = open_fds()
    for number in range(1, 41):
        client = Client(served.path)
        served.wait(partial(served.has_met, number))
        try:
            client.send_bytes(chance.randbytes(chance.randrange(1, 5000)), [client.socket.fileno()])
        except ConnectionError:
            pass
        client.close()
    with served.client() as client:
        assert client.read(0, IDENT) == 0xC0B1E5
    served.wait(lambda: not served.nic.stats()["connected"])
    assert open_fds() == before


def test_a_peer_that_reads_no_answers_is_given_up(served: Served) -> None:
    client = served.client()
    client.socket.settimeout(3)
    message = pack_message(1, Command.REGION_READ, pack("<QII", 0, 6, 0x800)) * 100
    with pytest.raises(OSError):
        for _ in range(1000):
            client.send_bytes(message)
    client.close()
    served.wait(lambda: not served.nic.stats()["connected"])
    assert served.stats()["protocol_errors"] == 1


def test_messages_without_end_during_a_transfer_end_it(pc: Client) -> None:
    pc.ask(Command.DMA_MAP, DMA_MAP.pack(32, 3, 0, 0, 4096))
    pc.write(7, 4, 6, 2)
    pc.write(0, 0x10, 4)
    pc.post(0, GO, 1)
    for value in range(3000):
        pc.post(0, LATER + 4, value)
    pc.remote[0] = bytearray(4096)
    assert pc.read(0, LATER + 4) == 2999


def test_what_is_refused_is_counted_by_its_command(served: Served, pc: Client) -> None:
    for command in (99, 9, 9):
        with pytest.raises(RequestError):
            pc.ask(command)
    assert served.stats()["refused"] == {"unknown command": 1, "REGION_READ": 2}
