# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""This machine's files inside a guest, read-only: its Python then runs what this checkout has, on
the guest's kernel.

    with Machine(qemu, extra=host_root.DEVICE, kernel_words=host_root.modules("tun")) as guest:
        host_root.enter(guest)
        print(host_root.python(guest, "tests/guest/vhost_net_inside.py", "network"))
"""

from __future__ import annotations

import compileall
import shlex
import sys
from pathlib import Path

from tests.guest.machine import Machine
from vmwire.bench.console import Result

ROOT = Path(__file__).parents[2]
DEVICE = (
    *("-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"),
    *("-device", "virtio-9p-pci,fsdev=root,mount_tag=root"),
)
PLACES = {str(ROOT), sys.prefix, sys.base_prefix}
"""What Python runs from."""


def modules(*more: str) -> str:
    """The kernel's words for the modules that this takes, and others."""
    return "vmwire.modules=" + ",".join(["virtio_pci", "9pnet_virtio", "9p", *more])


def enter(guest: Machine) -> None:
    """Mount it all. /tmp and /run are the guest's own, but for what Python runs from."""
    compileall.compile_dir(str(ROOT / "src"), quiet=1)  # the guest can't keep what it compiles
    hidden = [shlex.quote(place) for place in sorted(PLACES) if place.startswith("/tmp/")]
    guest.check(
        "\n".join(
            [
                "set -e; mkdir -p /host /seen",
                "mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose root "
                "/host",
                "mount --bind /host /seen",
                "for each in dev proc sys; do mount --bind /$each /host/$each; done",
                "for each in tmp run; do mount -t tmpfs $each /host/$each; done",
                *(f"mkdir -p /host{place}; mount --bind /seen{place} /host{place}"
                  for place in hidden),
                "mkdir -m 700 /host/run/vmwire-test",
            ]
        ),
        60,
    )  # fmt: skip


def python(guest: Machine, script: str, *words: str, timeout_s: float = 120) -> Result:
    """Run a script of this checkout; its status and output."""
    environment = f"XDG_RUNTIME_DIR=/run/vmwire-test PYTHONPATH={ROOT}/src:{ROOT} HOME=/run"
    command = shlex.join([sys.executable, str(ROOT / script), *words])
    return guest.run(f"cd / && {environment} chroot /host {command}", timeout_s)
