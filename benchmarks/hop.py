# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""One hop between two network namespaces, each behind a tap: through vmwire's hub, stream and dgram
netdevs, through QEMU's, and through ``vde_switch``. One TCP stream both ways, and 64-byte UDP
packets of one flow and of many.

    python3 -m benchmarks.hop --hop hub|stream|dgram|udp [--only …] [--small] [--rounds 5]   as root

A hop of two processes is tap, process, socket, process, tap. QEMU runs without a machine, with a
hub to join its tap and its socket netdev. With one ``--hop`` five rounds take three minutes, with
``--small`` (no TCP) two.

Small packets are sent 64 by one call, or the program that sends would be what is measured, and are
counted where they arrive: at the receiver's UDP, for a hop may bring several as one superframe.
That goes for one flow; ``--flows`` of them by turns are the other figure. What a packet costs the
hop's processes is told besides: it says more than packets a second on a machine that is busy.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from tests.guest import provision  # noqa: E402

from benchmarks import pairs  # noqa: E402

HERE, THERE = "10.9.0.1", "10.9.0.2"
PACKET_BYTES = 18
"""Payload of a 64-byte Ethernet packet with its FCS: Ethernet, IPv4 and UDP take the rest."""
FLOWS = 16
SINK = f"import socket, time; s = socket.socket(type=2); s.bind(({THERE!r}, 9)); time.sleep(99)"
FLOOD = f"""
import ctypes, itertools, socket, struct, sys
flows = int(sys.argv[1])
data = ctypes.create_string_buffer({PACKET_BYTES})
vector = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(data), {PACKET_BYTES}))
message = struct.pack("QI4xQQQQI4xI4x", 0, 0, ctypes.addressof(vector), 1, 0, 0, 0, 0)
count = 64 // min(flows, 64)
messages = ctypes.create_string_buffer(message * count)
socks = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(flows)]
for sock in socks:
    sock.connect(({THERE!r}, 9))
send = ctypes.CDLL(None).sendmmsg
for fd in itertools.cycle([sock.fileno() for sock in socks]):
    send(fd, messages, count, 0)
"""
PATIENCE_S = 60.0
KINDS = ("hub", "stream", "dgram", "udp")
TAPS = ("vmwhop0", "vmwhop1")

Command = list[str]


class Namespaces:
    """Two network namespaces, held open by sleeping processes."""

    def __init__(self) -> None:
        self.holders = [subprocess.Popen(["unshare", "--net", "sleep", "3600"]) for _ in range(2)]
        time.sleep(0.3)

    def run(self, number: int, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.inside(number, *words), check=True, capture_output=True, text=True, **options
        )

    def inside(self, number: int, *words: str) -> Command:
        return ["nsenter", f"--target={self.holders[number].pid}", "--net", *words]

    def take_taps(self) -> None:
        """Move the taps in, as soon as they are there, and give them their addresses."""
        for number, (tap, address) in enumerate(zip(TAPS, (HERE, THERE), strict=True)):
            wait_for(Path(f"/sys/class/net/{tap}").exists)
            pid = str(self.holders[number].pid)
            subprocess.run(["ip", "link", "set", tap, "netns", pid], check=True)
            self.run(number, "ip", "addr", "add", f"{address}/24", "dev", tap)
            self.run(number, "ip", "link", "set", tap, "up")

    def close(self) -> None:
        for holder in self.holders:
            holder.kill()
            holder.wait()


def wait_for(there: Any) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not there():
        if time.monotonic() > limit:
            raise TimeoutError("a hop does not stand")
        time.sleep(0.05)


