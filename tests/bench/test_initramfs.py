# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from vmwire.bench.initramfs import Initramfs, module_files, module_index


def entries(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and contents by name, read as the kernel reads them."""
    found, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        data_at = (at + 110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[data_at : data_at + size])
        at = (data_at + size + 3) & ~3


def test_file_is_packed_with_the_folders_above_it() -> None:
    image = Initramfs()
    image.file("a/b/c", b"text", 0o755)
    image.link("a/l", "/a/b/c")
    packed = entries(image.pack())
    assert packed["a/b/c"] == (0o100755, b"text")
    assert packed["a/l"] == (0o120777, b"/a/b/c")
    assert packed["a"] == packed["a/b"] == (0o040755, b"")
    assert list(packed).index("a") < list(packed).index("a/b") < list(packed).index("a/b/c")


def test_console_is_there_before_init_mounts_anything() -> None:
    assert entries(Initramfs().pack())["dev/console"][0] == 0o020600


def test_same_input_gives_the_same_bytes() -> None:
    first, second = Initramfs(), Initramfs()
    first.file("x", b"1")
    first.file("y", b"2")
    second.file("y", b"2")
    second.file("x", b"1")
    assert first.pack() == second.pack()


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """virtio_net needs two, one of which needs a third; names with dashes, as kernels have them."""
    needs = {"net/virtio_net": "net_failover,virtio-ring", "net/net_failover": "failover"}
    needs |= {"core/failover": "", "virtio/virtio-ring": "", "net/other": "virtio_net"}
    for name, names in needs.items():
        path = tmp_path / "kernel" / f"{name}.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x7fELF..license=GPL\0depends=" + names.encode() + b"\0name=x\0")
    return tmp_path


def test_modules_come_with_what_they_need_and_after_it(modules: Path) -> None:
    found = list(module_files(modules, ["virtio_net", "not-there"]))
    assert sorted(found) == ["failover", "net_failover", "virtio_net", "virtio_ring"]
    assert found.index("failover") < found.index("net_failover") < found.index("virtio_net")


def test_index_lists_needs_so_that_loading_from_the_right_works(modules: Path) -> None:
    index = module_index(modules, module_files(modules, ["virtio_net"])).decode()
    lines = dict(line.split(":", 1) for line in index.splitlines())
    needs = lines["kernel/net/virtio_net.ko"].split()
    assert needs.index("kernel/net/net_failover.ko") < needs.index("kernel/core/failover.ko")
    assert "kernel/virtio/virtio-ring.ko" in needs
    assert lines["kernel/core/failover.ko"] == ""
