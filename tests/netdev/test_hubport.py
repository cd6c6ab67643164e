# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from tests.wire.boxes import End, frames

from vmwire.engine.clock import ManualClock
from vmwire.errors import ConfigError
from vmwire.netdev.hubport import HubportNetdev, HubportOptions
from vmwire.options.table import table_of
from vmwire.wire.hub import Hub
from vmwire.wire.switch import Switch


def test_place_at_the_hub_is_taken_and_given_back() -> None:
    hub, ends = Hub("hub0", ManualClock().now), [End("a"), End("b")]
    made = [HubportNetdev(HubportOptions(id=name, hubid=0), hub) for name in "ab"]
    for port, end in zip(made, ends, strict=True):
        port.port.connect(end.port)
    ends[0].port.send(frames(1))
    assert len(ends[1].got) == 1
    made[0].close()
    made[0].close()
    assert [port.name for port in hub.ports] == ["b"]
    assert ends[0].heard == ["up", "down"]


def test_the_first_port_decides_whether_the_hub_learns() -> None:
    first = HubportOptions(id="a", hubid=0, switch=True).hub(lambda: 0.0)
    assert isinstance(first, Switch)
    HubportOptions(id="b", hubid=0).check(first)
    HubportOptions(id="b", hubid=0, switch=True).check(first)
    with pytest.raises(ConfigError, match="'switch' expects 'on': hub 0 is one already"):
        HubportOptions(id="b", hubid=0, switch=False).check(first)


@pytest.mark.parametrize("switch", [None, False])
def test_a_hub_that_does_not_learn_takes_no_port_that_says_so(switch: bool | None) -> None:
    hub = HubportOptions(id="a", hubid=3, switch=switch).hub(lambda: 0.0)
    assert not isinstance(hub, Switch)
    with pytest.raises(ConfigError, match="'switch' expects 'off': hub 3 is none already"):
        HubportOptions(id="b", hubid=3, switch=True).check(hub)


def test_options_are_qemus() -> None:
    table = table_of(HubportOptions)
    given = table.from_text("hubport,id=h,hubid=-1,netdev=u")
    assert (given.hubid, given.netdev) == (-1, "u")
    with pytest.raises(ConfigError, match="Parameter 'hubid' is missing"):
        table.from_text("hubport,id=h")
    with pytest.raises(ConfigError, match="Parameter 'hubid' expects an int64 value"):
        table.from_text("hubport,id=h,hubid=abc")
