# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Unmodified guests on one wire through vhost-user cards, with no other network between them.

Two guests have a card of each kind of ``SETS``, each kind on a wire of its own; most tests share
these two.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.guest.machine import Machine, both
from vmwire.attach.vhost_user import VhostUserNic
from vmwire.engine.host import Host
from vmwire.engine.loop import Loop
from vmwire.nic.options import VirtioNetPciOptions
from vmwire.wire.hub import Hub

pytestmark = pytest.mark.guest
MEGABYTES = 24

# In the background, and not as the shell's own child: busybox's shell takes the end of one for the
# end of its input. A pipe without an end is the input, because nc hangs up on one that ends.
RECEIVE = (
    "rm -f /tmp/pipe && mkfifo /tmp/pipe && "
    "((nc -l -p 5000 <>/tmp/pipe >/tmp/got; echo done > /tmp/done) 2>/dev/null &)"
)


class Wire:
    """Hubs with vhost-user cards, run by an engine of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = Loop()
        self.hubs: dict[int, Hub] = {}
        self.cards: dict[str, VhostUserNic] = {}
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def add(self, name: str, hub: int = 0, **options: Any) -> str:
        """Add a card to a hub; return its socket's path."""
        path = str(self.folder / f"{name}.sock")

        def add() -> None:
            card = VhostUserNic(VirtioNetPciOptions(id=name, socket=path, **options))
            card.open(Host(self.loop))
            at = self.hubs.setdefault(hub, Hub(f"hub{hub}", self.loop.now))
            at.add_port(name).connect(card.port)
            self.cards[name] = card

        self.loop.call(add)
        return path

    def remove(self, name: str) -> None:
        """End a card as a dying worker would: its machine finds nobody any more."""

        def remove() -> None:
            card = self.cards.pop(name)
            card.close()
            (port,) = (p for hub in self.hubs.values() for p in hub.ports if p.name == name)
            for hub in self.hubs.values():
                hub.remove_port(port)

        self.loop.call(remove)

    def stats(self, name: str) -> dict[str, Any]:
        return self.loop.call(self.cards[name].stats)

    def close(self) -> None:
        for name in list(self.cards):
            self.remove(name)
        self.loop.stop()
        self._thread.join()
        self.loop.close()


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    it = Wire(tmp_path)
    yield it
    it.close()


@cache
def version(qemu: str) -> int:
    said = subprocess.run([qemu, "--version"], capture_output=True, text=True, timeout=20).stdout
    found = re.search(r"version (\d+)", said)
    assert found, said
    return int(found[1])


def card_words(qemu: str, path: str, number: int, kind: int, properties: str) -> list[str]:
    """What a machine says of one card."""
    reconnect = "reconnect=1" if version(qemu) < 9 else "reconnect-ms=300"
    if version(qemu) < 8:
        properties += ",vectors=0"  # 7.2 crashes with MSI-X under TCG
    queues = 2 if "mq=on" in properties else 1
    mac = f"52:54:00:00:{kind:02x}:{number:02x}"
    return [
        *("-chardev", f"socket,id=c{kind},path={path},{reconnect}"),
        *("-netdev", f"vhost-user,id=u{kind},chardev=c{kind},queues={queues}"),
        *("-device", f"virtio-net-pci,netdev=u{kind},mac={mac}{properties}"),
    ]


def machine(qemu: str, network: list[str], extra: tuple[str, ...] = (), cpus: int = 1) -> Machine:
    """A guest that shares its memory."""
    memory = ["-m", "192", "-object", "memory-backend-memfd,id=m,size=192M,share=on"]
    return Machine(
        qemu, network, memory=[*memory, "-machine", "memory-backend=m"], extra=extra, cpus=cpus
    )


def lone_card(qemu: str, wire: Wire, name: str, number: int, *extra: str) -> Machine:
    """A guest with one plain card."""
    return machine(qemu, card_words(qemu, wire.add(name), number, 0, ""), extra)


def bring_up(guest: Machine, number: int, kind: int = 0) -> None:
    """Give a card its address, 10.1.KIND.NUMBER."""
    card = f"eth{kind}"
    guest.check(f"ip addr replace 10.1.{kind}.{number}/24 dev {card} && ip link set {card} up")


def pings(guest: Machine, address: str) -> bool:
    return "0% packet loss" in guest.check(f"ping -c 3 -i 0.2 {address}")


