# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""virtio-net as a register card in an unmodified guest: Linux's virtio_net over its modern and its
legacy interface. The network runs in the tests' own process, which sees the wire's other end."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.guest.machine import Machine
from tests.guest.peer import HostPeer
from tests.guest.test_e1000 import newest
from tests.guest.transfers import GATEWAY, MEGABYTE, download, upload
from vmwire.network import Network

pytestmark = pytest.mark.guest

MEMORY = (
    *("-m", "256", "-object", "memory-backend-memfd,id=mem,size=256M,share=on"),
    *("-machine", "memory-backend=mem"),
)
MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("525500020203")
GROUP = bytes.fromhex("01005e7f0102")
EXPERIMENTAL = b"\x88\xb5"  # an EtherType that nobody listens to
VLAN = 5

FACES: dict[str, dict[str, Any]] = {
    "modern": {"mq": True, "queues": 2},
    "legacy": {"disable_modern": True},
}


@dataclass
class Wired:
    net: Network
    guest: Machine
    face: str

    def card(self) -> dict[str, Any]:
        found: dict[str, Any] = self.net.stats()["devices"]["n"]
        return found

    def wait_for_carrier(self, value: int) -> None:
        self.guest.check(
            "for try in $(seq 100); do "
            f"[ $(cat /sys/class/net/eth0/carrier) = {value} ] && break; "
            "sleep 0.1; done; [ $try -lt 100 ]"
        )

    def passed(self, destination: bytes, tag: bytes = b"") -> int:
        """Put three frames on the guest's wire; how many of them the card let in."""
        before = self.card()["filtered"]
        for _ in range(3):
            frame = destination + OTHER + tag + EXPERIMENTAL + bytes(50)
            assert self.net.inject("n", frame, kind="device")
        return 3 - (self.card()["filtered"] - before)


@pytest.fixture(scope="module", params=["modern", pytest.param("legacy", marks=pytest.mark.long)])
def wired(request: pytest.FixtureRequest) -> Iterator[Wired]:
    qemu = newest()
    folder = Path(tempfile.mkdtemp(prefix="vmwire-virtio-"))
    path = str(folder / "n.sock")
    with Network() as net:
        net.add_netdev("user", id="u")
        options = {"attach": "vfio-user", "mac": MAC, "socket": path, **FACES[request.param]}
        net.add_nic("virtio-net-pci", id="n", netdev="u", **options)
        stands_for = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": path}}
        with Machine(qemu, ["-device", json.dumps(stands_for)], memory=MEMORY, cpus=2) as guest:
            guest.check("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
            guest.lease()
            yield Wired(net, guest, request.param)
    shutil.rmtree(folder)


def test_driver_finds_the_card_it_was_promised(wired: Wired) -> None:
    features = wired.card()["features"]
    assert ("version_1" in features) is (wired.face == "modern")
    assert {"csum", "guest_tso4", "mrg_rxbuf", "ctrl_vq", "ctrl_vlan"} <= set(features)
    assert "driver: virtio_net\n" in wired.guest.check("ethtool -i eth0")
    messages = wired.guest.check("grep -c virtio0 /proc/interrupts")
    assert int(messages) == (5 if wired.face == "modern" else 3)  # MSI-X: one a queue, and one


def test_checked_bytes_go_both_ways(wired: Wired, host: HostPeer) -> None:
    download(wired.guest, host, 16 * MEGABYTE)
    upload(wired.guest, host, 2)
    assert wired.card()["faults"] == 0 and not wired.card()["drops"]


def test_without_offloads_too(wired: Wired, host: HostPeer) -> None:
    wired.guest.check("ethtool -K eth0 tx off rx-gro-hw off")
    download(wired.guest, host, 4 * MEGABYTE)
    upload(wired.guest, host, 1)
    wired.guest.check("ethtool -K eth0 tx on rx-gro-hw on tso on")
    download(wired.guest, host, 4 * MEGABYTE)


def test_both_pairs_of_queues_carry_frames(wired: Wired) -> None:
    if wired.face != "modern":
        pytest.skip("it has one pair")
    wired.guest.check("ethtool -L eth0 combined 1")
    assert wired.card()["pairs"] == 1
    wired.guest.check(f"ping -c 1 {GATEWAY}")
    wired.guest.check("ethtool -L eth0 combined 2")
    assert wired.card()["pairs"] == 2
    wired.guest.check(f"for cpu in 0 1; do taskset -c $cpu ping -c 2 -i 0.1 {GATEWAY}; done")
    sent = wired.guest.check("ethtool -S eth0 | grep -c 'tx_queue_[01]_packets: [1-9]'")
    assert sent.strip() == "2"


def test_filters_are_those_that_the_guest_has_set(wired: Wired) -> None:
    guest = wired.guest
    assert wired.passed(MAC) == 3 and wired.passed(b"\xff" * 6) == 3
    assert wired.passed(OTHER) == 0 and wired.passed(GROUP) == 0
    guest.check("ip link set eth0 promisc on")
    assert wired.passed(OTHER) == 3
    guest.check("ip link set eth0 promisc off; ifconfig eth0 allmulti")
    assert wired.passed(OTHER) == 0 and wired.passed(GROUP) == 3
    guest.check("ifconfig eth0 -allmulti; ip link set eth0 address 52:55:00:02:02:03")
    assert wired.passed(OTHER) == 3 and wired.passed(MAC) == 0
    guest.check("ip link set eth0 address 52:54:00:12:34:56")


def test_vlans_come_in_as_the_guest_names_them(wired: Wired) -> None:
    tag = b"\x81\0" + VLAN.to_bytes(2, "big")
    assert wired.passed(MAC, tag) == 0
    wired.guest.check(f"modprobe 8021q; ip link add link eth0 name eth0.5 type vlan id {VLAN}")
    assert wired.passed(MAC, tag) == 3
    wired.guest.check("ip link del eth0.5")
    assert wired.passed(MAC, tag) == 0


def test_pulled_cable_shows_in_the_guest(wired: Wired, host: HostPeer) -> None:
    wired.net.set_link("n", False)
    wired.wait_for_carrier(0)
    assert "Link detected: no" in wired.guest.check("ethtool eth0")
    wired.net.set_link("n", True)
    wired.wait_for_carrier(1)
    download(wired.guest, host, MEGABYTE)


def test_interface_and_driver_go_and_come_again(wired: Wired, host: HostPeer) -> None:
    guest = wired.guest
    for _ in range(3):
        guest.check("ip link set eth0 down; ip link set eth0 up")
    guest.lease()
    download(guest, host, MEGABYTE)
    guest.check("ip link set eth0 down; rmmod virtio_net; modprobe virtio_net; sleep 0.5")
    guest.check("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
    guest.lease()
    download(guest, host, MEGABYTE)
    assert wired.card()["faults"] == 0


@pytest.mark.long
def test_gigabytes_arrive_whole(wired: Wired, host: HostPeer) -> None:
    download(wired.guest, host, 1024 * MEGABYTE, 900)
    upload(wired.guest, host, 128, 900)
