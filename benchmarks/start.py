# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""How much later QEMU starts with the prefix: a stopped machine that quits at once, by turns.

python -m benchmarks.start [--rounds N]
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.guest.provision import qemu_newest

from benchmarks.pairs import Figures, arguments, chosen, compare, finish

VMWIRE = str(Path(__file__).resolve().parent.parent / "vmwire")
MACHINE = ["-S", "-display", "none", "-monitor", "stdio", "-m", "96"]
NETWORK = ["-netdev", "user,id=u", "-device", "virtio-net-pci,netdev=u"]


def start(*words: str) -> Figures:
    """Start and quit; the best of three, in milliseconds."""
    times = []
    for _ in range(3):
        begin = time.monotonic()
        subprocess.run(words, input=b"quit\n", capture_output=True, timeout=30, check=True)
        times.append(time.monotonic() - begin)
    return {"start and quit_ms": 1000 * min(times)}


def main() -> int:
    options = arguments(__doc__ or "", 0).parse_args()
    line = [str(qemu_newest()), *MACHINE, *NETWORK]
    contestants = {"vmwire": lambda: start(VMWIRE, *line), "qemu": lambda: start(*line)}
    finish(
        compare("QEMU 11.1's start", chosen(contestants, options.only), options.rounds),
        options.output,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