def transfer(sender: Machine, receiver: Machine, address: str) -> None:
    """Send a file of noise; what arrives must be the same."""
    sender.check(f"dd if=/dev/urandom of=/tmp/noise bs=1M count={MEGABYTES} 2>/dev/null", 60)
    receiver.check(RECEIVE)
    sender.check(f"sleep 0.3; nc -w 20 {address} 5000 < /tmp/noise", 120)
    receiver.check("for i in $(seq 100); do [ -e /tmp/done ] && break; sleep 0.1; done")
    sums = [guest.check("sha256sum < /tmp/" + name) for guest, name in
            ((sender, "noise"), (receiver, "got"))]  # fmt: skip
    assert sums[0] == sums[1]
    receiver.check("rm -f /tmp/got /tmp/done")
    sender.check("rm -f /tmp/noise")


SETS = {
    "as it comes": "",
    "legacy": ",disable-modern=on,disable-legacy=off",
    "legacy, no merging": ",disable-modern=on,disable-legacy=off,mrg_rxbuf=off",
    "no merging": ",mrg_rxbuf=off",
    "no event index": ",event_idx=off",
    "no indirect tables": ",indirect_desc=off",
    "no offloads": ",csum=off,guest_csum=off,gso=off",
    "bare": ",csum=off,guest_csum=off,gso=off,mrg_rxbuf=off,event_idx=off,indirect_desc=off",
    "large rings": ",rx_queue_size=1024,tx_queue_size=1024",
}


@dataclass
class Pair:
    """Two guests with a card of each kind; ``bring_up`` comes before a kind is used."""

    wire: Wire
    one: Machine
    two: Machine

    def bring_up(self, kind: int = 0) -> None:
        bring_up(self.one, 1, kind)
        bring_up(self.two, 2, kind)


@pytest.fixture(scope="module")
def pair(qemu: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    wire = Wire(tmp_path_factory.mktemp("wire"))
    guests = []
    for number in (1, 2):
        words = []
        for kind, properties in enumerate(SETS.values()):
            path = wire.add(f"n{number}.{kind}", kind)
            words += card_words(qemu, path, number, kind, properties)
        guests.append(machine(qemu, words))
    try:
        with both(*guests) as (one, two):
            yield Pair(wire, one, two)
    finally:
        wire.close()


@pytest.mark.parametrize("kind", range(len(SETS)), ids=SETS)
def test_files_pass_whole_between_guests(pair: Pair, kind: int) -> None:
    pair.bring_up(kind)
    assert pings(pair.one, f"10.1.{kind}.2")
    transfer(pair.one, pair.two, f"10.1.{kind}.2")
    transfer(pair.two, pair.one, f"10.1.{kind}.1")
    for number in (1, 2):
        stats = pair.wire.stats(f"n{number}.{kind}")
        assert stats["rx_bytes"] > MEGABYTES << 20
        assert stats["drops"] == {}
        assert stats["faults"] == stats["protocol_errors"] == 0
        assert stats["memory_sealed"]


def test_pausing_the_machine_pauses_the_network(pair: Pair) -> None:
    pair.bring_up()
    pair.two.qmp("stop")
    assert pair.wire.stats("n2.0")["link"] is False
    assert pair.one.run("ping -c 1 -W 1 10.1.0.2").status
    pair.two.qmp("cont")
    assert pings(pair.one, "10.1.0.2")


def test_the_card_may_end_and_come_back(pair: Pair) -> None:
    pair.bring_up()
    for _ in range(2):
        pair.wire.remove("n2.0")
        assert pair.one.run("ping -c 1 -W 1 10.1.0.2").status
        pair.wire.add("n2.0")
        begin = time.monotonic()
        pair.one.check("(for i in $(seq 40); do ping -c 1 -W 1 10.1.0.2 && exit; done; false)")
        assert time.monotonic() - begin < 6


def test_a_reboot_keeps_the_network(pair: Pair) -> None:
    pair.bring_up()
    pair.one.reboot()
    bring_up(pair.one, 1)
    assert pings(pair.one, "10.1.0.2")
    transfer(pair.one, pair.two, "10.1.0.2")
    assert pair.wire.stats("n1.0")["faults"] == 0


def test_two_pairs_of_queues_carry_files(qemu: str, wire: Wire) -> None:
    one, two = (
        machine(
            qemu,
            card_words(qemu, wire.add(f"n{number}", mq=True, queues=2), number, 0, ",mq=on"),
            cpus=2,
        )
        for number in (1, 2)
    )
    with both(one, two):
        for number, guest in enumerate((one, two), 1):
            bring_up(guest, number)
            guest.check("ethtool -L eth0 combined 2 2>/dev/null || true")
        transfer(one, two, "10.1.0.2")
        transfer(two, one, "10.1.0.1")
        assert "mq" in wire.stats("n1")["features"]


def test_a_guest_can_be_saved_and_restored(qemu: str, wire: Wire, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    made = subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "512M"], timeout=20)
    assert made.returncode == 0
    drive = ("-drive", f"if=none,id=d,file={disk},format=qcow2")
    one = lone_card(qemu, wire, "n1", 1, *drive)
    two = lone_card(qemu, wire, "n2", 2)
    with both(one, two):
        bring_up(one, 1)
        bring_up(two, 2)
        one.check("ping -c 1 10.1.0.2; echo before > /tmp/when")
        assert "Error" not in one.qmp.hmp("savevm s", 60)
        one.check("echo after > /tmp/when; ping -c 3 -i 0.2 10.1.0.2")
        assert "Error" not in one.qmp.hmp("loadvm s", 60)
        assert one.check("cat /tmp/when") == "before"
        assert pings(one, "10.1.0.2")
        transfer(two, one, "10.1.0.1")
        assert wire.stats("n1")["faults"] == 0


