# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A bootable Linux guest from what lies on a machine: a kernel, its modules, and busybox.

``init.sh`` beside this file says what runs in it: a root shell on the serial console, and nothing
else; the network is up to whoever types there (``vmwire.bench.console``). ``udhcpc.sh`` puts a
lease on the card.
"""

from __future__ import annotations

import lzma
import re
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from vmwire.bench import initramfs
from vmwire.bench.initramfs import Initramfs

HERE = Path(__file__).parent
SCRIPTS = (HERE / "init.sh", HERE / "udhcpc.sh")
NET_MODULES = ("virtio_pci", "virtio_net", "af_packet")
TOOL_TIMEOUT_S = 20

# The boot protocol's header (Documentation/arch/x86/boot.rst)
_VERSION_POINTER = 0x20E
_SETUP_START = 0x200
_ELF = b"\x7fELF"
_PIECE = 1 << 18
_PVH_ENTRY = 18  # the ELF note by which QEMU starts an uncompressed kernel


# --- the user land -------------------------------------------------------------------------------


def basic_image(busybox: Path) -> Initramfs:
    """An image with busybox, init and the DHCP client's script."""
    init, udhcpc = SCRIPTS
    image = Initramfs()
    image.file("init", init.read_bytes(), 0o755)
    image.file("usr/share/udhcpc/default.script", udhcpc.read_bytes(), 0o755)
    # Debian's busybox looks there; other builds look above.
    image.link("etc/udhcpc/default.script", "/usr/share/udhcpc/default.script")
    image.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    image.file("etc/group", b"root:x:0:\n")
    for folder in ("proc", "sys", "tmp", "run", "root"):
        image.folder(folder)
    image.file("bin/busybox", busybox.read_bytes(), 0o755)
    for applet in applets(busybox):
        image.link(f"bin/{applet}", "/bin/busybox")
    return image


def applets(busybox: Path) -> list[str]:
    """The programs that this busybox is."""
    listed = subprocess.run(
        [busybox, "--list"], capture_output=True, text=True, timeout=TOOL_TIMEOUT_S
    )
    return [name for name in listed.stdout.split() if name != "busybox"]


def add_libraries(image: Initramfs, program: Path) -> None:
    """The shared libraries of a program of this machine's, if it has any."""
    listed = subprocess.run(
        ["ldd", program], capture_output=True, text=True, timeout=TOOL_TIMEOUT_S
    ).stdout
    for path in re.findall(r"(?:=> )?(/\S+) \(0x", listed):
        image.file(path.lstrip("/"), Path(path).read_bytes(), 0o755)


def add_modules(image: Initramfs, modules: Path, names: Iterable[str]) -> None:
    """Kernel modules with all that they need, from a folder like /lib/modules/RELEASE."""
    files = initramfs.module_files(modules, names)
    target = f"lib/modules/{modules.name}"
    for path in files.values():
        place = initramfs.module_place(path, modules)
        image.file(f"{target}/{place}", initramfs.module_bytes(path))
    image.file(f"{target}/modules.dep", initramfs.module_index(modules, files))


# --- the kernel ----------------------------------------------------------------------------------


def release_of(kernel: bytes) -> str:
    """The release that a kernel file (bzImage) says it is of; empty if it says nothing."""
    at = int.from_bytes(kernel[_VERSION_POINTER : _VERSION_POINTER + 2], "little") + _SETUP_START
    if kernel[_VERSION_POINTER - 12 : _VERSION_POINTER - 8] != b"HdrS":
        return ""
    return kernel[at : at + 128].split(b"\0")[0].split(b" ")[0].decode(errors="replace")


def unpacked_kernel(kernel: bytes) -> bytes | None:
    """The kernel out of its wrapping: a guest without KVM needs seconds for what we do in one.

    None if it is packed in a way that Python can't open, or can't be started unpacked.
    """
    for magic, opener in _OPENERS.items():
        at = kernel.find(magic)
        while at >= 0:
            data = _unpacked(kernel, at, opener())
            if data.startswith(_ELF):
                return data if _starts_unpacked(data) else None
            at = kernel.find(magic, at + 1)
    return None


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, /) -> bytes: ...


_OPENERS: dict[bytes, Callable[[], _Decompressor]] = {
    b"\xfd7zXZ\0": lzma.LZMADecompressor,
    b"\x1f\x8b\x08": lambda: zlib.decompressobj(31),
}


def _unpacked(packed: bytes, start: int, opener: _Decompressor) -> bytes:
    """What begins there; empty if it is no such thing. In pieces, so that Ctrl-C is heard."""
    parts = []
    try:
        for at in range(start, len(packed), _PIECE):
            parts.append(opener.decompress(packed[at : at + _PIECE]))
            if opener.eof:
                break
    except (lzma.LZMAError, zlib.error):
        return b""
    return b"".join(parts)


def _starts_unpacked(elf: bytes) -> bool:
    """Whether the file has the note with an entry for QEMU."""
    notes = (struct.pack("<III", 4, size, _PVH_ENTRY) + b"Xen\0" for size in (4, 8))
    return any(note in elf for note in notes)
