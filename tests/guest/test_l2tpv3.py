# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Tunnels to Linux's own L2TPv3, in the kernel of a guest, and to User-mode Linux's vector cards.

Each test has a network namespace to itself, in which the guest's card is a tap, or where User-mode
Linux has its sockets. A user network of ours stands behind our end of the tunnel.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from tests.guest import provision
from tests.guest.machine import Machine
from tests.guest.peer import HostPeer
from tests.guest.uml import UserModeLinux
from tests.netdev.alone import alone, ip
from vmwire.bench.pattern import pattern_sha256
from vmwire.network import Network

pytestmark = pytest.mark.guest

HERE = {False: "192.0.2.1", True: "2001:db8::1"}
THERE = {False: "192.0.2.2", True: "2001:db8::2"}
GATEWAY = "10.0.2.2"
SIZE = 1 << 19
IP = "/usr/bin/ip"
COOKIE_OUT, COOKIE_IN = "b1b2b3b4b5b6b7b8", "a1a2a3a4a5a6a7a8"
MODULES = "l2tp_eth l2tp_ip l2tp_ip6 l2tp_netlink"


@pytest.fixture(scope="module")
def program() -> str:
    """QEMU; what the guests boot is there, too."""
    try:
        provision.root_of(provision.GUEST)
        return provision.qemu_newest()
    except provision.ProvisionError as error:
        pytest.skip(str(error))


class Shell(Protocol):
    def check(self, command: str, timeout_s: float = ...) -> str: ...


@contextlib.contextmanager
def our_end(options: Mapping[str, Any]) -> Iterator[Network]:
    with Network() as network:
        network.add_netdev("user", id="u")
        network.add_netdev("l2tpv3", id="t", **options)
        network.connect("t", "u")
        yield network


def carries(shell: Shell, host: HostPeer, card: str) -> None:
    """Packets of a card's full length, and TCP both ways."""
    shell.check(f"ip addr add 10.0.2.15/24 dev {card}; ip link set {card} up")
    assert " 0% packet loss" in shell.check(f"ping -c 3 -i 0.1 -s 1472 {GATEWAY}")
    get = f"wget -qO /tmp/got http://{GATEWAY}:{host.http_port}/{SIZE} && sha256sum /tmp/got"
    assert shell.check(get, 60).split()[0] == pattern_sha256(SIZE)
    answer = shell.check(f"socat -t 30 - TCP:{GATEWAY}:{host.sum_port} < /tmp/got", 60)
    assert answer.split() == [pattern_sha256(SIZE), str(SIZE)]


# --- the kernel's --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A tunnel to the kernel: in UDP or over IP, its IP, the bytes of its cookies, l2spec_type."""

    udp: bool
    ipv6: bool
    cookie: int
    spec: str

    def create(self, number: int) -> str:
        """The lines that make it in the guest, as interface tun0."""
        encapsulation = f"udp udp_sport {5000 + number} udp_dport 1701" if self.udp else "ip"
        cookies = (
            f"cookie {COOKIE_IN[: 2 * self.cookie]} peer_cookie {COOKIE_OUT[: 2 * self.cookie]}"
        )
        ids = f"tunnel_id {number}"
        return (
            f"{IP} l2tp add tunnel {ids} peer_tunnel_id {number} encap {encapsulation} "
            f"local {THERE[self.ipv6]} remote {HERE[self.ipv6]} && "
            f"{IP} l2tp add session name tun0 {ids} session_id {100 + number} "
            f"peer_session_id {200 + number} {cookies if self.cookie else ''} "
            f"l2spec_type {self.spec} && ip link set tun0 mtu 1500"
        )

    def options(self, number: int) -> dict[str, Any]:
        """Our end of it."""
        found: dict[str, Any] = {
            "src": HERE[self.ipv6], "dst": THERE[self.ipv6], "ipv6": self.ipv6, "udp": self.udp,
            "rxsession": 200 + number, "txsession": 100 + number,
        }  # fmt: skip
        if self.udp:
            found |= {"srcport": "1701", "dstport": str(5000 + number)}
        if self.cookie:
            found["txcookie"] = int(COOKIE_OUT[: 2 * self.cookie], 16)
            found["rxcookie"] = int(COOKIE_IN[: 2 * self.cookie], 16)
        if self.cookie == 8:
            found["cookie64"] = True
        if self.spec == "default":
            found |= {"counter": True, "pincounter": True}
        return found


