# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A card over vfio-user in a real guest: QEMU and the guest hardly notice a worker's death."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator

import pytest

from tests.daemon.conftest import runtime
from tests.daemon.instance import eventually
from tests.guest import provision
from tests.guest.intel import FIRST_USUAL, loads_driver
from tests.guest.machine import Machine
from tests.guest.peer import HostPeer, free_port
from tests.guest.test_faults import Running

__all__ = ["runtime"]

pytestmark = pytest.mark.guest


@pytest.fixture(params=FIRST_USUAL)
def running(
    request: pytest.FixtureRequest, prefix: list[str], host: HostPeer, runtime: str
) -> Iterator[Running]:
    if not prefix:
        pytest.skip("QEMU's own card has no worker")
    try:
        qemu = provision.qemu_newest()
    except provision.ProvisionError as error:
        pytest.skip(str(error))
    port = free_port()
    words = ["-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{port}-:7"]
    words += ["-device", f"{request.param},netdev=n"]
    with Machine(qemu, words, prefix=prefix, kernel_words=loads_driver(request.param)) as guest:
        yield Running(guest, os.path.join(runtime, "vmwire", str(guest.pid)), port)


def echoes_received(guest: Machine) -> int:
    """By the kernel's count. A guest whose card has vectors never waits for a dead worker, and goes
    on sending; all answers come at once then, and are too many for the buffer of ping's socket."""
    found = re.search(r"InType0.*\nIcmpMsg: (\d+)", guest.check("grep IcmpMsg /proc/net/snmp"))
    assert found is not None
    return int(found[1])


def test_hardly_a_packet_is_lost_when_the_worker_is_killed(running: Running) -> None:
    guest = running.guest
    guest.lease()
    guest.check("ping -c 150 -i 0.02 10.0.2.2 >/tmp/pings 2>&1 &")
    for count in (1, 2):
        time.sleep(0.7)
        os.kill(running.pid_of("worker"), signal.SIGKILL)
        eventually(lambda count=count: running.restarts() == count, timeout_s=5)  # type: ignore[misc]
    eventually(lambda: "received" in guest.check("cat /tmp/pings"), timeout_s=15)
    print(guest.check("tail -2 /tmp/pings"))
    assert echoes_received(guest) >= 140  # what the dead worker held is lost
    assert guest.is_running()


def test_traffic_goes_on_when_the_worker_is_killed_while_the_guest_downloads(
    running: Running, host: HostPeer
) -> None:
    running.load(host)
    for _ in range(3):
        os.kill(running.pid_of("worker"), signal.SIGKILL)
        eventually(lambda: running.echoes(5), timeout_s=20)  # a guest that is busy with its card
        before = running.downloaded()
        eventually(lambda before=before: running.downloaded() > before + (1 << 20), timeout_s=20)  # type: ignore[misc]
