# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.nic.guest import Guest


@pytest.fixture(autouse=True)
def guests_end_with_their_test() -> Iterator[None]:
    yield
    while Guest.live:
        Guest.live.pop().close()
