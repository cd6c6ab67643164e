# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""announce-self: frames and moments as QEMU was recorded to send them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.monitor.client import Client
from tests.monitor.test_netdevs import Filtering
from tests.wire.boxes import End
from vmwire.engine.clock import ManualClock
from vmwire.engine.loop import Loop
from vmwire.monitor.monitor import Monitor
from vmwire.network import Network

RARP = bytes.fromhex(
    "ffffffffffff525400123456803500010800060400035254001234560000000052540012345600"
).ljust(60, b"\0")

PARAMETERS = {"initial": 100, "max": 250, "rounds": 5, "step": 100}


class Bed:
    """A network of two cards under a clock by hand, and what leaves them."""

    def __init__(self, network: Network, clock: ManualClock, path: str) -> None:
        self.network, self.clock = network, clock
        self.client = Client(Monitor(network))
        self.ends: dict[str, End] = {}
        for id in ("n0", "n1"):
            network.add_nic("e1000", id=id, socket=f"{path}/{id}.sock")
            self.ends[id] = end = End(id)
            end.port.connect(network.devices[id].box.port)

    def pass_ms(self, ms: float) -> None:
        self.clock.advance(ms / 1000)
        self.network.loop.turn(0)

    def count(self) -> int:
        return len(self.ends["n0"].got)


@pytest.fixture
def bed(tmp_path: Any) -> Iterator[Bed]:
    clock = ManualClock()
    network = Network()
    network.loop.close()
    network.loop = network.host.loop = Loop(clock)
    yield Bed(network, clock, str(tmp_path))
    network.close()


def test_each_cards_address_is_told_at_once(bed: Bed) -> None:
    assert bed.client.get("announce-self", **PARAMETERS) == {}
    assert bed.ends["n0"].data[0] == RARP
    other = bed.ends["n1"].data[0]
    assert other == RARP.replace(bytes.fromhex("525400123456"), bytes.fromhex("525400123457"))


def test_rounds_come_later_and_later_up_to_the_longest_wait(bed: Bed) -> None:
    bed.client.get("announce-self", **PARAMETERS)
    begin = bed.clock.now()
    moments = []
    while bed.count() < PARAMETERS["rounds"]:
        sent = bed.count()
        while bed.count() == sent:
            bed.pass_ms(1)
        moments.append(round((bed.clock.now() - begin) * 1000))
    assert moments == pytest.approx([100, 300, 550, 800], abs=5)
    for _ in range(100):
        bed.pass_ms(10)
    assert bed.count() == PARAMETERS["rounds"]


def test_only_the_named_cards_announce(bed: Bed) -> None:
    bed.client.get("announce-self", **PARAMETERS, interfaces=["n1", "nosuch"])
    assert not bed.ends["n0"].got and len(bed.ends["n1"].got) == 1


def test_announcement_is_ended_by_one_of_its_id_without_rounds(bed: Bed) -> None:
    bed.client.get("announce-self", **PARAMETERS, id="a")
    bed.client.get("announce-self", **PARAMETERS, id="b")
    bed.client.get("announce-self", **{**PARAMETERS, "rounds": 0}, id="a")
    for _ in range(200):
        bed.pass_ms(10)
    assert bed.count() == 1 + 5


def test_later_one_of_the_same_id_takes_the_place_of_the_first(bed: Bed) -> None:
    bed.client.get("announce-self", **PARAMETERS)
    bed.pass_ms(50)
    bed.client.get("announce-self", **{**PARAMETERS, "rounds": 2})
    for _ in range(200):
        bed.pass_ms(10)
    assert bed.count() == 1 + 2


def test_no_step_and_no_wait_still_wait(bed: Bed) -> None:
    bed.client.get("announce-self", initial=0, max=0, rounds=1 << 40, step=0)
    for _ in range(10):
        bed.pass_ms(0)
    assert bed.count() == 1


def test_card_that_knows_how_announces_itself(bed: Bed) -> None:
    card = bed.network.devices["n0"]
    card.box = knowing = Filtering(card.box)
    knowing.register_chip = knowing
    bed.client.get("announce-self", **PARAMETERS)
    assert knowing.announced == 1
    assert bed.count() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "Parameter 'initial' is missing"),
        ({"initial": 1, "max": 1, "rounds": 1}, "Parameter 'step' is missing"),
        ({**PARAMETERS, "initial": "x"}, "Invalid parameter type for 'initial', expected: integer"),
        ({**PARAMETERS, "initial": 1.0}, "Invalid parameter type for 'initial', expected: integer"),
        (
            {**PARAMETERS, "interfaces": 5},
            "Invalid parameter type for 'interfaces', expected: array",
        ),
        (
            {**PARAMETERS, "interfaces": [5]},
            "Invalid parameter type for 'interfaces[0]', expected: string",
        ),
    ],
)
def test_wrong_arguments_are_named(bed: Bed, arguments: dict[str, Any], words: str) -> None:
    assert bed.client.refused("announce-self", **arguments) == ("GenericError", words)
