# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Datagrams sent and read many at a time: nobody at the other end can tell."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest
from tests.netdev.alone import alone, ip
from tests.wire.packets import superframe_tcp4

from vmwire.netdev import mmsg
from vmwire.netdev.datagram_batches import Intake, Messages, Segments
from vmwire.wire.frame import Frame

pytestmark = pytest.mark.skipif(not mmsg.POSSIBLE, reason="structures of another machine")

LENGTHS = [60] * 70 + [1514] * 60 + [700] + [61, 60, 61, 9000] + [30000] * 3
"""Runs longer than one piece, a short end, changes, and what is long."""


class Numbers:
    """Headers that count what was sent."""

    length = 4

    def __init__(self) -> None:
        self.sent = 0

    def ahead(self, count: int) -> Sequence[bytes]:
        return [n.to_bytes(4, "big") for n in range(self.sent, self.sent + count)]

    def passed(self, count: int) -> None:
        self.sent += count


def pair() -> tuple[socket.socket, socket.socket]:
    left, right = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
    for sock in (left, right):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
    left.connect(right.getsockname())
    right.connect(left.getsockname())
    return left, right


def frames_of(lengths: Sequence[int]) -> list[Frame]:
    """Frames of two views each, all of them different."""
    found = []
    for number, length in enumerate(lengths):
        data = memoryview(number.to_bytes(2, "big") + bytes([number % 251]) * (length - 2))
        found.append(Frame((data[:20], data[20:]), length))
    return found


def data_of(frames: Sequence[Frame]) -> list[bytes]:
    return [n.to_bytes(4, "big") + b"".join(f.views) for n, f in enumerate(frames)]


def send_all(sender: Messages | Segments, frames: Sequence[Frame]) -> int:
    """Send them; return the number of calls."""
    at = calls = 0
    while at < len(frames):
        at += sender.send(frames, at)
        calls += 1
    return calls


@pytest.mark.parametrize("kind", [Messages, Segments])
def test_what_goes_by_few_calls_comes_as_if_it_had_been_sent_one_by_one(
    kind: type[Messages] | type[Segments],
) -> None:
    left, right = pair()
    frames = frames_of(LENGTHS)
    assert send_all(kind(left, Numbers()), frames) < 12
    assert [right.recv(70000) for _ in frames] == data_of(frames)
    left.close()
    right.close()


@alone
def test_pieces_that_the_path_does_not_take_are_sent_otherwise() -> None:
    ip("link set lo mtu 1300")
    left, right = pair()
    sender = Segments(left, Numbers())
    frames = frames_of([1514] * 10 + [1200] * 20)
    assert send_all(sender, frames) == 1
    assert send_all(sender, frames[10:]) == 1
    frames += frames[10:]
    assert [right.recv(70000) for _ in frames][:30] == data_of(frames)[:30]


@pytest.mark.parametrize("in_pieces", [False, True], ids=["single", "in pieces"])
def test_all_datagrams_are_read_by_few_calls(in_pieces: bool) -> None:
    left, right = pair()
    intake = Intake(right)
    right.setblocking(False)
    frames = frames_of([60] * 50 + [1000] * 20 + [999])
    calls = found = 0
    expected = data_of(frames)
    send_all((Segments if in_pieces else Messages)(left, Numbers()), frames)
    while found < len(expected):
        datagrams, _ = intake.read()
        assert [bytes(d) for d in datagrams] == expected[found : found + len(datagrams)]
        found += len(datagrams)
        calls += 1
    assert calls <= 2
    assert intake.read() == ([], False)


def test_one_by_one_is_read_one_by_one_and_a_burst_is_noticed() -> None:
    left, right = pair()
    intake = Intake(right)
    right.setblocking(False)
    for n in range(20):
        left.send(bytes([n]))
        assert [bytes(d) for d in intake.read()[0]] == [bytes([n])]
    for _ in range(64):
        left.send(b"x")
    sizes = []
    while sum(sizes) < 64:
        sizes.append(len(intake.read()[0]))
    assert len(sizes) < 12


def test_a_queue_that_is_full_says_so_and_only_what_went_is_counted() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.setblocking(False)
    numbers = Numbers()
    frames = frames_of([100] * 5)
    sender = Messages(left, numbers)
    with pytest.raises(BlockingIOError):
        for _ in range(10000):
            sender.send(frames, 0)
    came = 0
    right.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            assert right.recv(200)[:4] == came.to_bytes(4, "big")
            came += 1
    assert came == numbers.sent
    left.close()
    right.close()


def test_a_frame_with_work_left_ends_a_batch() -> None:
    left, _right = pair()
    frames = [*frames_of([60] * 3), superframe_tcp4(bytes(3000), 1448), *frames_of([60])]
    for kind in (Messages, Segments):
        assert kind(left, Numbers()).send(frames, 0) == 3
