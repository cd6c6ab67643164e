# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A small Linux user land for a guest: busybox, kernel modules and programs as one cpio archive.

For the kernel this is an *initramfs* (Documentation/driver-api/early-userspace/buffer-format.rst:
"newc" entries, magic 070701, each part padded to four bytes, closed by TRAILER!!!). The archive is
left uncompressed on purpose: a guest under TCG unpacks slower than QEMU copies. No tool of the host
is needed to make it (cpio, depmod), and the same input gives the same bytes.

>>> image = Initramfs()
>>> image.file("etc/hostname", b"guest\\n")
>>> image.pack()[:6]
b'070701'
"""

from __future__ import annotations

import gzip
import lzma
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
CONSOLE = (5, 1)  # device numbers of /dev/console, which the kernel opens before init mounts /dev


@dataclass(slots=True)
class _Entry:
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


class Initramfs:
    """Files by path, packed in that order. Folders above a file come by themselves."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self.folder("dev")
        self._entries["dev/console"] = _Entry(stat.S_IFCHR | 0o600, device=CONSOLE)

    def folder(self, path: str) -> None:
        for parent in reversed([PurePosixPath(path), *PurePosixPath(path).parents]):
            if str(parent) != ".":
                self._entries.setdefault(str(parent), _Entry(stat.S_IFDIR | 0o755))

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self.folder(str(PurePosixPath(path).parent))
        self._entries[path] = _Entry(stat.S_IFREG | mode, data)

    def link(self, path: str, target: str) -> None:
        self.folder(str(PurePosixPath(path).parent))
        self._entries[path] = _Entry(stat.S_IFLNK | 0o777, target.encode())

    def pack(self) -> bytes:
        parts = [
            _newc(number, path, entry)
            for number, (path, entry) in enumerate(sorted(self._entries.items()), start=1)
        ]
        return b"".join([*parts, _newc(0, TRAILER, _Entry(0))])


def _newc(number: int, path: str, entry: _Entry) -> bytes:
    name = path.encode() + b"\0"
    fields = (
        number,
        entry.mode,
        0,  # uid
        0,  # gid
        1,  # links
        0,  # mtime: none, so that the archive depends on its contents alone
        len(entry.data),
        0,  # device that holds the file, major and minor
        0,
        *entry.device,
        len(name),
        0,  # checksum, not used by this format
    )
    header = MAGIC + b"".join(b"%08X" % value for value in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


# --- kernel modules ----------------------------------------------------------------------------


def module_files(modules: Path, names: Iterable[str]) -> dict[str, Path]:
    """The files of `names` and all they need, by module name, needs first.

    `modules` is a kernel's folder (/lib/modules/RELEASE). What is not there is left out: it is
    built into the kernel, or this kernel does without it. Read from the modules themselves, because
    modules.dep is written only when a kernel package is installed.
    """
    files = {
        _module_name(path.name.partition(".ko")[0]): path
        for path in (modules / "kernel").rglob("*.ko*")
        if path.suffix in _OPENERS
    }
    found: dict[str, Path] = {}

    def visit(name: str) -> None:
        path = files.get(name)
        if path is None or name in found:
            return
        for need in _needs(module_bytes(path)):
            visit(need)
        found[name] = path

    for name in names:
        visit(_module_name(name))
    return found


def module_bytes(path: Path) -> bytes:
    """A module as the kernel takes it: some distributions pack each one (xz, gzip)."""
    return _OPENERS[path.suffix](path.read_bytes())


def module_place(path: Path, modules: Path) -> str:
    """Where it goes below the guest's folder of modules, without what it was packed by."""
    place = str(path.relative_to(modules))
    return place if path.suffix == ".ko" else place.removesuffix(path.suffix)


_OPENERS: dict[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
}


def module_index(modules: Path, files: dict[str, Path]) -> bytes:
    """modules.dep for these files, as busybox's modprobe reads it."""

    def lines() -> Iterator[str]:
        for path in files.values():
            needs = _all_needs(path, files)
            yield f"{module_place(path, modules)}: " + " ".join(
                module_place(files[need], modules) for need in needs
            )

    return "".join(f"{line.rstrip()}\n" for line in lines()).encode()


def _all_needs(path: Path, files: dict[str, Path]) -> list[str]:
    """Every module that must stand before this one; modprobe loads from the right, so the order is
    that of `files` reversed."""
    found: set[str] = set()
    waiting = _needs(module_bytes(path))
    while waiting:
        name = waiting.pop()
        if name in files and name not in found:
            found.add(name)
            waiting += _needs(module_bytes(files[name]))
    return [name for name in reversed(files) if name in found]


def _needs(module: bytes) -> list[str]:
    """The `depends=` entry of a module's .modinfo section (zero-terminated strings)."""
    start = module.find(b"\0depends=")
    if start < 0:
        return []
    names = module[start + len(b"\0depends=") :].split(b"\0", 1)[0].decode()
    return [_module_name(name) for name in names.split(",") if name]


def _module_name(name: str) -> str:
    return name.replace("-", "_")
