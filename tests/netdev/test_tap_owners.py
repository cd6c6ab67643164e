# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Taps that are not where vmwire is, or not an administrator's: one of another network namespace
that is passed as a descriptor, and one that an unprivileged user owns."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from tests.netdev.alone import alone, alone_as_root, ip
from tests.netdev.scripts import guest_on
from tests.netdev.sockets import Bed
from tests.wire.boxes import End

from vmwire.attach import linux
from vmwire.errors import ConfigError
from vmwire.netdev import tun
from vmwire.network import Network
from vmwire.wire.frame import Frame

NOBODY = 65534


def tap_of_another_namespace(name: str, address: str) -> tuple[int, Callable[[], Any]]:
    """A tap's descriptor; the function lets its namespace go."""
    ours, its = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        linux.unshare(linux.CLONE_NEWNET)
        fd, _ = tun.open_tap(name)
        ip(f"addr add {address} dev {name}")
        ip(f"link set {name} up")
        socket.send_fds(its, [b"tap"], [fd])
        os.close(fd)
        its.recv(1)
        os._exit(0)
    its.close()
    _, fds, _, _ = socket.recv_fds(ours, 3, 1)

    def end() -> None:
        ours.close()
        os.waitpid(child, 0)

    return fds[0], end


@alone
def test_a_tap_of_another_namespace_is_used_by_its_descriptor() -> None:
    fd, end = tap_of_another_namespace("far", "10.9.0.1/24")
    with Network() as net:
        net.add_netdev("tap", id="t", fd=str(fd))
        run = guest_on(net, "t", "10.9.0.2/24")
        assert " 0% packet loss" in run("ping", "-c3", "-i0.1", "-s", "1472", "10.9.0.1")
        assert "far" not in ip("link")
    end()


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


ARP_REQUEST = bytes.fromhex(
    "ffffffffffff 525400000001 0806 0001080006040001 525400000001 0a090002 000000000000 0a090001"
)
ARP_ANSWER = bytes.fromhex("0806 0001080006040002")


def host_answers(end: End) -> bool:
    """Ask for its MAC address, again and again: an interface needs a moment to come up."""
    end.port.send([Frame.of(ARP_REQUEST.ljust(60, b"\0"))])
    return any(data[12:22] == ARP_ANSWER for data in end.data)


@alone_as_root
@pytest.mark.parametrize("kind", ["", "multi_queue "])
def test_a_user_without_rights_uses_the_tap_that_is_the_users(kind: str) -> None:
    ip(f"tuntap add name mine mode tap {kind}user {NOBODY}")
    ip("tuntap add name other mode tap user 0")
    ip("addr add 10.9.0.1/24 dev mine")
    ip("link set mine up")
    become_nobody()
    bed = Bed()
    queues = ",queues=2" if kind else ""
    for _ in range(2):  # it is there for the next time, too
        netdev, end = bed.add(f"tap,id=t,ifname=mine,script=no,downscript=no{queues}")
        bed.until(lambda end=end: host_answers(end))
        netdev.close()
    with pytest.raises(ConfigError, match="Operation not permitted"):
        bed.add("tap,id=o,ifname=other,script=no,downscript=no")
    bed.close()
    assert "mine" in ip("link")
