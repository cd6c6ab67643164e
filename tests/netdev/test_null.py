# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from tests.wire.boxes import End, frames
from tests.wire.packets import superframe_tcp4

from vmwire.netdev.null import NullNetdev, NullOptions


def test_everything_is_taken_counted_and_gone() -> None:
    netdev, end = NullNetdev(NullOptions(id="x")), End("end")
    end.port.connect(netdev.port)
    whole = superframe_tcp4(bytes(3000), 1448)
    assert end.port.send([*frames(2), whole]) == 3
    assert end.got == []
    counted = netdev.stats()
    assert (counted["received"], counted["received bytes"]) == (3, 120 + whole.length)
