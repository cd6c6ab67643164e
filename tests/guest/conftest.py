# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the guest tests: which QEMUs, which prefix, and the host's side."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guest import provision
from tests.guest.peer import HostPeer

QEMUS: dict[str, Callable[[], str]] = {
    "qemu7.2": provision.qemu_oldest,
    "qemu11.1": provision.qemu_newest,
}


@pytest.fixture(scope="module", params=QEMUS)
def qemu(request: pytest.FixtureRequest) -> str:
    try:
        provision.root_of(provision.GUEST)
        return QEMUS[request.param]()
    except provision.ProvisionError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def prefix(request: pytest.FixtureRequest) -> list[str]:
    words = shlex.split(request.config.getoption("--guest-prefix"))
    root = Path(__file__).parents[2]
    return [str(root / word) if word == "./vmwire" else word for word in words]


@pytest.fixture(scope="session")
def host() -> Iterator[HostPeer]:
    with HostPeer() as peer:
        yield peer