def test_a_guest_migrates_in_the_middle_of_a_transfer(
    qemu: str, wire: Wire, tmp_path: Path
) -> None:
    """What the card wrote, and the guest has not touched since, arrives at the new machine too.

    All of memory is copied once before the data comes, and the receiving program is stopped: the
    data waits in the buffers that the card filled, whose pages only the card's log can tell of.
    """
    one = lone_card(qemu, wire, "n1", 1)
    two = lone_card(qemu, wire, "n2", 2)
    way = f"unix:{tmp_path}/migration"
    target = lone_card(qemu, wire, "n3", 1, "-incoming", way)
    try:
        with both(one, two):
            one.check("sysctl -w net.ipv4.tcp_rmem='4096 6291456 6291456'")
            bring_up(one, 1)
            bring_up(two, 2)
            two.check("dd if=/dev/urandom of=/tmp/noise bs=64k count=32 2>/dev/null")
            one.check(f"{RECEIVE}; sleep 0.3; kill -STOP $(pidof nc)")
            one.check(KEEP_DIRTYING)
            target.start()
            time.sleep(1)
            migration = Migration(one)
            migration.start(way)
            migration.wait(lambda: migration.passes > 2)
            two.check("((nc 10.1.0.1 5000 < /tmp/noise) >/dev/null 2>&1 &)")
            migration.wait(lambda: wire.stats("n1")["rx_bytes"] > 32 * 65536)
            migration.let_end()
            migration.wait_ended()
            target.check("kill -CONT $(pidof nc)")
            target.check("for i in $(seq 300); do [ -e /tmp/done ] && break; sleep 0.1; done", 90)
            assert target.check("sha256sum < /tmp/got") == two.check("sha256sum < /tmp/noise")
            assert wire.stats("n3")["rx_frames"]
            assert wire.stats("n3")["faults"] == wire.stats("n1")["faults"] == 0
    finally:
        target.close()


# Noise, because pages of zeros cost a migration nothing
KEEP_DIRTYING = (
    "dd if=/dev/urandom of=/tmp/seed bs=1M count=4 2>/dev/null; "
    "((while true; do cat /tmp/seed > /tmp/dirt; usleep 50000; done) >/dev/null 2>&1 &)"
)


class Migration:
    """Copies pass after pass, slower than the guest writes, until it is let end."""

    def __init__(self, source: Machine) -> None:
        self.source = source

    def start(self, way: str) -> None:
        self.source.qmp.hmp("migrate_set_parameter max-bandwidth 20M")
        self.source.qmp.hmp("migrate_set_parameter downtime-limit 1")
        self.source.qmp("migrate", arguments={"uri": way})

    def let_end(self) -> None:
        self.source.qmp.hmp("migrate_set_parameter max-bandwidth 1G")
        self.source.qmp.hmp("migrate_set_parameter downtime-limit 2000")

    @property
    def passes(self) -> int:
        return int(self.source.qmp("query-migrate").get("ram", {}).get("dirty-sync-count", 0))

    @property
    def state(self) -> str:
        return str(self.source.qmp("query-migrate")["status"])

    def wait_ended(self, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while self.state != "completed":
            assert self.state != "failed" and time.monotonic() < deadline, self.state
            time.sleep(0.1)

    def wait(self, condition: Callable[[], bool], timeout_s: float = 100) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.state in ("setup", "active", "device"), self.source.qmp("query-migrate")
            assert time.monotonic() < deadline, self.source.qmp("query-migrate")
            time.sleep(0.1)
