# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The guest that the tests boot: Debian's unmodified kernel and an initramfs of busybox, NIC
drivers, iperf3, socat, ethtool and iproute2. `vmwire/bench/init.sh` says what runs in it."""

from __future__ import annotations

import hashlib
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
from vmwire.bench import linux_guest

PROGRAMS = ("usr/bin/iperf3", "usr/bin/socat", "usr/sbin/ethtool", "usr/bin/ip")
# virtio_net first; the other cards' drivers are there for the NICs that later attach other ways.
MODULES = (
    *("virtio_pci", "virtio_net", "virtio_blk", "virtio_rng"),
    *("e1000", "e1000e", "igb", "e100", "8139cp", "8139too", "pcnet32", "ne2k_pci", "vmxnet3"),
    *("tun", "bridge", "8021q", "af_packet", "sch_netem"),
    *("l2tp_eth", "l2tp_ip", "l2tp_ip6", "l2tp_netlink"),
    *("vhost_net", "9p", "9pnet_virtio"),
)


def kernel() -> Path:
    """The package's kernel, taken out of its xz wrapping: a guest under TCG needs six seconds for
    what the host does in one. QEMU starts the ELF file by its PVH entry."""
    packed = packed_kernel()
    place = cache_dir() / packed.name.replace("vmlinuz", "vmlinux")
    with cache_lock("vmlinux"):
        if not place.exists() or place.stat().st_mtime < packed.stat().st_ctime:
            draft = place.with_suffix(".draft")
            unpacked = linux_guest.unpacked_kernel(packed.read_bytes())
            if unpacked is None:
                raise ProvisionError(f"{packed} can't be unpacked")
            draft.write_bytes(unpacked)
            draft.rename(place)
    return place


def packed_kernel() -> Path:
    """The kernel file exactly as the package has it."""
    return next(root_of(GUEST).glob("boot/vmlinuz-*"))


def initramfs() -> Path:
    """The archive, made anew when the kernel, the programs or the scripts changed."""
    root = root_of(GUEST)
    code = [Path(each) for each in (__file__, archive.__file__, linux_guest.__file__)]
    sources = [*linux_guest.SCRIPTS, *code, root / ".recipe", *root.glob("boot/vmlinuz-*")]
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
    image = linux_guest.basic_image(root / "usr/bin/busybox")
    for program in PROGRAMS:
        _add_program(image, root, program)
    linux_guest.add_modules(image, next((root / "lib/modules").iterdir()), MODULES)
    return image.pack()


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
