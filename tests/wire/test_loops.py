# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Hubs whose own frames come back to them, by lines that take their time as sockets do."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

import pytest
from tests.wire.boxes import End

from vmwire.engine.clock import ManualClock
from vmwire.wire import loops
from vmwire.wire.frame import Frame
from vmwire.wire.hub import Hub
from vmwire.wire.loops import CALM_S, FLUSH_S, MOST_LOOKS, MOVE_S, LoopGuard
from vmwire.wire.port import Port
from vmwire.wire.switch import Switch

ALL = b"\xff" * 6
KINDS = pytest.mark.parametrize("kind", [Hub, Switch], ids=["hub", "switch"])
MOST_WAITING = 100
"""Frames that a line holds, as a socket's queue does."""


def mac(number: int) -> bytes:
    return b"\x52\x54\0\0\0" + bytes([number])


def frame(to: bytes, source: int, text: bytes = b"") -> Frame:
    return Frame.of((to + mac(source) + b"\x08\0" + text).ljust(60, b"\0"))


class Line:
    """A wire between two ports whose frames arrive when ``deliver`` is called."""

    def __init__(self, a: Port, b: Port) -> None:
        self.ends = [Port("x", self._taker(1)), Port("y", self._taker(0))]
        self.waiting: list[deque[Frame]] = [deque(maxlen=MOST_WAITING) for _ in self.ends]
        for end, port in zip(self.ends, (a, b), strict=True):
            end.connect(port)

    def _taker(self, to: int):  # type: ignore[no-untyped-def]
        def take(frames: Sequence[Frame]) -> int:
            self.waiting[to] += [each.copy() for each in frames]
            return len(frames)

        return take

    def deliver(self) -> int:
        count = 0
        for end, waiting in zip(self.ends, self.waiting, strict=True):
            for _ in range(len(waiting)):
                end.send([waiting.popleft()])
                count += 1
        return count


class Lab:
    """Hubs with a guest each, and lines between them: pairs of hubs' numbers."""

    def __init__(self, kind: type[Hub], hubs: int, *lines: tuple[int, int]) -> None:
        self.clock = ManualClock()
        self.hubs = [kind(f"hub{number}", self.clock.now) for number in range(hubs)]
        self.guests = [End(f"guest{number}") for number in range(hubs)]
        for hub, guest in zip(self.hubs, self.guests, strict=True):
            guest.port.connect(hub.add_port(guest.port.name))
        self.lines = [
            Line(self.hubs[a].add_port(f"s{at}"), self.hubs[b].add_port(f"t{at}"))
            for at, (a, b) in enumerate(lines)
        ]

    def say(self, guest: int, data: Frame) -> None:
        self.guests[guest].port.send([data])

    def run(self, rounds: int = 2000) -> int:
        """Deliver until nothing is under way, a millisecond a round; return the rounds."""
        for number in range(rounds):
            if not sum(line.deliver() for line in self.lines):
                return number
            self.clock.advance(0.001)
        return rounds

    def heard(self, guest: int, text: bytes) -> int:
        return sum(data[14:].startswith(text) for data in self.guests[guest].data)

    def find_out(self) -> None:
        """Let the loop be noticed by all."""
        for _ in self.hubs:
            self.say(0, frame(ALL, 0, b"first"))
            assert self.run() < 500
            self.clock.advance(FLUSH_S)


LOOPS = pytest.mark.parametrize(
    ("hubs", "lines"),
    [
        (1, [(0, 0)]),
        (1, [(0, 0), (0, 0)]),
        (2, [(0, 1), (0, 1)]),
        (2, [(0, 1), (0, 1), (0, 1)]),
        (3, [(0, 1), (1, 2), (2, 0)]),
    ],
    ids=["itself", "itself twice", "two joined twice", "two joined three times", "a ring"],
)


@KINDS
@LOOPS
def test_a_broadcast_circles_not_for_long(
    kind: type[Hub], hubs: int, lines: list[tuple[int, int]]
) -> None:
    lab = Lab(kind, hubs, *lines)
    lab.say(0, frame(ALL, 0))
    assert lab.run() < 500


@KINDS
@LOOPS
def test_then_everybody_is_heard_by_all_and_nothing_circles_for_long(
    kind: type[Hub], hubs: int, lines: list[tuple[int, int]]
) -> None:
    lab = Lab(kind, hubs, *lines)
    lab.find_out()
    for guest in range(hubs):
        lab.say(guest, frame(ALL, guest, b"hello"))
        assert lab.run() < 100
    for guest in range(hubs):
        assert hubs - 1 <= lab.heard(guest, b"hello") <= 20 * hubs
    lab.say(hubs - 1, frame(mac(0), hubs - 1, b"for a switch to know"))
    lab.run()
    lab.say(0, frame(mac(hubs - 1), 0, b"to the last one"))
    assert lab.run() < 100
    assert lab.heard(hubs - 1, b"to the last one") >= (hubs > 1)


