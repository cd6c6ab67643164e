# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The traffic that iperf3 doesn't do: one-byte round trips, new connections, small datagrams.

`serve` runs on the host's loopback and prints its port (one number, for TCP and UDP); the client
runs in the guest and prints what it measured as JSON. A TCP connection starts with one letter that
says what it is for. Only standard Python, so that it runs in any namespace.

    traffic.py serve
    traffic.py client ADDRESS PORT SECONDS
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import struct
import sys
import time

DATAGRAM = bytes(64)
START, COUNT = b"start", b"count"
QUIET_S = 1.0
NODELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# --- the host's side ----------------------------------------------------------------------------


def serve() -> None:
    """One process for TCP, one for the datagrams, so that they don't wait for each other."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        port = listener.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            datagrams.bind(("127.0.0.1", port))
            print(port, flush=True)
            child = os.fork()
            if child == 0:
                serve_datagrams(datagrams)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            try:
                serve_connections(listener)
            finally:
                os.kill(child, signal.SIGKILL)


def serve_connections(listener: socket.socket) -> None:
    """One at a time: the client measures one thing after the other."""
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(30)
            connection.setsockopt(*NODELAY)
            try:
                if connection.recv(1) == b"e":
                    echo(connection)
                else:
                    connection.sendall(b"!")
            except OSError:
                continue


def echo(connection: socket.socket) -> None:
    while data := connection.recv(64):
        connection.sendall(data)


def serve_datagrams(own: socket.socket) -> None:
    """Count what comes; `count` asks for the number, `start` + seconds for a flood."""
    received = 0
    while True:
        data, peer = own.recvfrom(2048)
        if data.startswith(START):
            flood(own, peer, struct.unpack("!d", data[len(START) :])[0])
        elif data == COUNT:
            own.sendto(struct.pack("!Q", received), peer)
            received = 0
        else:
            received += 1


def flood(own: socket.socket, peer: tuple[str, int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for _ in range(64):
            own.sendto(DATAGRAM, peer)


# --- the guest's side ---------------------------------------------------------------------------


def round_trips(address: tuple[str, int], seconds: float) -> float:
    """The median time of a byte to the host and back, in microseconds."""
    times = []
    with socket.create_connection(address, 10) as connection:
        connection.setsockopt(*NODELAY)
        connection.sendall(b"e")
        deadline = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < deadline:
            connection.send(b"x")
            connection.recv(1)
            times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e6


def connections(address: tuple[str, int], seconds: float) -> float:
    """How many a second can be made, used for a byte each way, and ended, one by one."""
    count = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        with socket.create_connection(address, 10) as connection:
            connection.sendall(b"c")
            if connection.recv(1) == b"!":
                count += 1
    return count / (time.perf_counter() - begin)


def datagrams_up(address: tuple[str, int], seconds: float) -> float:
    """How many 64-byte datagrams a second arrive at the host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.connect(address)
        count_at(own)
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            for _ in range(64):
                own.send(DATAGRAM)
        return count_at(own) / seconds


def count_at(own: socket.socket) -> int:
    """The host's counter, asked after a pause, until an answer comes."""
    own.settimeout(QUIET_S)
    for _ in range(10):
        time.sleep(0.3)
        own.send(COUNT)
        try:
            return int(struct.unpack("!Q", own.recv(64))[0])
        except TimeoutError:
            continue
    raise TimeoutError("the host's counter does not answer")


def datagrams_down(address: tuple[str, int], seconds: float) -> float:
    """How many 64-byte datagrams a second arrive from the host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        own.connect(address)
        own.settimeout(QUIET_S)
        own.send(START + struct.pack("!d", seconds))
        own.recv(2048)
        count, begin = 1, time.perf_counter()
        try:
            while time.perf_counter() - begin < seconds:
                own.recv(2048)
                count += 1
        except TimeoutError:
            pass
        elapsed = time.perf_counter() - begin
        drain(own)
    return count / elapsed


def drain(own: socket.socket) -> None:
    """Wait until the flood is over, so that the next measurement has the machine to itself."""
    own.settimeout(0.3)
    try:
        while own.recv(2048):
            pass
    except TimeoutError:
        return


def client(address: tuple[str, int], seconds: float) -> None:
    figures = {
        "1-byte round trip_us": round_trips(address, seconds),
        "connections/s": connections(address, seconds),
        "UDP 64 B up/s": datagrams_up(address, seconds),
        "UDP 64 B down/s": datagrams_down(address, seconds),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        client((sys.argv[2], int(sys.argv[3])), float(sys.argv[4]))
