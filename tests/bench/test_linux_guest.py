# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What is read from kernel files, and a shell driven over a console."""

from __future__ import annotations

import gzip
import lzma
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmwire.bench.console import Console, GuestError
from vmwire.bench.initramfs import Initramfs
from vmwire.bench.linux_guest import add_modules, release_of, unpacked_kernel

PVH_NOTE = struct.pack("<III", 4, 8, 18) + b"Xen\0" + bytes(8)
ELF = b"\x7fELF" + bytes(100) + PVH_NOTE + bytes(1000)


def wrapped(packed: bytes, release: bytes = b"6.1.0-1-amd64 (somebody) #1") -> bytes:
    """A kernel file's shape: a header, the release, and the packed kernel with something behind."""
    head = bytearray(0x800)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x400)
    head[0x600 : 0x600 + len(release)] = release
    return bytes(head) + packed + b"behind it"


def test_release_is_the_first_word_of_the_kernels_version() -> None:
    assert release_of(wrapped(b"")) == "6.1.0-1-amd64"
    assert release_of(ELF) == ""
    assert release_of(b"") == ""


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_kernel_comes_out_of_its_wrapping(pack: Callable[[bytes], bytes]) -> None:
    assert unpacked_kernel(wrapped(pack(b"not it") + pack(ELF))) == ELF


def test_kernel_that_qemu_could_not_start_unpacked_stays_packed() -> None:
    assert unpacked_kernel(wrapped(gzip.compress(ELF.replace(PVH_NOTE, b"")))) is None


@pytest.mark.parametrize("kernel", [b"", wrapped(b"\x1f\x8b\x08 broken"), wrapped(b"zstd")])
def test_what_cannot_be_unpacked_is_none(kernel: bytes) -> None:
    assert unpacked_kernel(kernel) is None


@pytest.fixture
def console() -> Iterator[Console]:
    """A shell of this machine's behind a line that ends lines as a serial console does."""
    ours, theirs = socket.socketpair()
    with theirs:
        fd = theirs.fileno()
        command = ["sh", "-c", r"sh 2>&1 | sed -u 's/$/\r/'"]
        shell = subprocess.Popen(command, stdin=fd, stdout=fd)
    console = Console(ours, lambda: "what else is known")
    yield console
    console.close()
    shell.wait(10)


def test_output_and_status_of_each_command_come_back(console: Console) -> None:
    assert console.run("echo one; echo two >&2").output == "one\ntwo\n"
    assert console.run("(exit 3)").status == 3
    assert console.run("printf 'no line end'").output == "no line end"


def test_script_of_many_lines_is_run_whole(console: Console) -> None:
    script = "".join(f"echo 'line {number}'\n" for number in range(300))
    lines = console.run(script).output.splitlines()
    assert lines == [f"line {number}" for number in range(300)]


def test_marker_in_the_output_is_not_taken_for_the_end(console: Console) -> None:
    assert "END000001 0." in console.run("echo VMWIRE-END000001 0.; echo more").output


def test_command_that_takes_too_long_is_an_error_with_the_report(console: Console) -> None:
    with pytest.raises(GuestError, match="in time\nwhat else is known"):
        console.run("sleep 3", timeout_s=0.2)


def test_console_that_closes_is_an_error(console: Console) -> None:
    console.type("exit\n")
    with pytest.raises(GuestError, match=r"closed|broke"):
        console.wait_for(b"never", 5)


def module(*needs: str) -> bytes:
    return b"\x7fELF\0depends=" + ",".join(needs).encode() + b"\0"


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".ko", bytes), (".ko.xz", lzma.compress), (".ko.gz", gzip.compress)]
)
def test_modules_are_found_however_they_are_packed(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    modules = tmp_path / "6.1.0"
    folder = modules / "kernel" / "net"
    folder.mkdir(parents=True)
    for name, needs in (("virtio-net", ["failover"]), ("failover", []), ("other", [])):
        (folder / f"{name}{suffix}").write_bytes(pack(module(*needs)))
    image = Initramfs()
    add_modules(image, modules, ["virtio_net", "not_there"])
    archive = image.pack()
    assert b"lib/modules/6.1.0/kernel/net/failover.ko\0" in archive
    assert b"kernel/net/virtio-net.ko: kernel/net/failover.ko\n" in archive
    assert module("failover") in archive
    assert b"other" not in archive
