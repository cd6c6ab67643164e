# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Every back end with every card, in every mode: a frame goes out and another comes back.

The cards are driven by the bench's drivers over their sockets, and by a bench in QEMU's place. At
the far end of each wire stands another network of ours, which hands frames to the test.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.attach.vfio_user.pc import VfioUserPc
from tests.cli.wrap.fakes import FakeHost
from tests.daemon.conftest import runtime
from tests.netdev.alone import alone, ip
from tests.netdev.sockets import framed, free_port
from vmwire import catalogue
from vmwire.attach.bench import BenchCards
from vmwire.bench.e1000 import E1000Driver
from vmwire.bench.e1000e import E1000eDriver
from vmwire.bench.machine import Bench
from vmwire.bench.pci import Cpu
from vmwire.bench.vhost_user import NetDriver
from vmwire.bench.virtio_net import VirtioNetDriver
from vmwire.bench.virtio_pci import ModernPci
from vmwire.cli import served
from vmwire.cli.demo.stacks import PacketCard
from vmwire.cli.wrap.decide import Wishes
from vmwire.cli.wrap.plan import compose, decision
from vmwire.engine.host import NoStore
from vmwire.network import Network

__all__ = ["runtime"]

PATIENCE_S = 20
CARDS = {
    "virtio-net-pci": "virtio-net-pci",
    "virtio-net-pci as a whole": "virtio-net-pci,attach=vfio-user",
    "e1000": "e1000",
    "e1000-82544gc": "e1000-82544gc",
    "e1000-82545em": "e1000-82545em",
    "e1000e": "e1000e",
}
QUESTION = b"\x88\xb5 is anybody there? ".ljust(60, b".")
ROMS = {"efi-e1000.rom": b"a ROM", "efi-e1000e.rom": b"a ROM", "efi-virtio.rom": b"a ROM"}
ANSWER = b"\x88\xb5 yes, here. ".ljust(60, b".")
EVERYBODY = b"\xff" * 6
FAR_MAC = bytes.fromhex("52540000fa00")


# --- the far ends


class FarEnd(Protocol):
    """Where a wire leads to."""

    def send(self, frame: bytes) -> None: ...

    def receive(self) -> list[bytes]: ...

    def close(self) -> None: ...


class Beyond:
    """Another network: a netdev (or a card's socket) whose frames the test has."""

    def __init__(self, *words: str) -> None:
        self._wire, theirs = socket.socketpair()
        self._wire.settimeout(0.05)
        self._read = b""
        config: dict[str, Any] = {"netdevs": [], "devices": [], "captures": []}
        config["netdevs"].append(["exit", f"socket,id=exit,fd={theirs.detach()}"])
        kind, text = ("devices", words[1]) if words[0] == "-device" else ("netdevs", words[0])
        config[kind].append([text, text])
        config["links"] = [] if kind == "devices" else [["far", "exit"]]
        self.network = served.build(config, NoStore(), 0)
        self.network.start()

    def answer_as(self, net: str) -> None:
        """Let a user network stand where the test would be, for who pings it."""
        (chain,) = self.network.links
        (far,) = (each for each in chain if each != "exit")
        self.network.disconnect("exit")
        self.network.add_netdev("user", id="u", net=net)
        self.network.connect("u", far)

    def send(self, frame: bytes) -> None:
        self._wire.sendall(framed(frame))

    def receive(self) -> list[bytes]:
        with contextlib.suppress(TimeoutError):
            self._read += self._wire.recv(1 << 16)
        frames = []
        while len(self._read) >= 4 and len(self._read) >= 4 + int.from_bytes(self._read[:4], "big"):
            size = int.from_bytes(self._read[:4], "big")
            frames.append(self._read[4 : 4 + size])
            self._read = self._read[4 + size :]
        return frames

    def close(self) -> None:
        self.network.close()
        self._wire.close()


