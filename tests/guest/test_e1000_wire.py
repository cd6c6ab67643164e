# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a guest's Intel card puts on its wire and takes from it, seen from the other end: VLAN tags,
filters, counters, and a cable that is pulled. The network runs here, in the tests' own process."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.intel import FILTERING_VLANS, FIRST_USUAL, loads_driver
from tests.guest.machine import Machine
from tests.guest.peer import HostPeer
from tests.guest.test_e1000 import newest
from tests.guest.transfers import GATEWAY, MEGABYTE, download, upload
from vmwire.bench.pattern import pattern_sha256
from vmwire.network import Network
from vmwire.wire.hook import DROP, PASS, Answer, Direction, Packet

pytestmark = pytest.mark.guest

MEMORY = (
    *("-m", "256", "-object", "memory-backend-memfd,id=mem,size=256M,share=on"),
    *("-machine", "memory-backend=mem"),
)
MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("525500020203")
BROADCAST = b"\xff" * 6
ALL_HOSTS = bytes.fromhex("01005e000001")  # a group that every guest is in
NO_GROUP = bytes.fromhex("01005e7f0102")
EXPERIMENTAL = b"\x88\xb5"  # an EtherType that nobody listens to
CRC_BYTES, SHORTEST = 4, 60
VLAN, OTHER_VLAN = 5, 6


@dataclass
class Wired:
    net: Network
    guest: Machine

    def wait_for_carrier(self, value: int) -> None:
        self.guest.check(
            "for try in $(seq 100); do "
            f"[ $(cat /sys/class/net/eth0/carrier) = {value} ] && break; "
            "sleep 0.1; done; [ $try -lt 100 ]"
        )

    def counters(self) -> Counter[str]:
        """What the card has counted, as `ethtool -S` names it."""
        lines = self.guest.check("ethtool -S eth0").splitlines()[1:]
        return Counter({key.strip(): int(value) for key, value in (x.split(":") for x in lines)})

    def send(self, destination: bytes, count: int, tag: bytes = b"") -> Counter[str]:
        """Put frames on the guest's wire; what the card counts of them."""
        before = self.counters()
        for _ in range(count):
            frame = destination + OTHER + tag + EXPERIMENTAL + bytes(50)
            assert self.net.inject("n", frame, kind="device")
        self.guest.check("sleep 0.2")
        return self.counters() - before


def tag_of(vlan: int) -> bytes:
    return struct.pack("!HH", 0x8100, vlan)


