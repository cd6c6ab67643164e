# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from vmwire.daemon import channel as channels
from vmwire.daemon.channel import Channel
from vmwire.daemon.store import KeptFds, WorkerStore


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    keeper, worker = channels.pair()
    yield keeper, worker
    keeper.close()
    worker.close()


def same_file(a: int, b: int) -> bool:
    return os.path.sameopenfile(a, b)


def test_what_is_kept_arrives_at_the_keeper_and_can_be_taken_again(
    ends: tuple[Channel, Channel],
) -> None:
    keeper, worker = ends
    store = WorkerStore(worker, KeptFds())
    fd = os.memfd_create("x")
    store.keep("listener", fd)
    received = keeper.receive()
    assert received is not None
    message, fds = received
    assert message == {"keep": "listener"}
    taken = store.take("listener")
    assert taken is not None and taken != fd
    assert same_file(taken, fd) and same_file(fds[0], fd)
    for each in (fd, taken, *fds):
        assert not os.get_inheritable(each)
        os.close(each)


def test_dropped_name_is_gone_on_both_sides(ends: tuple[Channel, Channel]) -> None:
    keeper, worker = ends
    kept = KeptFds()
    kept.put("a", os.memfd_create("x"))
    store = WorkerStore(worker, kept)
    store.drop("a")
    store.drop("a")
    assert store.take("a") is None
    assert keeper.receive() == ({"drop": "a"}, [])


def test_keeping_a_name_again_closes_what_had_it() -> None:
    kept = KeptFds()
    first, second = os.memfd_create("1"), os.memfd_create("2")
    kept.put("a", first)
    kept.put("a", second)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first)
    kept.close()
    assert len(kept) == 0


def test_store_goes_on_when_its_own_end_is_closed(ends: tuple[Channel, Channel]) -> None:
    _, worker = ends
    store = WorkerStore(worker, KeptFds())
    worker.close()
    fd = os.memfd_create("x")
    store.keep("a", fd)
    os.close(fd)
    store.drop("a")
    assert store.take("a") is None


def test_store_goes_on_when_its_keeper_is_gone_and_tells_the_next_one_everything(
    ends: tuple[Channel, Channel],
) -> None:
    keeper, worker = ends
    store = WorkerStore(worker, KeptFds())
    keeper.close()
    fd = os.memfd_create("x")
    store.keep("a", fd)
    store.keep("b", fd)
    other, mine = channels.pair()
    store.move_to(mine)
    for name in ("a", "b"):
        received = other.receive()
        assert received is not None
        assert received[0] == {"keep": name}
        os.close(received[1][0])
    store.drop("a")
    assert other.receive() == ({"drop": "a"}, [])
    mine.close()
    assert other.receive() is None
    other.close()
    os.close(fd)
