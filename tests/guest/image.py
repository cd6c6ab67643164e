# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The guest that the tests boot: Debian's unmodified kernel and an initramfs of busybox, NIC
drivers, iperf3 and socat. `init.sh` says what runs in it."""

from __future__ import annotations

import hashlib
import lzma
import re
import subprocess
from pathlib import Path

from tests.guest.provision import (
    GUEST,
    ProvisionError,
    cache_dir,
    cache_lock,
    root_of,
    run_in_root,
)
from vmwire.bench import initramfs as archive

XZ_MAGIC = b"\xfd7zXZ\0"
HERE = Path(__file__).parent
PROGRAMS = ("usr/bin/iperf3", "usr/bin/socat")
# virtio_net first; the other cards' drivers are there for the NICs that later attach other ways.
MODULES = (
    *("virtio_pci", "virtio_net", "virtio_blk", "virtio_rng"),
    *("e1000", "e1000e", "igb", "e100", "8139cp", "8139too", "pcnet32", "ne2k_pci", "vmxnet3"),
    *("tun", "bridge", "8021q", "af_packet", "sch_netem"),
)


def kernel() -> Path:
    """The package's kernel, taken out of its xz wrapping: a guest under TCG needs six seconds for
    what the host does in one. QEMU starts the ELF file by its PVH entry."""
    packed = packed_kernel()
    place = cache_dir() / packed.name.replace("vmlinuz", "vmlinux")
    with cache_lock("vmlinux"):
        if not place.exists() or place.stat().st_mtime < packed.stat().st_ctime:
            data = packed.read_bytes()
            draft = place.with_suffix(".draft")
            draft.write_bytes(lzma.LZMADecompressor().decompress(data[data.index(XZ_MAGIC) :]))
            draft.rename(place)
    return place


def packed_kernel() -> Path:
    """The kernel file exactly as the package has it."""
    return next(root_of(GUEST).glob("boot/vmlinuz-*"))


def initramfs() -> Path:
    """The archive, made anew when the kernel, the programs or the scripts changed."""
    root = root_of(GUEST)
    scripts = [HERE / name for name in ("init.sh", "udhcpc.sh", "image.py")]
    sources = [*scripts, Path(archive.__file__), root / ".recipe", *root.glob("boot/vmlinuz-*")]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    place = cache_dir() / f"initramfs-{key}.cpio"
    with cache_lock("initramfs"):
        if not place.exists():
            for outdated in cache_dir().glob("initramfs-*.cpio"):
                outdated.unlink()
            draft = place.with_suffix(".draft")
            draft.write_bytes(_build(root))
            draft.rename(place)
    return place


def _build(root: Path) -> bytes:
    image = archive.Initramfs()
    image.file("init", (HERE / "init.sh").read_bytes(), 0o755)
    image.file("usr/share/udhcpc/default.script", (HERE / "udhcpc.sh").read_bytes(), 0o755)
    # Debian's busybox looks there; other builds look above.
    image.link("etc/udhcpc/default.script", "/usr/share/udhcpc/default.script")
    image.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    image.file("etc/group", b"root:x:0:\n")
    for folder in ("proc", "sys", "tmp", "run", "root"):
        image.folder(folder)
    _add_busybox(image, root)
    for program in PROGRAMS:
        _add_program(image, root, program)
    _add_modules(image, root)
    return image.pack()


def _add_busybox(image: archive.Initramfs, root: Path) -> None:
    busybox = root / "usr/bin/busybox"
    image.file("bin/busybox", busybox.read_bytes(), 0o755)
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, timeout=20)
    for applet in listed.stdout.split():
        if applet != "busybox":
            image.link(f"bin/{applet}", "/bin/busybox")


def _add_program(image: archive.Initramfs, root: Path, program: str) -> None:
    image.file(program, (root / program).read_bytes(), 0o755)
    loader, *words = run_in_root(root, program)
    listed = subprocess.run(
        [loader, "--list", *words], capture_output=True, text=True, timeout=20
    ).stdout
    for name, path in re.findall(r"(\S+) => (\S+)", listed):
        if name.startswith("/"):
            continue  # the loader itself, added below
        if not path.startswith(str(root)):
            raise ProvisionError(f"{program} needs {name}, which its root lacks")
        image.file(f"lib/x86_64-linux-gnu/{name}", Path(path).read_bytes(), 0o755)
    image.file("lib64/ld-linux-x86-64.so.2", Path(loader).read_bytes(), 0o755)


def _add_modules(image: archive.Initramfs, root: Path) -> None:
    modules = next((root / "lib/modules").iterdir())
    files = archive.module_files(modules, MODULES)
    target = f"lib/modules/{modules.name}"
    for path in files.values():
        image.file(f"{target}/{path.relative_to(modules)}", path.read_bytes())
    image.file(f"{target}/modules.dep", archive.module_index(modules, files))
