# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Tunnels to QEMU's ``-netdev l2tpv3`` of two versions. Who writes the same at both ends (with the
two sides' values exchanged) has a tunnel."""

from __future__ import annotations

import os
import random
import socket

import pytest

from tests.netdev.sockets import Bed, free_port
from tests.peers.test_socket_backends import passes, program, qemu
from tests.wire.boxes import End
from vmwire.wire.frame import Frame

__all__ = ["program"]

pytestmark = pytest.mark.peer

COOKIES = ",txcookie={0},rxcookie={1}"
OPTIONS = {
    "least": "",
    "cookies": COOKIES,
    "cookie64": f"{COOKIES},cookie64=on",
    "cookie64 off": f"{COOKIES},cookie64=off",
    "cookie64 without cookies": ",cookie64=on",
    "counter": ",counter=on",
    "pincounter": f"{COOKIES},counter=on,pincounter=on",
    "pincounter alone": ",pincounter=on",
    "offset": ",offset=7",
    "everything": f"{COOKIES},cookie64=on,counter=on,offset=5",
}
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="sockets of IP itself take root")
ENCAPSULATIONS = {
    "UDP": ("127.0.0.1", "127.0.0.2", ",udp=on,srcport={0},dstport={1}"),
    "UDP over IPv6": ("::1", "::1", ",ipv6=on,udp=on,srcport={0},dstport={1}"),
    "IP": ("127.0.0.1", "127.0.0.2", ""),
    "IPv6": ("::1", "::1", ",ipv6=on"),
}
COMBINATIONS = [
    *(("UDP", name) for name in OPTIONS),
    *(("IP", name) for name in ("least", "cookies", "everything")),
    ("UDP over IPv6", "cookies"),
    ("IPv6", "everything"),
]


def transfer(bed: Bed, source: End, target: End) -> None:
    """Frames of some sizes arrive as they were sent, in bursts and alone."""
    dice = random.Random(1)
    for size, at_once in ((60, 1), (60, 16), (1514, 16), (1514, 1)):
        sent = [b"\x52\x54" + dice.randbytes(size - 2) for _ in range(at_once)]
        source.port.send([Frame.of(data) for data in sent])

        def all_came(sent: list[bytes] = sent) -> bool:
            return [data for data in target.data if data in sent] == sent

        bed.until(all_came)
        target.got.clear()


@pytest.mark.parametrize(
    ("encapsulation", "name"),
    [
        pytest.param(*pair, marks=() if "UDP" in pair[0] else NEEDS_ROOT, id=", ".join(pair))
        for pair in COMBINATIONS
    ],
)
def test_qemu_is_at_the_other_end(
    sockets: Bed, program: str, encapsulation: str, name: str
) -> None:
    ours, its, more = ENCAPSULATIONS[encapsulation]
    ports = [free_port(socket.SOCK_DGRAM) for _ in range(4)]
    cookies = "0xb1b2b3b4", "0xa1a2a3a4"

    def end(id: str, src: str, dst: str, mine: int) -> str:
        other = 1 - mine
        text = more.format(ports[mine], ports[other])
        text += OPTIONS[name].format(cookies[mine], cookies[other])
        return (
            f"l2tpv3,id={id},src={src},dst={dst},txsession={1 + mine},rxsession={1 + other}{text}"
        )

    udp = f"socket,udp=127.0.0.1:{ports[2]},localaddr=127.0.0.1:{ports[3]}"
    _, tunnel = sockets.add(end("a", ours, its, 0))
    _, wire = sockets.add(f"socket,id=b,udp=127.0.0.1:{ports[3]},localaddr=127.0.0.1:{ports[2]}")
    with qemu(program, end("x", its, ours, 1).replace("id=x,", ""), udp):
        passes(sockets, tunnel, wire)
        passes(sockets, wire, tunnel)
        transfer(sockets, tunnel, wire)
        transfer(sockets, wire, tunnel)
