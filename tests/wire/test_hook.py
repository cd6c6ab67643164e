# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from typing import Any

import pytest
from tests.wire.boxes import End, frames
from tests.wire.packets import superframe_tcp4, transport_checks

from vmwire.wire.frame import F_DATA_VALID, Frame, Offload
from vmwire.wire.hook import DROP, PASS, Direction, Hook, HookFunction, Packet
from vmwire.wire.port import PACKETS_ONLY


class Line:
    def __init__(self, function: HookFunction, b: End | None = None, **options: Any) -> None:
        self.a, self.b = End("a"), b or End("b", memory=100)
        self.hook = Hook("h", function, **options)
        self.a.port.connect(self.b.port)
        self.a.port.insert(self.hook.left, self.hook.right)


@pytest.mark.parametrize("answer", [None, PASS])
def test_packet_that_is_only_looked_at_goes_on(answer: Any) -> None:
    seen: list[Packet] = []
    line = Line(lambda packet: seen.append(packet) or answer)
    line.a.port.send(frames(2))
    line.b.port.send(frames(1))
    assert [packet.direction for packet in seen] == [Direction.TX, Direction.TX, Direction.RX]
    assert line.b.data == [bytes(60), b"\x01" * 60]
    assert line.a.data == [bytes(60)]


def test_packet_is_dropped() -> None:
    line = Line(lambda packet: DROP if packet.data[0] == 1 else PASS)
    assert line.a.port.send(frames(3)) == 3
    assert [data[0] for data in line.b.data] == [0, 2]
    assert line.hook.stats()["dropped"] == 1


@pytest.mark.parametrize(
    ("answer", "arrives"),
    [
        (b"new", [b"new"]),
        ([b"one", Packet(b"two", Direction.TX)], [b"one", b"two"]),
        (Packet(b"x", Direction.TX, Offload(F_DATA_VALID)), [b"x"]),
        ([], []),
    ],
)
def test_packet_is_replaced(answer: Any, arrives: list[bytes]) -> None:
    line = Line(lambda packet: answer)
    line.a.port.send(frames(1))
    assert line.b.data == arrives


def test_function_sees_plain_packets() -> None:
    seen: list[Packet] = []
    line = Line(seen.append)
    assert line.a.port.peer_accepts == line.b.port.peer_accepts == PACKETS_ONLY
    assert not line.a.port.reserves
    line.a.port.send([superframe_tcp4(bytes(3500), 1448)])
    assert [len(packet.data) for packet in seen] == [1502, 1502, 658]
    assert all(transport_checks(packet.data) for packet in seen)


def test_function_sees_superframes_if_it_wants() -> None:
    seen: list[Packet] = []
    line = Line(seen.append, superframes=True)
    frame = superframe_tcp4(bytes(3500), 1448)
    line.a.port.send([frame])
    assert seen == [Packet(frame.tobytes(), Direction.TX, frame.offload)]
    assert line.b.got[0].offload is frame.offload


@pytest.mark.parametrize("bad", [lambda packet: 1 / 0, lambda packet: "text", lambda packet: [3]])
def test_failing_function_drops_is_counted_and_logged_once(
    bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    line = Line(bad)
    with caplog.at_level(logging.ERROR):
        assert line.a.port.send(frames(3)) == 3
    assert line.b.got == []
    assert line.hook.stats()["failed"] == 3
    assert len(caplog.records) == 1


def test_refused_packets_wait_and_are_not_asked_about_twice() -> None:
    seen: list[Packet] = []
    line = Line(seen.append, End("b", room=1))
    assert line.a.port.send(frames(3)) == 3
    assert line.a.port.send(frames(2)) == 0
    line.b.make_room(1)
    assert "resume" not in line.a.heard
    line.b.make_room(5)
    assert line.a.heard[-1] == "resume"
    assert [data[0] for data in line.b.data] == [0, 1, 2]
    assert len(seen) == 3
    assert line.a.port.send(frames(2)) == 2


def test_waiting_packets_are_copies() -> None:
    line = Line(lambda packet: None, End("b", room=0))
    memory = bytearray(b"before")
    line.a.port.send([Frame.of(memory)])
    memory[:] = b"after!"
    line.b.make_room()
    assert line.b.data == [b"before"]


def test_packets_can_be_injected_either_way() -> None:
    line = Line(lambda packet: DROP)
    assert line.hook.inject(b"to the host", Direction.TX)
    assert line.hook.inject(b"to the guest", Direction.RX)
    assert line.b.data == [b"to the host"]
    assert line.a.data == [b"to the guest"]


def test_function_may_answer_a_packet_itself() -> None:
    line = Line(lambda packet: line.hook.inject(b"no", Direction.RX) and DROP)
    line.a.port.send(frames(1))
    assert (line.a.data, line.b.data) == ([b"no"], [])
