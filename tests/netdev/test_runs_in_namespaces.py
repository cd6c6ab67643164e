# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Small datagrams between two namespaces through a hub: what the kernel makes of joined ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vmwire.network import Network

COUNT = 2000
SENDER = f"""
import socket, time
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.connect(("10.9.0.2", 9))
for number in range({COUNT}):
    sock.send(b"%06d" % number + bytes(12))
try:
    while True:  # the last one may be lost
        time.sleep(0.05)
        sock.send(b"%06d" % number + bytes(12))
except ConnectionRefusedError:  # the receiver has it
    pass
"""
RECEIVER = f"""
import socket
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
sock.bind(("10.9.0.2", 9))
print("ready", flush=True)
sock.settimeout(20)
got = []
while not got or got[-1] != {COUNT - 1}:
    data = sock.recv(65536)
    assert len(data) == 18, len(data)
    got.append(int(data[:6]))
assert got == sorted(got)
print(len(got))
"""


@pytest.mark.netns
def test_each_datagram_arrives_by_itself_and_in_order() -> None:
    with Network() as net:
        for number in (1, 2):
            net.add_netdev("hubport", id=f"h{number}", hubid=0)
            net.add_netns(id=f"n{number}", netdev=f"h{number}", address=f"10.9.0.{number}/24")
        boxes = [net.devices[f"n{number}"].box for number in (1, 2)]
        receiver = boxes[1].start(
            [sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE, text=True
        )
        with receiver:
            assert receiver.stdout is not None
            assert receiver.stdout.readline() == "ready\n"
            before = net.stats()["hubs"]["hub0"]["h2"]["frames"]
            sender = boxes[0].start([sys.executable, "-c", SENDER])
            arrived = int(receiver.stdout.readline() or 0)
            assert sender.wait(20) == 0
        passed = net.stats()["hubs"]["hub0"]["h2"]["frames"] - before
    assert arrived > COUNT // 2  # the receiver's own queue may be too short for all
    assert passed < arrived, "none was joined"
