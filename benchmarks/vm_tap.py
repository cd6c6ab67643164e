# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""iperf3 in an unmodified Linux guest (TCG) behind a tap of the host's, both ways: the tap served
by vmwire, and by QEMU 11.1 itself. Each measurement boots a fresh guest. It runs in a network
namespace of its own, which takes root.

    .venv/bin/python -m benchmarks.vm_tap [--card e1000] [--rounds 5] [--seconds 4] [--only …]
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from tests.guest import provision
from tests.guest.machine import Machine

from benchmarks import pairs, vm_iperf
from vmwire.attach import linux

HOST = "10.0.2.2"
GUEST = "10.0.2.15"


def in_guest(guest: Machine, port: int, seconds: float) -> pairs.Figures:
    guest.check(f"ip addr add {GUEST}/24 dev eth0 && ip link set eth0 up")
    guest.check(f"until ping -c 1 -W 1 {HOST}; do :; done", 30)
    return {
        "up Mbit/s": vm_iperf.megabits(guest, port, seconds),
        "down Mbit/s": vm_iperf.megabits(guest, port, seconds, "-R"),
    }


def contestants(
    qemu: str, port: int, seconds: float, card: str, script: str
) -> dict[str, pairs.Measure]:
    netdev = f"tap,id=n,script={script},downscript=no"
    network = ["-netdev", netdev, "-device", f"{card},netdev=n"]
    words = vm_iperf.kernel_words(card)

    def boot(prefix: list[str]) -> pairs.Figures:
        with Machine(
            qemu, network, prefix=prefix, memory=vm_iperf.MEMORY, kernel_words=words
        ) as guest:
            assert vm_iperf.is_taken(guest) == bool(prefix), "not what was to be measured"
            return in_guest(guest, port, seconds)

    return {
        "vmwire": lambda: boot([str(vm_iperf.ROOT / "vmwire")]),
        "qemu-tap": lambda: boot([]),
    }


def main() -> None:
    parser = pairs.arguments(str(__doc__).split("\n\n")[0], seconds=4)
    parser.add_argument("--card", default=vm_iperf.VIRTIO)
    options = parser.parse_args()
    qemu = provision.qemu_newest()
    linux.unshare(linux.CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "up"
        script.write_text(f'#!/bin/sh\nip addr add {HOST}/24 dev "$1" && ip link set "$1" up\n')
        script.chmod(0o755)
        os.chmod(folder, 0o755)
        with vm_iperf.iperf_server("0.0.0.0") as port:
            measures = pairs.chosen(
                contestants(qemu, port, options.seconds, options.card, str(script)), options.only
            )
            title = f"iperf3 in a Linux 6.1 guest under TCG, QEMU 11.1, {options.card} on a tap"
            comparison = pairs.compare(title, measures, options.rounds)
    pairs.finish(comparison, options.output)


if __name__ == "__main__":
    main()
