# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A network is taken over by new processes, or goes on as it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import vmwire
from tests.daemon.instance import Instance, eventually, is_alive, stats_of
from vmwire.cli import upgrade
from vmwire.daemon import control, rundir
from vmwire.errors import ConfigError

PACKAGE = Path(vmwire.__file__).parent

CAPTURED = {
    "netdevs": [["null", {"id": "u"}]],
    "devices": [["null", {"id": "n0", "netdev": "u"}]],
}


def vmwire_upgrade(*words: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vmwire", "upgrade", *words],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": path or str(PACKAGE.parent)},
    )


def changed_copy(folder: str, file: str, text: str) -> str:
    """A copy of this program with something appended to one of its files."""
    shutil.copytree(PACKAGE, os.path.join(folder, "vmwire"))  # what was compiled stays so
    with open(os.path.join(folder, "vmwire", file), "a", encoding="utf-8") as out:
        out.write(text)
    return folder


def control_of(instance: Instance) -> str:
    return os.path.join(instance.path, rundir.CONTROL)


def test_worker_and_keeper_run_the_code_of_whoever_asked(runtime: str) -> None:
    with Instance(runtime) as instance:
        keeper, worker = instance.pid_of("keeper"), instance.pid_of("worker")
        copy = changed_copy(os.path.join(runtime, "new"), "daemon/keeper.py", "")
        done = vmwire_upgrade(str(instance.vm.pid), path=copy)
        assert (done.returncode, done.stderr) == (0, "")
        stats = instance.stats()
        assert (stats["upgrades"], stats["restarts"]) == (1, 0)
        assert done.stdout == f"{instance.vm.pid}: taken over by worker {stats['pid']}\n"
        assert not is_alive(worker)
        eventually(lambda: "new code" in instance.log())
        assert instance.pid_of("keeper") == keeper  # in the same process
        with open(f"/proc/{keeper}/cmdline", encoding="utf-8") as file:
            assert f"{copy}" in file.read()


def test_later_deaths_are_as_ever(runtime: str) -> None:
    with Instance(runtime) as instance:
        assert vmwire_upgrade(str(instance.vm.pid)).returncode == 0
        os.kill(instance.pid_of("worker"), signal.SIGKILL)
        stats = stats_of(instance.path, restarts=1)
        assert stats["upgrades"] == 1
        os.kill(eventually(lambda: instance.pid_of("keeper")), signal.SIGKILL)
        eventually(lambda: "this is a new one" in instance.log())
        assert vmwire_upgrade(str(instance.vm.pid)).returncode == 0
        processes = instance.processes()
        instance.vm.kill()
        instance.vm.wait()
        eventually(lambda: not any(map(is_alive, processes)), timeout_s=2)
        assert not os.path.exists(instance.path)


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("network.py", "import no_such_thing\n", "no_such_thing"),
        ("daemon/successor.py", "this is no Python\n", "SyntaxError"),
        ("daemon/successor.py", "VERSION = 99\n", "not known here"),
        ("registry.py", "del DEVICES['null']\n", "no device of type 'null'"),
        ("nic/null.py", "del NullNic.open\n", "open"),
        ("daemon/worker.py", "def builder(job):\n    os._exit(7)\n", "it ended"),
    ],
)
def test_code_that_can_not_take_over_leaves_the_old_at_work(
    runtime: str, file: str, text: str, reason: str
) -> None:
    copy = changed_copy(os.path.join(runtime, "bad"), file, text)
    with Instance(runtime) as instance:
        before = instance.stats()["pid"]
        with pytest.raises(ConfigError, match="the old worker goes on") as caught:
            upgrade_to(copy, instance)
        assert reason in str(caught.value), instance.log()
        stats = instance.stats()
        assert (stats["pid"], stats["upgrades"], stats["restarts"]) == (before, 0, 0)
        assert stats["devices"]["n0"]["carrier"] is True
        assert vmwire_upgrade(str(instance.vm.pid)).returncode == 0


def upgrade_to(path: str, instance: Instance) -> None:
    """As the command does it, by a command that isn't broken itself."""
    before = control.ask(control_of(instance), "stats")
    code = {"python": sys.executable, "path": [path, *sys.path]}
    control.ask(control_of(instance), "upgrade", arguments=code)
    eventually(lambda: upgrade._outcome(before, instance.stats()))


def test_an_interpreter_that_is_not_there_is_an_error(runtime: str) -> None:
    with Instance(runtime) as instance:
        code = {"python": "/no/such/python", "path": ["/"]}
        control.ask(control_of(instance), "upgrade", arguments=code)
        eventually(lambda: "/no/such/python" in instance.stats()["upgrade"])


@pytest.mark.parametrize(("python", "path"), [("/bin/sh\0", "/"), (sys.executable, "/\0")])
def test_a_word_that_no_process_can_be_given_is_an_error(
    runtime: str, python: str, path: str
) -> None:
    with Instance(runtime) as instance:
        keeper = instance.pid_of("keeper")
        control.ask(control_of(instance), "upgrade", arguments={"python": python, "path": [path]})
        eventually(lambda: "failed" in str(instance.stats()["upgrade"]))
        assert instance.pid_of("keeper") == keeper


@pytest.mark.parametrize(
    "arguments", [{}, {"python": 1, "path": ["/"]}, {"python": "x", "path": []}]
)
def test_a_request_that_makes_no_sense_is_refused(
    runtime: str, arguments: dict[str, object]
) -> None:
    with Instance(runtime) as instance:
        with pytest.raises(control.CommandError):
            control.ask(control_of(instance), "upgrade", arguments=arguments)
        assert instance.stats()["upgrade"] == ""