class Interface:
    """The kernel's side of a tap or a bridge."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._card: PacketCard | None = None

    def _open(self) -> PacketCard:
        if self._card is None:
            ip(f"link set {self._name} up")
            self._card = PacketCard(self._name)
        return self._card

    def send(self, frame: bytes) -> None:
        self._open().send(frame)

    def receive(self) -> list[bytes]:
        return [frame for frame, _ in self._open().receive(0.05)]

    def close(self) -> None:
        if self._card is not None:
            self._card.close()


class Gateway:
    """A user network: it answers ARP, and that is the frame that comes back."""

    answer = bytes.fromhex("08060001080006040002 52550a000202 0a000202")

    @staticmethod
    def question(mac: bytes) -> bytes:
        start, end = "08060001080006040001", "0a00020f 000000000000 0a000202"
        return (bytes.fromhex(start) + mac + bytes.fromhex(end)).ljust(48, b"\0")

    def send(self, frame: bytes) -> None:
        pass

    def receive(self) -> list[bytes]:
        return []

    def close(self) -> None:
        pass


@dataclass
class Way:
    """A way out for the netdev ``n{number}``: options, what stands beside them, and the far end."""

    netdev: str
    far: Callable[[], FarEnd]
    beside: list[str] = field(default_factory=list)
    """Further words of the command: ``-chardev …``, ``-netdev …``."""
    far_first: bool = False


def _beyond(*words: str) -> Callable[[], FarEnd]:
    return lambda: Beyond(*words)


def _two_ports(form: str, far: str) -> Callable[[int, Path], Way]:
    """Options with two ports on this machine, seen from either end."""

    def make(number: int, folder: Path) -> Way:
        a, b = free_port(), free_port()
        return Way(form.format(n=f"n{number}", a=a, b=b), _beyond(far.format(n="far", a=b, b=a)))

    return make


def _unix(form: str, far: str) -> Callable[[int, Path], Way]:
    def make(number: int, folder: Path) -> Way:
        path = folder / f"w{number}"
        return Way(
            form.format(n=f"n{number}", path=path),
            _beyond(far.format(path=path)),
        )

    return make


def _on_a_hub(number: int, folder: Path) -> Way:
    way = _unix("stream,id=s{n},server=on,addr.type=unix,addr.path={path}", FAR_STREAM)(
        number, folder
    )
    hub = [f"hubport,id=h{number},hubid={number},netdev=sn{number}"]
    return Way(
        f"hubport,id=n{number},hubid={number}", way.far, ["-netdev", way.netdev, "-netdev", *hub]
    )


def _connecting(number: int, folder: Path) -> Way:
    port = free_port()
    far = _beyond(f"socket,id=far,listen=127.0.0.1:{port}")
    return Way(f"socket,id=n{number},connect=127.0.0.1:{port}", far, far_first=True)


def _mcast(number: int, folder: Path) -> Way:
    words = f"mcast=239.255.7.{number + 1}:{free_port()},localaddr=127.0.0.1"
    return Way(f"socket,id=n{number},{words}", _beyond(f"socket,id=far,{words}"))


def _tap(number: int, folder: Path) -> Way:
    words = f"tap,id=n{number},ifname=t{number},script=no,downscript=no"
    return Way(words, lambda: Interface(f"t{number}"))


def _bridge(number: int, folder: Path) -> Way:
    ip(f"link add br{number} type bridge")
    return Way(f"bridge,id=n{number},br=br{number}", lambda: Interface(f"br{number}"))


def _vhost_user(number: int, folder: Path) -> Way:
    path = folder / f"v{number}"
    return Way(
        f"vhost-user,id=n{number},chardev=c{number}",
        _beyond("-device", f"virtio-net-pci,netdev=exit,socket={path}"),
        ["-chardev", f"socket,id=c{number},path={path}"],
        far_first=True,
    )


def _vde(number: int, folder: Path) -> Way:
    words = f"sock={folder}/switch{number}"
    return Way(f"vde,id=n{number},{words}", _beyond(f"vde,id=far,{words}"))


FAR_STREAM = "stream,id=far,addr.type=unix,addr.path={path},reconnect-ms=50"
WAYS: dict[str, Callable[[int, Path], Way]] = {
    "user": lambda number, folder: Way(f"user,id=n{number}", Gateway),
    "tap": _tap,
    "bridge": _bridge,
    "hubport": _on_a_hub,
    "socket": _two_ports(
        "socket,id={n},listen=127.0.0.1:{a}", "socket,id=far,connect=127.0.0.1:{b}"
    ),
    "socket, connecting": _connecting,
    "socket, datagrams": _two_ports(
        *["socket,id={n},udp=127.0.0.1:{b},localaddr=127.0.0.1:{a}"] * 2
    ),
    "socket, multicast": _mcast,
    "stream": _unix("stream,id={n},server=on,addr.type=unix,addr.path={path}", FAR_STREAM),
    "dgram": _unix(
        "dgram,id={n},local.type=unix,local.path={path}a,remote.type=unix,remote.path={path}b",
        "dgram,id=far,local.type=unix,local.path={path}b,remote.type=unix,remote.path={path}a",
    ),
    "l2tpv3": _two_ports(
        *["l2tpv3,id={n},src=127.0.0.1,dst=127.0.0.1,udp=on,srcport={a},dstport={b},txsession=1,"
          "rxsession=1,counter=on"] * 2
    ),
    "vde": _vde,
    "vhost-user": _vhost_user,
}  # fmt: skip
ELSEWHERE = {"passt"}
"""What only talks to a program that is a network by itself: ``tests/peers``."""
USUAL = ("user", "hubport", "vhost-user")
"""What is watched often in those modes that make the same of each type."""
OF_THE_HOST = ("tap", "bridge")
"""What needs a network namespace."""


# --- the cards


class Driven(Protocol):
    """A card with its driver."""

    mac: bytes

    def send(self, frame: bytes) -> None: ...

    def receive(self) -> list[bytes]: ...


class Rings:
    """virtio-net by vhost-user."""

    def __init__(self, path: str) -> None:
        self._driver = NetDriver(path)
        self.mac = bytes.fromhex("525400123456")

    def send(self, frame: bytes) -> None:
        self._driver.send(frame)

    def receive(self) -> list[bytes]:
        return [frame for frame, _ in self._driver.receive(0.05)]


class Registers:
    """A PCI card by its registers."""

    def __init__(self, name: str, pc: Cpu, slot: int) -> None:
        self._driver: E1000Driver | E1000eDriver | VirtioNetDriver
        if name.startswith("virtio"):
            self._driver = VirtioNetDriver(pc, ModernPci(pc, slot), ring_size=64, pairs=1)
        elif name == "e1000e":
            self._driver = E1000eDriver(pc, slot)
        else:
            self._driver = E1000Driver(pc, slot)
        self._driver.start()
        self.mac = bytes(self._driver.mac)

    def send(self, frame: bytes) -> None:
        if isinstance(self._driver, VirtioNetDriver):
            self._driver.sent()  # makes room
        self._driver.send(frame)

    def receive(self) -> list[bytes]:
        found = self._driver.receive()
        return [each[0] if isinstance(each, tuple) else each.data for each in found]


def driven(name: str, path: str) -> Driven:
    """The driver of a card at its socket."""
    return Rings(path) if name == "virtio-net-pci" else Registers(name, VfioUserPc(path), 0)


def passes(card: Driven, far: FarEnd, turn: Callable[[], None] = lambda: None) -> None:
    """Frames of ours until one has come to each end."""
    question, answer = QUESTION, ANSWER
    if isinstance(far, Gateway):
        question, answer = far.question(card.mac), far.answer
    out = EVERYBODY + card.mac + question
    back = EVERYBODY + FAR_MAC + ANSWER
    there, here = isinstance(far, Gateway), False
    deadline = time.monotonic() + PATIENCE_S
    while not (there and here):
        assert time.monotonic() < deadline, f"out: {there}, back: {here}"
        card.send(out)
        turn()
        there = there or any(frame.startswith(out) for frame in far.receive())
        far.send(back)
        turn()
        here = here or any(answer in frame for frame in card.receive())


# --- the modes


@contextlib.contextmanager
def folder_of_short_name() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vw-", dir="/tmp") as name:
        yield Path(name)


def ways(type: str, folder: Path, count: int) -> list[Way]:
    if type == "vde":
        if not shutil.which("vde_switch"):
            pytest.skip("needs vde_switch (Debian: vde2)")
        for number in range(count):
            place = f"{folder}/switch{number}"
            words = ["vde_switch", "-s", place, "-d", "-p", f"{place}.pid", "-M", f"{place}.mgmt"]
            subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    return [WAYS[type](number, folder) for number in range(count)]


def end_switches(folder: Path) -> None:
    for file in folder.glob("switch*.pid"):
        subprocess.run(["kill", file.read_text().strip()], check=False)


def words_of(way: Way, number: int, device: str) -> list[str]:
    """A way out and a card on it, as they are typed."""
    return ["-netdev", way.netdev, *way.beside, "-device", f"{device},netdev=n{number}"]


def config_of_serve(words: list[str], folder: Path) -> dict[str, Any]:
    """What ``vmwire WORDS`` makes of them, but for sockets of the test's."""
    config: dict[str, Any] = {"netdevs": [], "devices": [], "chardevs": [], "captures": []}
    for option, text in zip(words[::2], words[1::2], strict=True):
        if option == "-device":
            number = len(config["devices"])
            text += f",id=c{number},mac=52:54:00:12:34:56,socket={folder}/c{number}"
        config[f"{option[1:]}s"].append([text, text])
    return config


