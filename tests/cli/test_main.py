# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The command itself, run as a process: which mode, which exit status, what is left as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import vmwire

SOURCE = str(Path(vmwire.__file__).parents[1])
# As ./vmwire runs it: the name it was called by is the first argument.
RUN = "import sys; sys.path.insert(0, {source!r}); del sys.argv[0]\n"
MAIN = "from vmwire.cli.main import main; sys.exit(main())"


def command(*words: str, name: str = "vmwire") -> list[str]:
    return [sys.executable, "-c", RUN.format(source=SOURCE) + MAIN, name, *words]


def run(*words: str, name: str = "vmwire", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words, name=name),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **environment},
    )


# --- modes and usage ---------------------------------------------------------------------------


def test_version() -> None:
    assert run("--version").stdout == f"vmwire {vmwire.__version__}\n"


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_says_how_to_start(word: str) -> None:
    result = run(word)
    assert result.returncode == 0 and result.stdout.startswith("usage: vmwire")


@pytest.mark.parametrize("words", [(), ("--explain",), ("--keep",), ("--log", "x")])
def test_usage_errors_end_with_2_and_one_hint(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.returncode == 2
    assert "Try 'vmwire --help'" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words",
    [
        "--help", "--version", "-netdev help", "-device help", "-device virtio-net-pci,help",
        "list", "list --json", "shell --help", "demo --help", "demo",
        "--explain echo -netdev user,id=u",
    ],
)  # fmt: skip
def test_a_reader_that_leaves_ends_the_command_quietly(
    tmp_path: Path, words: str, unbuffered: str
) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        result = subprocess.run(
            command(*words.split()),
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=30,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "XDG_RUNTIME_DIR": str(tmp_path)},
        )
    finally:
        os.close(write)
    assert (result.returncode, result.stderr) == (141, b"")


