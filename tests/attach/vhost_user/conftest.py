# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of a vhost-user front end start from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attach.vhost_user.served import Served
from vmwire.bench.vhost_user import (
    FrontEnd,
    RingFds,
)
from vmwire.bus.virtio.vhost_user import (
    PROTOCOL_F_REPLY_ACK,
    U64,
    Request,
)
from vmwire.engine.arena import Arena


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    before = len(os.listdir("/proc/self/fd"))
    it = Served(tmp_path)
    yield it
    it.close()
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"


@pytest.fixture
def front(served: Served) -> Iterator[FrontEnd]:
    """A front end that may ask for acknowledgements."""
    end = FrontEnd(served.path)
    end.tell(Request.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL_F_REPLY_ACK))
    yield end
    end.close()


@pytest.fixture
def arena() -> Iterator[Arena]:
    it = Arena(1 << 20, 0x10_0000)
    yield it
    it.close()


@pytest.fixture
def fds() -> Iterator[RingFds]:
    it = RingFds.make()
    yield it
    it.close()
