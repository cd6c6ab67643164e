# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from vmwire.daemon.keeper import Restarts


def test_first_deaths_cost_no_time_and_later_ones_ever_more() -> None:
    restarts = Restarts()
    waits = [restarts.wait_after(0.1) for _ in range(14)]
    assert waits[:8] == [0, 0, 0, 0, 0, 0.5, 1, 2]
    assert waits[-1] == Restarts.LONGEST_WAIT_S


def test_worker_that_lived_long_makes_the_next_start_immediate() -> None:
    restarts = Restarts()
    for _ in range(8):
        restarts.wait_after(0.1)
    assert restarts.wait_after(60) == 0
    assert restarts.wait_after(0.1) == 0