@contextlib.contextmanager
def running(commands: Sequence[Command]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Programs that are killed at the end."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            started.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,  # whose end would be the end of vde_switch
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


# --- what is measured ---------------------------------------------------------------------------


def figures(
    namespaces: Namespaces, pids: Sequence[int], seconds: float, flows: int, tcp: bool
) -> pairs.Figures:
    """TCP both ways if wanted, and small packets of one flow and of several."""
    wait_for(lambda: reaches(namespaces))
    measured = tcp_figures(namespaces, seconds) if tcp else {}
    for count in dict.fromkeys((1, flows)):
        of = "" if count == 1 else f", {count} flows"
        rate, cost_us = small_packets(namespaces, pids, seconds, count)
        measured[f"64-byte packets/s{of}"] = rate
        measured[f"CPU of the hop for 100 of them{of}_us"] = 100 * cost_us
    return measured


def tcp_figures(namespaces: Namespaces, seconds: float) -> pairs.Figures:
    server = subprocess.Popen(
        namespaces.inside(1, "iperf3", "-s", "-B", THERE), stdout=subprocess.DEVNULL
    )
    try:
        time.sleep(0.5)
        measure = partial(iperf, namespaces, seconds)
        up, down = measure(), measure("-R")
    finally:
        server.kill()
        server.wait()
    return {
        "TCP up Mbit/s": up["sum_received"]["bits_per_second"] / 1e6,
        "TCP down Mbit/s": down["sum_received"]["bits_per_second"] / 1e6,
    }


def small_packets(
    namespaces: Namespaces, pids: Sequence[int], seconds: float, flows: int
) -> tuple[float, float]:
    """UDP packets a second that arrive in the second namespace while the first is flooded, and the
    microseconds of processor time that each costs the hop.

    Nobody reads them: the socket is there so that nothing is sent back.
    """
    flood = namespaces.inside(0, sys.executable, "-c", FLOOD, str(flows))
    with running([namespaces.inside(1, sys.executable, "-c", SINK)]):
        time.sleep(0.5)
        with running([flood]):
            time.sleep(0.3)
            before, used, begin = received(namespaces), processor_s(pids), time.monotonic()
            time.sleep(seconds)
            count = received(namespaces) - before
            spent = processor_s(pids) - used
            return count / (time.monotonic() - begin), spent / max(count, 1) * 1e6


def received(namespaces: Namespaces) -> int:
    """UDP packets that have arrived, whether there was room for them or not."""
    lines = namespaces.run(1, "cat", "/proc/net/snmp").stdout.splitlines()
    names, values = [line.split() for line in lines if line.startswith("Udp:")]
    counters = dict(zip(names, values, strict=True))
    return int(counters["InDatagrams"]) + int(counters["InErrors"])


def processor_s(pids: Sequence[int]) -> float:
    """Processor time that processes have used."""
    ticks = 0
    for pid in pids:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def iperf(namespaces: Namespaces, seconds: float, *words: str) -> dict[str, Any]:
    """Its figures. A hop that loses too much can break its control connection: it gets three
    tries."""
    command = ["iperf3", "-c", THERE, "-J", "-i", "0", "-t", str(max(1, round(seconds))), *words]
    for _ in range(3):
        done = subprocess.run(
            namespaces.inside(0, *command),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 60,
        )
        end: dict[str, Any] = json.loads(done.stdout).get("end", {})
        if "sum_received" in end:
            return end
    raise RuntimeError(f"iperf3: {done.stdout}")


def reaches(namespaces: Namespaces) -> bool:
    command = namespaces.inside(0, "ping", "-c1", "-W1", THERE)
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


# --- the hops -----------------------------------------------------------------------------------


def places(kind: str, folder: str) -> list[dict[str, Any]]:
    """A wire's two ends, as JSON of -netdev."""
    if kind == "stream":
        address = {"type": "unix", "path": f"{folder}/stream"}
        ends = [{"addr": address, "server": True}, {"addr": address, "reconnect-ms": 200}]
    elif kind == "dgram":
        a, b = ({"type": "unix", "path": f"{folder}/{name}"} for name in "ab")
        ends = [{"local": a, "remote": b}, {"local": b, "remote": a}]
    else:
        kind = "dgram"
        a, b = ({"type": "inet", "host": "127.0.0.1", "port": port} for port in ("5901", "5902"))
        ends = [{"local": a, "remote": b}, {"local": b, "remote": a}]
    return [{"type": kind, "id": "wire", **end} for end in ends]


def vmwire_member(
    number: int, netdevs: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]] = ()
) -> Command:
    """A process of ours: a tap of the namespace `number` and so on at each of ``netdevs``.

    ``others`` are there besides.
    """
    order = json.dumps({"first": number, "netdevs": netdevs, "others": others})
    return [sys.executable, "-m", "benchmarks.hop", "--member", order]