def config_of_prefix(words: list[str], folder: Path) -> dict[str, Any]:
    """What ``vmwire qemu-system-x86_64 WORDS`` makes of them."""
    wishes = Wishes(take=[f"n{number}" for number in range(len(CARDS))])
    decided = decision(["qemu-system-x86_64", *words], wishes, FakeHost(roms=ROMS))
    assert [each.reason for each in decided.verdicts if each.reason] == []
    made = compose(decided, lambda name: f"{folder}/{name}", lambda name: f"{folder}/{name}")
    return made.config | {"captures": []}


def run_over_sockets(
    type: str, make_config: Callable[[list[str], Path], dict[str, Any]], path: str
) -> None:
    """One network with all cards, each on a netdev of its own."""
    with folder_of_short_name() as folder, contextlib.ExitStack() as stack:
        stack.callback(end_switches, folder)
        found = ways(type, folder, len(CARDS))
        words = [
            word
            for number, device in enumerate(CARDS.values())
            for word in words_of(found[number], number, device)
        ]
        first = {n: way.far() for n, way in enumerate(found) if way.far_first}
        network = served.build(make_config(words, folder), NoStore(), 0)
        stack.callback(network.close)
        network.start()
        for number, name in enumerate(CARDS):
            far = first.get(number) or found[number].far()
            stack.callback(far.close)
            passes(driven(name, f"{folder}/{path}{number}"), far)