@KINDS
def test_where_all_hubs_know_everything_is_heard_once(kind: type[Hub]) -> None:
    lab = Lab(kind, 2, (0, 1), (0, 1))
    for number in range(40):
        lab.say(number % 2, frame(ALL, number % 2, bytes([number])))
        lab.run()
        lab.clock.advance(FLUSH_S)
    assert all(hub._guard._guarded for hub in lab.hubs)
    lab.say(0, frame(ALL, 0, b"hello"))
    assert lab.run() < 5
    assert (lab.heard(0, b"hello"), lab.heard(1, b"hello")) == (0, 1)


def test_a_frame_for_one_that_circles_is_found_too() -> None:
    lab = Lab(Hub, 2, (0, 1), (0, 1))
    lab.say(0, frame(mac(9), 0))
    assert lab.run() < 500


def test_a_storm_of_few_and_long_bursts_is_found() -> None:
    """So it looks on a busy machine: what circles is read in thousands."""
    clock = ManualClock()
    guard = LoopGuard("hub0", clock.now)
    ports = [Port("a", len), Port("b", len)]
    for number in range(20):
        guard.admit(ports[number % 2], [frame(ALL, 1)] * 3000)
        clock.advance(0.3)
    assert sum(port.drops["loop"] for port in ports) > 0


def test_one_line_names_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    lab = Lab(Hub, 1, (0, 0))
    lab.find_out()
    lab.find_out()
    (line,) = caplog.messages
    assert line.startswith("hub0: what comes in at 'guest0' comes back at 't0': a loop")
    assert sum(port.drops["loop"] for port in lab.hubs[0].ports) > 0


def test_a_loop_that_comes_again_is_found_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lab = Lab(Hub, 1, (0, 0))
    lab.find_out()
    lab.clock.advance(CALM_S + 1)
    lab.lines[0].ends[1].set_link(False)
    for _ in range(3):
        lab.say(0, frame(ALL, 0))
        lab.run()
        lab.clock.advance(CALM_S + 1)
    assert not lab.hubs[0]._guard._guarded
    lab.lines[0].ends[1].set_link(True)
    lab.find_out()
    assert lab.hubs[0]._guard._guarded


@KINDS
def test_without_a_loop_nothing_is_lost(kind: type[Hub]) -> None:
    lab = Lab(kind, 2, (0, 1))
    for number in range(300):
        lab.say(0, frame(ALL, 0))
        lab.say(1, frame(mac(0), 1, b"answer"))
        lab.say(0, frame(mac(1), 0, bytes([number % 7])))
        lab.run()
    assert lab.heard(1, b"") == 600
    assert lab.heard(0, b"answer") == 300
    assert not any(port.drops for hub in lab.hubs for port in hub.ports)


def a_guard() -> tuple[LoopGuard, ManualClock, Port, Port]:
    """One that guards already, whose flush is over."""
    clock = ManualClock()
    guard = LoopGuard("hub0", clock.now)
    a, b = Port("a", len), Port("b", len)
    for _ in range(50):
        guard.admit(a, [frame(ALL, 1)])
        guard.admit(b, [frame(ALL, 1)])
    clock.advance(FLUSH_S)
    return guard, clock, a, b


def test_a_sender_that_has_moved_is_heard_after_a_while() -> None:
    guard, clock, a, b = a_guard()
    assert guard.admit(a, [frame(ALL, 1)])
    assert not guard.admit(b, [frame(ALL, 1)])
    clock.advance(MOVE_S + 0.1)
    assert guard.admit(b, [frame(ALL, 1)])
    assert not guard.admit(a, [frame(ALL, 1)])


def test_only_what_came_back_of_a_burst_is_dropped() -> None:
    guard, _, a, b = a_guard()
    guard.admit(a, [frame(ALL, 1)])
    admitted = guard.admit(b, [frame(ALL, 2), frame(ALL, 1), frame(ALL, 3)])
    assert [each.tobytes()[6:12] for each in admitted] == [mac(2), mac(3)]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "MOST_SENDERS", 10)
    guard, _, a, b = a_guard()
    for number in range(30):
        assert guard.admit(a, [frame(ALL, number)])
    assert len(guard._senders) == 10
    assert guard.admit(b, [frame(ALL, 29)])
    watching = LoopGuard("hub0", ManualClock().now)
    for number in range(20 * MOST_LOOKS):
        text = number.to_bytes(4)
        watching.admit(a, [Frame.of(ALL + b"\2\0" + text + text)])
    assert len(watching._looks) <= MOST_LOOKS
    assert len(watching._homes) <= 10 + MOST_LOOKS


def test_a_machine_that_moves_and_announces_itself_is_no_loop() -> None:
    guard = LoopGuard("hub0", ManualClock().now)
    a, b = Port("a", len), Port("b", len)
    for _ in range(100):
        guard.admit(a, [frame(ALL, 1, b"before")])
    for _ in range(50):
        assert guard.admit(b, [frame(ALL, 1, b"after")])
    assert not guard._guarded


def test_a_port_that_is_gone_is_forgotten() -> None:
    guard, _, a, b = a_guard()
    guard.admit(a, [frame(ALL, 1)])
    guard.forget(a)
    assert guard.admit(b, [frame(ALL, 1)])


def test_frames_too_short_to_have_a_sender_are_no_trouble() -> None:
    guard, _, a, _ = a_guard()
    assert guard.admit(a, [Frame.of(b"short")])
