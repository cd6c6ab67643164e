# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A worker dies, and the machine doesn't notice."""

from __future__ import annotations

import errno
import mmap
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from struct import pack

import pytest

from tests.attach.vfio_user.copier import (
    CARD,
    COUNT,
    GO,
    IDENT,
    LENGTH,
    LEVEL,
    NOTIFY,
    SCRATCH,
    SOURCE,
    TARGET,
    Served,
)
from tests.engine.store import Store
from vmwire.attach.vfio_user import kept
from vmwire.attach.vfio_user.kept import Record
from vmwire.bench.vfio_user import Client, RequestError, fired
from vmwire.bus.pci.vfio_user import (
    ACTION_TRIGGER,
    ACTION_UNMASK,
    CONFIG,
    DATA_EVENTFD,
    DATA_NONE,
    INTX,
    MSIX,
    Command,
    pack_message,
)
from vmwire.engine.host import NotNow
from vmwire.errors import ConfigError


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    for name in list(store.kept):
        store.drop(name)


class Workers:
    """One worker after another."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.store = folder, store
        self.now = Served(folder, store)

    def die(self) -> None:
        """Once all is put down, which is before the loop sleeps."""
        session = self.now.nic._session
        lasting = session and session.lasting
        if lasting is not None:
            self.now.wait(lambda: not lasting._stale)
        self.now.die()

    def restart(self) -> None:
        self.die()
        self.now = Served(self.folder, self.store)

    def record(self) -> Record:
        """What is put down, as the next worker finds it."""
        return Record(mmap.mmap(self.store.kept["vfio-user c0 record"], kept._SIZE))


@pytest.fixture
def workers(tmp_path: Path, store: Store) -> Iterator[Workers]:
    workers = Workers(tmp_path, store)
    yield workers
    workers.now.close()
    assert store.kept == {}


@pytest.fixture
def pc(workers: Workers) -> Iterator[Client]:
    with workers.now.client() as client:
        yield client
    workers.now.wait(lambda: not workers.now.nic.stats()["connected"])


def test_registers_and_configuration_are_as_they_were(workers: Workers, pc: Client) -> None:
    pc.write(0, SCRATCH, 0xABCD)
    pc.write(CONFIG, 4, 6, 2)
    workers.restart()
    assert pc.read(0, SCRATCH) == 0xABCD
    assert pc.read(CONFIG, 4, 2) == 6
    pc.write(0, SCRATCH, 5)
    workers.restart()
    assert pc.read(0, SCRATCH) == 5
    assert workers.now.stats()["connected"]


def test_memory_of_both_kinds_is_there_again(workers: Workers, pc: Client) -> None:
    ram = pc.map(0, 0x1000)
    far = pc.map_remote(0x1000, 0x1000)
    gone = pc.map(0x4000, 0x1000)
    pc.unmap(0x4000, 0x1000)
    ram[:4] = b"data"
    pc.write(CONFIG, 4, 6, 2)
    workers.restart()
    pc.write(0, SOURCE, 0)
    pc.write(0, TARGET, 0x1000)
    pc.write(0, LENGTH, 4)
    pc.write(0, GO, 1)
    pc.read(0, IDENT)
    assert far[:4] == b"data"
    pc.unmap(0x1000, 0x1000)
    gone.close()
    assert workers.now.stats()["memory_bytes"] == 0x1000


def test_interrupts_arrive_where_they_did(workers: Workers, pc: Client) -> None:
    (pin,) = pc.wire(INTX)
    fds = pc.wire(MSIX, 0, 3)
    pc.write(0, LEVEL, 1)
    assert fired(pin) == 1
    workers.restart()
    pc.read(0, IDENT)
    assert fired(pin) >= 1
    pc.write(0, LEVEL, 0)
    pc.unmask()
    fired(pin)
    pc.write(0, LEVEL, 1)
    assert fired(pin) == 1
    pc.write(CONFIG, 0x62, 0x8000, 2)
    for fd in fds:
        fired(fd)
    pc.write(0, NOTIFY, 2)
    assert [fired(fd) for fd in fds] == [0, 0, 1]


def test_what_comes_meanwhile_waits(workers: Workers, pc: Client) -> None:
    pc.read(0, IDENT)
    workers.die()
    number = pc.tell(Command.REGION_READ, pack("<QII", IDENT, 0, 4))
    workers.now = Served(workers.folder, workers.store)
    assert pc.reply(number)[16:] == pack("<I", 0xC0B1E5)


def test_a_message_that_was_begun_is_done_again_and_answered(workers: Workers, pc: Client) -> None:
    assert [pc.read(0, COUNT) for _ in range(3)] == [0, 1, 2]
    workers.die()
    record = workers.record()
    record.begin(pack_message(77, Command.REGION_READ, pack("<QII", COUNT, 0, 4)))
    record.close()
    workers.now = Served(workers.folder, workers.store)
    assert pc.reply(77)[16:] == pack("<I", 3)
    assert pc.read(0, COUNT) == 4


def test_a_message_that_ended_two_workers_gets_an_error(workers: Workers, pc: Client) -> None:
    pc.read(0, IDENT)
    workers.die()
    record = workers.record()
    record.begin(pack_message(77, Command.REGION_READ, pack("<QII", COUNT, 0, 4)))
    record.again()
    record.close()
    workers.now = Served(workers.folder, workers.store)
    with pytest.raises(RequestError) as error:
        pc.reply(77)
    assert error.value.errno == errno.EIO
    assert pc.read(0, COUNT) == 0


def test_an_unmasking_under_way_is_done_again(workers: Workers, pc: Client) -> None:
    (pin,) = pc.wire(INTX)
    pc.write(0, LEVEL, 1)
    workers.die()
    fired(pin)
    record = workers.record()
    payload = pack("<IIIII", 20, DATA_NONE | ACTION_UNMASK, INTX, 0, 1)
    record.begin(pack_message(79, Command.DEVICE_SET_IRQS, payload))
    record.close()
    workers.now = Served(workers.folder, workers.store)
    assert pc.reply(79) == b""
    assert fired(pin) >= 1
    pc.write(0, LEVEL, 0)
    pc.unmask()
    fired(pin)
    pc.write(0, LEVEL, 1)
    assert fired(pin) == 1


@pytest.mark.parametrize(
    ("command", "payload"),
    [
        (Command.DMA_MAP, pack("<IIQQQ", 32, 3, 0, 0, 4096)),
        (Command.DEVICE_SET_IRQS, pack("<IIIII", 20, DATA_EVENTFD | ACTION_TRIGGER, 0, 0, 1)),
    ],
)
def test_what_came_with_descriptors_that_are_lost_is_refused(
    workers: Workers, pc: Client, command: Command, payload: bytes
) -> None:
    pc.read(0, IDENT)
    workers.die()
    record = workers.record()
    record.begin(pack_message(80, command, payload))
    record.close()
    workers.now = Served(workers.folder, workers.store)
    with pytest.raises(RequestError) as error:
        pc.reply(80)
    assert error.value.errno == errno.EIO
    assert pc.read(0, IDENT) == 0xC0B1E5


def test_a_change_of_wiring_that_was_done_is_answered(workers: Workers, pc: Client) -> None:
    pc.read(0, IDENT)
    workers.die()
    record = workers.record()
    payload = pack("<IIQQ", 24, 0, 0x1000, 0x1000)
    record.begin(pack_message(78, Command.DMA_UNMAP, payload))
    record.done()
    record.close()
    workers.now = Served(workers.folder, workers.store)
    assert pc.reply(78) == payload
    assert pc.read(0, IDENT) == 0xC0B1E5


def test_half_a_message_that_was_read_is_not_lost(workers: Workers, pc: Client) -> None:
    read = pack_message(5, Command.REGION_READ, pack("<QII", IDENT, 0, 4))
    pc.send_bytes(read + read[:4])
    pc.reply(5)
    workers.now.wait(lambda: workers.now.session.channel.data != b"")
    workers.restart()
    pc.send_bytes(read[4:])
    assert pc.reply(5)[16:] == pack("<I", 0xC0B1E5)


def test_a_machine_that_went_meanwhile_is_noticed(workers: Workers) -> None:
    client = workers.now.client()
    client.read(0, IDENT)
    workers.die()
    client.close()
    workers.now = Served(workers.folder, workers.store)
    workers.now.wait(lambda: not workers.now.nic.stats()["connected"])
    with workers.now.client() as other:
        assert other.read(0, IDENT) == 0xC0B1E5
    workers.now.wait(lambda: not workers.now.nic.stats()["connected"])


@pytest.mark.parametrize("spoilt", [b"\xff", b"\0", b"{", b"\x80" * 64])
def test_a_state_that_makes_no_sense_costs_the_machine_not_the_worker(
    workers: Workers, spoilt: bytes
) -> None:
    client = workers.now.client()
    client.read(0, IDENT)
    workers.die()
    fd = workers.store.kept["vfio-user c0 record"]
    for half in (4096, 4096 + (1 << 20)):
        os.pwrite(fd, len(spoilt).to_bytes(4, "little") + spoilt, half)
    workers.now = Served(workers.folder, workers.store)
    with pytest.raises(ConnectionError):
        client.read(0, IDENT)
    client.close()
    with workers.now.client() as other:
        assert other.read(0, IDENT) == 0xC0B1E5
    workers.now.wait(lambda: not workers.now.nic.stats()["connected"])


# Handing over on purpose


def hand_over(workers: Workers, successor: Callable[[], Served]) -> None:
    """The worker stands still and puts everything down; ``successor`` opens on trial."""
    old = workers.now
    old.stand_still()
    old.nic.hand_over()
    workers.store.on_trial = True
    try:
        workers.now = successor()
    finally:
        workers.store.on_trial = False
    old.die()


def test_a_successor_goes_on_at_once(workers: Workers, pc: Client) -> None:
    for number in range(5):
        pc.write(0, SCRATCH, number)
        hand_over(workers, lambda: Served(workers.folder, workers.store))
        assert pc.read(0, SCRATCH) == number
    assert workers.now.stats()["connections"] == 1


def test_a_successor_with_another_card_refuses_and_the_old_worker_goes_on(
    workers: Workers, pc: Client
) -> None:
    pc.write(0, SCRATCH, 7)
    bars = tuple(replace(bar, size=2 * bar.size) for bar in CARD.bars)
    with pytest.raises(ConfigError, match="with other regions"):
        hand_over(
            workers, lambda: Served(workers.folder, workers.store, card=replace(CARD, bars=bars))
        )
    workers.now.nic.go_on()
    workers.now.run()
    assert pc.read(0, SCRATCH) == 7
    pc.map(0, 0x1000).close()


def test_a_successor_of_another_version_refuses(
    workers: Workers, pc: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "STATE_VERSION", kept.STATE_VERSION + 1)
    with pytest.raises(ConfigError, match="another version"):
        hand_over(workers, lambda: Served(workers.folder, workers.store))
    workers.now.run()
    assert pc.read(0, IDENT)


def test_half_a_message_with_descriptors_is_waited_for(workers: Workers, pc: Client) -> None:
    message = pack_message(1, Command.DMA_MAP, bytes(32))
    with socket.socketpair()[0] as other:
        socket.send_fds(pc.socket, [message[:20]], [other.fileno()])
    session = workers.now.session
    workers.now.wait(lambda: session.channel.busy)
    workers.now.stand_still()
    with pytest.raises(NotNow, match="in the middle"):
        workers.now.nic.hand_over()
    workers.now.run()
    pc.socket.sendall(message[20:])
    pc.socket.recv(100)  # refused: it makes no sense
    hand_over(workers, lambda: Served(workers.folder, workers.store))
    assert pc.read(0, IDENT)


def test_half_a_message_without_descriptors_is_handed_over(workers: Workers, pc: Client) -> None:
    message = pack_message(1, Command.DEVICE_RESET)
    pc.socket.sendall(message[:9])
    session = workers.now.session
    workers.now.wait(lambda: len(session.channel.data) == 9)
    hand_over(workers, lambda: Served(workers.folder, workers.store))
    pc.socket.sendall(message[9:])
    assert pc.socket.recv(100)[:4] == message[:4]
