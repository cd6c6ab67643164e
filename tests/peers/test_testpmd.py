# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""DPDK's virtio-user driver as the front end: another ring code than Linux's, and one that polls.

testpmd sends back each frame that it receives, with its addresses swapped (``macswap``).
"""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest

from tests.attach.vhost_user.served import Served
from tests.peers.dpdk import testpmd

pytestmark = pytest.mark.peer

WINDOW = 32

SETS = {
    "as it comes": "",
    "no merging": ",mrg_rxbuf=0",
    "in order by its own wish": ",in_order=1,mrg_rxbuf=0",
    "small ring": ",queue_size=64",
    "large ring": ",queue_size=1024",
}


def macswap(
    path: str, folder: Path, vdev: str, *words: str
) -> contextlib.AbstractContextManager[Path]:
    """Run it as the driver of the card at ``path``; gives the file that it writes to."""
    device = f"net_virtio_user0,path={path},mac=52:54:00:00:00:01{vdev}"
    return testpmd(folder, device, *words)


def begins(served: Served) -> None:
    """Wait until frames come back: while it begins, testpmd stops its queues once more."""
    deadline = time.monotonic() + 30
    while not served.loop.call(lambda: served.end.got):
        assert time.monotonic() < deadline, served.stats()
        served.deliver(bytes.fromhex("525400000001 525400000002 88b5") + bytes(46))
        time.sleep(0.02)
    time.sleep(0.1)  # for what is still on its way
    served.loop.call(served.end.got.clear)


def deliver(served: Served, data: bytes) -> None:
    deadline = time.monotonic() + 30
    while not served.deliver(data):
        assert time.monotonic() < deadline, served.stats()
        time.sleep(0.001)


def exchange(served: Served, count: int, sizes: range) -> None:
    """Send frames, and have all of them back, with swapped addresses.

    Never more than a few are under way: testpmd drops what its full transmit ring doesn't take.
    """
    rng = random.Random(1)
    for number in range(count):
        body = number.to_bytes(4, "big") + rng.randbytes(rng.choice(sizes) - 18)
        data = bytes.fromhex("525400000001 525400000002 88b5") + body
        served.wait(lambda number=number: len(served.end.got) > number - WINDOW)  # type: ignore[misc]
        deliver(served, data)
    served.wait(lambda: len(served.end.got) >= count)
    rng = random.Random(1)
    for number, data in enumerate(served.end.data):
        body = number.to_bytes(4, "big") + rng.randbytes(rng.choice(sizes) - 18)
        assert data == bytes.fromhex("525400000002 525400000001 88b5") + body


@pytest.mark.parametrize("vdev", SETS.values(), ids=SETS)
def test_frames_come_back_whole_and_in_order(tmp_path: Path, vdev: str) -> None:
    served = Served(tmp_path)
    try:
        with macswap(served.path, tmp_path, vdev) as log:
            try:
                served.wait(lambda: bool(served.nic.port.link_up), 20)
            except AssertionError:
                raise AssertionError(log.read_text()) from None
            begins(served)
            before = served.stats()["drops"]
            exchange(served, 3000, range(60, 1515))
            stats = served.stats()
            assert stats["faults"] == stats["protocol_errors"] == 0
            assert stats["drops"] == before
    finally:
        served.close()


def test_the_driver_may_come_again(tmp_path: Path) -> None:
    served = Served(tmp_path)
    try:
        for _ in range(2):
            with macswap(served.path, tmp_path, ""):
                served.wait(lambda: bool(served.nic.port.link_up), 20)
                begins(served)
                exchange(served, 200, range(60, 1515))
            served.wait(lambda: not served.nic.stats()["connected"])
    finally:
        served.close()


def test_two_pairs_of_queues_send_back(tmp_path: Path) -> None:
    served = Served(tmp_path, mq=True, queues=2)
    try:
        with macswap(served.path, tmp_path, ",queues=2", "--rxq=2", "--txq=2"):
            served.wait(lambda: bool(served.nic.port.link_up), 20)
            begins(served)
            for number in range(200):
                flow = bytes(12) + b"\x08\0" + bytes(16) + bytes([number]) * 30
                served.wait(lambda n=number: len(served.end.got) > n - WINDOW)  # type: ignore[misc]
                deliver(served, flow)
            served.wait(lambda: len(served.end.got) >= 200)
            assert served.stats()["faults"] == 0
    finally:
        served.close()
