# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""virtio-net over vhost-user against virtio-net over vfio-user: two cards in one Linux guest, which
take turns, so that whatever else the machine does hits both.

    .venv/bin/python -m benchmarks.virtio_ways [--rounds 6] [--seconds 3]
"""

from __future__ import annotations

import argparse
from statistics import median

from tests.guest import provision
from tests.guest.machine import Machine

from benchmarks.vm_iperf import MEMORY, ROOT, iperf_server
from benchmarks.vm_iperf import megabits as megabits_to

WAYS = {"vhost-user": "10.0.2.2", "vfio-user": "10.0.3.2"}
"""The gateway that is reached by each card."""
NETWORK = [
    *("-netdev", "user,id=a,net=10.0.2.0/24", "-device", "virtio-net-pci,netdev=a"),
    *("-netdev", "user,id=b,net=10.0.3.0/24"),
    *("-device", "virtio-net-pci,attach=vfio-user,netdev=b"),
]
FIGURES = ("up Mbit/s", "down Mbit/s", "ping ms")


def measure(guest: Machine, gateway: str, port: int, seconds: float, figure: str) -> float:
    """One figure of one card."""
    if figure == "ping ms":
        line = guest.check(f"ping -c 20 -i 0.05 {gateway} | tail -1", 30)
        return float(line.split("=")[1].split("/")[1])
    words = ("-R",) if figure.startswith("down") else ()
    return megabits_to(guest, port, seconds, *words, gateway=gateway)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    found: dict[tuple[str, str], list[float]] = {}
    prefix = [str(ROOT / "vmwire")]
    with (
        iperf_server() as port,
        Machine(provision.qemu_newest(), NETWORK, prefix=prefix, memory=MEMORY) as guest,
    ):
        for interface in ("eth0", "eth1"):
            guest.lease(interface)
        for number in range(options.rounds):
            ways = list(WAYS.items())
            for figure in FIGURES:
                for name, gateway in reversed(ways) if number % 2 else ways:
                    value = measure(guest, gateway, port, options.seconds, figure)
                    found.setdefault((figure, name), []).append(value)
            print(f"round {number + 1}/{options.rounds}", flush=True)
    for figure in FIGURES:
        vhost, vfio = (found[figure, name] for name in WAYS)
        ratio = median(b / a for a, b in zip(vhost, vfio, strict=True))
        print(
            f"{figure:12} vhost-user {median(vhost):8.2f}  vfio-user {median(vfio):8.2f}"
            f"  median of the pairs' ratios {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
