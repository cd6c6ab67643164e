# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""One readable line for each netdev and each card, and what ids vmwire's own options take."""

from __future__ import annotations

import subprocess

import pytest

from tests.cli.test_main import command
from tests.cli.wrap.fakes import decide
from vmwire.cli.wrap.explain import explanation

LINE = (
    "-netdev tap,id=fast,script=no,vhost=on -device virtio-net-pci,netdev=fast,id=n0 "
    "-netdev user,id=u -device e1000,netdev=u "
    "-netdev user,id=v -device virtio-net-pci,netdev=v "
    "-netdev tap,id=old,script=no -device rtl8139,netdev=old -device rocker"
)


def test_each_netdev_and_each_card_has_a_line() -> None:
    lines = explanation(decide(LINE), None).split("\n\n")[0].splitlines()
    starts = [line.partition(": ")[0] for line in lines]
    assert starts == [
        "-netdev fast",
        "-netdev u",
        "-netdev v",
        "-netdev old",
        "-device virtio-net-pci n0",
        "-device e1000",
        "-device virtio-net-pci",
        "-device rtl8139",
        "-device rocker",
    ]
    told = dict(line.split(": ", 1) for line in lines)
    assert "the kernel (vhost)" in told["-netdev fast"]
    assert told["-netdev u"].startswith("taken") and told["-netdev v"].startswith("taken")
    assert "rtl8139" in told["-netdev old"]
    assert "its netdev 'fast'" in told["-device virtio-net-pci n0"]
    assert "vfio-user-pci stands for it" in told["-device e1000"]
    assert "QEMU keeps it" in told["-device virtio-net-pci"]
    assert "no netdev" in told["-device rocker"]


def test_a_card_of_nobodys_netdev_has_one_too() -> None:
    (first, second) = (
        explanation(decide("-device e1000,netdev=x -netdev user,id=u"), None)
        .split("\n\n")[0]
        .splitlines()
    )
    assert first.startswith("-netdev u: stays")
    assert second == "-device e1000: stays with QEMU, by itself on 'x'"


QEMU = ["no-such-qemu", "-netdev", "user,id=u", "-device", "rtl8139,netdev=u,id=n"]


@pytest.mark.parametrize("option", ["--keep", "--take", "--keep=", "--take="])
@pytest.mark.parametrize("words", [QEMU, ["no-such-qemu", "-m", "1"]])
def test_an_id_that_is_not_there_is_one_line(option: str, words: list[str]) -> None:
    own = [f"{option}zz"] if option.endswith("=") else [option, "zz"]
    done = subprocess.run(
        command(*own, *words), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"{option.strip('=')} zz: there is no netdev" in done.stderr


@pytest.mark.parametrize("question", [["-version"], ["-device", "help"]])
def test_questions_are_qemus_to_answer(question: list[str]) -> None:
    done = subprocess.run(
        command("--take", "zz", "echo", *question),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("id", ["u", "n"])
def test_what_can_not_be_taken_is_not_passed_over(id: str) -> None:
    done = subprocess.run(
        command("--take", id, *QEMU), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"--take {id}: it stays with QEMU: the card is rtl8139" in done.stderr


def test_nobody_can_be_kept_and_taken() -> None:
    done = subprocess.run(
        command("--keep", "u", "--take", "n", "qemu", *QEMU[1:3], "-device",
                "virtio-net-pci,netdev=u,id=n"),
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "--take n: it stays with QEMU: --keep" in done.stderr
