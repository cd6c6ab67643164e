# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Starting a network in front of a VM: what the VM notices of it (nothing), and failures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon.instance import NULL_CONFIG, Instance, eventually, stats_of, users_of
from vmwire.daemon import keeper, launch
from vmwire.daemon.channel import Channel
from vmwire.daemon.job import Handles, Job
from vmwire.daemon.store import KeptFds
from vmwire.engine.host import FdStore
from vmwire.errors import ConfigError


@pytest.fixture
def lifelines() -> Iterator[list[int]]:
    """What is put here is closed at the end, which ends the networks."""
    opened: list[int] = []
    yield opened
    for fd in opened:
        os.close(fd)


def failing_worker(error: BaseException) -> Any:
    def main(job: Job, handles: Handles, channel: Channel, kept: KeptFds) -> int:
        from vmwire.daemon import worker

        def build(config: object, store: object, restarts: int) -> worker.Served:
            raise error

        return worker.main(job, handles, channel, kept, build)

    return main


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("Could not set up host forwarding rule 'tcp::1-:22'", "-netdev user,id=u"),
        ConfigError("no option is named here"),
        PermissionError(13, "Permission denied", "/dev/net/tun"),
    ],
)
def test_worker_that_refuses_is_the_callers_error_and_nothing_is_left(
    runtime: str, monkeypatch: pytest.MonkeyPatch, error: ConfigError | OSError
) -> None:
    monkeypatch.setattr(keeper, "_import_worker", failing_worker(error))
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(type(error)) as caught:
        launch.start_detached({})
    assert str(caught.value) == str(error)
    assert os.listdir(os.path.join(runtime, "vmwire")) == [".lock"]
    assert set(os.listdir("/proc/self/fd")) <= before


def test_worker_that_crashes_at_start_leaves_its_log_and_says_where(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "_import_worker", failing_worker(ZeroDivisionError("a bug")))
    with pytest.raises(OSError, match=r"ended with status 70 at its start; see .*crash.log"):
        launch.start_detached({})
    with open(os.path.join(runtime, "vmwire", "crash.log"), encoding="utf-8") as file:
        assert "ZeroDivisionError: a bug" in file.read()


def test_start_that_takes_too_long_is_given_up(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "START_TIMEOUT_S", 0.3)
    monkeypatch.setattr(keeper, "_import_worker", lambda *job: time.sleep(60))
    with pytest.raises(TimeoutError):
        launch.start_detached({})
    eventually(lambda: not users_of(os.path.join(runtime, "vmwire", str(os.getpid()), "lock")))
    assert os.listdir(os.path.join(runtime, "vmwire")) == [".lock"]


def test_bad_config_names_the_option(runtime: str) -> None:
    config = {"netdevs": [["bogus", {"id": "u"}]]}
    with pytest.raises(ConfigError, match=r"-netdev bogus,id=u: .*'bogus'"):
        launch.start_detached(config)


def test_unwritable_log_is_refused_before_anything_runs(runtime: str) -> None:
    with pytest.raises(ConfigError, match="--log: Can't open the log '/nowhere/x'"):
        launch.start_detached(NULL_CONFIG, log_file="/nowhere/x")
    assert os.listdir(os.path.join(runtime, "vmwire")) == [".lock"]


