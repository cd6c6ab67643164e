# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What idle ports on a hub cost two busy ones: the hub hop of ``benchmarks.hop``, with and without.

    python3 -m benchmarks.idle_ports [--idle empty|null|tap|stream] [--switch] [--small]    as root

Idle ports are hubports at which there is nobody (``empty``), somebody who swallows what comes
(``null``), taps of this machine that are up and that nobody uses (``tap``), or programs that read
all that a socket brings (``stream``). On a plain hub the last two get a copy of everything; with
``--switch`` the hub learns who is where. Five rounds take two minutes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks import pairs  # noqa: E402
from benchmarks.hop import (  # noqa: E402
    Namespaces,
    figures,
    hop,
    running,
    vmwire_member,
    wait_for,
)

KINDS = ("empty", "null", "tap", "stream")
READER = """
import selectors, socket, sys
ready = selectors.DefaultSelector()
for path in sys.argv[1:]:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.setblocking(False)
    ready.register(sock, selectors.EVENT_READ)
buffer = bytearray(1 << 20)
while True:
    for key, _ in ready.select():
        key.fileobj.recv_into(buffer)
"""


def member_of(kind: str, number: int, folder: str) -> list[dict[str, Any]]:
    """One idle port, as JSON of -netdev."""
    hubport: dict[str, Any] = {"type": "hubport", "id": f"idle{number}", "hubid": 0}
    if kind == "empty":
        return [hubport]
    netdev: dict[str, Any] = {"type": kind, "id": f"n{number}"}
    if kind == "tap":
        netdev |= {"ifname": tap_name(number), "script": "no", "downscript": "no"}
    elif kind == "stream":
        netdev |= {"server": True, "addr": {"type": "unix", "path": path_of(folder, number)}}
    return [netdev, {**hubport, "netdev": f"n{number}"}]


def tap_name(number: int) -> str:
    return f"vmwidle{number}"


def path_of(folder: str, number: int) -> str:
    return f"{folder}/idle{number}"


@contextlib.contextmanager
def at_their_ends(kind: str, count: int, folder: str) -> Iterator[None]:
    """What is behind the idle ports, once these stand."""
    if kind == "tap":
        for number in range(count):
            wait_for(Path(f"/sys/class/net/{tap_name(number)}").exists)
            subprocess.run(["ip", "link", "set", tap_name(number), "up"], check=True)
    if kind != "stream":
        yield
        return
    paths = [path_of(folder, number) for number in range(count)]
    wait_for(lambda: all(Path(path).exists() for path in paths))
    with running([[sys.executable, "-c", READER, *paths]]):
        yield


def measure(
    kind: str, count: int, *, switch: bool, seconds: float, flows: int, tcp: bool
) -> pairs.Figures:
    namespaces = Namespaces()
    try:
        with tempfile.TemporaryDirectory() as folder:
            busy = [{"type": "hubport", "id": f"h{n}", "hubid": 0} for n in range(2)]
            busy[0]["switch"] = switch
            idle = [each for n in range(count) for each in member_of(kind, n, folder)]

            def these(pids: list[int]) -> pairs.Figures:
                with at_their_ends(kind, count, folder):
                    return figures(namespaces, pids, seconds, flows, tcp)

            return hop([vmwire_member(0, busy, idle)], namespaces, these)
    finally:
        namespaces.close()


def main() -> None:
    if os.geteuid():
        sys.exit("benchmarks.idle_ports makes namespaces: run it as root")
    parser = pairs.arguments("Two busy ports of a hub, beside idle ones and alone.", 2)
    parser.add_argument("--idle", choices=KINDS, default="stream", help="(default: %(default)s)")
    parser.add_argument("--count", type=int, default=4, help="of idle ports (default: 4)")
    parser.add_argument("--switch", action="store_true", help="the hub learns who is where")
    parser.add_argument("--flows", type=int, default=1, help="of small packets")
    parser.add_argument("--small", action="store_true", help="small packets only, no TCP")
    options = parser.parse_args()
    how = partial(
        measure,
        options.idle,
        switch=options.switch,
        seconds=options.seconds,
        flows=options.flows,
        tcp=not options.small,
    )
    everybody = {
        f"with {options.count} idle": partial(how, options.count),
        "two busy alone": partial(how, 0),
    }
    title = f"idle ports: {options.idle}, on a {'switch' if options.switch else 'hub'}"
    measures = pairs.chosen(everybody, options.only)
    pairs.finish(pairs.compare(title, measures, options.rounds), options.output)


if __name__ == "__main__":
    main()
