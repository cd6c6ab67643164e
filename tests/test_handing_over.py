# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A network stands still to be handed over, and goes on if nobody takes it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vmwire import configuration, network
from vmwire.configuration import rehearse
from vmwire.engine.host import NotNow
from vmwire.errors import ConfigError
from vmwire.graph import Kind
from vmwire.network import Network
from vmwire.nic.null import NullNic


@pytest.fixture
def net() -> Iterator[Network]:
    with Network() as made:
        made.add_netdev("null", id="x")
        made.add_nic("null", id="n", netdev="x")
        yield made


class Handing:
    """What a box that hands over is asked."""

    def __init__(self, net: Network, busy: int) -> None:
        self.busy, self.asked, self.resumed = busy, 0, 0
        self.turning = net.loop._thread is not None
        box = net.devices["n"].box
        box.hand_over = self.hand_over  # type: ignore[attr-defined]
        box.go_on = self.go_on  # type: ignore[attr-defined]
        self._net = net

    def hand_over(self) -> None:
        self.asked += 1
        assert self._net.loop._thread is None, "the loop runs"
        if self.asked <= self.busy:
            raise NotNow("in the middle of something")

    def go_on(self) -> None:
        self.resumed += 1


def test_a_box_is_asked_while_nothing_moves_and_told_when_it_does_again(net: Network) -> None:
    handing = Handing(net, busy=0)
    net.hand_over()
    assert (handing.asked, handing.resumed) == (1, 0)
    net.go_on()
    assert handing.resumed == 1
    assert net.loop.call(lambda: net.loop._thread is not None)
    assert not net.wait(0.05)


def test_a_busy_box_is_asked_again(net: Network) -> None:
    handing = Handing(net, busy=3)
    net.hand_over()
    assert handing.asked == 4
    net.go_on()


def test_a_box_that_stays_busy_is_given_up_and_the_network_can_go_on(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "HAND_OVER_S", 0.02)
    handing = Handing(net, busy=1 << 30)
    with pytest.raises(NotNow, match="in the middle"):
        net.hand_over()
    net.go_on()
    assert handing.resumed == 1
    assert net.stats()["devices"]["n"]["carrier"] is True


def test_what_was_handed_over_is_closed_in_order_if_the_end_comes_instead(net: Network) -> None:
    net.hand_over()
    net.close()


def test_a_network_on_trial_gives_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(NullNic, "close", lambda self: closed.append("n"))
    made = Network()
    made.host.store.on_trial = True
    made.add_nic("null", id="n")
    with pytest.raises(ConfigError):
        configuration.build(made, {"devices": [["null", {"id": "m"}], ["null", {"id": "n"}]]})
    made.close()
    assert closed == []


@pytest.mark.parametrize(
    ("kind", "type", "values"),
    [
        ("netdev", "null", {}),
        ("netdev", "user", {"id": "u"}),
        ("netdev", "hubport", {"id": "h", "hubid": 0}),
        ("device", "null", {"netdev": "u"}),
        ("device", "virtio-net-pci", {"id": "n", "socket": "/no/such/folder/s"}),
        ("device", "e1000", {"id": "n", "socket": "/no/such/folder/s"}),
    ],
)
def test_a_rehearsal_opens_nothing(kind: Kind, type: str, values: dict[str, object]) -> None:
    rehearse(kind, type, values)


@pytest.mark.parametrize(
    ("kind", "type", "values", "text"),
    [
        ("netdev", "no-such", {}, "no netdev of type 'no-such'"),
        ("device", "no-such", {}, "no device of type 'no-such'"),
        ("netdev", "user", {"id": "u", "no_such": 1}, "no_such|no-such"),
    ],
)
def test_a_rehearsal_finds_what_is_not_there(
    kind: Kind, type: str, values: dict[str, object], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        rehearse(kind, type, values)