def test_no_back_end_is_left_out() -> None:
    assert {name.partition(",")[0] for name in WAYS} | ELSEWHERE == set(catalogue.MODULES["netdev"])


ALL = pytest.mark.parametrize("type", [each for each in WAYS if each not in OF_THE_HOST])
SOME = pytest.mark.parametrize(
    "type",
    [
        pytest.param(each, marks=() if each in USUAL else pytest.mark.long)
        for each in WAYS
        if each not in OF_THE_HOST
    ],
)
HOSTS = pytest.mark.parametrize("type", OF_THE_HOST)


@ALL
def test_served(type: str) -> None:
    run_over_sockets(type, config_of_serve, "c")


@HOSTS
@alone
def test_served_of_the_host(type: str) -> None:
    run_over_sockets(type, config_of_serve, "c")


@SOME
def test_in_front_of_qemu(type: str) -> None:
    run_over_sockets(type, config_of_prefix, "n")


@HOSTS
@alone
def test_in_front_of_qemu_of_the_host(type: str) -> None:
    run_over_sockets(type, config_of_prefix, "n")


LONG_NS = 1_000_000
"""A driver that lets so much time pass waits for something from outside."""


class Living:
    """A bench whose network goes on while its time is let pass."""

    def __init__(self, pc: Bench, network: Network) -> None:
        self._pc = pc
        self._network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pc, name)

    def clock_step(self, ns: int | None = None) -> int:
        self._network.loop.turn(0.01 if ns and ns >= LONG_NS else 0)
        return self._pc.clock_step(ns)

    def turn(self) -> None:
        self._pc.settle()
        self._network.loop.turn(0)


