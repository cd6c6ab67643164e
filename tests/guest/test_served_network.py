# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Two VMs, of two QEMU versions, on one network that vmwire serves without a QEMU of its own."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest import provision
from tests.guest.machine import Machine, both
from tests.guest.peer import HostPeer
from vmwire.bench.pattern import pattern_sha256

pytestmark = pytest.mark.guest

MEGABYTE = 1 << 20
VMWIRE = str(Path(__file__).parents[2] / "vmwire")
MEMORY = (
    *("-m", "256", "-object", "memory-backend-memfd,id=mem,size=256M,share=on"),
    *("-machine", "memory-backend=mem"),
)


@dataclass
class Served:
    process: subprocess.Popen[str]
    folder: Path
    older: Machine
    newer: Machine


def card(socket_path: Path, mac: str, reconnect: str, device: str = "") -> list[str]:
    return [
        *("-chardev", f"socket,id=c,path={socket_path},{reconnect}"),
        *("-netdev", "vhost-user,id=n,chardev=c"),
        *("-device", f"virtio-net-pci,netdev=n,mac={mac}{device}"),
    ]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    try:
        older, newer = provision.qemu_oldest(), provision.qemu_newest()
    except provision.ProvisionError as error:
        pytest.skip(str(error))
    folder = Path(tempfile.mkdtemp(prefix="vmwire-served-"))
    network = ["-netdev", "user,id=u", "-netdev", "hubport,id=u0,hubid=0,netdev=u"]
    for id in "ab":
        network += ["-netdev", f"hubport,id={id}0,hubid=0"]
        network += ["-device", f"virtio-net-pci,netdev={id}0,id={id}"]
    command = [VMWIRE, *network, "--socket-dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while "stands" not in (line := process.stdout.readline()):
            assert line, f"vmwire ended with status {process.wait(10)}"
        first_card = card(folder / "a.sock", "52:54:00:00:00:0a", "reconnect=1", ",vectors=0")
        second_card = card(folder / "b.sock", "52:54:00:00:00:0b", "reconnect-ms=1000")
        first = Machine(older, first_card, memory=MEMORY)
        second = Machine(newer, second_card, memory=MEMORY)
        with both(first, second):
            yield Served(process, folder, first, second)
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(folder)


def test_each_vm_gets_an_address_of_its_own(served: Served) -> None:
    leases = [machine.lease() for machine in (served.older, served.newer)]
    assert sorted(lease["ip"] for lease in leases) == ["10.0.2.15", "10.0.2.16"]


def test_vms_see_each_other(served: Served) -> None:
    other = served.newer.lease()["ip"]
    served.older.lease()
    assert " 0% packet loss" in served.older.check(f"ping -c 3 -i 0.2 {other}")


def test_bytes_pass_between_the_vms_and_to_the_host_at_once(served: Served, host: HostPeer) -> None:
    size = 16 * MEGABYTE
    url = f"http://10.0.2.2:{host.http_port}/{size}"
    address = served.newer.lease()["ip"]
    served.older.lease()
    served.newer.check(f"wget -qO /tmp/index.html {url}; httpd -p 80 -h /tmp")
    served.newer.check(f"(wget -qO- {url} | sha256sum >/tmp/sum) >/dev/null 2>&1 &")
    got = served.older.check(f"wget -qO- http://{address}/ | sha256sum", 60)
    assert got.split()[0] == pattern_sha256(size)
    wait = "for try in $(seq 100); do [ -s /tmp/sum ] && break; sleep 0.2; done; cat /tmp/sum"
    assert served.newer.check(wait).split()[0] == pattern_sha256(size)


def test_ctrl_c_ends_the_network_and_leaves_no_socket(served: Served) -> None:
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(10) == 0
    assert list(served.folder.iterdir()) == []
    assert served.older.is_running() and served.newer.is_running()