ALL = [
    Kind(*values)
    for values in itertools.product((True, False), (False, True), (0, 4, 8), ("none", "default"))
]
SOME = [
    Kind(udp=True, ipv6=False, cookie=4, spec="default"),
    Kind(udp=False, ipv6=False, cookie=8, spec="none"),
    Kind(udp=True, ipv6=True, cookie=8, spec="none"),
    Kind(udp=False, ipv6=True, cookie=0, spec="default"),
]


@contextlib.contextmanager
def linux(program: str) -> Iterator[Machine]:
    """A guest whose card is on a tap of ours."""
    ip("tuntap add name tap0 mode tap")
    ip(f"addr add {HERE[False]}/24 dev tap0")
    ip(f"addr add {HERE[True]}/64 dev tap0 nodad")
    ip("link set tap0 up")
    words = ["-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no"]
    words += ["-device", "virtio-net-pci,netdev=n"]
    with Machine(program, words) as guest:
        guest.check(
            f"ip addr add {THERE[False]}/24 dev eth0; ip link set eth0 up;"
            f"{IP} addr add {THERE[True]}/64 dev eth0 nodad;"
            f"modprobe -a {MODULES}"
        )
        yield guest


def wrong_cookies_are_refused_by_both(guest: Machine, options: Mapping[str, Any]) -> None:
    silent = f"! ping -c 1 -W 1 {GATEWAY}"
    guest.check("ip addr add 10.0.2.16/24 dev tun0; ip link set tun0 up")
    with our_end({**options, "rxcookie": 5}) as network:
        guest.check(silent)
        assert network.netdevs["t"].box.port.drops["wrong cookie"] > 0
    with our_end({**options, "txcookie": 5}):
        guest.check(silent)
    guest.check("ip addr flush dev tun0")


@pytest.mark.parametrize(
    "kinds", [SOME, pytest.param(ALL, marks=pytest.mark.long)], ids=["some", "all"]
)
@alone
def test_a_linux_kernel_is_at_the_other_end(kinds: Sequence[Kind], program: str) -> None:
    with HostPeer() as host, linux(program) as guest:
        for number, kind in enumerate(kinds, start=1):
            guest.check(kind.create(number))
            options = kind.options(number)
            if kind == SOME[0]:
                wrong_cookies_are_refused_by_both(guest, options)
            with our_end(options):
                carries(guest, host, "tun0")
            guest.check(f"{IP} l2tp del tunnel tunnel_id {number}")
            guest.check("while [ -e /sys/class/net/tun0 ]; do sleep 0.1; done")


# --- User-mode Linux's ---------------------------------------------------------------------------

COOKIES = ",rx_cookie=11,tx_cookie=22", {"rxcookie": 22, "txcookie": 11}
LONG = f"{COOKIES[0]},cookie64=1", {**COOKIES[1], "cookie64": True}
COUNTER = ",counter=1", {"counter": True}
PINNED = ",counter=1,pin_counter=1", {"counter": True, "pincounter": True}
CARDS: list[tuple[bool, bool, tuple[str, dict[str, Any]]]] = [
    (True, False, LONG),
    (False, False, COOKIES),
    (True, True, COUNTER),
    (False, True, PINNED),
]


@pytest.mark.skipif(not UserModeLinux.is_there(), reason="needs user-mode-linux")
@alone
def test_user_mode_linux_is_at_the_other_end(program: str) -> None:
    for ipv6, length in ((False, 32), (True, 128)):
        for address in (HERE[ipv6], THERE[ipv6]):
            ip(f"addr add {address}/{length} dev lo")
    words, ends = [], []
    for number, (udp, ipv6, (theirs, ours)) in enumerate(CARDS):
        ports = f",srcport={5000 + number},dstport={6000 + number}" if udp else ""
        words.append(
            f"vec{number}:transport=l2tpv3,src={THERE[ipv6]},dst={HERE[ipv6]},v6={int(ipv6)},"
            f"udp={int(udp)},rx_session={100 + number},tx_session={200 + number}{ports}{theirs}"
        )
        end = {
            "src": HERE[ipv6], "dst": THERE[ipv6], "ipv6": ipv6, "udp": udp, **ours,
            "rxsession": 200 + number, "txsession": 100 + number,
        }  # fmt: skip
        if udp:
            end |= {"srcport": str(6000 + number), "dstport": str(5000 + number)}
        ends.append(end)
    with HostPeer() as host, UserModeLinux(words) as guest:
        for number, options in enumerate(ends):
            with our_end(options):
                carries(guest, host, f"vec{number}")
            guest.check(f"ip addr flush dev vec{number}; ip link set vec{number} down")