def run_in_qemus_place(type: str) -> None:
    """All PCI cards in one bench."""
    names = [name for name in CARDS if name != "virtio-net-pci as a whole"]
    with folder_of_short_name() as folder, contextlib.ExitStack() as stack:
        stack.callback(end_switches, folder)
        found = ways(type, folder, len(names))
        pc = Bench()
        network = Network(cards=BenchCards(pc))  # not started: its loop is turned by hand
        stack.callback(network.close)
        first = {n: way.far() for n, way in enumerate(found) if way.far_first}
        for number, name in enumerate(names):
            config = config_of_serve(words_of(found[number], number, name), folder)
            device = f"{name},netdev=n{number},id=c{number},addr={number + 4:x}"
            config["devices"] = [[device, device]]
            _add(network, config)
        for number, name in enumerate(names):
            far = first.get(number) or found[number].far()
            stack.callback(far.close)
            living = Living(pc, network)
            passes(Registers(name, living, number + 4), far, living.turn)


def _add(network: Network, config: dict[str, Any]) -> None:
    for kind in ("chardev", "netdev", "device"):
        for text, _ in config[f"{kind}s"]:
            values = served._values(kind, text)
            if kind == "chardev":
                network.add_chardev(values.pop("type"), **values)
            elif kind == "netdev":
                network.add_netdev(**values)
            else:
                network.add_nic(**values)


@SOME
def test_in_qemus_place(type: str) -> None:
    run_in_qemus_place(type)


@HOSTS
@alone
def test_in_qemus_place_of_the_host(type: str) -> None:
    run_in_qemus_place(type)


# --- without cards


class Joined:
    """The far end of the one netdev, for who sends to the far end of the other."""

    mac = bytes.fromhex("525400123456")

    def __init__(self, beyond: Beyond) -> None:
        self.send, self.receive = beyond.send, beyond.receive


def run_connected(type: str) -> None:
    """``vmwire connect TYPE,... stream,...``"""
    with folder_of_short_name() as folder, contextlib.ExitStack() as stack:
        stack.callback(end_switches, folder)
        (way,) = ways(type, folder, 1)
        other = WAYS["stream"](9, folder)
        words = ["-netdev", way.netdev, *way.beside, "-netdev", other.netdev]
        config = config_of_serve(words, folder) | {"links": [["n0", "n9"]]}
        first = way.far() if way.far_first else None
        network = served.build(config, NoStore(), 0)
        stack.callback(network.close)
        network.start()
        far, near = first or way.far(), other.far()
        stack.callback(far.close)
        stack.callback(near.close)
        assert isinstance(near, Beyond)
        passes(Joined(near), far)


@ALL
def test_connected(type: str) -> None:
    run_connected(type)


@HOSTS
@alone
def test_connected_of_the_host(type: str) -> None:
    run_connected(type)


@pytest.mark.netns
def test_a_shell_has_an_interface_on_each_and_the_addresses_that_are_given(runtime: str) -> None:
    types = ["user", "socket", "stream", "dgram", "l2tpv3", "vhost-user"]
    with folder_of_short_name() as folder, contextlib.ExitStack() as stack:
        words: list[str] = []
        for number, type in enumerate(types[1:], 1):
            way = WAYS[type](number, folder)
            beyond = way.far()
            assert isinstance(beyond, Beyond)
            stack.callback(beyond.close)
            beyond.answer_as(f"10.9.{number}.0/24")
            words += ["-netdev", way.netdev, *way.beside, "--address", f"10.9.{number}.15/24"]
        pings = [f"until ping -c 1 -W 1 10.9.{number}.2; do :; done" for number in range(1, 6)]
        script = "; ".join(["ping -c 1 10.0.2.2", *pings, "ip -br link | grep -c eth"])
        command = [
            sys.executable,
            "-m",
            "vmwire",
            "shell",
            "-netdev",
            "user",
            "--address",
            "10.0.2.15/24",
            *words,
            "--",
            "timeout",
            "30",
            "sh",
            "-ec",
            script,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done
        assert done.stdout.splitlines()[-1] == str(len(types))
