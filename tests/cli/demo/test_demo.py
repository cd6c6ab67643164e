# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``vmwire demo`` as its user sees it: what it says, what it leaves, and how it ends."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.daemon.instance import eventually, is_alive
from vmwire.cli.demo import pcap

COMMAND = (sys.executable, "-m", "vmwire", "demo")
QUICK = ("--seconds", "0.2")
STEPS = ("DHCP", "ping", "DNS", "download", "upload", "hostfwd", "pcap")


def demo(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=55,
        cwd=folder,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment,
    )


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and theirs."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        with contextlib.suppress(OSError):
            path = Path(f"/proc/{waiting.pop()}/task")
            for task in path.iterdir():
                children = {int(each) for each in (task / "children").read_text().split()}
                found |= children
                waiting += children
    return found


def assert_all_worked(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert done.returncode == 0, done
    assert done.stderr == ""
    # no network at all is no failure of the demo's
    lines = re.findall(r"^  (\S) (\w+) ", done.stdout, re.MULTILINE)
    assert lines == [
        ("–" if name == "DNS" and ("–", name) in lines else "✓", name) for name in STEPS
    ]
    assert "10.0.2.15/24, gateway 10.0.2.2, DNS 10.0.2.3" in done.stdout
    assert len(re.findall("and intact$", done.stdout, re.MULTILINE)) == 2
    assert "\nAll of it worked" in done.stdout
    assert {"ARP", "DHCP", "DNS", "ICMP", "TCP"} <= pcap.summary(
        str(folder / "vmwire-demo.pcap")
    ).protocols
    assert os.listdir(folder) == ["vmwire-demo.pcap"]


def assert_readable(text: str) -> None:
    assert "\x1b" not in text and "\r" not in text
    assert max(map(len, text.splitlines())) < 80


def test_all_of_it_works_with_a_python_guest(tmp_path: Path) -> None:
    done = demo(*QUICK, "--guest", "python", folder=tmp_path)
    assert_all_worked(done, tmp_path)
    assert_readable(done.stdout)


@pytest.mark.netns
@pytest.mark.parametrize("path", [os.environ["PATH"], "/nonexistent"])
def test_all_of_it_works_with_a_namespace(tmp_path: Path, path: str) -> None:
    done = demo(*QUICK, "--guest", "namespace", folder=tmp_path, PATH=path)
    assert_all_worked(done, tmp_path)
    assert_readable(done.stdout)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux)")
def test_without_namespaces_there_is_another_guest_and_a_reason(tmp_path: Path) -> None:
    """A user namespace with room for no other stands in for a machine that forbids them."""
    script = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"'
    words = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", *COMMAND, *QUICK]
    if subprocess.run([*words[:5], script, "sh", "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    done = subprocess.run(words, capture_output=True, text=True, timeout=55, cwd=tmp_path)
    assert done.returncode == 0, done
    assert "plain Python" in done.stdout
    assert "(no network namespace can be had" in " ".join(done.stdout.split())


def test_what_is_recorded_goes_where_it_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "there.pcap"
    done = demo(*QUICK, "--guest", "python", "--pcap", str(path), folder=tmp_path)
    assert done.returncode == 0
    assert str(path) in done.stdout
    assert "TCP" in pcap.summary(str(path)).protocols


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_it_with_everything(tmp_path: Path, number: signal.Signals) -> None:
    running = subprocess.Popen(
        [*COMMAND, "--guest", "python", "--seconds", "30"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONIOENCODING": "utf-8"},
    )
    assert running.stdout is not None and running.stderr is not None
    with running.stdout, running.stderr:
        next(line for line in running.stdout if " DNS " in line)  # the download is next
        time.sleep(0.3)
        processes = descendants(running.pid)
        assert len(processes) == 2
        running.send_signal(number)
        status = running.wait(10)
        assert status == (-number if number == signal.SIGINT else 128 + number)
        assert running.stderr.read() == ""
    assert not any(map(is_alive, processes))
    assert os.listdir(tmp_path) == ["vmwire-demo.pcap"]


def test_killed_demo_leaves_nothing_running(tmp_path: Path) -> None:
    command = [*COMMAND, "--guest", "python", "--seconds", "30"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONIOENCODING": "utf-8"},
    ) as running:  # fmt: skip
        assert running.stdout is not None
        next(line for line in running.stdout if " DNS " in line)
        processes = descendants(running.pid)
        running.kill()
    eventually(lambda: not any(map(is_alive, processes)))
    assert os.listdir(tmp_path) == ["vmwire-demo.pcap"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gues"], "--gues: invalid option (vmwire demo --help shows what there is)"),
        (["x"], "x: invalid option (vmwire demo --help shows what there is)"),
        (["--guest"], "--guest: requires an argument"),
        (["--guest", "windows"], "--guest windows: expects one of namespace, python"),
        (["--vm", "--guest", "python"], "--guest: can't be used together with --vm"),
        (["--kernel", "/boot/x"], "--kernel: is for --vm"),
        (["--seconds", "soon"], "--seconds soon: expects a number up to 600"),
        (["--seconds=-1"], "--seconds -1: expects a number up to 600"),
        (["--seconds=nan"], "--seconds nan: expects a number up to 600"),
        (["--name", "a..b"], "--name a..b: is not a domain name"),
    ],
)
def test_wrong_words_are_refused_in_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    done = demo(*words, folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"vmwire: {said}\n")
    assert os.listdir(tmp_path) == []


def test_file_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there.pcap"
    done = demo("--guest", "python", "--pcap", str(path), folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"vmwire: Could not open '{path}': No such file or directory\n"


def test_help_names_the_options(tmp_path: Path) -> None:
    done = demo("--help", folder=tmp_path)
    assert done.returncode == 0
    for option in ("--guest", "--vm", "--pcap", "--seconds", "--name", "--kernel", "--busybox"):
        assert option in done.stdout
