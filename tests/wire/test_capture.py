# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable, Sequence

import pytest
from tests.wire.boxes import End, frames
from tests.wire.packets import superframe_tcp4
from tests.wire.test_runs import a_run, texts

from vmwire.wire.capture import BUFFER_BYTES, FLUSH_AFTER_S, Capture
from vmwire.wire.frame import NO_OFFLOAD, Frame
from vmwire.wire.port import EVERYTHING, Port
from vmwire.wire.runs import IPV4

START = 1_700_000_000_123_456_789


class Recorder:
    """A capture between two ends, with a clock and a timer by hand."""

    def __init__(self, b: End | None = None, snap_length: int = 262144) -> None:
        self.a, self.b = End("a"), b or End("b")
        self.now = START
        self.file = io.BytesIO()
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.capture = Capture("c", self.file, self.clock, self.flush_later, snap_length)
        self.a.port.connect(self.b.port)
        self.a.port.insert(self.capture.left, self.capture.right)

    def clock(self) -> int:
        self.now += 1
        return self.now

    def flush_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.timers.append((delay_s, callback))

    def records(self) -> list[tuple[int, int, bytes]]:
        """(nanoseconds, length on the wire, bytes) of each record in the file."""
        self.capture.flush()
        data, at = self.file.getvalue(), 24
        found = []
        while at < len(data):
            seconds, nanoseconds, kept, length = struct.unpack_from("=IIII", data, at)
            found.append((seconds * 10**9 + nanoseconds, length, data[at + 16 : at + 16 + kept]))
            at += 16 + kept
        return found


def test_file_starts_with_a_nanosecond_header_at_once() -> None:
    expected = struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 64, 1)
    assert Recorder(snap_length=64).file.getvalue() == expected


def test_what_passes_is_recorded_both_ways_with_its_time() -> None:
    r = Recorder()
    r.a.port.send(frames(1))
    r.b.port.send([Frame([memoryview(b"ab"), memoryview(b"cd")], 4)])
    assert r.records() == [(START + 1, 60, bytes(60)), (START + 2, 4, b"abcd")]
    assert (len(r.b.got), len(r.a.got)) == (1, 1)


def test_only_what_was_taken_is_recorded() -> None:
    r = Recorder(End("b", room=1))
    assert r.a.port.send(frames(3)) == 1
    assert len(r.records()) == 1


def test_long_frame_is_cut_to_the_snap_length() -> None:
    r = Recorder(snap_length=10)
    r.a.port.send([Frame([memoryview(bytes(8)), memoryview(bytes(80))], 88)])
    assert r.records() == [(START + 1, 88, bytes(10))]


@pytest.mark.parametrize("copied", [False, True])
def test_a_superframe_of_udp_is_recorded_as_the_datagrams_that_it_stands_for(copied: bool) -> None:
    r = Recorder()
    (run,) = a_run(IPV4, texts(3))
    r.a.port.send([run.copy() if copied else run])
    assert [(length, data[42:]) for _, length, data in r.records()] == [
        (60, each) for each in texts(3)
    ]
    assert len(r.b.got) == 1


def test_superframe_is_one_record_and_its_checksum_counts_as_unfinished() -> None:
    r = Recorder()
    frame = superframe_tcp4(bytes(60000), 1448)
    r.a.port.send([frame])
    assert [data for _, _, data in r.records()] == [frame.tobytes()]
    assert r.capture.stats()["unfinished checksums"] == 1
    assert r.b.got[0].offload is frame.offload


def test_question_stands_before_the_answer_that_came_from_within() -> None:
    r = Recorder()
    port = Port("service", len, accepts=EVERYTHING)

    def answer(asked: Sequence[Frame]) -> int:
        port.send([Frame.of(b"answer")])
        return len(asked)

    port.receive = answer
    r.b.port.disconnect()
    r.capture.right.connect(port)
    r.a.port.send([Frame.of(b"one"), Frame.of(b"two")])
    assert [data for _, _, data in r.records()] == [b"one", b"two", b"answer"]


def test_reservation_passes_and_is_recorded_at_its_commit() -> None:
    r = Recorder(End("b", memory=2000))
    views = r.a.port.reserve(1000)
    assert views is not None
    assert views[0].obj is r.b.memory
    views[0][:] = b"x" * 138
    views[1][:2] = b"yz"
    r.a.port.commit(140, superframe_tcp4(b"", 1).offload)
    assert [data for _, _, data in r.records()] == [b"x" * 138 + b"yz"]
    assert r.b.committed[0][0] == b"x" * 138 + b"yz"


def test_reservation_given_back_is_not_recorded() -> None:
    r = Recorder(End("b", memory=2000))
    r.a.port.reserve(1000)
    r.a.port.cancel()
    r.b.busy = True
    assert r.a.port.reserve(10) is None
    assert r.records() == []
    assert r.b.heard[-1] == "cancel"


def test_records_are_written_a_little_later() -> None:
    r = Recorder()
    r.timers.clear()
    r.a.port.send(frames(1))
    r.a.port.send(frames(1))
    assert len(r.file.getvalue()) == 24
    ((delay_s, callback),) = r.timers
    assert delay_s == FLUSH_AFTER_S
    callback()
    assert len(r.file.getvalue()) == 24 + 2 * 76
    r.a.port.send(frames(1))
    assert len(r.timers) == 2


def test_gathered_records_are_bounded() -> None:
    r = Recorder()
    for _ in range(2 * BUFFER_BYTES // 60000 + 1):
        r.a.port.send([Frame.of(bytes(60000))])
    assert len(r.file.getvalue()) >= BUFFER_BYTES


def test_file_that_fails_ends_the_capture_and_not_the_traffic(
    caplog: pytest.LogCaptureFixture,
) -> None:
    r = Recorder(End("b", memory=100))

    def fail(data: bytes) -> int:
        raise OSError(28, "No space left on device")

    r.file.write = fail
    r.a.port.send(frames(1))
    with caplog.at_level(logging.ERROR):
        r.capture.flush()
    assert "No space left" in caplog.text
    assert r.capture.stats()["error"] == "No space left on device"
    r.a.port.send(frames(1))
    r.a.port.reserve(10)
    r.a.port.commit(10, NO_OFFLOAD)
    r.capture.flush()
    assert len(r.b.got) == 2
    assert len(r.b.committed) == 1
    r.capture.close()


def test_close_writes_the_rest_and_leaves_the_line() -> None:
    r = Recorder()
    r.a.port.send(frames(1))
    contents: list[bytes] = []
    r.file.close = lambda: contents.append(r.file.getvalue())
    r.capture.close()
    assert len(contents[0]) == 24 + 76
    assert r.a.port.peer is r.b.port
    r.timers[-1][1]()  # the timer that was set fires into nothing
