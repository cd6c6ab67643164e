# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""An L2TPv3 tunnel between two hosts: two network namespaces, joined by a veth pair, each with a
tap at one end of the tunnel. vmwire's ends against QEMU's, in UDP and over IP itself: one TCP
stream each way, 64-byte UDP packets, and the processor time that both ends took for it.

    .venv/bin/python -m benchmarks.l2tpv3 [--rounds 5] [--seconds 2] [--only …]      as root

The veth pair carries 1600 bytes, so that the tunnel's packets needn't be cut. QEMU runs without a
machine, with a hub to join its tap and its tunnel.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tests.guest import provision

from benchmarks import pairs
from benchmarks.hop import (
    HERE,
    TAPS,
    THERE,
    Command,
    Namespaces,
    figures,
    processor_s,
    reaches,
    running,
    tcp_figures,
    wait_for,
)

OUTER = ("192.0.2.1", "192.0.2.2")
CABLE_MTU = 1600
COOKIES = (0xA1A2A3A4, 0xB1B2B3B4)


class Hosts(Namespaces):
    """Two namespaces with a cable between them."""

    def __init__(self) -> None:
        super().__init__()
        near, far = (str(holder.pid) for holder in self.holders)
        subprocess.run(
            ["ip", "link", "add", "cable", "mtu", str(CABLE_MTU), "netns", near, "type", "veth",
             "peer", "name", "cable", "mtu", str(CABLE_MTU), "netns", far],
            check=True,
        )  # fmt: skip
        for number, address in enumerate(OUTER):
            self.run(number, "ip", "addr", "add", f"{address}/24", "dev", "cable")
            self.run(number, "ip", "link", "set", "cable", "up")
            self.run(number, "ip", "tuntap", "add", TAPS[number], "mode", "tap")
            inner = (HERE, THERE)[number]
            self.run(number, "ip", "addr", "add", f"{inner}/24", "dev", TAPS[number])
            self.run(number, "ip", "link", "set", TAPS[number], "up")


def tunnel(number: int, kind: str) -> str:
    """The end of host ``number``, the same for all programs."""
    mine, theirs = number, 1 - number
    text = (
        f"l2tpv3,id=t,src={OUTER[mine]},dst={OUTER[theirs]},"
        f"txsession={theirs + 1},rxsession={mine + 1},"
        f"txcookie={COOKIES[theirs]},rxcookie={COOKIES[mine]}"
    )
    return text + (",udp=on,srcport=1701,dstport=1701" if kind == "udp" else "")


def vmwire(number: int, kind: str) -> Command:
    tap = f"tap,id=h,ifname={TAPS[number]},script=no,downscript=no"
    return [sys.executable, "-m", "vmwire", "connect", tap, tunnel(number, kind)]


def qemu(number: int, kind: str) -> Command:
    words = [provision.qemu_newest(), "-machine", "none", "-nodefaults", "-display", "none"]
    words += ["-monitor", "none", "-serial", "none", "-parallel", "none"]
    tap = f"tap,id=h,ifname={TAPS[number]},script=no,downscript=no,vnet_hdr=off"
    for netdev, id in ((tap, "h"), (tunnel(number, kind), "t")):
        words += ["-netdev", netdev, "-netdev", f"hubport,id=p{id},hubid=0,netdev={id}"]
    return words


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def measure(program: Any, kind: str, seconds: float) -> pairs.Figures:
    """One tunnel, made for this measurement."""
    hosts = Hosts()
    ends = [hosts.inside(number, *program(number, kind)) for number in range(2)]
    with contextlib.closing(hosts), running(ends) as started:
        wait_for(lambda: reaches(hosts))
        pids = [each for process in started for each in family(process.pid)]
        used = processor_s(pids)
        found = tcp_figures(hosts, seconds)
        gigabytes = sum(found.values()) * max(1, round(seconds)) / 8000
        found["CPU of the tunnel for 1 GB of TCP_ms"] = (processor_s(pids) - used) * 1e3 / gigabytes
        return found | figures(hosts, pids, seconds, flows=1, tcp=False)


def main() -> None:
    if os.geteuid():
        sys.exit("benchmarks.l2tpv3 makes namespaces: run it as root")
    options = pairs.arguments("A tunnel between two hosts.", 2).parse_args()
    contestants = {
        f"{program.__name__} {kind}": partial(measure, program, kind, options.seconds)
        for kind in ("udp", "ip")
        for program in (vmwire, qemu)
    }
    chosen = pairs.chosen(contestants, options.only)
    pairs.finish(pairs.compare("L2TPv3", chosen, options.rounds), options.output)


if __name__ == "__main__":
    main()
