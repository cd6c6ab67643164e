# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.wire.boxes import End
from tests.wire.packets import superframe_tcp4

from vmwire.engine.clock import ManualClock
from vmwire.wire import switch as module
from vmwire.wire.frame import Frame
from vmwire.wire.port import Port
from vmwire.wire.switch import AGEING_S, Switch

ALL = b"\xff" * 6
GROUP = bytes.fromhex("01005e0000fb")


def mac(number: int) -> bytes:
    return b"\x52\x54\0\0" + number.to_bytes(2, "big")


def frame(to: bytes, source: bytes, vlan: int = 0, size: int = 60) -> Frame:
    tag = b"\x81\0" + vlan.to_bytes(2, "big") if vlan else b""
    return Frame.of((to + source + tag + b"\x08\0").ljust(size, b"\0"))


class Net:
    """Ends ``a``, ``b`` and ``c`` around a switch; their addresses are 1, 2 and 3."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.switch = Switch("s", self.clock.now)
        self.ends = {name: End(name) for name in "abc"}
        self.ports: dict[str, Port] = {}
        for name, end in self.ends.items():
            self.ports[name] = self.switch.add_port(name)
            end.port.connect(self.ports[name])

    def say(self, name: str, to: bytes, source: int, vlan: int = 0, count: int = 1) -> str:
        """Send from an end; return the names of those who heard it."""
        before = {each: len(end.got) for each, end in self.ends.items()}
        sent = [frame(to, mac(source), vlan) for _ in range(count)]
        assert self.ends[name].port.send(sent) == count
        return "".join(each for each, end in self.ends.items() if len(end.got) > before[each])


@pytest.fixture
def net() -> Iterator[Net]:
    net = Net()
    yield net
    shares = {name: net.switch._shares[port] for name, port in net.ports.items()}
    assert sum(shares.values()) == len(net.switch._places)


def test_a_known_address_is_heard_by_its_own_port_alone(net: Net) -> None:
    assert net.say("a", mac(2), 1) == "bc"  # unknown yet
    assert net.say("b", mac(1), 2) == "a"
    assert net.say("a", mac(2), 1) == "b"
    assert net.say("c", mac(2), 3) == "b"


@pytest.mark.parametrize("to", [ALL, GROUP])
def test_groups_reach_all_others(net: Net, to: bytes) -> None:
    net.say("b", ALL, 2)
    assert net.say("a", to, 1) == "bc"


def test_a_group_is_no_sender(net: Net) -> None:
    net.ends["b"].port.send([frame(ALL, GROUP)])
    assert net.switch.stats()["switch"] == {"addresses": {"a": 0, "b": 0, "c": 0}}


def test_what_is_for_a_neighbour_at_the_same_port_goes_nowhere(net: Net) -> None:
    net.say("a", ALL, 1)
    net.say("a", ALL, 4)
    assert net.say("a", mac(4), 1) == ""


def test_a_machine_that_has_moved_is_found_at_its_new_port(net: Net) -> None:
    net.say("b", ALL, 2)
    net.say("c", ALL, 2)
    assert net.say("a", mac(2), 1) == "c"
    assert net.switch.counters["moved"] == 1


def test_a_tag_that_says_a_priority_only_is_of_no_vlan(net: Net) -> None:
    net.say("b", ALL, 2)
    assert net.say("a", mac(2), 1, vlan=0xE000) == "b"
    assert net.say("b", mac(1), 2) == "a"


def test_an_address_is_learnt_in_its_vlan(net: Net) -> None:
    net.say("b", ALL, 2, vlan=7)
    net.say("c", ALL, 2, vlan=8)
    assert net.say("a", mac(2), 1, vlan=7) == "b"
    assert net.say("a", mac(2), 1, vlan=0xE008) == "c"  # whatever its priority
    assert net.say("a", mac(2), 1) == "bc"


def test_a_silent_address_is_forgotten_in_time(net: Net) -> None:
    net.say("b", ALL, 2)
    net.clock.advance(AGEING_S)
    assert net.say("a", mac(2), 1) == "b"
    net.clock.advance(1)
    assert net.say("a", mac(2), 1) == "bc"


def test_a_pulled_cable_forgets_who_was_behind_it(net: Net) -> None:
    net.say("b", ALL, 2)
    net.ends["b"].port.set_link(False)
    net.ends["b"].port.set_link(True)
    assert net.say("a", mac(2), 1) == "bc"


def test_a_removed_port_leaves_nothing_behind(net: Net) -> None:
    net.say("b", ALL, 2)
    net.switch.remove_port(net.ports["b"])
    assert net.say("a", mac(2), 1) == "c"
    del net.ports["b"]


def test_one_burst_to_several_places_arrives_in_order(net: Net) -> None:
    net.say("b", ALL, 2)
    net.say("c", ALL, 3)
    goals = [2, 2, 3, 2, 9, 9, 3]
    sent = [frame(mac(to), mac(1), size=60 + number) for number, to in enumerate(goals)]
    for end in net.ends.values():
        end.got.clear()
    assert net.ends["a"].port.send(sent) == len(sent)
    lengths = {name: [got.length - 60 for got in end.got] for name, end in net.ends.items()}
    assert lengths == {"a": [], "b": [0, 1, 3, 4, 5], "c": [2, 4, 5, 6]}


def test_a_busy_member_loses_frames_and_holds_nobody_up(net: Net) -> None:
    net.say("b", ALL, 2)
    net.ends["b"].room = 1
    net.say("a", mac(2), 1, count=3)
    assert net.ports["b"].drops == {"member busy": 2}


def test_a_guest_that_invents_addresses_fills_its_own_share(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_OF_A_PORT", 10)
    net.say("b", ALL, 2)
    for number in range(100, 200):
        net.say("a", ALL, number)
    assert net.switch.stats()["switch"] == {
        "addresses": {"a": 10, "b": 1, "c": 0}, "not learnt": 90,
    }  # fmt: skip
    assert net.say("c", mac(2), 3) == "b"
    assert net.say("c", mac(105), 3) == "a"
    assert net.say("c", mac(150), 3) == "ab"


def test_old_addresses_make_room_in_a_full_table(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ADDRESSES", 4)
    for number in range(10, 14):
        net.say("a", ALL, number)
    net.say("b", ALL, 2)
    net.clock.advance(AGEING_S + 1)
    net.say("b", ALL, 2)
    assert net.say("c", mac(2), 3) == "b"
    assert len(net.switch._places) == 2


def test_a_frame_with_hardly_a_header_reaches_all(net: Net) -> None:
    net.ends["a"].port.send([Frame.of(b"\0" * 14)])
    assert len(net.ends["b"].got) == len(net.ends["c"].got) == 1


def test_a_superframe_stays_whole(net: Net) -> None:
    whole = superframe_tcp4(bytes(3500), 1448)
    net.ends["a"].port.send([whole])
    assert net.ends["b"].got[0].length == whole.length
