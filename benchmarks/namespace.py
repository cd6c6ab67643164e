# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A network namespace as the guest (real Linux TCP, native speed): vmwire against slirp4netns,
pasta and plain loopback. iperf3 both ways, one-byte round trips, new connections, 64-byte UDP.

    .venv/bin/python -m benchmarks.namespace [--mtu 1500] [--rounds 5] [--seconds 3] [--only …]
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.guest import provision

from benchmarks import pairs
from benchmarks.vm_iperf import iperf_server

ROOT = Path(__file__).parent.parent
TRAFFIC = str(ROOT / "benchmarks" / "traffic.py")
GATEWAY = "10.0.2.2"
MARGIN_S = 60


@contextlib.contextmanager
def traffic_server() -> Iterator[int]:
    command = [sys.executable, TRAFFIC, "serve"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline())
    finally:
        server.terminate()
        server.wait(10)


class Guest:
    """What runs in the namespace: one command after the other, each started by `enter`'s words."""

    def __init__(self, enter: Sequence[str], address: str) -> None:
        self.enter = list(enter)
        self.address = address

    def run(self, *command: str, seconds: float) -> str:
        done = subprocess.run(
            [*self.enter, *command],
            capture_output=True,
            text=True,
            timeout=seconds + MARGIN_S,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def megabits(self, port: int, seconds: float, *words: str) -> float:
        target = ["-c", self.address, "-p", str(port), "-t", f"{seconds:g}", "-i", "0", "-J"]
        result = json.loads(self.run("iperf3", *target, *words, seconds=seconds))
        return float(result["end"]["sum_received"]["bits_per_second"]) / 1e6

    def figures(self, iperf_port: int, traffic_port: int, seconds: float) -> pairs.Figures:
        words = [TRAFFIC, "client", self.address, str(traffic_port), f"{seconds:g}"]
        up = self.megabits(iperf_port, seconds)
        down = self.megabits(iperf_port, seconds, "-R")
        small = json.loads(self.run(sys.executable, *words, seconds=6 * seconds))
        return {"up Mbit/s": up, "down Mbit/s": down, **small}


@contextlib.contextmanager
def slirp4netns(mtu: int) -> Iterator[Guest]:
    """A namespace held open by a sleeping process, with slirp4netns attached to it."""
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    holder = subprocess.Popen(["unshare", *rights, "--net", "sleep", "3600"])
    time.sleep(0.3)
    options = ["--configure", f"--mtu={mtu}", "--ready-fd=1"]
    attached = subprocess.Popen(
        ["slirp4netns", *options, str(holder.pid), "tap0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert attached.stdout is not None
        attached.stdout.read(1)
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        yield Guest(["nsenter", f"--target={holder.pid}", *user, "--net"], GATEWAY)
    finally:
        for process in (attached, holder):
            process.send_signal(signal.SIGKILL)
            process.wait(10)


def pasta_words(mtu: int) -> list[str]:
    """pasta of Debian 13's backports, which runs the command in a namespace of its own."""
    words = [provision.passt_program("pasta"), "--config-net", "--quiet", "--ipv4-only"]
    words += ["--address", "10.0.2.15", "--netmask", "24", "--gateway", GATEWAY]
    words += ["--map-host-loopback", GATEWAY, "--mtu", str(mtu)]
    words += ["-t", "none", "-u", "none", "-T", "none", "-U", "none"]
    return [*words, *(["--runas", "0"] if os.geteuid() == 0 else []), "--"]


def contestants(
    mtu: int, iperf_port: int, traffic_port: int, seconds: float
) -> dict[str, pairs.Measure]:
    def measure(guest: Guest) -> pairs.Figures:
        return guest.figures(iperf_port, traffic_port, seconds)

    def with_slirp() -> pairs.Figures:
        with slirp4netns(mtu) as guest:
            return measure(guest)

    vmwire = [str(ROOT / "vmwire"), "shell", "--mtu", str(mtu), "--"]
    return {
        "vmwire": lambda: measure(Guest(vmwire, GATEWAY)),
        "slirp4netns": with_slirp,
        "pasta": lambda: measure(Guest(pasta_words(mtu), GATEWAY)),
        "loopback": lambda: measure(Guest([], "127.0.0.1")),
    }


def main() -> None:
    parser = pairs.arguments("A namespace guest against slirp4netns, pasta and loopback.", 3)
    parser.add_argument("--mtu", type=int, default=1500)
    options = parser.parse_args()
    with iperf_server() as iperf_port, traffic_server() as traffic_port:
        measures = contestants(options.mtu, iperf_port, traffic_port, options.seconds)
        measures = pairs.chosen(measures, options.only)
        title = f"namespace guest, MTU {options.mtu}"
        comparison = pairs.compare(title, measures, options.rounds)
    pairs.finish(comparison, options.output)


if __name__ == "__main__":
    main()
