# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Prefix mode with Intel's cards: the typed command works, and faults don't
take the VM away."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.daemon.conftest import runtime
from tests.daemon.instance import eventually, users_of
from tests.guest import provision
from tests.guest.intel import E1000E_LONG, USUAL, loads_driver
from tests.guest.machine import Machine
from tests.guest.peer import HostPeer, free_port

__all__ = ["runtime"]

pytestmark = pytest.mark.guest

ON_BOTH = pytest.mark.parametrize("card", USUAL)
ON_ONE = pytest.mark.parametrize("card", E1000E_LONG)


@pytest.fixture
def newest(prefix: list[str]) -> str:
    if not prefix:
        pytest.skip("this is about the prefix")
    try:
        provision.root_of(provision.GUEST)
        return provision.qemu_newest()
    except provision.ProvisionError as error:
        pytest.skip(str(error))


@ON_ONE
def test_typed_command_works_with_the_card_where_it_was(
    card: str, newest: str, prefix: list[str], host: HostPeer, runtime: str
) -> None:
    port = free_port()
    words = ["-netdev", f"user,id=user1,hostfwd=tcp:127.0.0.1:{port}-:7"]
    words += ["-device", f"{card},netdev=user1,addr=5", "-device", "virtio-rng-pci", "-boot", "c"]
    with Machine(newest, words, prefix=prefix, kernel_words=loads_driver(card)) as guest:
        assert guest.lease()["ip"] == "10.0.2.15"
        assert guest.check("cat /sys/class/net/eth0/address") == "52:54:00:12:34:56"
        assert guest.check("basename $(readlink /sys/class/net/eth0/device)") == "0000:00:05.0"
        assert guest.check("ls /sys/class/net | wc -l") == "2"  # and lo
        guest.check(f"wget -qO /dev/null http://10.0.2.2:{host.http_port}/100000")
        guest.check("socat TCP-LISTEN:7,fork,reuseaddr EXEC:cat,nofork >/dev/null 2>&1 &")
        eventually(lambda: echoes(port), timeout_s=20)


def test_old_words_boot_with_one_hub_and_its_dump(
    newest: str, prefix: list[str], host: HostPeer, runtime: str, tmp_path: Path
) -> None:
    """Two cards and a user network on VLAN 3; QEMU itself knows no VLAN."""
    file = tmp_path / "dump.pcap"
    words = ["-net", "nic,vlan=3,model=e1000,macaddr=52:54:00:12:34:60,name=first"]
    words += ["-net", "user,vlan=3,name=out", "-net", "nic,vlan=3,model=virtio"]
    words += ["-net", f"dump,vlan=3,file={file}"]
    both = f"{loads_driver('e1000')},virtio_pci,virtio_net"
    with Machine(newest, words, prefix=prefix, kernel_words=both) as guest:
        macs = guest.check("cat /sys/class/net/eth*/address").split()
        assert sorted(macs) == ["52:54:00:12:34:56", "52:54:00:12:34:60"]
        assert guest.lease()["ip"] == "10.0.2.15"
        guest.check(f"wget -qO /dev/null http://10.0.2.2:{host.http_port}/100000")
    recorded = file.read_bytes()
    assert len(recorded) > 100_000
    assert bytes.fromhex("525400123460") in recorded


def echoes(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.settimeout(1)
            connection.sendall(b"are you there")
            return connection.recv(100) == b"are you there"
    except OSError:
        return False


@ON_BOTH
def test_killed_worker_is_replaced_and_the_guest_goes_on(
    card: str, newest: str, prefix: list[str], host: HostPeer, runtime: str
) -> None:
    words = ["-netdev", "user,id=u", "-device", f"{card},netdev=u"]
    with Machine(newest, words, prefix=prefix, kernel_words=loads_driver(card)) as guest:
        guest.lease()
        (folder,) = (each for each in (Path(runtime) / "vmwire").iterdir() if each.is_dir())
        processes = users_of(str(folder / "lock"))
        worker = next(pid for pid, comm in processes.items() if comm == "vmwire-worker")
        os.kill(worker, signal.SIGKILL)
        fetch = f"timeout 2 wget -qO /dev/null http://10.0.2.2:{host.http_port}/100000"
        guest.check(f"(for i in 1 2 3 4 5 6 7 8; do {fetch} && exit 0; sleep 0.5; done; exit 1)")
        assert guest.is_running()


@ON_ONE
def test_a_qemu_without_vfio_user_keeps_its_own_card(
    card: str, prefix: list[str], runtime: str, tmp_path: Path
) -> None:
    if not prefix:
        pytest.skip("this is about the prefix")
    log = tmp_path / "log"
    words = ["-netdev", "user,id=u", "-device", f"{card},netdev=u"]
    with Machine(
        provision.qemu_oldest(),
        words,
        prefix=[*prefix, f"--log={log}"],
        kernel_words=loads_driver(card),
    ) as guest:
        assert guest.lease()["ip"] == "10.0.2.15"
    (line,) = (line for line in log.read_text().splitlines() if "stays with QEMU" in line)
    assert " warning " in line and "vfio-user-pci" in line
