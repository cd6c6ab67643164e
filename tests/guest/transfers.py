# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes that a guest and the host send each other through the user network, checked at the end."""

from __future__ import annotations

import random
import socket

from tests.guest.machine import Machine
from tests.guest.peer import HostPeer
from vmwire.bench.pattern import pattern_sha256

MEGABYTE = 1 << 20
GATEWAY = "10.0.2.2"
ECHO_PORT = 7


def download(guest: Machine, host: HostPeer, size: int, timeout_s: float = 60) -> None:
    command = f"wget -qO- http://{GATEWAY}:{host.http_port}/{size} | sha256sum"
    assert guest.check(command, timeout_s).split()[0] == pattern_sha256(size)


def upload(guest: Machine, host: HostPeer, blocks: int, timeout_s: float = 60) -> None:
    """The guest sends a block again and again, and reads the checksum after its half-close."""
    size = 8 * MEGABYTE
    guest.check(f"wget -qO /tmp/block http://{GATEWAY}:{host.http_port}/{size}")
    sink = f"socat -b 65536 -t {timeout_s} - TCP:{GATEWAY}:{host.sum_port}"
    command = f"(i=0; while [ $i -lt {blocks} ]; do cat /tmp/block; i=$((i+1)); done) | {sink}"
    answer = guest.check(command, timeout_s).split()
    assert answer == [pattern_sha256(size, blocks), str(size * blocks)]


def start_echoes(guest: Machine) -> None:
    """An echo for TCP and one for UDP, on the guest's port 7."""
    # not socat's PIPE: it blocks for good when the pipe is full and nothing reads it but itself
    guest.check(f"socat TCP-LISTEN:{ECHO_PORT},fork,reuseaddr EXEC:cat,nofork >/dev/null 2>&1 &")
    guest.check(f"socat UDP-RECVFROM:{ECHO_PORT},fork PIPE >/dev/null 2>&1 &")
    guest.check(
        f"for try in 1 2 3 4 5 6 7 8 9; do netstat -ltn | grep -q :{ECHO_PORT} && "
        f"netstat -lun | grep -q :{ECHO_PORT} && break; sleep 0.3; done"
    )


def send_and_receive(port: int, data: bytes, timeout_s: float = 60) -> bytes:
    """Everything that comes back for `data` and a half-close, written while it is read."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        sent, answer = 0, b""
        while True:
            if sent < len(data):
                sent += connection.send(data[sent : sent + 65536])
                if sent == len(data):
                    connection.shutdown(socket.SHUT_WR)
                connection.settimeout(0.0 if sent < len(data) else timeout_s)
            try:
                piece = connection.recv(65536)
            except BlockingIOError:
                connection.settimeout(timeout_s)
                continue
            connection.settimeout(timeout_s)
            if not piece:
                return answer
            answer += piece


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)
