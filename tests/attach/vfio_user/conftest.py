# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attach.vfio_user.copier import Served
from vmwire.bench.vfio_user import Client


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.close()


@pytest.fixture
def pc(served: Served) -> Iterator[Client]:
    with served.client() as client:
        yield client
