# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.netdev.sockets import Bed


@pytest.fixture
def sockets() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()
