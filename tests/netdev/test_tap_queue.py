# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The box against a pair of datagram sockets, which read and write like a tap: one frame a call."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from tests.wire.boxes import End
from tests.wire.test_runs import LEFT, datagram, texts

from vmwire.engine.clock import ManualClock
from vmwire.engine.loop import Loop
from vmwire.netdev import tap_queue, tun
from vmwire.netdev.tap_port import TapPort
from vmwire.netdev.tun import offload_flags
from vmwire.wire.frame import F_NEEDS_CSUM, GSO_TCPV4, NO_OFFLOAD, Frame, Gso, Offload
from vmwire.wire.port import EVERYTHING, PACKETS_ONLY, Accepts, stats
from vmwire.wire.runs import IPV4

OFFLOAD = Offload(F_NEEDS_CSUM, GSO_TCPV4, 54, 1448, 34, 16)
PLAIN = bytes(10)


class Tap:
    """A tap whose kernel side is ``kernel``, joined to ``end``."""

    def __init__(self, end: End, header: bool = True, queues: int = 1) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(queues)]
        for each in pairs:
            each[0].setblocking(False)
            each[1].setblocking(False)
        self.kernels = [kernel for kernel, _ in pairs]
        self.kernel = self.kernels[0]
        self.loop = Loop(ManualClock())
        self.end = end
        self.box = TapPort("tap")
        self.box.port.connect(end.port)
        self.box.take([ours.detach() for _, ours in pairs], self.loop, header=header)

    def turn(self) -> None:
        self.loop.turn(0)

    def written(self) -> list[bytes]:
        """What the kernel got."""
        found = []
        while True:
            try:
                found.append(self.kernel.recv(1 << 17))
            except BlockingIOError:
                return found

    def fill(self) -> int:
        """Send until the tap refuses; return how many it took."""
        count = 0
        while self.end.port.send([Frame.of(bytes([count & 0xFF]) * 60)]):
            count += 1
        return count

    def close(self) -> None:
        self.box.close()
        for kernel in self.kernels:
            kernel.close()
        self.loop.close()


@pytest.fixture
def made() -> Iterator[list[Tap]]:
    taps: list[Tap] = []
    yield taps
    for each in taps:
        each.close()


def a_tap(made: list[Tap], end: End | None = None, *, header: bool = True, queues: int = 1) -> Tap:
    made.append(Tap(end or End("end"), header, queues))
    return made[-1]


def test_link_comes_up_with_the_tap_and_goes_with_it(made: list[Tap]) -> None:
    t = a_tap(made)
    assert t.end.heard == ["up"]
    t.box.close()
    t.box.close()
    assert t.end.heard == ["up", "down"]


def test_frames_from_the_tap_arrive_with_their_offload(made: list[Tap]) -> None:
    t = a_tap(made)
    t.kernel.send(PLAIN + b"first")
    t.kernel.send(OFFLOAD.packed + b"x" * 65535)
    t.turn()
    assert t.end.data == [b"first", b"x" * 65535]
    assert [frame.offload for frame in t.end.got] == [NO_OFFLOAD, OFFLOAD]


def test_frames_are_offered_in_batches(made: list[Tap], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap_queue, "MOST_LARGE_FRAMES", 3)
    monkeypatch.setattr(tap_queue, "MOST_FRAMES", 3)
    t = a_tap(made)
    sizes: list[int] = []
    t.end.port.receive = lambda frames: sizes.append(len(frames)) or len(frames)
    for number in range(7):
        t.kernel.send(PLAIN + bytes([number]))
    t.turn()
    assert sizes == [3, 3, 1]


def test_equal_datagrams_go_on_as_one_frame_while_the_peer_takes_such(made: list[Tap]) -> None:
    t = a_tap(made)
    for takes, frames in ((EVERYTHING, 1), (PACKETS_ONLY, 5), (EVERYTHING, 1)):
        t.end.port.set_accepts(takes)
        t.end.got.clear()
        for each in texts(5):
            t.kernel.send(LEFT[IPV4].packed + datagram(IPV4, each))
        t.turn()
        assert len(t.end.got) == frames
        assert b"".join(data[42:] for data in t.end.data) == b"".join(texts(5))


