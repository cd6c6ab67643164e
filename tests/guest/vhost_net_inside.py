# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What `test_vhost_net.py` runs inside a guest, whose kernel has vhost-net: vmwire, a front end, a
tap, and a socket at the tap's other side.

Each scenario is a function; what it is to show is in its name. The process prints a line for each.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vmwire.bench.vhost_user import NetDriver
from vmwire.bus.virtio.features import VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF
from vmwire.cli import upgrade
from vmwire.daemon import control
from vmwire.errors import ConfigError
from vmwire.netdev.vhost_net import VHOST_NET, Device
from vmwire.network import Network
from vmwire.nic.virtio_net import FEATURES
from vmwire.wire.frame import GSO_TCPV4, Offload

KIND = 0x88B5
HEAD = b"\xff" * 6 + b"\2\0\0\0\0\1" + KIND.to_bytes(2, "big")
TAP = "tv0"


def frame(number: int = 0) -> bytes:
    return HEAD + number.to_bytes(4, "big") + bytes(100)


def until(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def vhost_threads() -> int:
    """The kernel's threads that serve rings."""
    found = 0
    for each in filter(str.isdecimal, os.listdir("/proc")):
        try:
            found += Path(f"/proc/{each}/comm").read_text().startswith("vhost-")
        except OSError:
            continue
    return found


class Far:
    """The tap's other side."""

    def __init__(self) -> None:
        subprocess.run(["ip", "link", "set", TAP, "up"], check=True)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(KIND))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind((TAP, KIND))
        self.socket.settimeout(10)

    def numbers(self, count: int) -> list[int]:
        got = [self.socket.recv(70000) for _ in range(count)]
        return [int.from_bytes(each[14:18], "big") for each in got]


class Bed:
    """A card on a tap with vhost=on, its driver, and the far side."""

    def __init__(self, features: int = FEATURES, pairs: int = 1, **tap: Any) -> None:
        self.path = tempfile.mktemp(prefix="vmwire-")
        self.net = Network()
        self.net.start()
        tap = {"ifname": TAP, "script": "no", "downscript": "no", "vhost": True, **tap}
        more: dict[str, Any] = {"mq": True, "queues": pairs} if pairs > 1 else {}
        self.net.add_netdev("tap", id="t", **tap)
        self.net.add_nic("virtio-net-pci", id="n", netdev="t", socket=self.path, **more)
        self.far = Far()
        self.driver = NetDriver(self.path, features=features, pairs=pairs)

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self.net.stats()["devices"]["n"]
        return found

    def frames(self) -> tuple[int, int, int]:
        """What our process has moved."""
        stats = self.net.stats()
        card = stats["devices"]["n"]
        return card["rx_frames"], card["tx_frames"], stats["netdevs"]["t"]["frames"]

    def both_ways(self, count: int = 3, pair: int = 0) -> None:
        for number in range(count):
            self.driver.send(frame(number), pair=pair)
            assert self.driver.drained(20)
            assert self.far.numbers(1) == [number]
            self.far.socket.send(frame(number))
            self.receive(frame(number))

    def receive(self, data: bytes) -> None:
        until(lambda: data in [got for got, _ in self.driver.receive(1.0)])

    def by_kernel(self) -> bool:
        return self.stats()["handed_on"] is not None

    def close(self) -> None:
        self.driver.close()
        self.far.socket.close()
        self.net.close()
        assert not Path(f"/sys/class/net/{TAP}").exists()
        assert vhost_threads() == 0


@contextmanager
def bed(features: int = FEATURES, pairs: int = 1, **tap: Any) -> Iterator[Bed]:
    it = Bed(features, pairs, **tap)
    try:
        until(it.by_kernel)
        yield it
    finally:
        it.close()


def the_kernel_moves_the_frames() -> None:
    with bed(poll_us=20) as it:
        assert vhost_threads() == 1
        it.both_ways()
        assert it.frames() == (0, 0, 0)
        assert it.stats()["handed_on"] == {"rings": 2, "by": "vhost-net", "pairs": 1}


def a_header_of_ten_bytes_is_served_too() -> None:
    with bed(FEATURES & ~VIRTIO_F_VERSION_1 & ~VIRTIO_NET_F_MRG_RXBUF) as it:
        it.both_ways()
        assert it.frames() == (0, 0, 0)


def a_tap_without_a_header_is_served_too() -> None:
    with bed(vnet_hdr=False) as it:
        it.both_ways()
        assert it.frames() == (0, 0, 0)


