# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What happens to a running network when one of its processes, or its VM, is killed."""

from __future__ import annotations

import os
import signal
import time

from tests.daemon.instance import Instance, eventually, is_alive, stats_of
from vmwire.daemon import logfile


def test_network_stands_when_start_returns(runtime: str) -> None:
    with Instance(runtime) as instance:
        assert sorted(instance.processes().values()) == ["vmwire-keeper", "vmwire-worker"]
        assert instance.stats()["devices"]["n0"]["carrier"] is True


def test_killed_vm_takes_everything_along_within_a_second(runtime: str) -> None:
    with Instance(runtime) as instance:
        processes = list(instance.processes())
        instance.vm.kill()
        instance.vm.wait()
        eventually(lambda: not any(map(is_alive, processes)), timeout_s=1)
        assert os.listdir(instance.base) == [".lock"]


def test_network_lives_on_with_whoever_inherited_the_lifeline(runtime: str) -> None:
    """As with -daemonize: the process that was started ends, its child is the VM."""
    with Instance(runtime, ("sh", "-c", "sleep 1 & exit 0")) as instance:
        instance.vm.wait()
        assert instance.stats()["restarts"] == 0
        eventually(lambda: not os.path.exists(instance.path), timeout_s=3)


def test_network_follows_a_vm_that_closes_the_lifeline(runtime: str) -> None:
    command = ("sh", "-c", "exec 100>&-; sleep 1; exit 0")
    with Instance(runtime, ("bash", *command[1:]), follow=True) as instance:
        time.sleep(0.3)
        assert instance.stats()["restarts"] == 0
        eventually(lambda: not os.path.exists(instance.path), timeout_s=3)


def test_killed_worker_is_replaced_and_control_socket_stays(runtime: str) -> None:
    with Instance(runtime) as instance:
        killed = instance.pid_of("worker")
        socket_inode = os.stat(os.path.join(instance.path, "control.sock")).st_ino
        os.kill(killed, signal.SIGKILL)
        # The question waits in the queue of the socket that the keeper holds.
        stats = stats_of(instance.path, restarts=1)
        assert stats["pid"] != killed
        assert stats["restarts"] == 1
        assert os.stat(os.path.join(instance.path, "control.sock")).st_ino == socket_inode
        assert "was killed by signal 9" in instance.log()


def test_killed_keeper_is_replaced_and_the_network_is_not_interrupted(runtime: str) -> None:
    with Instance(runtime) as instance:
        worker, killed = instance.pid_of("worker"), instance.pid_of("keeper")
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: "this is a new one" in instance.log())
        assert instance.pid_of("keeper") != killed
        assert instance.stats()["pid"] == worker


def test_worker_is_replaced_by_a_keeper_that_was_replaced(runtime: str) -> None:
    with Instance(runtime) as instance:
        os.kill(instance.pid_of("keeper"), signal.SIGKILL)
        eventually(lambda: "this is a new one" in instance.log())
        killed = instance.pid_of("worker")
        os.kill(killed, signal.SIGKILL)
        assert stats_of(instance.path, restarts=1)["pid"] != killed
        assert sorted(instance.processes().values()) == ["vmwire-keeper", "vmwire-worker"]


def test_vm_ends_after_both_were_replaced_and_nothing_is_left(runtime: str) -> None:
    with Instance(runtime) as instance:
        os.kill(instance.pid_of("keeper"), signal.SIGKILL)
        eventually(lambda: "this is a new one" in instance.log())
        os.kill(instance.pid_of("worker"), signal.SIGKILL)
        stats_of(instance.path, restarts=1)
        processes = list(instance.processes())
        instance.vm.kill()
        instance.vm.wait()
        eventually(lambda: not any(map(is_alive, processes)), timeout_s=1)
        assert sorted(os.listdir(instance.base)) == [".lock", logfile.CRASH_LOG]


def test_both_killed_leave_only_what_the_next_start_clears_away(runtime: str) -> None:
    with Instance(runtime) as instance:
        for name in ("keeper", "worker"):
            os.kill(instance.pid_of(name), signal.SIGSTOP)
        for pid in instance.processes():
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not instance.processes())
        assert os.path.exists(instance.path)
        with Instance(runtime):
            assert not os.path.exists(instance.path)


def test_dying_worker_is_started_ever_more_slowly_but_again(runtime: str) -> None:
    with Instance(runtime) as instance:
        for count in range(1, 7):
            os.kill(eventually(lambda: instance.pid_of("worker")), signal.SIGKILL)
            stats_of(instance.path, restarts=count)
        assert "next one in 0.5 s" in instance.log()


def test_worker_ends_cleanly_when_told_to_and_is_replaced(runtime: str) -> None:
    with Instance(runtime) as instance:
        os.kill(instance.pid_of("worker"), signal.SIGTERM)
        eventually(lambda: "ended with status 0" in instance.log())
        stats_of(instance.path, restarts=1)


def test_keeper_that_is_told_to_end_ends_everything(runtime: str) -> None:
    with Instance(runtime) as instance:
        processes = list(instance.processes())
        os.kill(instance.pid_of("keeper"), signal.SIGTERM)
        eventually(lambda: not any(map(is_alive, processes)), timeout_s=1)
        assert not os.path.exists(instance.path)
