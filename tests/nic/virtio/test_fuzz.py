# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The random-access run, bounded: a few episodes with fixed seeds."""

from __future__ import annotations

import pytest

from tests.nic.virtio import fuzz


@pytest.mark.parametrize("seed", range(24))
def test_nothing_that_a_guest_does_raises_or_takes_long(seed: int) -> None:
    assert fuzz.run_episode(seed) == fuzz.STEPS
