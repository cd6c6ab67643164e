# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from tests.wire.boxes import End, frames
from tests.wire.packets import superframe_tcp4
from vmwire.nic.null import NullNic, NullNicOptions


def test_everything_is_taken_counted_and_gone() -> None:
    nic, end = NullNic(NullNicOptions(id="n")), End("end")
    end.port.connect(nic.port)
    whole = superframe_tcp4(bytes(3000), 1448)
    assert end.port.send([*frames(2), whole]) == 3
    assert end.got == []
    assert (nic.received, nic.received_bytes) == (3, 120 + whole.length)