@pytest.fixture(scope="module", params=FIRST_USUAL)
def wired(request: pytest.FixtureRequest) -> Iterator[Wired]:
    qemu = newest()
    folder = Path(tempfile.mkdtemp(prefix="vmwire-wire-"))
    path = str(folder / "n.sock")
    with Network() as net:
        net.add_netdev("user", id="u")
        net.add_nic(request.param, id="n", netdev="u", mac=MAC, socket=path)
        stands_for = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": path}}
        words = ["-device", json.dumps(stands_for)]
        driver = loads_driver(request.param)
        with Machine(qemu, words, memory=MEMORY, kernel_words=driver) as guest:
            # its solicitations would come at any time
            guest.check("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
            guest.lease()
            yield Wired(net, guest)
    shutil.rmtree(folder)


class Tap:
    """Counts what passes, as a card counts it: with padding and checksum."""

    def __init__(self) -> None:
        self.packets: Counter[Direction] = Counter()
        self.bytes: Counter[Direction] = Counter()

    def __call__(self, packet: Packet) -> Answer:
        self.packets[packet.direction] += 1
        self.bytes[packet.direction] += max(len(packet.data), SHORTEST) + CRC_BYTES
        return PASS


def test_counters_agree_with_what_was_on_the_wire(wired: Wired, host: HostPeer) -> None:
    tap = Tap()
    before = wired.counters()
    hook = wired.net.hook("u", tap)
    download(wired.guest, host, 2 * MEGABYTE)
    upload(wired.guest, host, 1)
    wired.guest.check(f"ping -c 3 -i 0.2 {GATEWAY}; sleep 1")
    wired.net.remove(hook)
    counted = wired.counters() - before
    for way, name in ((Direction.TX, "tx"), (Direction.RX, "rx")):
        assert counted[f"{name}_packets"] == tap.packets[way]
        assert counted[f"{name}_bytes"] == tap.bytes[way]
    assert counted["tx_tcp_seg_good"] > 0
    assert not {name for name in counted if "error" in name or "fail" in name}


def test_frames_pass_the_filters_that_the_guest_has_set(wired: Wired) -> None:
    guest = wired.guest
    assert wired.send(MAC, 3)["rx_packets"] == 3
    assert wired.send(BROADCAST, 3)["rx_broadcast"] == 3
    assert wired.send(ALL_HOSTS, 3)["rx_multicast"] == 3
    assert wired.send(NO_GROUP, 3)["rx_packets"] == 0
    assert wired.send(OTHER, 3)["rx_packets"] == 0
    guest.check("ip link set eth0 promisc on")
    assert wired.send(OTHER, 3)["rx_packets"] == 3
    guest.check("ip link set eth0 promisc off")
    assert wired.send(OTHER, 3)["rx_packets"] == 0
    guest.check("ip link set eth0 address 52:55:00:02:02:03")
    assert wired.send(OTHER, 3)["rx_packets"] == 3
    guest.check("ip link set eth0 address 52:54:00:12:34:56")


class AccessPort:
    """A switch between a VLAN on the guest's side and the user network, which knows of none."""

    def __init__(self, vlan: int) -> None:
        self.tag = tag_of(vlan)
        self.passed = 0

    def __call__(self, packet: Packet) -> Answer:
        if packet.direction is Direction.RX:
            return packet.data[:12] + self.tag + packet.data[12:]
        if packet.data[12:16] != self.tag:
            return DROP
        self.passed += 1
        return packet.data[:12] + packet.data[16:]


@pytest.mark.parametrize("hardware", ["on", "off"])
def test_tagged_traffic_passes(wired: Wired, host: HostPeer, hardware: str) -> None:
    """With the card inserting and stripping the tags, and with Linux doing it."""
    guest, name = wired.guest, f"eth0.{VLAN}"
    guest.check(f"ethtool -K eth0 rxvlan {hardware}")
    guest.check(f"modprobe 8021q; ip link add link eth0 name {name} type vlan id {VLAN}")
    wired.wait_for_carrier(1)
    port = AccessPort(VLAN)
    hook = wired.net.hook("u", port)
    try:
        guest.check(f"ip addr flush dev eth0; ip link set {name} up")
        guest.lease(name)
        download(guest, host, 2 * MEGABYTE)
        upload(guest, host, 1)
        assert port.passed > 100
    finally:
        wired.net.remove(hook)
        guest.check(f"ip link del {name}; ethtool -K eth0 rxvlan on")
    wired.wait_for_carrier(1)
    guest.lease()


@pytest.mark.parametrize("wired", FILTERING_VLANS, indirect=True)
def test_only_the_guests_own_vlans_come_in(wired: Wired) -> None:
    guest = wired.guest
    guest.check("modprobe 8021q")
    for vlan in (VLAN, OTHER_VLAN):
        name = f"eth0.{vlan}"
        guest.check(
            f"ip link add link eth0 name {name} type vlan id {vlan} && ip link set {name} up"
        )
        assert wired.send(MAC, 3, tag_of(vlan))["rx_packets"] == 3
        assert guest.check(f"cat /sys/class/net/{name}/statistics/rx_packets") == "3"
        guest.check(f"ip link del {name}")
    guest.check(f"ip link add link eth0 name eth0.{VLAN} type vlan id {VLAN}")
    assert wired.send(MAC, 3, tag_of(OTHER_VLAN))["rx_packets"] == 0
    guest.check(f"ip link del eth0.{VLAN}")


def test_pulled_cable_shows_in_the_guest(wired: Wired, host: HostPeer) -> None:
    wired.net.set_link("n", False)
    wired.wait_for_carrier(0)
    assert "Link detected: no" in wired.guest.check("ethtool eth0")
    wired.net.set_link("n", True)
    wired.wait_for_carrier(1)
    download(wired.guest, host, MEGABYTE)


def test_download_goes_on_when_the_cable_is_back(wired: Wired, host: HostPeer) -> None:
    size = 64 * MEGABYTE
    url = f"http://{GATEWAY}:{host.http_port}/{size}"
    wired.guest.check(f"(wget -qO- {url} | sha256sum >/tmp/sum) >/dev/null 2>&1 &")
    wired.guest.check("sleep 0.5")
    wired.net.set_link("n", False)
    wired.wait_for_carrier(0)
    wired.guest.check("[ ! -s /tmp/sum ]")
    wired.net.set_link("n", True)
    wait = "for try in $(seq 150); do [ -s /tmp/sum ] && break; sleep 0.2; done; cat /tmp/sum"
    assert wired.guest.check(wait, 60).split()[0] == pattern_sha256(size)
