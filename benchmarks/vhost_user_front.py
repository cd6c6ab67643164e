# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A vhost-user front end in front of DPDK's net_vhost: vmwire's netdev against DPDK's virtio-user.

    .venv/bin/python -m benchmarks.vhost_user_front [--rounds 5] [--seconds 2] [--only …]

Frames of 64 bytes, one way at a time, counted where they arrive. The back end is testpmd on a core
of its own, where it polls; the other testpmd does the same. vmwire's netdev is fed from Python by
32 frames at a time, and sleeps when there is nothing to do.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.peers.dpdk import end, file_prefix

from benchmarks import pairs
from vmwire.engine.host import Host
from vmwire.engine.loop import Loop
from vmwire.netdev.vhost_user import VhostUserNetdev, VhostUserOptions
from vmwire.wire.frame import Frame
from vmwire.wire.port import EVERYTHING, Port

FRAME = bytes.fromhex("525400000001 525400000002 0800") + bytes(46)
"""64 bytes on a wire, with the check sum that nobody here computes."""
BATCH = 32
COUNT = re.compile(r"RX-packets:\s*(\d+)")
TAKES_OFF_S = 0.5
"""How long frames flow before they are counted."""


class Testpmd:
    """One testpmd with one device, that is asked for its counters."""

    def __init__(self, prefix: str, vdev: str, mode: str, core: int) -> None:
        self.process = subprocess.Popen(
            ["stdbuf", "-oL", "dpdk-testpmd", "-l", "0-1", f"--main-lcore={1 - core}",
             "--no-huge", "-m", "256", "--no-pci", "--no-telemetry",
             f"--file-prefix={prefix}", "--vdev", vdev, "--",
             "-i", f"--forward-mode={mode}", "--auto-start", "--no-flush-rx",
             "--total-num-mbufs=8192", "--txpkts=60"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def received(self) -> int:
        """Frames so far."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("show port stats 0\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if found := COUNT.search(line):
                return int(found[1])
        raise RuntimeError("testpmd has ended")


class Ours:
    """The netdev in a loop of its own process, fed or read as fast as it goes."""

    def __init__(self, path: str, mode: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.vhost_user_front", "--front", path, mode],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def received(self) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


def front(path: str, mode: str) -> None:
    """The process of ``Ours``: says how many frames it has received whenever it is asked."""
    loop = Loop()
    netdev = VhostUserNetdev(VhostUserOptions(id="v", file=path))
    port = Port("source", lambda frames: len(frames), accepts=EVERYTHING)
    port.connect(netdev.port)
    netdev.open(Host(loop))
    frames = [Frame.of(FRAME) for _ in range(BATCH)]

    def feed() -> None:
        if not port.carrier:
            loop.call_later(0.001, feed)
        elif port.send(frames) == BATCH:
            loop.defer(feed)

    def answer(events: int) -> None:
        if sys.stdin.readline():
            print(netdev.port.frames, flush=True)
        else:
            loop.stop()

    port.on_resume = feed
    if mode == "txonly":
        feed()
    loop.watch(0, 1, answer)
    loop.run()


def dpdk(path: str, mode: str) -> contextlib.AbstractContextManager[Any]:
    return testpmd(f"virtio_user0,path={path}", mode, 0)


@contextlib.contextmanager
def testpmd(vdev: str, mode: str, core: int) -> Iterator[Testpmd]:
    with file_prefix() as prefix:
        made = Testpmd(prefix, vdev, mode, core)
        try:
            yield made
        finally:
            end(made.process)


@contextlib.contextmanager
def vmwire(path: str, mode: str) -> Iterator[Ours]:
    made = Ours(path, mode)
    try:
        yield made
    finally:
        end(made.process)


Front = Callable[[str, str], contextlib.AbstractContextManager[Any]]


def measure(make: Front, seconds: float) -> pairs.Figures:
    """Both ways, each with a new pair of ends."""
    return {
        "send, frames/s": rate(make, "txonly", "rxonly", seconds),
        "receive, frames/s": rate(make, "rxonly", "txonly", seconds),
    }


def rate(make: Front, ours: str, theirs: str, seconds: float) -> float:
    """Frames a second at whoever receives."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/s"
        with testpmd(f"net_vhost0,iface={path}", theirs, 1) as back:
            wait_for(Path(path).exists, "testpmd doesn't listen")
            with make(path, ours) as front:
                counter = back if theirs == "rxonly" else front
                wait_for(counter.received, "nothing arrives")
                time.sleep(TAKES_OFF_S)
                begin, first = time.monotonic(), counter.received()
                time.sleep(seconds)
                last = counter.received()
                return float((last - first) / (time.monotonic() - begin))


def wait_for(there: Callable[[], object], complaint: str) -> None:
    deadline = time.monotonic() + 30
    while not there():
        if time.monotonic() > deadline:
            sys.exit(complaint)
        time.sleep(0.1)


def main() -> None:
    if sys.argv[1:2] == ["--front"]:
        front(*sys.argv[2:])
        return
    options = pairs.arguments("A front end before DPDK's net_vhost.", 2).parse_args()
    contestants = {
        "vmwire": partial(measure, vmwire, options.seconds),
        "DPDK virtio-user": partial(measure, dpdk, options.seconds),
    }
    chosen = pairs.chosen(contestants, options.only)
    pairs.finish(pairs.compare("vhost-user, 64 bytes", chosen, options.rounds), options.output)


if __name__ == "__main__":
    main()