def superframes_stay_whole() -> None:
    """20,000 bytes of TCP in one frame come out at the tap in one."""
    payload = bytes(20000)
    ip = (
        bytes.fromhex("4500")
        + (40 + len(payload)).to_bytes(2, "big")
        + bytes.fromhex("0000400040060000 0a000001 0a000002")
    )
    tcp = bytes.fromhex("0001 0002 00000000 00000000 5010 ffff 0000 0000")
    whole = b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x08\0" + ip + tcp + payload
    with bed() as it, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 8) as wire:
        wire.bind((TAP, 0x0800))
        wire.settimeout(10)
        it.driver.send(whole, Offload(1, GSO_TCPV4, 54, 1448, 34, 16))
        until(lambda: len(wire.recv(70000)) == len(whole))
        assert it.frames() == (0, 0, 0)


def a_capture_brings_rings_back_until_it_has_gone() -> None:
    with bed() as it:
        it.both_ways()
        name = it.net.capture("n", tempfile.mktemp())
        assert not it.by_kernel()
        it.both_ways()
        assert it.frames() == (3, 3, 3)
        it.net.remove(name)
        until(it.by_kernel)
        it.both_ways()
        assert it.frames() == (3, 3, 3)


def nothing_is_lost_or_doubled_while_rings_change_hands() -> None:
    with bed() as it:
        for round in range(10):
            for number in range(20):
                it.driver.send(frame(20 * round + number))
            if round % 2:
                it.net.remove("c")
            else:
                it.net.capture("n", tempfile.mktemp(), name="c")
        assert it.driver.drained(20)
        assert it.far.numbers(200) == list(range(200))
        _, ours, _ = it.frames()
        assert 0 < ours < 200


def a_pulled_cable_is_seen_at_the_tap() -> None:
    carrier = Path(f"/sys/class/net/{TAP}/carrier")
    with bed() as it:
        it.net.set_link("n", False)
        assert not it.by_kernel()
        until(lambda: carrier.read_text() == "0\n")
        it.net.set_link("n", True)
        until(it.by_kernel)
        until(lambda: carrier.read_text() == "1\n")
        it.both_ways()


def each_pair_of_rings_has_a_queue() -> None:
    with bed(pairs=2, queues=2) as it:
        until(lambda: it.stats()["handed_on"]["pairs"] == 2)
        assert vhost_threads() == 2
        it.both_ways(pair=0)
        it.both_ways(pair=1)
        assert it.frames() == (0, 0, 0)


def queues_without_rings_are_not_used() -> None:
    with bed(queues=3) as it:
        it.both_ways()
        assert it.frames() == (0, 0, 0)
        for number in range(40):  # which the kernel would spread
            it.far.socket.send(b"\xff" * 6 + bytes([2, 0, 0, 0, 1, number]) + frame()[12:])
        got: set[bytes] = set()

        def have_come() -> bool:
            got.update(each[:12] for each, _ in it.driver.receive(1))
            return len(got) >= 40

        until(have_come)


def descriptors_of_the_caller_are_used() -> None:
    fd = os.open(VHOST_NET, os.O_RDWR)
    print(f"features {Device(fd).features:#x}")
    with bed(vhost=None, vhostfd=str(fd)) as it:
        it.both_ways()
        assert it.frames() == (0, 0, 0)


def a_tap_that_is_deleted_ends_it() -> None:
    it = Bed()
    until(it.by_kernel)
    subprocess.run(["ip", "link", "del", TAP], check=True)
    until(lambda: not it.by_kernel() and not it.stats()["carrier"])
    assert it.stats()["queues"] == {0: "on", 1: "on"}
    it.driver.send(frame())
    assert it.driver.drained(20)
    it.close()


def a_netdev_that_is_removed_gives_rings_back() -> None:
    it = Bed()
    until(it.by_kernel)
    it.net.remove("t", kind="netdev")
    assert not it.by_kernel()
    it.driver.send(frame())
    assert it.driver.drained(20)
    it.close()


# --- a network of its own processes -------------------------------------------------------------