def test_a_run_that_was_refused_is_offered_again(made: list[Tap]) -> None:
    t = a_tap(made, End("end", room=0))
    for each in texts(5):
        t.kernel.send(LEFT[IPV4].packed + datagram(IPV4, each))
    t.turn()
    t.end.make_room()
    assert [data[42:] for data in t.end.data] == [b"".join(texts(5))]


def test_a_turn_reads_no_more_than_its_budget(
    made: list[Tap], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tap_queue, "TURN_BYTES", 100)
    monkeypatch.setattr(tap_queue, "FRAME_BYTES", 0)
    monkeypatch.setattr(tap_queue, "MOST_LARGE_FRAMES", 2)
    t = a_tap(made)
    for number in range(4):
        t.kernel.send(PLAIN + bytes([number]) * 60)
    t.turn()
    assert len(t.end.got) == 2
    t.turn()
    assert len(t.end.got) == 4


def test_small_frames_use_up_the_budget_too(made: list[Tap]) -> None:
    """A flood of them must not keep the loop from its timers for long."""
    least = tap_queue.TURN_BYTES // (tap_queue.FRAME_BYTES + 1)
    assert least <= 512
    t = a_tap(made)
    real, calls = t.box.queues[0]._file, []

    class Endless:
        def readinto(self, view: memoryview) -> int:
            calls.append(1)
            view[:11] = PLAIN + b"x"
            return 11

    t.box.queues[0]._file = Endless()  # type: ignore[assignment]
    t.kernel.send(PLAIN)
    t.turn()
    assert least <= len(calls) <= least + tap_queue.MOST_FRAMES
    t.box.queues[0]._file = real


def test_refused_frames_wait_and_the_tap_is_not_read(made: list[Tap]) -> None:
    t = a_tap(made, End("end", room=1))
    for number in range(3):
        t.kernel.send(PLAIN + bytes([number]))
    t.turn()
    t.kernel.send(PLAIN + b"\x03")
    for _ in range(3):
        assert t.loop.turn(0) == 0
    t.end.make_room(1)
    assert t.loop.turn(0) == 0
    t.end.make_room()
    t.turn()
    assert t.end.data == [b"\x00", b"\x01", b"\x02", b"\x03"]


def test_frames_to_the_tap_are_written_with_their_header(made: list[Tap]) -> None:
    t = a_tap(made)
    scattered = Frame([memoryview(b"ab"), memoryview(b"c")], 3, OFFLOAD)
    assert t.end.port.send([Frame.of(b"plain"), scattered]) == 2
    assert t.written() == [PLAIN + b"plain", OFFLOAD.packed + b"abc"]


def test_full_tap_refuses_and_tells_when_there_is_room(made: list[Tap]) -> None:
    t = a_tap(made)
    count = t.fill()
    t.turn()
    assert "resume" not in t.end.heard
    assert len(t.written()) == count
    t.turn()
    assert t.end.heard[-1] == "resume"
    assert t.end.port.send([Frame.of(b"next")]) == 1
    assert t.loop.turn(0) == 0  # and nobody waits for room any more
    assert stats(t.box.port)["drops"] == {}


def test_frame_that_the_tap_does_not_take_is_lost_and_counted(made: list[Tap]) -> None:
    t = a_tap(made)
    t.kernel.close()
    assert t.end.port.send([Frame.of(b"x")]) == 1
    assert stats(t.box.port)["drops"] == {"tap says Connection refused": 1}


def test_reserved_room_goes_out_as_one_frame(made: list[Tap]) -> None:
    t = a_tap(made)
    assert t.end.port.reserves
    views = t.end.port.reserve(65549)
    assert views is not None
    assert sum(map(len, views)) == 65549
    views[0][:5] = b"hello"
    t.end.port.commit(5, OFFLOAD)
    assert t.end.port.reserve(5) is not None
    t.end.port.cancel()
    assert t.written() == [OFFLOAD.packed + b"hello"]


