# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.wire.boxes import End, frames
from tests.wire.packets import superframe_tcp4

from vmwire.engine.clock import ManualClock
from vmwire.wire import offload
from vmwire.wire import port as port_module
from vmwire.wire.frame import Frame
from vmwire.wire.hub import Hub
from vmwire.wire.port import EVERYTHING, PACKETS_ONLY, Port, stats


def around(*ends: End) -> Hub:
    hub = Hub("hub0", ManualClock().now)
    for end in ends:
        end.port.connect(hub.add_port(end.port.name))
    return hub


def test_frame_goes_to_all_others_and_not_back() -> None:
    a, b, c = End("a"), End("b"), End("c")
    around(a, b, c)
    assert a.port.send(frames(2)) == 2
    assert (len(a.got), len(b.got), len(c.got)) == (0, 2, 2)


def test_hub_never_refuses_and_counts_what_a_member_does_not_take() -> None:
    a, b, c = End("a"), End("b", room=1), End("c")
    hub = around(a, b, c)
    assert a.port.send(frames(3)) == 3
    assert (len(b.got), len(c.got)) == (1, 3)
    assert hub.stats()["b"] == {"frames": 1, "bytes": 60, "drops": {"member busy": 2}}
    assert hub.stats()["c"] == {"frames": 3, "bytes": 180, "drops": {}}


def test_member_without_carrier_costs_and_counts_nothing() -> None:
    a, b, c = End("a"), End("b"), End("c")
    hub = around(a, b, c)
    hub.add_port("free")
    b.port.set_link(False)
    a.port.send(frames(1))
    assert b.got == []
    assert hub.stats()["b"] == hub.stats()["free"] == {"frames": 0, "bytes": 0, "drops": {}}
    assert (a.port.carrier, c.port.carrier) == (True, True)


def test_superframe_stays_whole_for_those_who_take_it() -> None:
    a, b, c = End("a"), End("b"), End("c", PACKETS_ONLY)
    around(a, b, c)
    assert a.port.peer_accepts == EVERYTHING
    a.port.send([superframe_tcp4(bytes(3500), 1448)])
    assert (len(b.got), len(c.got)) == (1, 3)


def test_a_superframe_is_cut_once_for_all_who_want_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[Frame] = []

    def finish(frame: Frame) -> list[Frame]:
        cut.append(frame)
        return offload.finish(frame)

    monkeypatch.setattr(port_module, "finish", finish)
    ends = [End("a"), End("b"), *(End(name, PACKETS_ONLY) for name in "cde")]
    hub = around(*ends)
    ends[0].port.send([superframe_tcp4(bytes(3500), 1448), Frame.of(bytes(60))])
    assert [len(end.got) for end in ends[1:]] == [2, 4, 4, 4]
    assert len(cut) == 1
    assert hub.stats()["c"] == {"frames": 4, "bytes": 3500 + 3 * 54 + 60, "drops": {}}


def test_a_malformed_superframe_is_counted_where_it_ends() -> None:
    ends = [End("a"), End("b"), *(End(name, PACKETS_ONLY) for name in "cd")]
    hub = around(*ends)
    broken = superframe_tcp4(bytes(3500), 1448)
    ends[0].port.send([Frame.of(broken.tobytes()[:40], broken.offload), Frame.of(bytes(60))])
    assert [len(end.got) for end in ends[1:]] == [2, 1, 1]
    for port in hub.ports[2:]:
        assert stats(port)["drops"] == {"malformed superframe": 1}


def test_member_may_answer_while_the_hub_floods() -> None:
    """A service answers from within ``receive``; everybody hears question and answer."""
    a, c = End("a"), End("c")
    answers: list[int] = []

    def answer(asked: Sequence[Frame]) -> int:
        if not answers:
            answers.append(port.send([Frame.of(b"answer")]))
        return len(asked)

    port = Port("b", answer, accepts=EVERYTHING)
    hub = Hub("hub0", ManualClock().now)
    for each in (a.port, port, c.port):
        each.connect(hub.add_port(each.name))
    a.port.send(frames(1))
    assert a.data == [b"answer"]
    assert sorted(map(len, c.data)) == [6, 60]
    assert answers == [1]


def test_member_that_leaves_loses_its_carrier() -> None:
    a, b = End("a"), End("b")
    hub = around(a, b)
    hub.remove_port(hub.ports[1])
    assert b.heard == ["up", "down"]
    assert a.port.send(frames(1)) == 1
    assert stats(a.port)["drops"] == {}
