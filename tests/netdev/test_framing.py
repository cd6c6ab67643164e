# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence

import pytest
from tests.netdev.sockets import framed
from tests.wire.boxes import End, frames

from vmwire.engine.loop import Loop
from vmwire.netdev.framing import BUFFER_BYTES, LONGEST, FrameStream
from vmwire.wire.frame import Frame
from vmwire.wire.port import Port


class Bed:
    """A stream between a peer's plain socket and the end of a wire."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.loop = Loop()
        self.lost: list[str] = []
        self.end = End("end")
        self.port = Port("s", self.receive, resume=lambda: self.stream.resume())
        self.port.connect(self.end.port)
        self.stream = FrameStream(ours, self.loop, self.port, self.lost.append)

    def receive(self, offered: Sequence[Frame]) -> int:
        return self.stream.receive(offered)

    def come(self, data: bytes) -> list[bytes]:
        """The peer sends bytes; return what has arrived on the wire since the last time."""
        self.peer.setblocking(True)
        at = 0
        while at < len(data):
            at += self.peer.send(data[at : at + 50000])
            self.turn()
        self.peer.setblocking(False)
        return self.take()

    def take(self) -> list[bytes]:
        got, self.end.got[:] = self.end.data, []
        return got

    def turn(self) -> None:
        while self.loop.turn(0):
            pass

    def drain(self) -> bytes:
        """All bytes that the peer gets, with the stream at work in between."""
        got = b""
        while True:
            try:
                data = self.peer.recv(1 << 20)
            except BlockingIOError:
                if not self.loop.turn(0):
                    return got
            else:
                if not data:
                    return got
                got += data

    def close(self) -> None:
        self.stream.close()
        self.peer.close()
        self.loop.close()


@pytest.fixture
def bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()


@pytest.mark.parametrize("length", [1, 13, 20, 60, 1514, 9014, 60014, 65553])
def test_a_frame_comes_and_goes_behind_its_length(bed: Bed, length: int) -> None:
    data = bytes(range(256)) * 300
    assert bed.come(framed(data[:length])) == [data[:length]]
    assert bed.end.port.send([Frame.of(data[:length])]) == 1
    assert bed.drain() == framed(data[:length])


def test_many_frames_that_come_at_once_are_one_batch(bed: Bed) -> None:
    calls: list[int] = []
    receive = bed.end.port.receive

    def counting(offered: Sequence[Frame]) -> int:
        calls.append(len(offered))
        return receive(offered)

    bed.end.port.receive = counting
    bed.peer.send(framed(*[bytes([n]) * 60 for n in range(100)]))
    bed.turn()
    assert calls == [100]
    assert bed.take()[99] == bytes([99]) * 60


def test_frames_in_small_pieces_are_put_together(bed: Bed) -> None:
    whole = framed(bytes(60), bytes(range(200)) * 7, b"x")
    got = []
    for at in range(0, len(whole), 97):
        got += bed.come(whole[at : at + 97])
    assert got == [bytes(60), bytes(range(200)) * 7, b"x"]


def test_frames_of_all_sizes_pass_the_buffers_end_unharmed(bed: Bed) -> None:
    sent = [bytes([n % 251]) * (1 + n * 7919 % 65000) for n in range(100)]
    assert bed.come(framed(*sent)) == sent
    assert sum(map(len, sent)) > 4 * BUFFER_BYTES


def test_a_frame_of_no_bytes_is_counted_and_does_not_stall(bed: Bed) -> None:
    assert bed.come(framed(b"", bytes(60), b"", b"y" * 60)) == [bytes(60), b"y" * 60]
    assert bed.port.drops["empty frame"] == 2
    assert not bed.lost


def test_the_longest_frame_is_taken_off_the_stream_and_a_longer_one_ends_it(bed: Bed) -> None:
    assert bed.come(framed(bytes(LONGEST), bytes(60))) == [bytes(60)]  # no wire takes the first
    assert bed.port.drops["too long"] == 1
    assert not bed.lost
    bed.peer.send(struct.pack("!I", LONGEST + 1))
    bed.turn()
    assert bed.lost == [f"the peer announced a frame of more than {LONGEST} bytes"]


def test_frames_before_a_broken_length_are_lost_with_it_and_nothing_comes_behind(bed: Bed) -> None:
    bed.peer.send(struct.pack("!I", 0xFFFFFFFF) + framed(bytes(60)))
    bed.turn()
    assert bed.take() == []
    assert len(bed.lost) == 1


@pytest.mark.parametrize(
    ("last", "reason"),
    [(b"", "the peer left"), (framed(bytes(60))[:30], "the peer left in mid-frame")],
)
def test_a_peer_that_leaves_is_told_once(bed: Bed, last: bytes, reason: str) -> None:
    bed.peer.send(framed(b"z" * 60) + last)
    bed.peer.close()
    bed.turn()
    assert bed.take() == [b"z" * 60]
    assert bed.lost == [reason]


def test_a_wire_that_refuses_stops_the_reading_until_it_has_room(bed: Bed) -> None:
    bed.end.room = 3
    bed.peer.send(framed(*[bytes([n]) * 60 for n in range(5)]))
    bed.turn()
    bed.peer.send(framed(b"behind"))
    bed.turn()
    assert [data[0] for data in bed.take()] == [0, 1, 2]
    bed.end.make_room()
    bed.turn()
    assert [data[:1] for data in bed.take()] == [b"\3", b"\4", b"b"]


def test_what_came_before_the_peer_left_is_not_lost_while_the_wire_refuses(bed: Bed) -> None:
    bed.end.room = 1
    bed.peer.send(framed(b"one"))
    bed.turn()
    bed.peer.send(framed(b"two"))
    bed.turn()
    bed.peer.send(framed(b"three"))
    bed.peer.close()
    bed.turn()
    assert bed.lost == []
    bed.end.make_room()
    bed.turn()
    assert bed.take() == [b"one", b"two", b"three"]
    assert bed.lost == ["the peer left"]


def test_a_socket_that_is_full_refuses_and_sends_on_in_mid_frame(bed: Bed) -> None:
    sent = [bytes([n]) * 60000 for n in range(200)]
    waiting = [Frame.of(data) for data in sent]
    del waiting[: bed.end.port.send(waiting)]
    assert 0 < len(waiting) < 200
    got = b""
    while waiting:
        bed.end.heard.clear()
        got += bed.drain()
        assert bed.end.heard == ["resume"]
        del waiting[: bed.end.port.send(waiting)]
    assert got + bed.drain() == framed(*sent)


def test_frames_for_a_peer_that_left_are_counted_as_lost(bed: Bed) -> None:
    bed.peer.close()
    assert bed.end.port.send(frames(2)) == 2
    assert bed.port.drops["peer gone"] == 2
    bed.turn()
    assert bed.lost == ["the peer left"]
