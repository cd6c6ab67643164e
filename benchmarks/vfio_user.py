# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a register access costs over the vfio-user socket: an e1000 served by a process of its own,
a client in Python that plays the machine. The client's own part is measured beside it, against an
echo of the same bytes by a process that does nothing else.

    python benchmarks/vfio_user.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from vmwire.bench.vfio_user import Client, fired  # noqa: E402
from vmwire.bus.pci.vfio_user import INTX  # noqa: E402
from vmwire.network import Network  # noqa: E402

BAR0, CONFIG = 0, 7
STATUS, ICR, ICS, IMS, IMC, TXDCTL = 0x0008, 0x00C0, 0x00C8, 0x00D0, 0x00D8, 0x3828
ACCESSES = 3000
REQUEST, ANSWER = 32, 36
"""Bytes of a read of four bytes, and of its answer."""


def serve(path: str, ready: int) -> None:
    with Network() as net:
        net.add_netdev("null", id="x")
        net.add_nic("e1000", id="n0", netdev="x", socket=path)
        os.write(ready, b"1")
        net.wait()


def echo(peer: socket.socket) -> None:
    answer = bytes(ANSWER)
    while peer.recv(REQUEST, socket.MSG_WAITALL):
        peer.send(answer)


def in_child(function: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    return pid


def timed(count: int, function: Callable[[], object]) -> float:
    """Microseconds a call."""
    begin = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - begin) / count * 1e6


def socket_alone() -> float:
    ours, theirs = socket.socketpair()
    pid = in_child(lambda: echo(theirs))
    theirs.close()
    request = bytes(REQUEST)

    def exchange() -> None:
        ours.send(request)
        ours.recv(ANSWER, socket.MSG_WAITALL)

    exchange()
    cost = timed(ACCESSES, exchange)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    ours.close()
    return cost


def accesses(pc: Client) -> dict[str, float]:
    def posted() -> None:
        for _ in range(64):
            pc.post(BAR0, TXDCTL, 0)
        pc.read(BAR0, STATUS)

    (line,) = pc.wire(INTX)

    def interrupt() -> None:
        pc.post(BAR0, ICS, 1)
        pc.read(BAR0, STATUS)
        while not fired(line):
            time.sleep(0)
        pc.read(BAR0, ICR)
        pc.unmask(INTX)

    figures = {
        "read of 4 bytes": timed(ACCESSES, lambda: pc.read(BAR0, STATUS)),
        "write that is answered": timed(ACCESSES, lambda: pc.write(BAR0, TXDCTL, 0)),
        "posted write, 64 in a row": timed(ACCESSES // 64, posted) / 64,
    }
    pc.write(BAR0, IMS, 1)
    figures["interrupt: ICS to UNMASK, 3 round trips"] = timed(ACCESSES // 4, interrupt)
    pc.write(BAR0, IMC, 0xFFFFFFFF)
    return figures


def measure() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path, (wait, ready) = f"{folder}/n0.sock", os.pipe()
        pid = in_child(lambda: serve(path, ready))
        try:
            os.read(wait, 1)
            with Client(path) as pc:
                pc.negotiate()
                return accesses(pc)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(wait)
            os.close(ready)


def main() -> None:
    parser = argparse.ArgumentParser(description="what an access costs over the socket")
    parser.add_argument("--rounds", type=int, default=7)
    samples: dict[str, list[float]] = {}
    for _ in range(parser.parse_args().rounds):
        for name, value in ({"the socket alone": socket_alone()} | measure()).items():
            samples.setdefault(name, []).append(value)
    print(f"{'microseconds':42}  median  lowest .. highest")
    for name, values in samples.items():
        spread = f"{min(values):.1f} .. {max(values):.1f}"
        print(f"{name:42} {statistics.median(values):7.1f}  {spread}")


if __name__ == "__main__":
    main()
