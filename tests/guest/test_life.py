# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Whoever dies, the others do the right thing, as ``vmwire list`` and the host's files tell it.

The same from inside of a loaded guest: ``test_faults``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.guest.machine import Machine
from tests.guest.peer import HostPeer, free_port
from vmwire.bench.pattern import pattern_sha256

pytestmark = pytest.mark.guest

GATEWAY = "10.0.2.2"
MEGABYTE = 1 << 20
BACK_WITHIN_S = 2
GONE_WITHIN_S = 5
VMWIRE = str(Path(__file__).parents[2] / "vmwire")


@dataclass
class Watched:
    """A guest behind the prefix, in a runtime directory that nothing else uses."""

    guest: Machine
    runtime: str
    forwarded_port: int

    def instance(self) -> dict[str, Any]:
        done = subprocess.run(
            [VMWIRE, "list", "--json"],
            capture_output=True,
            text=True,
            timeout=20,
            env=dict(os.environ, XDG_RUNTIME_DIR=self.runtime),
        )
        found = [one for one in json.loads(done.stdout) if one["path"].startswith(self.runtime)]
        assert len(found) == 1, done.stdout
        instance: dict[str, Any] = found[0]
        return instance

    def worker(self) -> int:
        return int(self.instance()["stats"]["pid"])

    def processes(self) -> list[int]:
        """Every process that has a file of the runtime directory open (the lock, at least)."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._has(pid)]

    def _has(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(self.runtime):
                    return True
        return False

    def seconds_until_connected(self, port: int) -> float:
        """From now until the guest got through to the host again."""
        begin = time.monotonic()
        self.guest.check(
            f"until timeout 1 wget -qO /dev/null http://{GATEWAY}:{port}/1; do sleep 0.05; done"
        )
        return time.monotonic() - begin

    def assert_nothing_is_left(self) -> None:
        eventually(lambda: self.processes() == [])
        eventually(lambda: list(Path(self.runtime).glob("vmwire/*/*")) == [])
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", self.forwarded_port))
            probe.listen()


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GONE_WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def watched(qemu: str, prefix: list[str]) -> Iterator[Watched]:
    if not prefix:
        pytest.skip("tells nothing about QEMU's own network")
    runtime = tempfile.mkdtemp(prefix="vmwire-run-")
    port = free_port()
    words = ["-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{port}-:7"]
    words += ["-device", "virtio-net-pci,netdev=n"]
    guest = Machine(qemu, words, prefix=prefix, environment={"XDG_RUNTIME_DIR": runtime})
    with guest:
        guest.lease()
        yield Watched(guest, runtime, port)
    shutil.rmtree(runtime)


def test_network_comes_back_when_the_worker_dies_under_load(
    watched: Watched, host: HostPeer
) -> None:
    url = f"http://{GATEWAY}:{host.http_port}"
    watched.guest.check(f"(wget -qO /dev/null {url}/{4096 * MEGABYTE}) >/dev/null 2>&1 &")
    time.sleep(1)
    os.kill(watched.worker(), signal.SIGKILL)
    assert watched.seconds_until_connected(host.http_port) < BACK_WITHIN_S
    got = watched.guest.check(f"wget -qO- {url}/{4 * MEGABYTE} | sha256sum")
    assert got.split()[0] == pattern_sha256(4 * MEGABYTE)


def test_network_outlives_its_keeper_and_ends_with_the_vm(watched: Watched, host: HostPeer) -> None:
    os.kill(parent_of(watched.worker()), signal.SIGKILL)
    assert watched.seconds_until_connected(host.http_port) < BACK_WITHIN_S
    watched.guest.kill()
    watched.assert_nothing_is_left()


def test_saved_state_comes_back_with_its_network_and_powering_off_ends_all(
    watched: Watched, host: HostPeer
) -> None:
    guest = watched.guest
    add_disk_for_states(guest)
    guest.check("echo kept >/tmp/state")
    assert guest.qmp.hmp("savevm before", 60) == ""
    guest.check("echo changed >/tmp/state")
    assert guest.qmp.hmp("loadvm before", 60) == ""
    assert guest.check("cat /tmp/state") == "kept"
    assert watched.seconds_until_connected(host.http_port) < BACK_WITHIN_S
    guest.console.type("poweroff -f\n")
    assert guest.wait_ended() == 0
    watched.assert_nothing_is_left()


def add_disk_for_states(guest: Machine) -> None:
    """A qcow2 file, made by QEMU itself, that nothing but savevm uses."""
    path, size = str(guest.folder / "states.qcow2"), 1 << 30
    file = {"driver": "file", "filename": path}
    run_job(guest, {"driver": "file", "filename": path, "size": 0})
    guest.qmp("blockdev-add", arguments={**file, "node-name": "states-file"})
    run_job(guest, {"driver": "qcow2", "file": "states-file", "size": size})
    states = {"driver": "qcow2", "file": "states-file", "node-name": "states"}
    guest.qmp("blockdev-add", arguments=states)


def run_job(guest: Machine, options: dict[str, Any]) -> None:
    guest.qmp("blockdev-create", arguments={"job-id": "create", "options": options})
    eventually(lambda: guest.qmp("query-jobs")[0]["status"] == "concluded")
    assert "error" not in guest.qmp("query-jobs")[0], guest.qmp("query-jobs")
    guest.qmp("job-dismiss", arguments={"id": "create"})