def member(order: str) -> None:
    """Be that process."""
    from vmwire.netdev.tun import open_tap
    from vmwire.network import Network

    asked = json.loads(order)
    network = Network(store=_Taps(asked["first"], open_tap))
    network.start()
    for number, netdev in enumerate(asked["netdevs"], start=asked["first"]):
        network.add_netdev(**{key.replace("-", "_"): value for key, value in netdev.items()})
        network.add_netns(id=f"ns{number}", netdev=netdev["id"])
    for other in asked["others"]:
        network.add_netdev(**{key.replace("-", "_"): value for key, value in other.items()})
    network.wait()


class _Taps:
    """An fd store with taps in it."""

    on_trial = False

    def __init__(self, first: int, open_tap: Any) -> None:
        self._open_tap = open_tap

    def take(self, name: str) -> int | None:
        found = re.fullmatch(r"ns(\d)\.tap", name)
        return self._open_tap(TAPS[int(found[1])])[0] if found else None

    def keep(self, name: str, fd: int) -> None:
        pass

    def drop(self, name: str) -> None:
        pass


def vmwire(kind: str, folder: str) -> list[Command]:
    if kind == "hub":
        hubports = [{"type": "hubport", "id": f"h{n}", "hubid": 0} for n in range(2)]
        return [vmwire_member(0, hubports)]
    return [vmwire_member(number, [end]) for number, end in enumerate(places(kind, folder))]


def qemu(kind: str, folder: str) -> list[Command]:
    words = [provision.qemu_newest(), "-machine", "none", "-nodefaults", "-display", "none"]
    words += ["-monitor", "none", "-serial", "none", "-parallel", "none"]

    def tap(number: int) -> Command:
        text = f"tap,id=t{number},ifname={TAPS[number]},script=no,downscript=no,vnet_hdr=off"
        return ["-netdev", text, "-netdev", f"hubport,id=ht{number},hubid=0,netdev=t{number}"]

    if kind == "hub":
        return [[*words, *tap(0), *tap(1)]]
    joined = ["-netdev", "hubport,id=hw,hubid=0,netdev=wire"]
    return [
        [*words, *tap(number), "-netdev", json.dumps(end), *joined]
        for number, end in enumerate(places(kind, folder))
    ]


def vde_switch(kind: str, folder: str) -> list[Command]:
    switch = ["vde_switch", "-s", f"{folder}/vde", "-M", f"{folder}/management"]
    return [switch, *(["vde_plug2tap", "-s", f"{folder}/vde", tap] for tap in TAPS)]


def hop(
    commands: list[Command], namespaces: Namespaces, measure: Callable[[list[int]], pairs.Figures]
) -> pairs.Figures:
    """Measure one hop, through programs that make a tap each, or one that makes both."""
    with contextlib.ExitStack() as stack:
        pids: list[int] = []
        for command in commands:
            pids += [process.pid for process in stack.enter_context(running([command]))]
            time.sleep(0.2)
        namespaces.take_taps()
        return measure(pids)


def contestants(
    kinds: Sequence[str], seconds: float, flows: int, tcp: bool
) -> dict[str, pairs.Measure]:
    def measure(make: Callable[[str, str], list[Command]], kind: str) -> pairs.Figures:
        namespaces = Namespaces()
        try:
            with tempfile.TemporaryDirectory() as folder:
                these = partial(figures, namespaces, seconds=seconds, flows=flows, tcp=tcp)
                return hop(make(kind, folder), namespaces, these)
        finally:
            namespaces.close()

    ours = {f"vmwire {kind}": partial(measure, vmwire, kind) for kind in kinds}
    theirs = {f"qemu {kind}": partial(measure, qemu, kind) for kind in kinds}
    return {**ours, **theirs, "vde_switch": partial(measure, vde_switch, "")}


def main() -> None:
    if sys.argv[1:2] == ["--member"]:
        member(sys.argv[2])
        return
    if os.geteuid():
        sys.exit("benchmarks.hop makes namespaces: run it as root")
    parser = pairs.arguments("One hop between two namespaces.", 3)
    parser.add_argument("--hop", choices=KINDS, help="of one kind only")
    parser.add_argument("--flows", type=int, default=FLOWS, help="in the second figure")
    parser.add_argument("--small", action="store_true", help="small packets only, no TCP")
    options = parser.parse_args()
    kinds = [options.hop] if options.hop else KINDS
    everybody = contestants(kinds, options.seconds, options.flows, not options.small)
    measures = pairs.chosen(everybody, options.only)
    pairs.finish(pairs.compare("one hop", measures, options.rounds), options.output)


if __name__ == "__main__":
    main()
