# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from tests.netdev.sockets import Bed, framed
from tests.wire.boxes import End
from tests.wire.packets import superframe_tcp4

from vmwire.netdev.superframes import (
    HELLO_BYTES,
    SIGNATURE,
    WORTH_BYTES,
    Acquaintance,
    meeting,
    wrapped,
)
from vmwire.wire.frame import Frame, Offload
from vmwire.wire.port import EVERYTHING, PACKETS_ONLY, Port

WHOLE = superframe_tcp4(bytes(range(256)) * 100, 1448)
PLAIN = Frame.of(b"p" * 1514)


def pair(sockets: Bed, path: Path) -> tuple[End, End, Any, Any]:
    address = f"addr.type=unix,addr.path={path}"
    server, one = sockets.add(f"stream,id=a,server=on,{address}")
    client, other = sockets.add(f"stream,id=b,{address}")
    sockets.until(lambda: one.port.carrier and other.port.carrier)
    return one, other, server, client


def make_worth_it(sockets: Bed, end: End) -> None:
    for _ in range(WORTH_BYTES // 1514 + 1):
        end.port.send([PLAIN])
        sockets.turn()


def test_superframes_stay_whole_between_two_of_ours(sockets: Bed, tmp_path: Path) -> None:
    one, other, _, _ = pair(sockets, tmp_path / "s")
    one.port.send([WHOLE])
    sockets.turn()
    assert len(other.got) > 10  # cut, as for a stranger
    make_worth_it(sockets, one)
    other.got.clear()
    one.port.send([PLAIN, WHOLE, PLAIN])
    other.port.send([WHOLE])
    sockets.turn()
    assert other.data == [PLAIN.tobytes(), WHOLE.tobytes(), PLAIN.tobytes()]
    assert other.got[1].offload == WHOLE.offload
    assert one.got[0].offload == WHOLE.offload


def test_a_superframe_that_the_socket_takes_in_part_comes_whole(
    sockets: Bed, tmp_path: Path
) -> None:
    one, other, _, _ = pair(sockets, tmp_path / "s")
    make_worth_it(sockets, one)
    other.got.clear()
    waiting = [superframe_tcp4(bytes([n]) * 60000, 1448) for n in range(30)]
    sent = [frame.tobytes() for frame in waiting]
    while waiting:
        del waiting[: one.port.send(waiting)]
        sockets.turn()
    assert other.data == sent
    assert all(frame.offload == WHOLE.offload for frame in other.got)


def test_a_stranger_sees_plain_frames_and_after_a_while_one_hello(
    sockets: Bed, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        _, end = sockets.add(f"stream,id=a,server=on,addr.type=unix,addr.path={tmp_path}/s")
        peer.connect(f"{tmp_path}/s")
        sockets.until(lambda: end.port.carrier)
        end.port.send([PLAIN] * 40)
        sockets.turn()
        assert peer.recv(1 << 20) == framed(*[PLAIN.tobytes()] * 40)
        end.port.send([PLAIN] * 40)
        sockets.turn()
        got = peer.recv(1 << 20)
        assert got.count(SIGNATURE) == 1
        assert len(got) == 40 * 1518 + 4 + HELLO_BYTES
        peer.send(framed(*[PLAIN.tobytes()] * 40))
        end.port.send([WHOLE])
        sockets.turn()
        got = peer.recv(1 << 20)
        assert got.count(SIGNATURE) == 0
        assert len(got) > WHOLE.length


def test_nothing_is_left_of_an_acquaintance_when_the_connection_ends(
    sockets: Bed, tmp_path: Path
) -> None:
    one, _, server, client = pair(sockets, tmp_path / "s")
    make_worth_it(sockets, one)
    assert server.port.accepts == EVERYTHING
    client.close()
    sockets.turn()
    assert server.port.accepts == PACKETS_ONLY


class Line:
    """Two acquaintances whose capsules are handed over by the test."""

    def __init__(self) -> None:
        self.time = 100.0
        self.ports = [Port("a", len), Port("b", len)]
        self.said: list[list[bytes]] = [[], []]
        self.a = Acquaintance(self.ports[0], self.said[0].append, now=lambda: self.time)
        self.b = Acquaintance(self.ports[1], self.said[1].append, now=lambda: self.time)
        self.a.reset(("A", "B"))
        self.b.reset(("B", "A"))

    def pass_on(self) -> None:
        while any(self.said):
            for said, to in zip(self.said, (self.b, self.a), strict=True):
                for capsule in said[:]:
                    to.open(memoryview(capsule), [])
                    said.remove(capsule)


def test_hello_that_came_through_somebodys_hub_does_not_count() -> None:
    line = Line()
    line.b.reset(("B", "hub"))
    line.a.carried(WORTH_BYTES)
    line.pass_on()
    assert not line.b.known
    assert line.ports[1].drops["hello for somebody else"] == 1


def test_ones_own_hello_that_comes_back_does_not_count() -> None:
    line = Line()
    line.a.carried(WORTH_BYTES)
    line.a.open(memoryview(line.said[0].pop()), [])
    assert not line.a.known


def test_hello_is_answered_once() -> None:
    line = Line()
    line.a.carried(WORTH_BYTES - 1)
    assert line.said == [[], []]
    line.a.carried(1)
    said = line.said[0][0]
    line.pass_on()
    assert line.a.known
    assert line.b.known
    line.b.open(memoryview(said), [])
    assert len(line.said[1]) == 1


def test_a_friend_who_is_silent_is_a_stranger_again_and_greeted_anew() -> None:
    line = Line()
    line.a.carried(WORTH_BYTES)
    line.pass_on()
    line.time += 3
    line.a.carried(1)
    line.pass_on()  # renewed while there is traffic
    line.time += 4
    line.a.carried(1)
    assert line.a.known
    line.pass_on()
    line.time += 6
    line.a.carried(1)
    assert not line.a.known
    assert line.ports[0].accepts == PACKETS_ONLY
    line.pass_on()
    assert line.a.known


@pytest.mark.parametrize(
    "capsule",
    [
        SIGNATURE + bytes(30),
        SIGNATURE + b"\x09\0" + bytes(30),
        wrapped(Offload()),
        SIGNATURE,
        SIGNATURE + b"\x05\0" + b"\0\xff" + bytes(200),
        SIGNATURE + b"\x05\0" + bytes(30),
        SIGNATURE + b"\x04\0" + bytes(30),
        wrapped(Offload()) + bytes(66000),
    ],
)
def test_malformed_capsules_are_counted(capsule: bytes) -> None:
    line = Line()
    frames: list[Frame] = []
    line.a.open(memoryview(capsule), frames)
    assert frames == []
    assert line.ports[0].drops["malformed capsule"] == 1


def test_each_end_sees_the_meeting_the_other_way_round() -> None:
    assert meeting("a", "b") != meeting("b", "a")
    assert meeting("a", "b") == meeting("a", "b")