class Daemon:
    """``vmwire -netdev tap,vhost=on -device virtio-net-pci``, with a driver."""

    def __init__(self, tap: str, fds: tuple[int, ...] = ()) -> None:
        self.path = tempfile.mktemp(prefix="vmwire-")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "vmwire"),
                *("-netdev", f"tap,id=t,ifname={TAP},script=no,downscript=no,{tap}"),
                *("-device", f"virtio-net-pci,netdev=t,id=n,socket={self.path}"),
            ],
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=fds,
        )
        for fd in fds:
            os.close(fd)
        assert self.process.stdout is not None
        while "stands" not in (line := self.process.stdout.readline()):
            assert line, "vmwire has ended"
        base = Path(os.environ["XDG_RUNTIME_DIR"]) / "vmwire"
        (self.folder,) = (each for each in base.iterdir() if each.name.isdecimal())
        self.far = Far()
        self.driver = NetDriver(self.path, features=FEATURES)
        self.driver.front.socket.settimeout(60)
        self.wait_for_kernel(0)

    def stats(self) -> dict[str, Any] | None:
        try:
            return control.ask(str(self.folder / "control.sock"), "stats", 20)
        except (OSError, ConnectionError):
            return None

    def wait_for_kernel(self, restarts: int) -> None:
        def holds() -> bool:
            stats = self.stats()
            if stats is None or stats["restarts"] < restarts:
                return False
            return stats["devices"]["n"]["handed_on"] is not None

        until(holds, 60)

    def worker(self) -> int:
        stats = self.stats()
        assert stats is not None
        pid: int = stats["pid"]
        return pid

    def upgrade(self) -> bool:
        """Whether a successor was ready in time: a guest without KVM is slow at importing."""
        try:
            upgrade.upgrade(str(self.folder / "control.sock"))
        except ConfigError as error:
            print(error, flush=True)
            return False
        return True

    def both_ways(self, first: int) -> None:
        self.driver.send(frame(first))
        assert self.driver.drained(60)
        assert self.far.numbers(1) == [first]
        self.far.socket.send(frame(first))
        until(lambda: frame(first) in [got for got, _ in self.driver.receive(1.0)])

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.driver.close()
        self.far.socket.close()


def a_worker_that_is_killed_is_followed_by_one_with_the_kernel() -> None:
    fd = os.open(VHOST_NET, os.O_RDWR)
    with Daemon(f"vhostforce=on,vhostfd={fd}", (fd,)) as it:
        it.both_ways(1)
        os.kill(it.worker(), signal.SIGKILL)
        it.driver.send(frame(2))
        it.wait_for_kernel(1)
        assert vhost_threads() == 1  # nobody has kept the dead one's device
        assert it.driver.drained(60)
        assert it.far.numbers(1) == [2]
        it.both_ways(3)
        it.both_ways(4)


def an_upgrade_takes_the_callers_descriptor_along() -> None:
    fd = os.open(VHOST_NET, os.O_RDWR)
    with Daemon(f"vhost=on,vhostfd={fd}", (fd,)) as it:
        it.both_ways(1)
        until(it.upgrade, 300)
        it.wait_for_kernel(0)
        assert vhost_threads() == 1
        it.both_ways(2)
        it.both_ways(3)


SCENARIOS: dict[str, list[Callable[[], None]]] = {
    "network": [
        the_kernel_moves_the_frames,
        a_header_of_ten_bytes_is_served_too,
        a_tap_without_a_header_is_served_too,
        superframes_stay_whole,
        a_capture_brings_rings_back_until_it_has_gone,
        nothing_is_lost_or_doubled_while_rings_change_hands,
        a_pulled_cable_is_seen_at_the_tap,
        each_pair_of_rings_has_a_queue,
        queues_without_rings_are_not_used,
        descriptors_of_the_caller_are_used,
        a_tap_that_is_deleted_ends_it,
        a_netdev_that_is_removed_gives_rings_back,
    ],
    "daemon": [
        a_worker_that_is_killed_is_followed_by_one_with_the_kernel,
        an_upgrade_takes_the_callers_descriptor_along,
    ],
}


def main() -> None:
    with suppress(FileNotFoundError):  # a new interface tells its neighbours about itself
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    upgrade.LOOK_AGAIN_S = 2.0  # each look takes the successor's time
    for scenario in SCENARIOS[sys.argv[1]]:
        begin = time.monotonic()
        try:
            scenario()
        except BaseException:
            print(traceback.format_exc(), f"FAILED {scenario.__name__}", sep="\n", flush=True)
        else:
            took = time.monotonic() - begin
            print(f"PASSED {scenario.__name__} in {took:.1f} s", flush=True)


if __name__ == "__main__":
    main()
