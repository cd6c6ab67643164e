# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the 82574L has beside its elders, in the hands of Linux's driver: message-signalled vectors
and the other ways to interrupt, a clock, PCI Express and its extended configuration space."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator

import pytest

from tests.guest import phc
from tests.guest.intel import loads_driver
from tests.guest.machine import Machine
from tests.guest.peer import HostPeer
from tests.guest.test_e1000 import newest
from tests.guest.transfers import GATEWAY, MEGABYTE, download, upload

pytestmark = pytest.mark.guest

MAC = "52:54:00:12:34:56"
VECTORS = ["eth0-rx-0", "eth0-tx-0", "eth0"]
MODES = {0: "IO-APIC", 1: "PCI-MSI", 2: "PCI-MSI"}
"""The driver's parameter IntMode, and what the kernel calls it: the pin, MSI, MSI-X."""
ERROR_REPORTING, SERIAL_NUMBER = 0x0001, 0x0003
EXTENDED_SPACE = 0x100


@pytest.fixture(scope="module")
def guest(prefix: list[str]) -> Iterator[Machine]:
    """A PC with PCI Express, the card behind a root port."""
    words = ["-machine", "q35", "-device", "pcie-root-port,id=r", "-netdev", "user,id=u"]
    words += ["-device", "e1000e,netdev=u,bus=r,subsys=0x1234,subsys_ven=0xabcd"]
    with Machine(newest(), words, prefix=prefix, kernel_words=loads_driver("e1000e")) as guest:
        guest.lease()
        yield guest


def interrupts(guest: Machine) -> dict[str, tuple[int, str]]:
    """How often each of the card's handlers was called, and by which kind of interrupt."""
    found = {}
    for line in guest.check("grep eth0 /proc/interrupts").splitlines():
        _, count, kind, *_, name = line.split()
        found[name] = (int(count), kind)
    return found


def wait_for_carrier(guest: Machine) -> None:
    guest.check(
        "for try in $(seq 100); do [ $(cat /sys/class/net/eth0/carrier 2>/dev/null || echo 0) = 1 ]"
        " && break; sleep 0.1; done; [ $try -lt 100 ]"
    )


def test_each_vector_interrupts(guest: Machine, host: HostPeer) -> None:
    before = interrupts(guest)
    assert sorted(before) == sorted(VECTORS)
    download(guest, host, MEGABYTE)
    upload(guest, host, 1)
    after = interrupts(guest)
    assert all(after[name][0] > before[name][0] for name in VECTORS[:2])
    assert {kind for _, kind in after.values()} == {"PCI-MSI"}


def test_it_is_an_express_card_with_extended_space(guest: Machine) -> None:
    dump = guest.check("od -An -v -t x1 /sys/class/net/eth0/device/config")
    config = bytes.fromhex("".join(dump.split()))
    assert len(config) == 4096
    assert struct.unpack_from("<HH", config, 0x2C) == (0xABCD, 0x1234)
    found, at = {}, EXTENDED_SPACE
    while at:
        header = int.from_bytes(config[at : at + 4], "little")
        found[header & 0xFFFF] = at
        at = header >> 20
    assert list(found) == [ERROR_REPORTING, SERIAL_NUMBER]
    serial = config[found[SERIAL_NUMBER] + 4 : found[SERIAL_NUMBER] + 12][::-1]
    assert (serial[:3] + serial[5:]).hex(":") == MAC


def test_the_cards_clock_runs_as_fast_as_the_hosts(guest: Machine) -> None:
    """The guest's own clock jumps where the machine is busy."""
    assert "PTP Hardware Clock: 0" in guest.check("ethtool -T eth0")
    phc.put_into(guest)
    before = time.monotonic()
    begin = phc.read(guest)
    between = time.monotonic()
    time.sleep(1)
    later = time.monotonic()
    end = phc.read(guest)
    assert later - between - 0.01 <= end - begin <= time.monotonic() - before + 0.01


def test_hashing_is_told_and_can_be_switched(guest: Machine, host: HostPeer) -> None:
    assert "IP DA" in guest.check("ethtool -n eth0 rx-flow-hash tcp4")
    for value in ("off", "on"):
        guest.check(f"ethtool -K eth0 rxhash {value}")
        wait_for_carrier(guest)
        assert re.search(f"receive-hashing: {value}", guest.check("ethtool -k eth0"))
        download(guest, host, MEGABYTE)


def test_a_card_behind_a_root_port_may_be_removed_and_found_again(
    guest: Machine, host: HostPeer
) -> None:
    guest.check("echo 1 >$(readlink -f /sys/class/net/eth0/device)/remove")
    assert guest.check("ls /sys/class/net") == "lo"
    guest.check("echo 1 >/sys/bus/pci/rescan; sleep 0.5; ip link set eth0 up")
    guest.lease()
    download(guest, host, MEGABYTE)


@pytest.mark.parametrize(
    "mode", [0, *(pytest.param(mode, marks=pytest.mark.long) for mode in (1, 2))]
)
def test_each_way_to_interrupt_works(guest: Machine, host: HostPeer, mode: int) -> None:
    guest.check(f"rmmod e1000e; modprobe e1000e IntMode={mode}; ip link set eth0 up")
    guest.lease()
    download(guest, host, 2 * MEGABYTE)
    upload(guest, host, 1)
    assert " 0% packet loss" in guest.check(f"ping -c 3 -i 0.2 {GATEWAY}")
    found = interrupts(guest)
    assert {kind for _, kind in found.values()} == {MODES[mode]}
    assert len(found) == (3 if mode == 2 else 1)