SLOW = "def builder(job):\n    time.sleep(1.5)\n    return build_network\n"
"""Appended to the worker's file: the successor takes its time."""


@pytest.mark.parametrize("whom", ["successor", "keeper", "worker", "vm"])
def test_whoever_dies_in_the_middle_somebody_serves(runtime: str, whom: str) -> None:
    slow = changed_copy(os.path.join(runtime, "slow"), "daemon/worker.py", SLOW)
    with Instance(runtime) as instance:
        worker, keeper = instance.pid_of("worker"), instance.pid_of("keeper")
        asked = threading.Thread(
            target=vmwire_upgrade, args=[str(instance.vm.pid)], kwargs={"path": slow}
        )
        asked.start()
        successor = eventually(lambda: set(instance.processes()) - {worker, keeper})
        victims = {"successor": min(successor), "keeper": keeper, "worker": worker}
        if whom == "vm":
            instance.vm.kill()
            eventually(lambda: not os.path.exists(instance.path), timeout_s=2)
        else:
            os.kill(victims[whom], signal.SIGKILL)
            time.sleep(0.1)
            restarts = int(whom == "worker")
            stats = stats_of(instance.path, restarts=restarts)
            assert (stats["pid"] == worker) is not bool(restarts)
            names = ["vmwire-keeper", "vmwire-worker"]
            eventually(lambda: sorted(instance.processes().values()) == names)
        asked.join()


def test_two_upgrades_at_once_are_one(runtime: str) -> None:
    slow = changed_copy(os.path.join(runtime, "slow"), "daemon/worker.py", SLOW)
    with Instance(runtime) as instance:
        code = {"python": sys.executable, "path": [slow, *sys.path]}
        control.ask(control_of(instance), "upgrade", arguments=code)
        with pytest.raises(control.CommandError, match="under way"):
            control.ask(control_of(instance), "upgrade", arguments=code)
        eventually(lambda: instance_upgrades(instance) == 1)


def instance_upgrades(instance: Instance) -> int:
    try:
        return int(instance.stats()["upgrades"])
    except (ConnectionError, TimeoutError):
        return 0


def test_a_network_in_the_foreground_keeps_its_process_and_its_pid_file(
    runtime: str, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    words = ["-netdev", "user,id=u", "-device", "virtio-net-pci,netdev=u"]
    served = subprocess.Popen(
        [sys.executable, "-m", "vmwire", *words, "--pidfile", str(pid_file)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        text=True,
    )
    try:
        eventually(lambda: pid_file.exists() and pid_file.read_text())
        done = vmwire_upgrade(str(served.pid))
        assert (done.returncode, done.stderr) == (0, "")
        done = vmwire_upgrade(str(served.pid))
        assert (done.returncode, done.stderr) == (0, "")
        served.terminate()
        assert served.wait(5) == 0
        assert not pid_file.exists()
        assert os.listdir(os.path.join(runtime, "vmwire")) == [".lock"]
    finally:
        served.kill()
        served.wait()


def test_a_capture_goes_on_in_the_same_file(runtime: str, tmp_path: Path) -> None:
    path = tmp_path / "wire.pcap"
    config = {**CAPTURED, "captures": [["u", str(path)]]}
    with Instance(runtime, config=config) as instance:
        assert vmwire_upgrade(str(instance.vm.pid)).returncode == 0
        assert vmwire_upgrade(str(instance.vm.pid)).returncode == 0
    assert path.stat().st_size == 24  # one header
    assert [each.name for each in tmp_path.iterdir()] == ["wire.pcap"]


# --- which network ------------------------------------------------------------------------------


def test_no_network_is_an_error(runtime: str) -> None:
    os.mkdir(os.path.join(runtime, "vmwire"), 0o700)
    done = vmwire_upgrade("12345")
    assert done.returncode == 1
    assert done.stderr.startswith("vmwire: upgrade: no network 12345 is running")


@pytest.mark.parametrize(
    ("words", "text"),
    [(["a", "b"], "takes one network"), (["--some"], "--some: invalid option")],
)
def test_wrong_words_are_errors(runtime: str, words: list[str], text: str) -> None:
    done = vmwire_upgrade(*words)
    assert done.returncode == 1
    assert text in done.stderr


def test_several_are_named_or_all_upgraded(
    runtime: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rundir, "_own_bases", lambda: [os.path.join(runtime, "vmwire")])
    with Instance(runtime) as one, Instance(runtime) as other:
        assert upgrade.main([]) == 1
        said = capsys.readouterr().err
        assert "more than one network" in said
        assert str(one.vm.pid) in said and str(other.vm.pid) in said
        assert upgrade.main(["--all"]) == 0
        assert [one.stats()["upgrades"], other.stats()["upgrades"]] == [1, 1]
        assert upgrade.main([str(one.vm.pid)]) == 0
        assert [one.stats()["upgrades"], other.stats()["upgrades"]] == [2, 1]


def test_somebody_elses_is_left_alone(
    runtime: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rundir, "running_of_others", lambda: ["/run/user/7/vmwire/77"])
    assert upgrade.main(["77"]) == 1
    assert "somebody else's" in capsys.readouterr().err


def test_what_was_changed_while_it_ran_is_there_afterwards(runtime: str) -> None:
    with Instance(runtime) as instance:
        path = control_of(instance)
        control.ask(path, "netdev_add", arguments={"type": "null", "id": "later"})
        assert vmwire_upgrade(str(instance.vm.pid)).returncode == 0
        assert set(instance.stats()["netdevs"]) == {"u", "later"}
        control.ask(path, "netdev_del", arguments={"id": "later"})
        assert vmwire_upgrade(str(instance.vm.pid)).returncode == 0
        assert set(instance.stats()["netdevs"]) == {"u"}
