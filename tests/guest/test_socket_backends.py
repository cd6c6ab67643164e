# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A guest whose cards are QEMU's own, joined by QEMU's socket backends to user networks of ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest import provision
from tests.guest.machine import Machine
from tests.guest.peer import HostPeer
from tests.netdev.sockets import free_port
from vmwire.bench.pattern import pattern_sha256
from vmwire.network import Network

pytestmark = pytest.mark.guest

SIZE = 4 << 20


@dataclass
class Joined:
    guest: Machine
    network: Network
    wires: list[tuple[str, dict[str, object]]]
    """Our netdevs, one for each of the guest's cards: type and options."""

    def add(self, number: int) -> None:
        """Put up our end of the wire to card ``number``, with a user network behind it."""
        type, options = self.wires[number]
        self.network.add_netdev("user", id=f"u{number}", net=f"10.0.{10 + number}.0/24")
        self.network.add_netdev(type, id=f"s{number}", **options)
        self.network.connect(f"s{number}", f"u{number}")

    def remove(self, number: int) -> None:
        for id in (f"s{number}", f"u{number}"):
            self.network.remove(id)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    try:
        program = provision.qemu_newest()
    except provision.ProvisionError as error:
        pytest.skip(str(error))
    folder: Path = tmp_path_factory.mktemp("wires")
    port = free_port()
    a, b = ({"type": "unix", "path": f"{folder}/{name}"} for name in "ab")
    stream = {"type": "unix", "path": f"{folder}/stream"}
    words = [
        f"socket,id=n0,listen=127.0.0.1:{port}",
        f"stream,id=n1,addr.type=unix,addr.path={folder}/stream,reconnect-ms=200",
        f"dgram,id=n2,local.type=unix,local.path={folder}/a,"
        f"remote.type=unix,remote.path={folder}/b",
    ]
    wires: list[tuple[str, dict[str, object]]] = [
        ("socket", {"connect": f"127.0.0.1:{port}"}),
        ("stream", {"addr": stream, "server": True}),
        ("dgram", {"local": b, "remote": a}),
    ]
    cards = [
        word
        for number, text in enumerate(words)
        for word in ("-netdev", text, "-device", f"virtio-net-pci,netdev=n{number}")
    ]
    with Network() as network:
        for_guest = Joined(Machine(program, cards), network, wires)
        for number in range(len(wires)):
            for_guest.add(number)
        with for_guest.guest:
            yield for_guest


def ping_and_download(joined: Joined, host: HostPeer, number: int) -> None:
    gateway = f"10.0.{10 + number}.2"
    guest = joined.guest
    guest.check(f"ip link set eth{number} up; udhcpc -i eth{number} -n -q -t 10")
    assert " 0% packet loss" in guest.check(f"ping -c 3 -i 0.2 {gateway}")
    answer = guest.check(f"wget -qO- http://{gateway}:{host.http_port}/{SIZE} | sha256sum")
    assert answer.split()[0] == pattern_sha256(SIZE)


@pytest.mark.parametrize("number", [0, 1, 2], ids=["socket", "stream", "dgram"])
def test_a_guest_pings_and_transfers_over_qemus_backend_and_again_after_ours_was_replaced(
    joined: Joined, host: HostPeer, number: int
) -> None:
    ping_and_download(joined, host, number)
    joined.remove(number)
    joined.add(number)
    ping_and_download(joined, host, number)