def test_caller_gets_no_child_and_no_descriptor_but_the_lifeline(
    runtime: str, lifelines: list[int]
) -> None:
    before = set(os.listdir("/proc/self/fd"))
    lifelines.append(launch.start_detached(NULL_CONFIG))
    assert set(os.listdir("/proc/self/fd")) - before == {str(lifelines[0])}
    assert os.get_inheritable(lifelines[0])
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_network_holds_nothing_of_the_callers(runtime: str) -> None:
    """A reader of the VM's output sees its end, also when it came by another descriptor."""
    read_fd, write_fd = os.pipe()
    os.set_inheritable(write_fd, True)
    program = (
        "import sys; from vmwire.daemon import launch; "
        "from tests.daemon.instance import NULL_CONFIG; "
        "fd = launch.start_detached(NULL_CONFIG); print('up'); sys.stdout.flush(); input()"
    )
    vm = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[write_fd],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    os.close(write_fd)
    assert vm.stdout is not None and vm.stdin is not None
    assert vm.stdout.readline() == b"up\n"
    path = os.path.join(runtime, "vmwire", str(vm.pid))
    assert len(users_of(os.path.join(path, "lock"))) == 2
    os.kill(vm.pid, signal.SIGSTOP)
    holders = {
        pid
        for pid in users_of(os.path.join(path, "lock"))
        for fd in os.listdir(f"/proc/{pid}/fd")
        if os.readlink(f"/proc/{pid}/fd/{fd}") == os.readlink(f"/proc/self/fd/{read_fd}")
    }
    assert holders == set()
    vm.kill()
    vm.communicate()
    assert os.read(read_fd, 1) == b""
    os.close(read_fd)


def test_network_runs_in_a_session_of_its_own_with_signals_as_new(runtime: str) -> None:
    with Instance(runtime) as instance:
        for pid in instance.processes():
            assert os.getsid(pid) != os.getsid(0)
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
            with open(f"/proc/{pid}/status", encoding="ascii") as file:
                status = dict(line.split(":", 1) for line in file)
            assert int(status["SigBlk"], 16) == 0
            assert int(status["Umask"], 8) == 0o077


def test_descriptors_are_handed_over_by_name(
    runtime: str, monkeypatch: pytest.MonkeyPatch, lifelines: list[int]
) -> None:
    read_fd, write_fd = os.pipe()

    def main(job: Job, handles: Handles, channel: Channel, kept: KeptFds) -> int:
        fd = kept.get("tap")
        assert fd is not None
        os.write(fd, b"it is me")
        channel.send({"ready": {}})
        channel.receive()
        return 0

    monkeypatch.setattr(keeper, "_import_worker", main)
    lifelines.append(launch.start_detached({}, fds={"tap": write_fd}))
    assert os.read(read_fd, 100) == b"it is me"
    os.close(read_fd)
    os.close(write_fd)


def test_engine_that_fails_takes_its_worker_along_and_another_one_starts(
    runtime: str, monkeypatch: pytest.MonkeyPatch, lifelines: list[int]
) -> None:
    def main(job: Job, handles: Handles, channel: Channel, kept: KeptFds) -> int:
        from vmwire.daemon import worker
        from vmwire.network import Network

        def build(config: object, store: FdStore, restarts: int) -> Network:
            network = Network(store=store)
            if not restarts:
                network.loop.call_later(0.05, lambda: print(1 // restarts))
            return network

        return worker.main(job, handles, channel, kept, build)

    monkeypatch.setattr(keeper, "_import_worker", main)
    run_dir = launch.prepare_run_dir()
    lifelines.append(launch.start_detached({}, run_dir=run_dir))
    stats_of(run_dir.path, restarts=1)
    with open(run_dir.file("vmwire.log"), encoding="utf-8") as file:
        log = file.read()
    assert "ZeroDivisionError" in log
    assert "worker ended with status 70" in log


def test_log_goes_where_it_was_asked_for_and_stays(runtime: str) -> None:
    path = os.path.join(runtime, "mine.log")
    with Instance(runtime, log_file=path, log_level="debug") as instance:
        assert not os.path.exists(os.path.join(instance.path, "vmwire.log"))
    with open(path, encoding="utf-8") as file:
        assert "the network stands" in file.read()
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_starting_imports_nothing_of_the_stack() -> None:
    program = (
        "import sys, vmwire.daemon.launch; "
        "heavy = ('vmwire.network', 'vmwire.engine', 'vmwire.wire', 'logging', 'asyncio', "
        "'subprocess'); print([name for name in sys.modules if name.startswith(heavy)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