def test_reservation_committed_to_a_full_tap_follows_later(made: list[Tap]) -> None:
    t = a_tap(made)
    count = t.fill()
    views = t.end.port.reserve(5)
    assert views is not None
    views[0][:] = b"later"
    t.end.port.commit(5)
    assert t.end.port.reserve(5) is None
    assert t.end.port.send([Frame.of(b"x")]) == 0
    assert len(t.written()) == count
    t.turn()
    assert t.written() == [PLAIN + b"later"]
    assert t.end.heard[-1] == "resume"
    assert t.end.port.reserve(5) is not None


def test_tap_that_vanishes_takes_the_link_down(made: list[Tap]) -> None:
    t = a_tap(made)
    blind = os.open("/proc/self/mem", os.O_RDONLY)  # reading it at 0 is an error
    t.kernel.send(PLAIN + b"x")
    t.box.queues[0]._file.close()
    t.box.queues[0]._file = open(blind, "rb", buffering=0)  # noqa: SIM115  # type: ignore[assignment]
    t.turn()
    assert t.end.heard == ["up", "down"]
    assert t.loop.turn(0) == 0


@pytest.mark.parametrize(
    ("accepts", "flags"),
    [
        (PACKETS_ONLY, 0),
        (Accepts(checksum=True), 0x01),
        (Accepts(checksum=False, gso=Gso.TCPV4), 0),
        (Accepts(checksum=True, gso=Gso.TCPV4 | Gso.TCPV6), 0x07),
        (Accepts(checksum=True, gso=Gso.ECN), 0x01),
        (EVERYTHING, 0x6F),
    ],
)
def test_kernel_leaves_undone_what_the_far_end_takes(accepts: Accepts, flags: int) -> None:
    assert offload_flags(accepts) == flags


def test_kernel_hears_of_the_far_ends_changes(
    made: list[Tap], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(tun, "set_offload", lambda fd, flags: told.append(flags) or flags)
    t = a_tap(made)
    told.clear()
    t.end.port.set_accepts(PACKETS_ONLY)
    assert told == [0]


def test_buffers_hold_the_largest_frame(made: list[Tap]) -> None:
    t = a_tap(made)
    t.kernel.send(PLAIN + b"y" * 65553)
    t.turn()
    assert [len(data) for data in t.end.data] == [65553]


def test_taps_without_a_header_carry_plain_frames(made: list[Tap]) -> None:
    t = a_tap(made, header=False)
    assert t.box.port.accepts == PACKETS_ONLY
    t.kernel.send(b"plain frame")
    t.turn()
    assert t.end.data == [b"plain frame"]
    assert t.end.port.send([Frame.of(b"another")]) == 1
    assert t.written() == [b"another"]
    views = t.end.port.reserve(5)
    assert views is not None
    views[0][:5] = b"third"
    t.end.port.commit(5, NO_OFFLOAD)
    assert t.written() == [b"third"]


def test_all_queues_are_read_and_the_first_is_written(made: list[Tap]) -> None:
    t = a_tap(made, queues=2)
    t.kernels[1].send(PLAIN + b"by the second")
    t.kernels[0].send(PLAIN + b"by the first")
    t.turn()
    assert sorted(t.end.data) == [b"by the first", b"by the second"]
    t.end.port.send([Frame.of(b"out")])
    assert t.written() == [PLAIN + b"out"]
    with pytest.raises(BlockingIOError):
        t.kernels[1].recv(100)


def test_each_queue_keeps_what_the_wire_refused(made: list[Tap]) -> None:
    t = a_tap(made, End("end", room=0), queues=2)
    for number, kernel in enumerate(t.kernels):
        kernel.send(PLAIN + bytes([number]))
    t.turn()
    t.end.room = 2
    t.end.port.resume()
    assert sorted(t.end.data) == [b"\0", b"\1"]
