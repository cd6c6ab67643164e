# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""An unmodified guest with Intel's cards: Linux's own drivers, and all that their user asks of them
by ethtool."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemon.instance import eventually
from tests.guest import provision
from tests.guest.intel import DEVICES, E1000E_LONG, MODULES, SIBLINGS_LONG, USUAL, loads_driver
from tests.guest.machine import Machine
from tests.guest.peer import HostPeer, free_port
from tests.guest.transfers import (
    ECHO_PORT,
    GATEWAY,
    MEGABYTE,
    download,
    noise,
    send_and_receive,
    start_echoes,
    upload,
)

pytestmark = pytest.mark.guest

ON_ONE = pytest.mark.parametrize("bed", E1000E_LONG, indirect=True)
SELF_TEST = ("Register", "Eeprom", "Interrupt", "Loopback", "Link")
EEPROM_SUM = 0xBABA


@dataclass
class Bed:
    """A booted guest with a lease, behind the prefix, in a runtime directory of its own."""

    guest: Machine
    card: str
    runtime: Path
    tcp_port: int
    udp_port: int

    def set_up(self) -> None:
        self.guest.lease()
        start_echoes(self.guest)

    def wait_for_carrier(self) -> None:
        """The driver resets the card for many a change, and the link takes its time then."""
        self.guest.check(
            "for try in $(seq 100); do "
            "[ $(cat /sys/class/net/eth0/carrier 2>/dev/null || echo 0) = 1 ] && break; "
            "sleep 0.1; done; [ $try -lt 100 ]"
        )

    def assert_transfers(self, host: HostPeer) -> None:
        download(self.guest, host, 2 * MEGABYTE)
        upload(self.guest, host, 1)


def newest() -> str:
    try:
        provision.root_of(provision.GUEST)
        return provision.qemu_newest()
    except provision.ProvisionError as error:
        pytest.skip(str(error))


def words_for(card: str, tcp_port: int, udp_port: int) -> list[str]:
    forwards = (
        f"hostfwd=tcp:127.0.0.1:{tcp_port}-:{ECHO_PORT},"
        f"hostfwd=udp:127.0.0.1:{udp_port}-:{ECHO_PORT}"
    )
    return ["-netdev", f"user,id=user1,{forwards}", "-device", f"{card},netdev=user1"]


@pytest.fixture(scope="module", params=SIBLINGS_LONG)
def bed(request: pytest.FixtureRequest, prefix: list[str]) -> Iterator[Bed]:
    qemu = newest()
    ports = free_port(), free_port(socket.SOCK_DGRAM)
    runtime = tempfile.mkdtemp(prefix="vmwire-run-")
    with Machine(
        qemu,
        words_for(request.param, *ports),
        prefix=prefix,
        kernel_words=loads_driver(request.param),
        environment={"XDG_RUNTIME_DIR": runtime},
    ) as guest:
        made = Bed(guest, request.param, Path(runtime), *ports)
        made.set_up()
        yield made
    shutil.rmtree(runtime)


def test_driver_finds_the_card_it_was_promised(bed: Bed) -> None:
    guest = bed.guest
    assert guest.check("cat /sys/class/net/eth0/device/device") == DEVICES[bed.card]
    assert f"driver: {MODULES[bed.card]}\n" in guest.check("ethtool -i eth0")
    settings = guest.check("ethtool eth0")
    for line in ("Speed: 1000Mb/s", "Duplex: Full", "Auto-negotiation: on", "Link detected: yes"):
        assert line in settings
    assert guest.lease()["ip"] == "10.0.2.15"


def test_gateway_answers_every_ping(bed: Bed) -> None:
    assert " 0% packet loss" in bed.guest.check(f"ping -c 5 -i 0.2 {GATEWAY}")
    assert " 0% packet loss" in bed.guest.check(f"ping -c 3 -i 0.2 -s 4000 {GATEWAY}")


def test_download_arrives_whole(bed: Bed, host: HostPeer) -> None:
    download(bed.guest, host, 32 * MEGABYTE, 120)


def test_upload_arrives_whole(bed: Bed, host: HostPeer) -> None:
    upload(bed.guest, host, 4, 120)


