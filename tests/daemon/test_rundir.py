# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import socket

import pytest

from vmwire.daemon import rundir
from vmwire.errors import ConfigError


def test_folder_is_private_and_named_after_the_process(runtime: str) -> None:
    os.umask(os.umask(0))
    made = rundir.create()
    assert made.path == os.path.join(runtime, "vmwire", str(os.getpid()))
    for path in (made.path, os.path.dirname(made.path)):
        assert os.stat(path).st_mode & 0o777 == 0o700
    made.remove()
    os.close(made.lock_fd)


def test_second_network_of_one_process_gets_a_folder_of_its_own(runtime: str) -> None:
    first, second = rundir.create(), rundir.create()
    assert second.name == f"{first.name}-2"
    os.close(first.lock_fd)
    os.close(second.lock_fd)


def test_name_that_runs_already_is_refused(runtime: str) -> None:
    first = rundir.create("lab")
    with pytest.raises(ConfigError, match="'lab' is running already"):
        rundir.create("lab")
    os.close(first.lock_fd)


def test_without_a_runtime_directory_it_is_below_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert rundir.base_path() == f"/tmp/vmwire-{os.getuid()}"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert rundir.base_path() == f"/tmp/vmwire-{os.getuid()}"


def test_folder_open_to_others_is_refused(runtime: str) -> None:
    os.mkdir(os.path.join(runtime, "vmwire"))
    os.chmod(os.path.join(runtime, "vmwire"), 0o755)
    with pytest.raises(ConfigError, match="must be 0700"):
        rundir.create()


def test_symlink_in_its_place_is_refused(runtime: str) -> None:
    elsewhere = os.path.join(runtime, "elsewhere")
    os.mkdir(elsewhere, 0o700)
    os.symlink(elsewhere, os.path.join(runtime, "vmwire"))
    with pytest.raises(ConfigError, match="not a directory"):
        rundir.create()
    assert os.listdir(elsewhere) == []


@pytest.mark.root
def test_folder_of_somebody_else_is_refused(runtime: str) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    os.mkdir(os.path.join(runtime, "vmwire"), 0o700)
    os.chown(os.path.join(runtime, "vmwire"), 65534, 65534)
    with pytest.raises(ConfigError, match="belongs to somebody else"):
        rundir.create()


def test_socket_path_may_have_107_bytes_and_not_one_more(runtime: str) -> None:
    made = rundir.create("x", socket_dir=runtime)
    room = rundir.SOCKET_PATH_MAX - len(os.path.join(runtime, ".sock"))
    path = made.socket_path("n" * room)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
    with pytest.raises(ConfigError, match="too long: 108 bytes"):
        made.socket_path("n" * (room + 1))
    with pytest.raises(ConfigError, match="too long"):
        made.socket_path("ä" * (room // 2 + 1))
    os.close(made.lock_fd)


def test_runtime_directory_with_a_long_path_is_refused_at_once(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = os.path.join(runtime, "x" * 90)
    os.mkdir(long)
    monkeypatch.setenv("XDG_RUNTIME_DIR", long)
    with pytest.raises(ConfigError, match="too long"):
        rundir.create()
    assert not any(path.startswith(long) for path in rundir.running())


def test_folder_is_stale_when_nobody_holds_its_lock(runtime: str) -> None:
    made = rundir.create()
    copy = os.dup(made.lock_fd)
    os.close(made.lock_fd)
    assert made.path in rundir.running()
    os.close(copy)
    assert made.path not in rundir.running()
    assert not os.path.exists(made.path)


def test_sockets_elsewhere_go_with_a_stale_folder_but_files_do_not(runtime: str) -> None:
    made = rundir.create(socket_dir=runtime)
    one, two = made.socket_path("one"), made.socket_path("two")
    made.describe({"mode": "serve"})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(one)
    with open(two, "w", encoding="ascii") as file:
        file.write("not a socket any more")
    os.close(made.lock_fd)
    rundir.running()
    assert not os.path.exists(one)
    assert os.path.exists(two)


def test_socket_that_exists_already_is_left_to_its_owner(runtime: str) -> None:
    path = os.path.join(runtime, "n0.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
    made = rundir.create(socket_dir=runtime)
    with pytest.raises(ConfigError, match="exists already"):
        made.socket_path("n0")
    made.remove()
    assert os.path.exists(path)
    os.close(made.lock_fd)


def test_facts_that_are_damaged_are_no_facts(runtime: str) -> None:
    made = rundir.create()
    assert rundir.read_facts(made.path) == {}
    with open(made.file(rundir.INSTANCE), "w", encoding="ascii") as file:
        file.write("[1, 2")
    assert rundir.read_facts(made.path) == {}
    made.describe({"mode": "serve"})
    assert rundir.read_facts(made.path)["mode"] == "serve"
    os.close(made.lock_fd)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_socket_dir_must_be_a_directory(runtime: str, name: str) -> None:
    path = os.path.join(runtime, name)
    if name == "file":
        open(path, "w", encoding="ascii").close()
    with pytest.raises(ConfigError, match=r"--socket-dir: '.*' is not a directory"):
        rundir.create(socket_dir=path)
