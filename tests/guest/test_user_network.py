# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""An unmodified guest on the user-mode network: what its user does with it, end to end."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from tests.guest.machine import Machine
from tests.guest.peer import HostPeer, free_port
from tests.guest.provision import MIRROR
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
from vmwire.bench.pattern import pattern_sha256

pytestmark = pytest.mark.guest


@dataclass
class Bed:
    """A booted guest with a lease, an echo on its port 7, and the ways to that from the host."""

    guest: Machine
    tcp_port: int
    udp_port: int

    def set_up(self) -> None:
        self.guest.lease()
        start_echoes(self.guest)


@pytest.fixture(scope="module")
def bed(qemu: str, prefix: list[str]) -> Iterator[Bed]:
    tcp_port, udp_port = free_port(), free_port(socket.SOCK_DGRAM)
    forwards = (
        f"hostfwd=tcp:127.0.0.1:{tcp_port}-:{ECHO_PORT},"
        f"hostfwd=udp:127.0.0.1:{udp_port}-:{ECHO_PORT}"
    )
    words = ["-netdev", f"user,id=n,{forwards}", "-device", "virtio-net-pci,netdev=n"]
    with Machine(qemu, words, prefix=prefix) as guest:
        bed = Bed(guest, tcp_port, udp_port)
        bed.set_up()
        yield bed


def test_card_is_served_by_the_prefix(bed: Bed, prefix: list[str]) -> None:
    kind = "vhost-user" if prefix else "user"
    assert f"type={kind}" in bed.guest.qmp.hmp("info network")


def test_lease_has_the_networks_addresses(bed: Bed) -> None:
    lease = bed.guest.lease()
    assert (lease["ip"], lease["subnet"]) == ("10.0.2.15", "255.255.255.0")
    assert (lease["router"], lease["dns"]) == (GATEWAY, "10.0.2.3")
    assert (lease["serverid"], lease["lease"]) == (GATEWAY, "86400")


def test_names_resolve_as_on_the_host(bed: Bed) -> None:
    name = urlsplit(MIRROR).hostname  # one that this machine surely can resolve
    assert name
    expected = {str(entry[4][0]) for entry in socket.getaddrinfo(name, 80, socket.AF_INET)}
    answer = bed.guest.check(f"nslookup -type=a {name} 10.0.2.3")
    assert any(address in answer for address in expected), answer


def test_gateway_answers_every_ping(bed: Bed) -> None:
    assert " 0% packet loss" in bed.guest.check(f"ping -c 5 -i 0.2 {GATEWAY}")
    assert " 0% packet loss" in bed.guest.check(f"ping -c 3 -i 0.2 -s 1400 {GATEWAY}")


def test_closed_port_is_refused_at_once(bed: Bed) -> None:
    begin = time.monotonic()
    result = bed.guest.run(f"socat -u OPEN:/dev/null TCP:{GATEWAY}:{free_port()}")
    assert result.status and "refused" in result.output
    assert time.monotonic() - begin < 5


def test_download_arrives_whole(bed: Bed, host: HostPeer) -> None:
    download(bed.guest, host, 64 * MEGABYTE, 120)


def test_upload_arrives_whole(bed: Bed, host: HostPeer) -> None:
    upload(bed.guest, host, 8, 120)


@pytest.mark.long
def test_download_of_a_gigabyte_arrives_whole(bed: Bed, host: HostPeer) -> None:
    download(bed.guest, host, 1024 * MEGABYTE, 900)


@pytest.mark.long
def test_upload_of_a_gigabyte_arrives_whole(bed: Bed, host: HostPeer) -> None:
    upload(bed.guest, host, 128, 900)


def test_many_connections_at_once_all_arrive(bed: Bed, host: HostPeer) -> None:
    command = (
        f"(for i in $(seq 20); do wget -qO /tmp/got$i http://{GATEWAY}:{host.http_port}/100000 & "
        "done; wait); cat /tmp/got* | sha256sum; rm /tmp/got*"
    )
    assert bed.guest.check(command, 60).split()[0] == pattern_sha256(100000, repeat=20)


def test_forwarded_connection_reaches_the_guest_and_comes_back(bed: Bed) -> None:
    data = noise(4 * MEGABYTE)
    answer = send_and_receive(bed.tcp_port, data)
    assert hashlib.sha256(answer).digest() == hashlib.sha256(data).digest()


def test_forwarded_port_that_the_guest_closed_ends_the_connection(bed: Bed) -> None:
    bed.guest.check("killall socat; sleep 0.2")
    try:
        with (
            pytest.raises(ConnectionError),
            socket.create_connection(("127.0.0.1", bed.tcp_port), 10) as connection,
        ):
            if connection.recv(1) == b"":
                raise ConnectionResetError("closed, which will do as well")
    finally:
        bed.set_up()


@pytest.mark.parametrize("size", [1, 512, 1472, 1473, 4000])
def test_datagrams_go_out_and_come_back(bed: Bed, host: HostPeer, size: int) -> None:
    command = (
        f"head -c {size} /dev/urandom >/tmp/sent; "
        f"socat -b 65536 -t 1 - UDP:{GATEWAY}:{host.udp_echo_port} </tmp/sent >/tmp/got; "
        "cmp /tmp/sent /tmp/got"
    )
    bed.guest.check(command)


@pytest.mark.parametrize("size", [1, 512, 1472, 1473, 4000])
def test_forwarded_datagrams_come_in_and_go_back(bed: Bed, size: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(10)
        sender.sendto(noise(size), ("127.0.0.1", bed.udp_port))
        assert sender.recv(65536) == noise(size)


def test_network_stays_when_the_guest_reboots(bed: Bed, host: HostPeer) -> None:
    bed.guest.reboot()
    bed.set_up()
    download(bed.guest, host, MEGABYTE, 30)
    assert send_and_receive(bed.tcp_port, b"after the reboot") == b"after the reboot"


def test_pulled_cable_shows_in_the_guest(bed: Bed, host: HostPeer) -> None:
    def carrier() -> str:
        return bed.guest.check("sleep 0.5; cat /sys/class/net/eth0/carrier")

    bed.guest.qmp("set_link", arguments={"name": "n", "up": False})
    assert carrier() == "0"
    bed.guest.qmp("set_link", arguments={"name": "n", "up": True})
    assert carrier() == "1"
    download(bed.guest, host, MEGABYTE, 30)