@pytest.mark.long
def test_download_of_a_gigabyte_arrives_whole(bed: Bed, host: HostPeer) -> None:
    download(bed.guest, host, 1024 * MEGABYTE, 900)


@pytest.mark.long
def test_upload_of_a_gigabyte_arrives_whole(bed: Bed, host: HostPeer) -> None:
    upload(bed.guest, host, 128, 900)


def test_forwarded_connection_reaches_the_guest_and_comes_back(bed: Bed) -> None:
    data = noise(2 * MEGABYTE)
    assert send_and_receive(bed.tcp_port, data) == data


@pytest.mark.parametrize("size", [1, 1472, 4000])
def test_forwarded_datagrams_come_in_and_go_back(bed: Bed, size: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(10)
        sender.sendto(noise(size), ("127.0.0.1", bed.udp_port))
        assert sender.recv(65536) == noise(size)


@ON_ONE
@pytest.mark.parametrize("feature", ["tx", "rx", "tso", "sg", "rxvlan", "rx-fcs", "rx-all"])
def test_traffic_passes_with_an_offload_changed_and_changed_back(
    bed: Bed, host: HostPeer, feature: str
) -> None:
    def set_to(value: str) -> None:
        bed.guest.check(f"ethtool -K eth0 {feature} {value}")
        bed.wait_for_carrier()

    shown = bed.guest.check(f"ethtool -k eth0 | grep '^{LONG_NAMES[feature]}:'")
    before = shown.split()[1]
    set_to("off" if before == "on" else "on")
    bed.assert_transfers(host)
    set_to(before)
    bed.assert_transfers(host)


LONG_NAMES = {
    "tx": "tx-checksumming",
    "rx": "rx-checksumming",
    "tso": "tcp-segmentation-offload",
    "sg": "scatter-gather",
    "rxvlan": "rx-vlan-offload",
    "rx-fcs": "rx-fcs",
    "rx-all": "rx-all",
}


@ON_ONE
@pytest.mark.parametrize("size", [80, 4096, 256])
def test_traffic_passes_with_rings_of_another_size(bed: Bed, host: HostPeer, size: int) -> None:
    if size == 256:
        bed.guest.check("ethtool -G eth0 rx 128 tx 128")
    bed.guest.check(f"ethtool -G eth0 rx {size} tx {size}")
    bed.wait_for_carrier()
    assert bed.guest.check("ethtool -g eth0").count(f":\t\t{size}\n") >= 2
    bed.assert_transfers(host)


@pytest.mark.parametrize("bed", USUAL, indirect=True)
def test_long_frames_pass_when_the_guest_allows_them(bed: Bed, host: HostPeer) -> None:
    for mtu in (9000, 1500):
        bed.guest.check(f"ip link set eth0 mtu {mtu}")
        bed.wait_for_carrier()
        bed.assert_transfers(host)


@ON_ONE
def test_forced_speed_is_what_the_link_has(bed: Bed, host: HostPeer, prefix: list[str]) -> None:
    if not prefix:
        pytest.skip("QEMU's own card stays at 1000 Mb/s")
    guest = bed.guest
    guest.check("ethtool -s eth0 speed 100 duplex full autoneg off")
    bed.wait_for_carrier()
    assert "Speed: 100Mb/s" in guest.check("ethtool eth0")
    bed.assert_transfers(host)
    guest.check("ethtool -s eth0 autoneg on")
    bed.wait_for_carrier()
    assert "Speed: 1000Mb/s" in guest.check("ethtool eth0")


def test_offline_self_test_passes(bed: Bed, host: HostPeer, prefix: list[str]) -> None:
    if not prefix:
        pytest.skip("QEMU's own card fails it")
    answer = bed.guest.check("ethtool -t eth0 offline", 60)
    assert "The test result is PASS" in answer
    results = [line.split()[0] for line in answer.splitlines() if line.split()[-1:] == ["0"]]
    assert results == list(SELF_TEST)
    bed.wait_for_carrier()
    download(bed.guest, host, MEGABYTE)


def test_eeprom_holds_the_address_and_a_right_checksum(bed: Bed) -> None:
    lines = bed.guest.check("ethtool -e eth0 offset 0 length 128").splitlines()[2:]
    data = bytes.fromhex("".join(line.split(":")[1] for line in lines))
    assert data[:6].hex(":") == bed.guest.check("cat /sys/class/net/eth0/address")
    assert sum(struct.unpack("<64H", data)) & 0xFFFF == EEPROM_SUM


def test_dumped_registers_show_a_card_at_work(bed: Bed) -> None:
    bed.wait_for_carrier()
    lines = [line.strip() for line in bed.guest.check("ethtool -d eth0").splitlines()]
    shown = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    assert shown["Link up"] == "link config"
    assert shown["Receiver"] == shown["Transmitter"] == "enabled"
    assert shown["Link speed"] == "1000Mb/s"
    if bed.card != "e1000e":  # ethtool doesn't know that one's PHY
        assert shown["Link State"] == "Up"


@ON_ONE
def test_network_stays_when_the_card_is_taken_down_and_up(bed: Bed, host: HostPeer) -> None:
    for _ in range(2):
        bed.guest.check("ip link set eth0 down; ip link set eth0 up")
        bed.guest.lease()
    bed.assert_transfers(host)


@ON_ONE
def test_driver_may_be_unloaded_and_loaded_again(bed: Bed, host: HostPeer) -> None:
    for _ in range(2):
        module = MODULES[bed.card]
        bed.guest.check(f"rmmod {module}; modprobe {module}; ip link set eth0 up")
        bed.guest.lease()
    bed.assert_transfers(host)


def test_kernel_has_nothing_to_complain_of(bed: Bed) -> None:
    complaints = "Unit Hang|NETDEV WATCHDOG|nobody cared|Call Trace|(EEPROM|NVM) Checksum"
    assert bed.guest.run(f"dmesg | grep -E '{complaints}'").output == ""


def test_network_stays_when_the_guest_reboots(bed: Bed, host: HostPeer) -> None:
    bed.guest.reboot()
    bed.set_up()
    bed.assert_transfers(host)
    assert send_and_receive(bed.tcp_port, b"after the reboot") == b"after the reboot"


@ON_ONE
def test_network_stays_when_the_machine_is_reset_under_load(bed: Bed, host: HostPeer) -> None:
    url = f"http://{GATEWAY}:{host.http_port}/{4096 * MEGABYTE}"
    for _ in range(2):
        before = received(bed.guest)
        bed.guest.check(f"wget -qO /dev/null {url} >/dev/null 2>&1 &")
        eventually(lambda before=before: received(bed.guest) > before + MEGABYTE)  # type: ignore[misc]
        bed.guest.qmp("system_reset")
        bed.guest.wait_booted()
        bed.guest.lease()
    bed.set_up()
    bed.assert_transfers(host)


def received(guest: Machine) -> int:
    return int(guest.check("cat /sys/class/net/eth0/statistics/rx_bytes"))


@ON_ONE
def test_card_may_be_removed_and_found_again(bed: Bed, host: HostPeer) -> None:
    bed.guest.check("echo 1 >$(readlink -f /sys/class/net/eth0/device)/remove")
    assert bed.guest.check("ls /sys/class/net") == "lo"
    bed.guest.check("echo 1 >/sys/bus/pci/rescan; sleep 0.5; ip link set eth0 up")
    bed.guest.lease()
    bed.assert_transfers(host)


def test_powering_off_ends_all_and_leaves_nothing(bed: Bed) -> None:
    bed.guest.console.type("poweroff -f\n")
    assert bed.guest.wait_ended() == 0
    eventually(lambda: list(bed.runtime.glob("vmwire/*/*")) == [])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", bed.tcp_port))
        probe.listen()


@pytest.mark.parametrize("card", DEVICES)
def test_explanation_says_that_the_card_is_taken(card: str, prefix: list[str]) -> None:
    if not prefix:
        pytest.skip("this is about the prefix")
    words = [*prefix, "--explain", newest(), *words_for(card, 5555, 5555), "-boot", "c"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "vfio-user-pci" in done.stdout and "user1" in done.stdout
    assert "stays with QEMU" not in done.stdout
