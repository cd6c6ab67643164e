# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Filters do what QEMU's do: the same frames through both, the same bytes everywhere.

Two stream sockets are joined by a hub, with filters before the second one; QEMU has no machine.
"""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.guest import provision
from vmwire.network import Network

pytestmark = pytest.mark.peer

QEMUS = {"qemu7.2": provision.qemu_oldest, "qemu11.1": provision.qemu_newest}
NETDEVS = ("a", "b")
CHARDEVS = ("out", "in")
QUIET_S = 0.15
"""So long nothing comes when everything is there."""
START_S = 10.0


@pytest.fixture(scope="module", params=QEMUS)
def qemu(request: pytest.FixtureRequest) -> str:
    return QEMUS[request.param]()


class Sockets:
    """The far ends of two netdevs and of two chardevs."""

    def __init__(self) -> None:
        pairs = {name: socket.socketpair() for name in (*NETDEVS, *CHARDEVS)}
        self.near = {name: pair[0].detach() for name, pair in pairs.items()}
        self.far = {name: pair[1] for name, pair in pairs.items()}
        self.received = dict.fromkeys(self.far, b"")

    def send(self, name: str, *frames: bytes) -> None:
        for frame in frames:
            self.far[name].sendall(frame)
            time.sleep(0.01)  # so that the order between sockets is this one

    def receive(self, timeout_s: float) -> bool:
        """Take what is there; False if nothing came."""
        ready, _, _ = select.select(self.far.values(), [], [], timeout_s)
        for name, sock in self.far.items():
            if sock in ready:
                self.received[name] += sock.recv(1 << 20)
        return bool(ready)

    def close(self) -> None:
        for sock in self.far.values():
            sock.close()


Filters = Sequence[tuple[str, dict[str, Any]]]


@contextlib.contextmanager
def in_qemu(qemu: str, sockets: Sockets, filters: Filters) -> Iterator[None]:
    words = [qemu, "-nodefaults", "-machine", "none", "-display", "none", "-monitor", "none"]
    for number, name in enumerate(NETDEVS):
        words += ["-netdev", f"socket,id={name},fd={sockets.near[name]}"]
        words += ["-netdev", f"hubport,id=h{number},hubid=0,netdev={name}"]
    for name in CHARDEVS:
        words += ["-chardev", f"socket,id={name},fd={sockets.near[name]}"]
    for number, (type, options) in enumerate(filters):
        text = "".join(f",{key}={value}" for key, value in options.items())
        words += ["-object", f"{type},id=f{number},netdev=b{text}"]
    process = subprocess.Popen(words, pass_fds=list(sockets.near.values()))
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def in_vmwire(sockets: Sockets, filters: Filters) -> Iterator[None]:
    with Network() as net:
        for number, name in enumerate(NETDEVS):
            net.add_netdev("socket", id=name, fd=str(sockets.near[name]))
            net.add_netdev("hubport", id=f"h{number}", hubid=0, netdev=name)
        for name in CHARDEVS:
            net.add_chardev("socket", id=name, fd=str(sockets.near[name]))
        for number, (type, options) in enumerate(filters):
            net.add_filter(type, id=f"f{number}", netdev="b", **options)
        yield


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def traffic(sockets: Sockets) -> dict[str, bytes]:
    """What comes out where, of frames that go in at all places."""
    sockets.send("a", framed(b"A" * 60))
    assert sockets.receive(START_S)
    for size in (20, 1514, 9014, 42):
        sockets.send("a", framed(b"A" * size))
    sockets.send("b", framed(b"B" * 64))
    sockets.send("in", framed(b"I" * 61), framed(b"J" * 62))
    sockets.send("a", framed(b"C" * 100))
    while sockets.receive(QUIET_S):
        pass
    return sockets.received


def undated(path: Path) -> bytes:
    """A capture without its timestamps, which are of today."""
    data = path.read_bytes()
    kept, at = [data[:24]], 24
    while at < len(data):
        size = int.from_bytes(data[at + 8 : at + 12], "little")
        assert abs(int.from_bytes(data[at : at + 4], "little") - time.time()) < 60
        kept.append(data[at + 8 : at + 16 + size])
        at += 16 + size
    return b"".join(kept)


OUT, IN = {"outdev": "out"}, {"indev": "in"}
SETS: dict[str, Filters] = {
    "dump": [("filter-dump", {})],
    "short dump of rx": [("filter-dump", {"queue": "rx", "maxlen": 64})],
    "dump of tx": [("filter-dump", {"queue": "tx"})],
    "dump that is off": [("filter-dump", {"status": "off"})],
    "mirror": [("filter-mirror", OUT)],
    "mirror of tx": [("filter-mirror", OUT | {"queue": "tx"})],
    "redirector out": [("filter-redirector", OUT | {"queue": "rx"})],
    "redirector in, rx": [("filter-redirector", IN | {"queue": "rx"})],
    "redirector in, tx": [("filter-redirector", IN | {"queue": "tx"})],
    "redirector": [("filter-redirector", IN | OUT)],
    "buffer": [("filter-buffer", {"interval": 1000})],
    "dump nearer than a redirector": [("filter-dump", {}), ("filter-redirector", IN | OUT)],
    "dump farther than a redirector": [
        ("filter-redirector", IN | OUT),
        ("filter-dump", {"position": "id=f0", "insert": "behind"}),
    ],
}


@pytest.mark.parametrize("which", SETS)
def test_the_same_bytes_come_out_everywhere(qemu: str, tmp_path: Path, which: str) -> None:
    found = []
    for side in ("qemu", "vmwire"):
        sockets = Sockets()
        path = tmp_path / side
        placed = [
            (type, options | ({"file": str(path)} if type == "filter-dump" else {}))
            for type, options in SETS[which]
        ]
        with in_qemu(qemu, sockets, placed) if side == "qemu" else in_vmwire(sockets, placed):
            came = traffic(sockets)
        sockets.close()
        found.append((came, undated(path) if path.exists() else b""))
    assert found[0] == found[1]
