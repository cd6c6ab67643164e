# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``vmwire demo --vm``: what it needs, and the real thing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.demo.test_demo import assert_all_worked, demo
from tests.guest import image, provision
from vmwire.cli.demo import vm
from vmwire.errors import ConfigError

INSTALL = "apt-get install qemu-system-x86 linux-image-amd64 busybox-static"


def file(path: Path, mode: int = 0o755) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    path.chmod(mode)
    return str(path)


def test_one_line_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vmwire", "demo", "--vm", "--kernel", file(tmp_path / "kernel")],
        capture_output=True,
        text=True,
        timeout=20,
        cwd=tmp_path,
        env=os.environ | {"PATH": "/nonexistent"},
    )
    assert done.returncode == 1
    assert done.stderr == f"vmwire: demo --vm: needs QEMU and busybox: {INSTALL}\n"


def test_named_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    given = {"qemu": file(tmp_path / "qemu"), "busybox": file(tmp_path / "busybox")}
    with pytest.raises(ConfigError, match="nowhere/kernel' is not there"):
        vm.find_parts(given | {"kernel": "/nowhere/kernel"})
    with pytest.raises(ConfigError, match="--modules: '/nowhere' is not a folder"):
        vm.find_parts(given | {"kernel": file(tmp_path / "kernel"), "modules": "/nowhere"})


def test_newest_kernel_is_the_one_with_the_highest_numbers(tmp_path: Path) -> None:
    for release in ("6.9.12-1-amd64", "6.10.2-1-amd64", "5.19.0-1-amd64"):
        file(tmp_path / f"vmlinuz-{release}")
    assert vm.newest_kernel(tmp_path) == str(tmp_path / "vmlinuz-6.10.2-1-amd64")
    assert vm.newest_kernel(tmp_path / "empty") is None


def test_modules_stand_beside_the_kernels_folder(tmp_path: Path) -> None:
    kernel = Path(file(tmp_path / "boot/vmlinuz-6.1.0"))
    assert vm.modules_of(kernel) is None
    (tmp_path / "lib/modules/6.1.0").mkdir(parents=True)
    assert vm.modules_of(kernel) == tmp_path / "lib/modules/6.1.0"


@pytest.mark.parametrize(
    ("output", "code", "addresses"),
    [
        ("Server:\t10.0.2.3\nAddress:\t10.0.2.3:53\n\n** server can't find x.org: NXDOMAIN",
         "NXDOMAIN", []),
        ("Server:\t10.0.2.3\nAddress:\t10.0.2.3:53\n\nNon-authoritative answer:\n"
         "Name:\tx.org\nAddress: 192.0.2.1\nName:\tx.org\nAddress: 192.0.2.2",
         "NOERROR", ["192.0.2.1", "192.0.2.2"]),
        ("Server:    10.0.2.3\nAddress 1: 10.0.2.3\n\nName:      x.org\nAddress 1: 192.0.2.1",
         "NOERROR", ["192.0.2.1"]),
    ],
)  # fmt: skip
def test_nslookups_answers_are_read(output: str, code: str, addresses: list[str]) -> None:
    assert vm.read_nslookup(output) == {"code": code, "addresses": addresses}


@pytest.mark.guest
def test_all_of_it_works_with_a_vm(tmp_path: Path) -> None:
    try:
        root = provision.root_of(provision.GUEST)
        qemu = provision.qemu_oldest()
    except provision.ProvisionError as error:
        pytest.skip(str(error))
    words = ["--qemu", qemu, "--kernel", str(image.packed_kernel()), "--accel", "tcg"]
    words += ["--busybox", str(root / "usr/bin/busybox"), "--seconds", "0.5"]
    done = demo("--vm", *words, folder=tmp_path)
    assert_all_worked(done, tmp_path)
    assert "Linux 6.1.0-" in done.stdout and "vmwire in front" in done.stdout