@pytest.mark.parametrize(("words", "closed", "status"), [
    ("--help", "1", 0), ("list", "1", 0), ("bench", "1", 0), ("bench", "0", 1),
])  # fmt: skip
def test_a_standard_stream_that_is_closed_is_no_traceback(
    tmp_path: Path, words: str, closed: str, status: int
) -> None:
    shut = ["sh", "-c", f'exec "$@" {closed}<&-', "sh", *command(*words.split())]
    result = subprocess.run(
        shut,
        input="endianness\n" if closed != "0" else None,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert (result.returncode, "Traceback" in result.stderr) == (status, False)


# --- becoming the program ----------------------------------------------------------------------


def test_a_command_without_network_is_executed_as_it_is() -> None:
    result = run("sh", "-c", "echo $0 $*; exit 7", "a", "-S", "b c")
    assert (result.returncode, result.stdout) == (7, "a -S b c\n")


def test_pid_and_parent_are_those_that_the_program_would_have() -> None:
    process = subprocess.Popen(
        command("sh", "-c", "echo $$ $PPID"), stdout=subprocess.PIPE, text=True
    )
    output, _ = process.communicate(timeout=30)
    assert output.split() == [str(process.pid), str(os.getpid())]


def test_a_program_that_is_missing_ends_with_127() -> None:
    result = run("no-such-program", "-netdev", "user,id=u")
    assert result.returncode == 127
    assert result.stderr == "vmwire: no-such-program: No such file or directory\n"


def test_a_program_that_is_no_program_ends_with_126(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run(str(tmp_path / "file")).returncode == 126


SHOW_SIGNALS = "grep -E 'Sig(Ign|Blk)' /proc/self/status"


def test_signals_are_as_they_were() -> None:
    plain = subprocess.run(["sh", "-c", SHOW_SIGNALS], capture_output=True, text=True, timeout=30)
    assert run("sh", "-c", SHOW_SIGNALS).stdout == plain.stdout


def test_an_ignored_interrupt_stays_ignored() -> None:
    quiet = ["sh", "-c", 'trap "" INT; exec "$@"', "-", *command("sh", "-c", SHOW_SIGNALS)]
    shown = subprocess.run(quiet, capture_output=True, text=True, timeout=30).stdout
    masks = dict(line.split() for line in shown.splitlines())
    assert int(masks["SigIgn:"], 16) & 1 << signal.SIGINT - 1


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_the_environment_is_as_it_was(locale: str) -> None:
    given = {"PATH": os.environ["PATH"], "LANG": locale, "VMWIRE_ODD": "\udcff=,"}
    result = subprocess.run(
        command("env"), capture_output=True, env=given, timeout=30, check=True
    ).stdout
    expected = {os.fsencode(f"{key}={value}") for key, value in given.items()}
    assert set(result.splitlines()) == expected


def test_words_that_are_no_text_pass_through() -> None:
    result = subprocess.run(
        [*map(os.fsencode, command("printf", "%s")), b"\xff\xfe"],
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert result.stdout == b"\xff\xfe"


def test_inherited_descriptors_are_passed_on() -> None:
    read, write = os.pipe()
    script = f"import os; os.write({write}, b'through')"
    subprocess.run(command(sys.executable, "-c", script), pass_fds=[write], timeout=30, check=True)
    os.close(write)
    with os.fdopen(read) as file:
        assert file.read() == "through"


def test_the_folder_and_the_umask_are_as_they_were(tmp_path: Path) -> None:
    result = subprocess.run(
        ["sh", "-c", 'umask 027; exec "$@"', "-", *command("sh", "-c", "umask; pwd")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=30,
    )
    assert result.stdout.split() == ["0027", str(tmp_path)]


@pytest.mark.parametrize("word", ["-version", "-help", "-nodefaults", "help"])
def test_stepping_aside_imports_nothing(tmp_path: Path, word: str) -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *command("true", word)[1:]],
        capture_output=True,
        text=True,
        timeout=30,
    )
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert {name for name in imported if name.startswith("vmwire")} == {
        "vmwire",
        "vmwire.cli",
        "vmwire.cli.main",
        "vmwire.cli.wrap",
        "vmwire.cli.wrap.execute",
        "vmwire.errors",
    }
    assert not imported & {"json", "dataclasses", "socket", "subprocess", "typing"}


# --- the stand-in ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a program called `qemu-system-test`."""
    program = tmp_path / "qemu-system-test"
    program.write_text('#!/bin/sh\necho "$0" "$@"\n')
    program.chmod(0o755)
    return tmp_path


def test_a_link_stands_in_for_the_program_in_path(folder: Path) -> None:
    result = run(
        "-version", name="/x/vmwire-qemu-system-test", PATH=f"{folder}:{os.environ['PATH']}"
    )
    assert result.stdout == f"{folder}/qemu-system-test -version\n"


def test_a_variable_names_the_real_program(folder: Path) -> None:
    result = run("-S", name="vmwire-qemu-system-x", VMWIRE_QEMU=str(folder / "qemu-system-test"))
    assert result.stdout == f"{folder}/qemu-system-test -S\n"


def test_a_link_does_not_find_itself(folder: Path) -> None:
    ours = folder / "bin"
    ours.mkdir()
    (ours / "vmwire").write_text("#!/bin/sh\n")
    (ours / "vmwire").chmod(0o755)
    for name in ("qemu-system-test", "vmwire-qemu-system-test"):
        (ours / name).symlink_to("vmwire")
    result = run(
        "-S",
        name=str(ours / "vmwire-qemu-system-test"),
        PATH=f"{ours}:{folder}:{os.environ['PATH']}",
    )
    assert result.stdout == f"{folder}/qemu-system-test -S\n"


def test_a_link_to_nothing_ends_with_127() -> None:
    assert run(name="vmwire-no-such-qemu").returncode == 127


# --- prefix mode, without taking anything -----------------------------------------------------


def test_a_netdev_of_another_program_is_not_touched() -> None:
    result = run("echo", "-netdev", "user,id=u", "-device", "virtio-net-pci,netdev=u")
    assert result.stdout == "-netdev user,id=u -device virtio-net-pci,netdev=u\n"


def test_explain_says_why_nothing_is_taken() -> None:
    result = run("--explain", "echo", "-netdev", "user,id=u", "-device", "rtl8139,netdev=u")
    assert result.returncode == 0
    assert "-netdev u: stays with QEMU: the card is rtl8139" in result.stdout
    assert result.stdout.endswith("echo -netdev user,id=u -device rtl8139,netdev=u\n")


def test_off_is_off() -> None:
    words = ("echo", "-netdev", "user,id=u", "-device", "virtio-net-pci,netdev=u")
    assert "VMWIRE=off" in run("--explain", *words, VMWIRE="off").stdout
    assert run(*words, VMWIRE="off").stdout == " ".join(words[1:]) + "\n"


def test_a_netdev_to_keep_must_be_there() -> None:
    result = run("--keep", "v", "echo", "-netdev", "user,id=u")
    assert result.returncode == 1
    assert result.stderr == (
        "vmwire: --keep v: there is no netdev and no card of a netdev with that id\n"
    )


def test_reasons_go_to_a_log_that_was_asked_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    result = run(f"--log={log}", "echo", "-netdev", "user,id=u", "-device", "rtl8139,netdev=u")
    assert result.stderr == ""
    assert "-netdev u: stays with QEMU: the card is rtl8139" in log.read_text()
