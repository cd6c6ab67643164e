# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The harness itself, over QEMU's own network: what fails here is not vmwire's fault."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.guest.machine import GuestError, Machine, Result
from tests.guest.peer import HostPeer
from vmwire.bench.pattern import pattern_sha256

pytestmark = pytest.mark.guest
CARD = ["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"]
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def guest(qemu: str) -> Iterator[Machine]:
    with Machine(qemu, CARD) as machine:
        yield machine


def test_output_and_status_of_a_command_come_back(guest: Machine) -> None:
    assert guest.run("echo one; echo two >&2; (exit 7)") == Result("one\ntwo\n", 7)
    assert guest.run("printf VMWIRE-END000001") == Result("VMWIRE-END000001", 0)


def test_long_and_many_lined_scripts_arrive_whole(guest: Machine) -> None:
    assert guest.check("echo " + "x" * 9000) == "x" * 9000
    assert guest.check('for i in 1 2\ndo\n  echo "it\'s $i"\ndone') == "it's 1\nit's 2"


def test_a_command_that_hangs_is_given_up(guest: Machine) -> None:
    with pytest.raises(GuestError, match="in time"):
        guest.run("sleep 1000", timeout_s=0.3)
    assert guest.check("echo still here") == "still here"


def test_a_failing_command_is_reported_with_both_logs(guest: Machine) -> None:
    with pytest.raises(GuestError, match=r"(?s)no-such-program.*QEMU: running.*console"):
        guest.check("no-such-program")


def test_guest_gets_a_lease_and_a_file(guest: Machine, host: HostPeer) -> None:
    assert guest.lease()["ip"] == "10.0.2.15"
    got = guest.check(f"wget -qO- http://10.0.2.2:{host.http_port}/{MEGABYTE} | sha256sum")
    assert got.split()[0] == pattern_sha256(MEGABYTE)


def test_qmp_and_the_human_monitor_answer(guest: Machine) -> None:
    assert guest.qmp("query-status")["running"] is True
    assert "virtio-net-pci" in guest.qmp.hmp("info network")
    with pytest.raises(GuestError, match="no-such-command"):
        guest.qmp("no-such-command")


def test_a_qemu_that_refuses_its_command_line_is_reported(qemu: str) -> None:
    machine = Machine(qemu, ["-netdev", "nonsense,id=n"])
    try:
        with pytest.raises(GuestError, match=r"type.*nonsense"):
            machine.start()
    finally:
        machine.close()
