# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal

import pytest

from tests.daemon.instance import Instance
from vmwire.cli import list as listing
from vmwire.daemon import rundir


def test_network_of_a_vm_is_listed_with_the_vm(runtime: str) -> None:
    with Instance(runtime) as instance:
        found = {each["instance"]: each for each in listing.instances()}[str(instance.vm.pid)]
        assert found["mode"] == "prefix"
        assert found["vm"] == [{"pid": instance.vm.pid, "command": ["sleep", "60"]}]
        shown = listing.describe(found)
        assert f"  vm {instance.vm.pid}: sleep 60" in shown
        assert "device n0 (null)" in shown


def test_vm_is_found_behind_the_process_that_was_started(runtime: str) -> None:
    """As with -daemonize."""
    with Instance(runtime, ("sh", "-c", "sleep 2 & exit 0")) as instance:
        instance.vm.wait()
        found = {each["instance"]: each for each in listing.instances()}[str(instance.vm.pid)]
        assert [each["command"] for each in found["vm"]] == [["sleep", "2"]]


def test_network_that_does_not_answer_is_still_listed(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "ASK_TIMEOUT_S", 0.1)
    with Instance(runtime) as instance:
        worker = instance.pid_of("worker")
        os.kill(worker, signal.SIGSTOP)
        found = {each["instance"]: each for each in listing.instances()}[str(instance.vm.pid)]
        assert "does not answer" in listing.describe(found)
        os.kill(worker, signal.SIGCONT)


def test_dead_ones_are_cleared_away(runtime: str) -> None:
    made = rundir.create("dead")
    os.close(made.lock_fd)
    assert "dead" not in [each["instance"] for each in listing.instances()]
    assert not os.path.exists(made.path)


def test_counters_are_flattened_and_zeros_left_out() -> None:
    member = {"type": "user", "carrier": True, "frames": 3, "drops": {"no lease": 2, "x": 0}}
    assert listing._member("netdev", "u", member) == "  netdev u (user): frames 3, drops no lease 2"


def test_what_others_wrote_can_not_steer_the_terminal(runtime: str) -> None:
    made = rundir.create("odd")
    made.describe({"mode": "a\x1b[2Jb", "started": 0})
    shown = listing.describe(listing.instance(made.path))
    assert "\x1b" not in shown
    os.close(made.lock_fd)


@pytest.mark.parametrize("kind", ["fifo", "link", "huge"])
def test_facts_that_are_a_trap_are_not_read(runtime: str, kind: str) -> None:
    made = rundir.create("trap")
    path = made.file(rundir.INSTANCE)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        os.symlink("/proc/self/environ", path)
    else:
        with open(path, "w", encoding="ascii") as file:
            file.write('{"mode": "' + "x" * (2 << 20) + '"}')
    assert rundir.read_facts(made.path) == {}
    os.close(made.lock_fd)


def test_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert listing.main(["--bogus"]) == 1
    assert "--bogus" in capsys.readouterr().err
