# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``vhost=on`` with the kernel's real vhost-net, which the tests' guest has: vmwire runs in it.

What is done there, and what it shows, is in `vhost_net_inside.py`: a test for each scenario.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from tests.guest import host_root, provision
from tests.guest.machine import Machine
from tests.guest.vhost_net_inside import SCENARIOS

pytestmark = [pytest.mark.guest, pytest.mark.long]

Run = Callable[[str], str]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs a group of scenarios, once, and returns what was printed."""
    try:
        qemu = provision.qemu_oldest()
    except provision.ProvisionError as error:
        pytest.skip(str(error))
    words = host_root.modules("tun", "vhost_net")
    said: dict[str, str] = {}
    with Machine(qemu, extra=host_root.DEVICE, memory=("-m", "768"), kernel_words=words) as guest:
        host_root.enter(guest)

        def run(group: str) -> str:
            if group not in said:
                script = "tests/guest/vhost_net_inside.py"
                said[group] = host_root.python(guest, script, group, timeout_s=500).output
            return said[group]

        yield run


@pytest.mark.parametrize(
    ("group", "scenario"),
    [(group, each.__name__) for group, all in SCENARIOS.items() for each in all],
)
def test_inside_a_guest(run: Run, group: str, scenario: str) -> None:
    said = run(group)
    assert re.search(rf"^PASSED {scenario} ", said, re.MULTILINE), said
