# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Serve mode from outside: what it prints, how it ends, and one line for what can't be had."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.instance import eventually, is_alive, stats_of, users_of

CARD = ("-netdev", "hubport,id=u,hubid=0", "-device", "virtio-net-pci,netdev=u,id=n0")
COMMAND = (sys.executable, "-m", "vmwire")

LAST_LINE = "The network stands. Ctrl-C ends it.\n"


class Served(subprocess.Popen[str]):
    """A network that is served, and what it printed until it stood."""

    printed = ""


Start = Callable[..., Served]


@pytest.fixture
def start(runtime: str) -> Iterator[Start]:
    """Starts `vmwire ARGUMENTS` and waits until the network stands."""
    started: list[Served] = []

    def run(*arguments: str, **options: Any) -> Served:
        pipe = subprocess.PIPE
        words = [*COMMAND, *arguments]
        served = Served(words, stdout=pipe, stderr=pipe, text=True, **options)
        started.append(served)
        assert served.stdout is not None
        served.printed = "".join(iter(served.stdout.readline, LAST_LINE))
        return served

    yield run
    for served in started:
        served.terminate()
        served.communicate(timeout=10)


def refused(*arguments: str) -> str:
    """What `vmwire ARGUMENTS` says when it ends with status 1."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1, done
    assert done.stdout == ""
    return done.stderr.removesuffix("\n")


def folder(runtime: str, served: Served) -> str:
    return os.path.join(runtime, "vmwire", str(served.pid))


def test_cards_are_printed_and_their_sockets_stand(runtime: str, start: Start) -> None:
    served = start(*CARD, "-device", "virtio-net-pci")
    for name, mac in (("n0", "52:54:00:12:34:56"), ("nic1", "52:54:00:12:34:57")):
        path = os.path.join(folder(runtime, served), f"{name}.sock")
        assert f"path={path},reconnect-ms=1000" in served.printed
        assert f"mac={mac}" in served.printed
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_old_words_make_cards_and_a_hub(runtime: str, start: Start) -> None:
    served = start("-net", "nic", "-net", "nic,name=two,model=e1000", "-net", "user,name=out")
    assert "virtio-net-pci.0: on hub0port0, mac 52:54:00:12:34:56" in served.printed
    assert "two: on hub0port1, mac 52:54:00:12:34:57" in served.printed
    stats = stats_of(folder(runtime, served))
    assert set(stats["netdevs"]) == {"hub0port0", "hub0port1", "hub0port2", "out"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-net", "nosuch"), "-net nosuch: Parameter 'type' does not accept value 'nosuch'"),
        (("-net", "user,bogus=1"), "-net user,bogus=1: Invalid parameter 'bogus'"),
        (("-nic", "user,netdev=x"), "-nic user,netdev=x: Invalid parameter 'netdev'"),
        (
            ("-net", "nic,model=rtl8139"),
            "-net nic,model=rtl8139: device 'rtl8139' is not served by vmwire yet",
        ),
        (
            ("-net", "tap,fd=99", "-net", "nic"),
            "-net tap,fd=99: ",
        ),
    ],
)
def test_what_is_wrong_with_old_words_names_them(words: tuple[str, ...], said: str) -> None:
    assert refused(*words).startswith(f"vmwire: {said}")


def test_models_are_listed() -> None:
    for words in (("-net", "nic,model=help"), ("-net", "nic,model=?"), ("-nic", "model=help")):
        done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=20)
        title, *models = done.stdout.splitlines()
        assert title == "Available NIC models for this configuration:"
        assert "virtio-net-pci (aka virtio)" in models and "e1000" in models


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_it_cleanly(runtime: str, start: Start, number: int) -> None:
    pid_file = os.path.join(runtime, "pid")
    served = start(*CARD, "--pidfile", pid_file)
    processes = users_of(os.path.join(folder(runtime, served), "lock"))
    assert len(processes) == 2
    with open(pid_file, encoding="ascii") as file:
        assert file.read() == f"{served.pid}\n"
    served.send_signal(number)
    assert served.wait(5) == 0
    assert served.stderr is not None and served.stderr.read() == ""
    assert not any(map(is_alive, processes))
    assert os.listdir(runtime) == ["vmwire"]
    assert os.listdir(os.path.join(runtime, "vmwire")) == [".lock"]


def test_signal_that_was_ignored_at_start_stays_ignored(runtime: str, start: Start) -> None:
    """As under nohup."""
    served = start(*CARD, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    served.send_signal(signal.SIGHUP)
    assert stats_of(folder(runtime, served))["pid"]
    assert served.poll() is None


def test_ctrl_c_reaches_the_whole_group_and_is_still_a_clean_end(start: Start) -> None:
    served = start(*CARD, start_new_session=True)
    os.killpg(served.pid, signal.SIGINT)
    assert served.wait(5) == 0
    assert served.stderr is not None and served.stderr.read() == ""


def test_killed_worker_is_replaced_and_the_socket_stays(runtime: str, start: Start) -> None:
    served = start(*CARD)
    path = folder(runtime, served)
    inode = os.stat(os.path.join(path, "n0.sock")).st_ino
    os.kill(stats_of(path)["pid"], signal.SIGKILL)
    stats_of(path, restarts=1)
    assert os.stat(os.path.join(path, "n0.sock")).st_ino == inode


def test_killed_command_leaves_nothing_running(runtime: str, start: Start) -> None:
    served = start(*CARD)
    processes = users_of(os.path.join(folder(runtime, served), "lock"))
    served.kill()
    eventually(lambda: not any(map(is_alive, processes)))
    assert os.listdir(os.path.join(runtime, "vmwire")) == [".lock"]


def test_service_manager_hears_ready_and_stopping(
    runtime: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(os.path.join(runtime, "notify"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", os.path.join(runtime, "notify"))
        served = start(*CARD)
        assert manager.recv(100) == b"READY=1"
        served.terminate()
        assert manager.recv(100) == b"STOPPING=1"


def test_sockets_in_a_folder_of_the_users_have_the_users_mode(runtime: str, start: Start) -> None:
    served = start(*CARD, "--socket-dir", runtime, umask=0o007)
    path = os.path.join(runtime, "n0.sock")
    assert os.stat(path).st_mode & 0o777 == 0o770
    assert os.stat(os.path.join(folder(runtime, served), "control.sock")).st_mode & 0o777 == 0o600
    served.terminate()
    served.wait(5)
    assert not os.path.exists(path)


def test_capture_goes_on_in_a_second_file_after_a_restart(runtime: str, start: Start) -> None:
    path = os.path.join(runtime, "wire.pcap")
    served = start(*CARD, "--capture", f"n0={path}")
    assert os.stat(path).st_size == 24
    inode = os.stat(path).st_ino
    os.kill(stats_of(folder(runtime, served))["pid"], signal.SIGKILL)
    stats_of(folder(runtime, served), restarts=1)
    assert os.path.exists(os.path.join(runtime, "wire.restart1.pcap"))
    assert (os.stat(path).st_ino, os.stat(path).st_size) == (inode, 24)


def test_log_goes_to_its_file(runtime: str, start: Start) -> None:
    path = os.path.join(runtime, "log")
    served = start(*CARD, "--log", path, "--log-level=debug")
    served.terminate()
    assert served.communicate(timeout=5)[1] == ""
    with open(path, encoding="utf-8") as file:
        assert "the network stands" in file.read()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("-netdev user,id=x,bogus=1", "-netdev user,id=x,bogus=1: Invalid parameter 'bogus'"),
        ("-netdev hubport,hubid=0", "-netdev hubport,hubid=0: Parameter 'id' is missing"),
        ("-netdev nosuch,id=x", "-netdev nosuch,id=x: Parameter 'type' does not accept value"),
        ("-netdev af-xdp,id=x", "-netdev af-xdp,id=x: netdev 'af-xdp' is not served by vmwire"),
        ("-netdev user,id=1x", "-netdev user,id=1x: Parameter 'id' expects an identifier"),
        ("-netdev user,id=x,hostfwd=tcp", "-netdev user,id=x,hostfwd=tcp: Invalid host forwarding"),
        ("-device nosuch", "-device nosuch: 'nosuch' is not a valid device model name"),
        ("-device virtio-net-pci,mac=zz", "-device virtio-net-pci,mac=zz: Property 'virtio-net"),
        ("-device virtio-net-pci,netdev=x", "-device virtio-net-pci,netdev=x: Property 'virtio"),
        ("-device {bad", "-device {bad: 1:2: JSON parse error"),
        (
            "-netdev hubport,id=h,hubid=0 -netdev hubport,id=h,hubid=1",
            "-netdev hubport,id=h,hubid=1: Duplicate ID 'h' for netdev",
        ),
        (
            "-device virtio-net-pci,id=a -device virtio-net-pci,id=a",
            "-device virtio-net-pci,id=a: Duplicate ID 'a' for device",
        ),
        (
            "-netdev hubport,id=h,hubid=0 -device virtio-net-pci,netdev=h,id=a"
            " -device virtio-net-pci,netdev=h,id=b",
            "-device virtio-net-pci,netdev=h,id=b: Property 'virtio-net-pci.netdev' can't take",
        ),
        ("-device virtio-net-pci --capture x=/dev/null", "--capture x=/dev/null: netdev, device"),
        ("-device virtio-net-pci --capture x", "--capture x: expects ID=FILE"),
        ("-device virtio-net-pci,id=a --capture a=/nowhere/x", "--capture a=/nowhere/x: "),
        ("-device virtio-net-pci --log /nowhere/x", "--log: Can't open the log '/nowhere/x'"),
        ("-device virtio-net-pci --log-level x", "--log-level: No such level 'x'"),
        ("-device virtio-net-pci --pidfile /nowhere/x", "--pidfile: Can't make '/nowhere/x'"),
        ("-device virtio-net-pci --socket-dir /nowhere", "--socket-dir: '/nowhere' is not"),
        ("-device virtio-net-pci -m 1G", "-m: invalid option"),
        ("-device virtio-net-pci -netdev", "-netdev: requires an argument"),
        ("-device virtio-net-pci --pidfile a --pidfile b", "--pidfile: may be given once"),
        ("--pidfile=x", "nothing to serve"),
    ],
)
def test_what_can_not_be_had_is_one_line(runtime: str, arguments: str, line: str) -> None:
    said = refused(*arguments.split(" "))
    assert said.startswith(f"vmwire: {line}")
    assert "\n" not in said
    with contextlib.suppress(FileNotFoundError):
        assert set(os.listdir(os.path.join(runtime, "vmwire"))) <= {".lock"}
    assert not os.path.exists("x")


def test_pid_file_of_a_running_network_is_refused(runtime: str, start: Start) -> None:
    path = os.path.join(runtime, "pid")
    served = start(*CARD, "--pidfile", path)
    assert "is locked by another process" in refused(*CARD, "--pidfile", path)
    with open(path, encoding="ascii") as file:
        assert file.read() == f"{served.pid}\n"


def test_socket_of_a_running_network_is_refused_and_stays(runtime: str, start: Start) -> None:
    start(*CARD, "--socket-dir", runtime)
    assert "exists already" in refused(*CARD, "--socket-dir", runtime)
    assert os.path.exists(os.path.join(runtime, "n0.sock"))


def test_folder_that_is_too_long_for_sockets_is_refused(runtime: str) -> None:
    long = os.path.join(runtime, "x" * 90)
    os.mkdir(long)
    assert "is too long" in refused(*CARD, "--socket-dir", long)


def test_help_is_printed_without_starting_anything(runtime: str) -> None:
    done = subprocess.run([*COMMAND, "-device", "help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert 'name "virtio-net-pci", bus PCI, alias "virtio-net"\n' in done.stdout
    assert not os.path.exists(os.path.join(runtime, "vmwire"))


def test_list_shows_what_runs(runtime: str, start: Start) -> None:
    served = start(*CARD)
    shown = subprocess.run([*COMMAND, "list"], capture_output=True, text=True, check=True).stdout
    assert f"{served.pid}: serve, for " in shown
    assert "device n0 (virtio-net-pci) no carrier" in shown
    printed = subprocess.run([*COMMAND, "list", "--json"], capture_output=True, check=True).stdout
    found = {each["pid"]: each for each in json.loads(printed)}[served.pid]
    assert found["sockets"] == [os.path.join(folder(runtime, served), "n0.sock")]
    assert found["stats"]["netdevs"]["u"]["type"] == "hubport"


def test_filters_stand_before_their_netdevs(start: Start, tmp_path: Path) -> None:
    dump = tmp_path / "d.pcap"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "peer"))
        listener.listen()
        start(
            *CARD,
            *("-chardev", "socket,id=c,path=peer"),
            *("-object", "filter-mirror,id=m,netdev=u,outdev=c"),
            *("-object", f"filter-dump,id=f,netdev=u,file={dump.name},position=head"),
            cwd=tmp_path,
        )
        assert dump.read_bytes()[:4] == b"\xd4\xc3\xb2\xa1"
        listener.settimeout(10)
        listener.accept()[0].close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["-object", "filter-dump,id=f,netdev=x,file=d"],
            "-object filter-dump,id=f,netdev=x,file=d: "
            "Parameter 'netdev' expects a network backend id",
        ),
        (
            ["-object", "filter-mirror,id=f,netdev=u,outdev=c"],
            "-object filter-mirror,id=f,netdev=u,outdev=c: Device 'c' not found",
        ),
        (
            ["-object", "secret,id=f"],
            "-object secret,id=f: Parameter 'qom-type' does not accept value 'secret'",
        ),
        (
            ["-chardev", "null,id=c"],
            "-chardev null,id=c: chardev 'null' is not served by vmwire yet",
        ),
    ],
)
def test_filters_that_can_not_be_had_are_one_line(
    runtime: str, words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(*CARD, *words) == f"vmwire: {message}"


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_closed_streams_do_no_harm(runtime: str, tmp_path: Path, closed: str) -> None:
    log = tmp_path / "log"
    words = [*COMMAND, "-netdev", "hubport,id=u,hubid=0", "--log", str(log)]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *words]
    with subprocess.Popen(shell, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        assert served.stdout.readline() == LAST_LINE
        served.terminate()
    assert served.returncode == 0
    assert "the network stands" in log.read_text()
