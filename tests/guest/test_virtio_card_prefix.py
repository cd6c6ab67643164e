# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""virtio-net as a register card behind the prefix: a worker's death, and network boot by iPXE."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.conftest import runtime
from tests.daemon.instance import eventually
from tests.guest import image
from tests.guest.machine import KERNEL_WORDS, Machine
from tests.guest.peer import HostPeer, free_port
from tests.guest.test_e1000 import newest
from tests.guest.test_e1000_boot import Diskless, served
from tests.guest.test_faults import Running
from tests.guest.transfers import MEGABYTE, download

__all__ = ["runtime"]

pytestmark = pytest.mark.guest

CARD = "virtio-net-pci,attach=vfio-user"


@pytest.fixture
def running(prefix: list[str], host: HostPeer, runtime: str) -> Iterator[Running]:
    if not prefix:
        pytest.skip("QEMU's own card has no worker")
    port = free_port()
    words = ["-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{port}-:7", "-device", f"{CARD},netdev=n"]
    with Machine(newest(), words, prefix=prefix) as guest:
        yield Running(guest, os.path.join(runtime, "vmwire", str(guest.pid)), port)


def kill_worker(running: Running) -> None:
    """Kill the worker, and wait until the next one moves the guest's frames."""
    old = running.pid_of("worker")
    os.kill(old, signal.SIGKILL)
    eventually(
        lambda: "vmwire-worker" in [n for pid, n in running.processes().items() if pid != old], 15
    )
    running.guest.check("ping -c 1 -w 15 10.0.2.2 | grep ' 0% packet loss'")


def test_hardly_a_packet_is_lost_when_the_worker_is_killed(
    running: Running, host: HostPeer
) -> None:
    guest = running.guest
    assert "vfio-user-pci" in guest.qmp.hmp("info qtree")
    guest.lease()
    # Seldom: this ping's socket holds twelve answers, and a busy machine's new worker takes seconds
    guest.check("ping -c 12 10.0.2.2 >/tmp/pings 2>&1 &")
    for _ in range(2):
        time.sleep(0.7)
        kill_worker(running)
    eventually(lambda: "received" in guest.check("cat /tmp/pings"), timeout_s=30)
    answer = guest.check("tail -2 /tmp/pings")
    found = re.search(r"12 packets transmitted, (\d+) packets received", answer)
    assert found is not None and int(found[1]) >= 11  # what the dead worker held is lost
    download(guest, host, 4 * MEGABYTE)
    guest.check("ip link set eth0 address 52:54:00:00:00:77")
    kill_worker(running)
    guest.lease()  # the filter lets the new address in, though another worker heard of it


@pytest.mark.long
@pytest.mark.parametrize("face", ["", ",disable-modern=on", ",disable-legacy=on"])
def test_diskless_machine_boots_over_http(
    face: str, prefix: list[str], host: HostPeer, tmp_path: Path
) -> None:
    if not prefix:
        pytest.skip("QEMU's own card doesn't know attach=")
    (tmp_path / "kernel").symlink_to(image.packed_kernel())
    (tmp_path / "initrd").symlink_to(image.initramfs())
    with served(tmp_path) as url:
        (tmp_path / "script").write_text(
            f"#!ipxe\nkernel {url}/kernel initrd=initrd {KERNEL_WORDS}\ninitrd {url}/initrd\nboot\n"
        )
        device = f"{CARD}{face},netdev=u,bootindex=1"
        words = ["-netdev", "user,id=u", "-device", device, "-boot", "n"]
        machine = Diskless(newest(), words, prefix=prefix, memory=("-m", "512"))
        try:
            machine.start()
            machine.boot_by(f"{url}/script")
            assert machine.lease()["ip"] == "10.0.2.15"
            download(machine, host, MEGABYTE)
        finally:
            machine.close()
