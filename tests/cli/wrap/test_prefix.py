# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Prefix mode whole: the real command, the real network, a real QEMU with a stopped machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.test_main import command
from tests.cli.wrap.real_qemu import STOPPED
from tests.daemon.instance import users_of
from tests.guest import provision

pytestmark = pytest.mark.peer

PATIENCE_S = 10.0
CARD = ["-device", "virtio-net-pci,netdev=u"]


@pytest.fixture(params=["oldest", "newest"])
def qemu(request: pytest.FixtureRequest) -> str:
    try:
        find = {"oldest": provision.qemu_oldest, "newest": provision.qemu_newest}[request.param]
        return find()
    except provision.ProvisionError as error:
        pytest.skip(str(error))


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory of its own, with a short path; empty again at the end."""
    folder = Path(tempfile.mkdtemp(prefix="vw-", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield folder
    try:
        _wait(lambda: not _instances(folder))
    finally:
        shutil.rmtree(folder)


def _instances(runtime: Path) -> list[str]:
    return [path.name for path in (runtime / "vmwire").glob("*/")]


def _holders(runtime: Path) -> list[dict[int, str]]:
    """The processes of each instance."""
    return [users_of(str(runtime / "vmwire" / name / "lock")) for name in _instances(runtime)]


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _net(port: int) -> list[str]:
    return ["-m", "96", "-netdev", f"user,id=u,hostfwd=tcp:127.0.0.1:{port}-:22", *CARD]


def _run(*words: str, monitor: str = "quit\n") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command(*words), *STOPPED],
        input=monitor,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


class Daemonized:
    """A VM in the background, behind its pidfile, with its network's log."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.log = folder / "log"
        pidfile = folder / "pid"
        background = ["-display", "none", "-S", "-daemonize", "-pidfile", str(pidfile)]
        result = subprocess.run(
            command("--log", str(self.log), *words, *background),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        self.pid = int(pidfile.read_text())

    def workers_served(self) -> int:
        """How many workers had this machine: by its connecting, or by going on with it."""
        return len(
            re.findall("a machine has connected|went on with the machine", self.log.read_text())
        )

    def kill_worker(self) -> None:
        worker = re.findall(r"worker\[(\d+)\]", self.log.read_text())[-1]
        os.kill(int(worker), signal.SIGKILL)

    def __enter__(self) -> Daemonized:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)


def test_qemu_runs_with_the_network_and_nothing_is_left(qemu: str, runtime: Path) -> None:
    result = _run(qemu, *_net(_free_port()), monitor="info network\nquit\n")
    assert result.returncode == 0 and result.stderr == ""
    assert r"\ u: index=0,type=vhost-user" in result.stdout


def test_killed_at_any_moment_of_the_start_nothing_is_left(qemu: str, runtime: Path) -> None:
    for moment in range(8):
        process = subprocess.Popen(
            [*command(qemu, *_net(_free_port())), *STOPPED],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.05 + 0.05 * moment)
        process.kill()
        process.wait(timeout=30)
        _wait(lambda: not any(_holders(runtime)))
        # Killed between the making of the folder and the start of the keeper, which are some two
        # milliseconds, it leaves an empty one: the next command takes that away.
        subprocess.run([*command("list")], stdout=subprocess.DEVNULL, timeout=30, check=True)
        _wait(lambda: not _instances(runtime))


def test_the_forward_stands_as_long_as_the_vm(qemu: str, runtime: Path) -> None:
    port = _free_port()
    process = subprocess.Popen(
        [*command(qemu, *_net(port)), *STOPPED],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    _wait(lambda: _answers(port))
    process.kill()
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert process.stdin
    process.stdin.close()
    _wait(lambda: not _answers(port))


def test_a_port_in_use_is_one_line_and_no_vm(qemu: str, runtime: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = _run(qemu, *_net(port))
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert str(port) in result.stderr and "'u'" in result.stderr


def test_without_a_run_directory_qemus_own_network_is_used(
    qemu: str, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (runtime / "vmwire").mkdir(mode=0o755)
    (runtime / "vmwire").chmod(0o755)
    result = _run(qemu, *_net(_free_port()), monitor="info network\nquit\n")
    assert result.returncode == 0
    assert r"\ u: index=0,type=user" in result.stdout
    assert result.stderr.endswith("; QEMU's own network is used\n")
    (runtime / "vmwire").rmdir()


def test_a_socket_folder_that_is_none_is_the_users_fault(runtime: Path, qemu: str) -> None:
    result = _run("--socket-dir", "/nowhere", qemu, *_net(_free_port()))
    assert result.returncode == 1
    assert result.stderr.startswith("vmwire: --socket-dir") and result.stderr.count("\n") == 1


def test_sockets_stand_where_the_user_wants_them(qemu: str, runtime: Path, tmp_path: Path) -> None:
    with Daemonized(tmp_path, ["--socket-dir", str(tmp_path), qemu, *_net(_free_port())]):
        assert (tmp_path / "u.sock").is_socket()
    _wait(lambda: not (tmp_path / "u.sock").exists())


def test_a_background_vm_gets_its_network_back(qemu: str, runtime: Path, tmp_path: Path) -> None:
    port = _free_port()
    with Daemonized(tmp_path, [qemu, *_net(port)]) as vm:
        assert vm.workers_served() == 1
        vm.kill_worker()
        _wait(lambda: vm.workers_served() == 2)
        assert _answers(port)
    _wait(lambda: not _answers(port))


@pytest.mark.root
@pytest.mark.parametrize("user", ["nobody", "65534:65534"])
def test_after_a_change_of_user_too(runtime: Path, tmp_path: Path, user: str) -> None:
    words = [provision.qemu_oldest(), "-runas", user, *_net(_free_port())]
    with Daemonized(tmp_path, words) as vm:
        assert "Uid:\t65534\t65534" in Path(f"/proc/{vm.pid}/status").read_text()
        vm.kill_worker()
        _wait(lambda: vm.workers_served() == 2)
        folders = set(Path("/tmp").glob("vmwire-sockets-*"))
        assert len(folders) >= 1
    _wait(lambda: not any(folder.exists() for folder in folders))


def test_a_script_in_front_of_qemu(qemu: str, runtime: Path, tmp_path: Path) -> None:
    script = tmp_path / "my-qemu"
    script.write_text(f'#!/bin/sh\n# mine\nexport MINE=1\nexec {qemu} -name mine "$@"\n')
    script.chmod(0o755)
    result = _run(str(script), *_net(_free_port()), monitor="info network\ninfo name\nquit\n")
    assert "type=vhost-user" in result.stdout and "\nmine" in result.stdout


def test_two_cards_on_two_networks(qemu: str, runtime: Path) -> None:
    more = ["-netdev", "user,id=v", "-device", "virtio-net-pci,netdev=v", "-nic"]
    result = _run(
        qemu, *_net(_free_port()), *more, "user,model=virtio", monitor="info network\nquit\n"
    )
    assert result.stdout.count("type=vhost-user") == 3
