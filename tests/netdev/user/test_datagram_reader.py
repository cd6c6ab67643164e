# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Reading many datagrams by one call, held against reading them one by one."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Sequence

import pytest

from vmwire.netdev import mmsg
from vmwire.netdev.user.datagram_reader import (
    FIRST_STRIDE,
    HEADERS,
    MESSAGES,
    BatchReader,
    PlainReader,
    Run,
    ask_for_local_address,
    ask_for_runs,
    reader,
)

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A sender and a receiver on the loopback."""
    kind = socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as sender, socket.socket(socket.AF_INET, kind) as to:
        to.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        to.bind(("127.0.0.1", 0))
        to.setblocking(False)
        sender.bind(("127.0.0.1", 0))
        sender.connect(to.getsockname())
        yield sender, to


def cut(runs: Sequence[Run]) -> list[bytes]:
    """The single datagrams of runs."""
    return [
        bytes(run.payload[at : at + run.size])
        for run in runs
        for at in (range(0, len(run.payload), run.size) if run.size else (0,))
    ]


def read_all(using: BatchReader | PlainReader, sock: socket.socket) -> list[bytes]:
    found: list[bytes] = []
    stride = FIRST_STRIDE
    while True:
        runs, stride = using.read(sock, stride)
        if not runs:
            return found
        found += cut(runs)


@pytest.mark.parametrize("kind", [BatchReader, PlainReader])
@pytest.mark.parametrize("seed", range(5))
def test_all_datagrams_come_whole_and_in_order(
    pair: Pair, kind: type[BatchReader] | type[PlainReader], seed: int
) -> None:
    sender, receiver = pair
    chance = random.Random(seed)
    sent: list[bytes] = []
    for _ in range(12):
        size = chance.choice((0, 1, 64, 64, 512, 1472, 2048, 2049, 9000, 65507))
        sent += [
            chance.randbytes(size) for _ in range(chance.choice((1, 2, 20 if size < 3000 else 2)))
        ]
    for data in sent:
        sender.send(data)
    assert read_all(kind(), receiver) == sent


def test_stream_of_equal_datagrams_becomes_one_run_in_one_piece(pair: Pair) -> None:
    sender, receiver = pair
    for n in range(2 * MESSAGES):
        sender.send(b"%064d" % n)
    using = BatchReader()
    first, stride = using.read(receiver, FIRST_STRIDE)
    assert len(first) == MESSAGES
    assert stride == 64
    (run,), stride = using.read(receiver, stride)
    assert (run.size, len(run.payload)) == (64, 64 * MESSAGES)
    assert run.framed is not None
    assert run.framed[HEADERS:] == run.payload
    assert stride == 64


def test_stream_that_changes_its_size_is_followed(pair: Pair) -> None:
    sender, receiver = pair
    using = BatchReader()
    stride = FIRST_STRIDE
    for size in (100, 50, 1472):
        for _ in range(MESSAGES):
            sender.send(bytes(size))
        runs, stride = using.read(receiver, stride)
        assert cut(runs) == [bytes(size)] * MESSAGES
        assert stride == size


def test_peers_are_not_mixed_up(pair: Pair) -> None:
    sender, receiver = pair
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.connect(receiver.getsockname())
        for n in range(20):
            (sender, other)[n // 3 % 2].send(b"%08d" % n)
        ports = [sender.getsockname()[1], other.getsockname()[1]]
        runs, _ = BatchReader().read(receiver, 8)
    got = [(run.port, data) for run in runs for data in cut([run])]
    assert got == [(ports[n // 3 % 2], b"%08d" % n) for n in range(20)]
    assert {run.peer for run in runs} == {b"\x7f\0\0\1"}
    assert len(runs) == 7


@pytest.mark.parametrize("kind", [BatchReader, PlainReader])
def test_run_that_the_kernel_made_tells_its_size(
    pair: Pair, kind: type[BatchReader] | type[PlainReader]
) -> None:
    sender, receiver = pair
    ask_for_runs(receiver)
    sender.sendmsg([b"x" * 3500], [(17, 103, (1000).to_bytes(2, "little"))])
    runs, _ = kind().read(receiver, FIRST_STRIDE)
    assert [len(data) for data in cut(runs)] == [1000, 1000, 1000, 500]


@pytest.mark.parametrize("kind", [BatchReader, PlainReader])
def test_local_address_is_told_where_it_was_asked_for(
    pair: Pair, kind: type[BatchReader] | type[PlainReader]
) -> None:
    sender, receiver = pair
    using = kind()
    sender.send(b"1")
    assert [run.local for run in using.read(receiver, FIRST_STRIDE)[0]] == [b""]
    ask_for_local_address(receiver)
    sender.send(b"2")
    assert [run.local for run in using.read(receiver, FIRST_STRIDE)[0]] == [b"\x7f\0\0\1"]


@pytest.mark.parametrize("kind", [BatchReader, PlainReader])
def test_nothing_there_is_no_error(pair: Pair, kind: type[BatchReader] | type[PlainReader]) -> None:
    assert not kind().read(pair[1], FIRST_STRIDE)[0]


@pytest.mark.parametrize("kind", [BatchReader, PlainReader])
def test_error_of_the_socket_is_raised(kind: type[BatchReader] | type[PlainReader]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            closed = gone.getsockname()
        sock.connect(closed)
        sock.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            kind().read(sock, FIRST_STRIDE)


def test_machine_whose_structures_look_different_reads_plainly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert isinstance(reader(), BatchReader)
    monkeypatch.setattr(mmsg, "POSSIBLE", False)
    assert isinstance(reader(), PlainReader)
