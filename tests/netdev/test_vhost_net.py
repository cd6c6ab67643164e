# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the kernel's vhost-net is told, by a stand-in that takes what the kernel takes, and no more.

The real one is in `tests/guest/test_vhost_net.py`.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.engine.store import Store
from tests.netdev.alone import alone

from vmwire import catalogue
from vmwire.bus.virtio.features import (
    VIRTIO_F_ANY_LAYOUT,
    VIRTIO_F_VERSION_1,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
)
from vmwire.bus.virtio.handed_on import Handed, HandedRegion, HandedRing, NotTaken
from vmwire.bus.virtio.vhost_user import RegionInfo, RingAddresses
from vmwire.engine.host import Host
from vmwire.engine.loop import Loop
from vmwire.errors import ConfigError
from vmwire.netdev import tap_vhost, vhost_net
from vmwire.netdev.tap import TapOptions
from vmwire.netdev.tap_vhost import TapDevices, stored_device
from vmwire.netdev.vhost_net import Device, VhostNet
from vmwire.network import Network

KERNEL_6_1 = 0x3_3D00_8000
"""What Debian 12's answers: merged buffers, notify on empty, the dirty log, its own header,
indirect descriptors, event indexes, virtio 1, addresses by an IOMMU."""
DRIVERS = VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF | VIRTIO_RING_F_EVENT_IDX | VIRTIO_NET_F_CSUM
TAP = 77


@dataclass
class Ring:
    size: int = 0
    base: int = 0
    backend: int = -1
    addresses: tuple[int, ...] = ()
    poll_us: int = 0
    fds: dict[str, int] = field(default_factory=dict)


@dataclass
class State:
    """One device's."""

    owned: bool = False
    negotiated: int = 0
    memory: bytes = b""
    rings: list[Ring] = field(default_factory=lambda: [Ring(), Ring()])

    @property
    def backends(self) -> list[int]:
        return [ring.backend for ring in self.rings]


class Kernel:
    """The devices behind some descriptors, and their copies. ``refuses`` is a request."""

    def __init__(self) -> None:
        self.features = KERNEL_6_1
        self.refuses = 0
        self.fds: list[int] = []
        self._devices: dict[int, State] = {}

    def device(self) -> int:
        fd = os.memfd_create("vhost-net")
        self._devices[os.fstat(fd).st_ino] = State()
        self.fds.append(fd)
        return fd

    def of(self, fd: int) -> State:
        return self._devices[os.fstat(fd).st_ino]

    def ioctl(self, fd: int, request: int, data: bytes | bytearray = b"") -> bytes:
        if os.fstat(fd).st_ino not in self._devices:
            raise _error(errno.ENOTTY)
        if request == self.refuses:
            raise _error(errno.E2BIG)
        table = request == 0x4008AF03
        assert table or request >> 16 & 0x3FFF == len(data), "the size is in the request"
        device = self.of(fd)
        if request == 0x8008AF00:
            return struct.pack("<Q", self.features)
        if request == 0x4008AF00:
            (device.negotiated,) = struct.unpack("<Q", data)
            if device.negotiated & ~self.features:
                raise _error(errno.EOPNOTSUPP)
        elif request == 0xAF01:
            if device.owned:
                raise _error(errno.EBUSY)
            device.owned = True
        elif not device.owned:
            raise _error(errno.EPERM)
        elif request == 0xAF02:
            device.owned, device.rings = False, [Ring(), Ring()]
        elif table:
            device.memory = bytes(data)
        else:
            return _of_ring(device.rings[struct.unpack_from("<I", data)[0]], request, data)
        return b""


def _of_ring(ring: Ring, request: int, data: bytes | bytearray) -> bytes:
    if request in (0x4008AF10, 0x4008AF12) and ring.backend != -1:
        raise _error(errno.EBUSY)
    if request == 0x4028AF11:
        _, flags, *places, log = struct.unpack("<IIQQQQ", data)
        assert (flags, log) == (0, 0)
        ring.addresses = tuple(places)
        return b""
    number = struct.unpack("<Ii", data)[1]
    if request == 0xC008AF12:
        return struct.pack("<II", 0, ring.base)
    if request == 0x4008AF10:
        ring.size = number
    elif request == 0x4008AF12:
        ring.base = number
    elif request == 0x4008AF23:
        ring.poll_us = number
    elif request == 0x4008AF30:
        assert number == -1 or (ring.size and ring.addresses and "kick" in ring.fds)
        ring.backend = number
    else:
        name = {0x4008AF20: "kick", 0x4008AF21: "call", 0x4008AF22: "err"}[request]
        ring.fds[name] = number
    return b""


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Tap:
    """What a tap's owner hears."""

    def __init__(self) -> None:
        self.lent: tuple[int, int] | None = None

    def begin(self, pairs: int, header_size: int) -> list[int]:
        self.lent = pairs, header_size
        return [TAP + pair for pair in range(pairs)]

    def end(self) -> None:
        self.lent = None


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = Kernel()
    monkeypatch.setattr(vhost_net, "ioctl", kernel.ioctl)
    yield kernel
    for fd in kernel.fds:
        os.close(fd)


@pytest.fixture
def kicks() -> Iterator[list[int]]:
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(4)]
    yield fds
    for fd in fds:
        os.close(fd)


def handed(kicks: list[int], features: int = DRIVERS, pairs: int = 1) -> Handed:
    """Rings of 256 in memory that is at 1 MiB for the guest and at 0x7f0000000000 here."""
    info = RegionInfo(0x10_0000, 0x10_0000, 0x5500_0000_0000, 0)
    rings = [
        HandedRing(
            index, 256, 10 + index,
            RingAddresses(
                index, 0, 0x5500_0000_0000 + 0x1_0000 * index, 0x5500_0000_2000 + 0x1_0000 * index,
                0x5500_0000_1000 + 0x1_0000 * index, 0,
            ),
            kicks[index], 30 + index, 40 + index,
        )
        for index in range(2 * pairs)
    ]  # fmt: skip
    return Handed("n", features, None, (HandedRegion(info, 9, 0x7F00_0000_0000),), tuple(rings))


def nobody(why: str) -> None:
    raise AssertionError(why)


def test_a_pair_runs_once_all_of_it_is_said(kernel: Kernel, kicks: list[int]) -> None:
    tap, fd = Tap(), kernel.device()
    taker = VhostNet([Device(fd)], tap.begin, tap.end, poll_us=50)
    taker.take(handed(kicks), nobody)
    assert kernel.of(fd).memory == bytes.fromhex(
        "0100000000000000 0000100000000000 0000100000000000 00000000007f0000 0000000000000000"
    )
    assert kernel.of(fd).negotiated == DRIVERS & ~VIRTIO_NET_F_CSUM  # which is the tap's affair
    receiving, sending = kernel.of(fd).rings
    assert (receiving.size, receiving.base, receiving.backend) == (256, 10, TAP)
    assert (sending.base, sending.backend, sending.poll_us) == (11, TAP, 50)
    assert sending.addresses == (0x7F00_0001_0000, 0x7F00_0001_2000, 0x7F00_0001_1000)
    assert sending.fds == {"kick": kicks[1], "call": 31, "err": 41}
    assert [os.eventfd_read(kick) for kick in kicks[:2]] == [1, 1]
    assert tap.lent == (1, 12)
    taker.signal(1, 50, -1)
    assert sending.fds == {"kick": kicks[1], "call": 50, "err": -1}


def test_rings_come_back_stopped_with_what_the_kernel_says(
    kernel: Kernel, kicks: list[int]
) -> None:
    tap, fd = Tap(), kernel.device()
    taker = VhostNet([Device(fd)], tap.begin, tap.end)
    for _ in range(2):  # the second time the device is owned already
        taker.take(handed(kicks, DRIVERS & VIRTIO_NET_F_CSUM), nobody)
        assert tap.lent == (1, 10)
        kernel.of(fd).rings[0].base, kernel.of(fd).rings[1].base = 1000, 65535
        assert taker.give_back() == {0: 1000, 1: 65535}
        assert kernel.of(fd).backends == [-1, -1]
        assert tap.lent is None


def test_each_pair_has_a_device_and_a_queue(kernel: Kernel, kicks: list[int]) -> None:
    tap, fds = Tap(), [kernel.device(), kernel.device()]
    taker = VhostNet([Device(fd) for fd in fds], tap.begin, tap.end)
    taker.take(handed(kicks, pairs=2), nobody)
    assert [kernel.of(fd).backends for fd in fds] == [[TAP, TAP], [TAP + 1, TAP + 1]]
    assert kernel.of(fds[1]).rings[1].fds["call"] == 33
    assert set(taker.give_back()) == {0, 1, 2, 3}
    one = VhostNet([Device(kernel.device())], tap.begin, tap.end)
    with pytest.raises(NotTaken, match="2 pairs of rings, 1 queues of the tap"):
        one.take(handed(kicks, pairs=2), nobody)


def test_a_tap_without_a_header_has_one_made_up_and_no_offloads(
    kernel: Kernel, kicks: list[int]
) -> None:
    tap, fd = Tap(), kernel.device()
    taker = VhostNet([Device(fd)], tap.begin, tap.end, header=False)
    assert not taker.features & VIRTIO_NET_F_CSUM
    assert taker.features & VIRTIO_NET_F_MQ
    taker.take(handed(kicks), nobody)
    assert kernel.of(fd).negotiated & VIRTIO_F_ANY_LAYOUT
    taker.give_back()


def test_features_are_the_kernels_for_rings_and_the_taps_for_frames(kernel: Kernel) -> None:
    tap = Tap()
    kernel.features &= ~VIRTIO_RING_F_INDIRECT_DESC
    taker = VhostNet([Device(kernel.device())], tap.begin, tap.end, lacks=VIRTIO_NET_F_HOST_USO)
    assert not taker.features & (VIRTIO_RING_F_INDIRECT_DESC | VIRTIO_NET_F_HOST_USO)
    wanted = VIRTIO_NET_F_CSUM | VIRTIO_NET_F_MQ | VIRTIO_NET_F_MRG_RXBUF | VIRTIO_F_VERSION_1
    assert taker.features & wanted == wanted


@pytest.mark.parametrize("request_", [0xAF01, 0x4008AF03, 0x4008AF20, 0x4008AF30])
def test_what_the_kernel_refuses_leaves_rings_and_tap_alone(
    kernel: Kernel, kicks: list[int], request_: int
) -> None:
    tap, fd = Tap(), kernel.device()
    taker = VhostNet([Device(fd)], tap.begin, tap.end)
    kernel.refuses = request_
    with pytest.raises(NotTaken, match="/dev/vhost-net: Argument list too long"):
        taker.take(handed(kicks), nobody)
    assert tap.lent is None
    assert kernel.of(fd).backends == [-1, -1]
    kernel.refuses = 0
    taker.take(handed(kicks), nobody)
    taker.give_back()


def test_rings_outside_of_the_memory_are_refused(kernel: Kernel, kicks: list[int]) -> None:
    tap = Tap()
    taker = VhostNet([Device(kernel.device())], tap.begin, tap.end)
    there = handed(kicks)
    beyond = Handed("n", there.features, None, (), there.rings)
    with pytest.raises(NotTaken, match="no memory at the machine's 0x55"):
        taker.take(beyond, nobody)
    assert tap.lent is None


# --- who opens the devices ----------------------------------------------------------------------


@pytest.fixture
def host() -> Iterator[Host]:
    loop = Loop()
    yield Host(loop, Store())
    loop.close()


def test_a_callers_device_is_in_the_store_only_while_nobody_owns_it(
    kernel: Kernel, host: Host
) -> None:
    store, fd = host.store, kernel.device()
    assert isinstance(store, Store)
    name = stored_device("t", 0)
    os.set_inheritable(fd, True)
    options, fds = TapOptions(id="t", vhostfd=str(fd)).claim()
    assert fds == {name: fd} and options.wants_vhost
    assert not os.get_inheritable(fd)
    store.keep(name, fd)
    devices = TapDevices(host, "t", 1, [fd], False)
    (device,) = devices.devices
    assert name in store.kept  # an attempt to take over may yet fail
    device.own()
    assert name not in store.kept
    devices.hand_over()
    assert name in store.kept and not kernel.of(fd).owned
    devices.close()
    assert not store.kept


def test_a_device_that_a_dead_worker_owned_is_not_asked_for_again(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tap_vhost, "VHOST_NET", "/nonexistent/vhost-net")
    devices = TapDevices(host, "t", 1, [55], True)
    assert devices.devices == []
    assert "t: Could not open '/nonexistent/vhost-net': No such file or directory" in caplog.text


def test_something_else_than_a_device_is_refused(kernel: Kernel) -> None:
    with pytest.raises(ConfigError, match="file descriptor 0 is not one of /dev/vhost-net"):
        TapOptions(id="t", vhostfd="0").claim()


@alone
def test_without_the_device_frames_are_moved_here_or_it_fails_as_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tap_vhost, "VHOST_NET", "/nonexistent/vhost-net")
    missing = "Could not open '/nonexistent/vhost-net': No such file or directory"
    with Network() as net:
        with pytest.raises(ConfigError, match=missing):
            net.add_netdev(
                "tap", id="f", ifname="t1", script="no", downscript="no", vhostforce=True
            )
        assert not Path("/sys/class/net/t1").exists() and not net.netdevs
        with caplog.at_level(logging.WARNING):
            net.add_netdev("tap", id="t", script="no", downscript="no", vhost=True)
        assert caplog.messages == [f"t: {missing}: frames are moved by vmwire itself"]
        assert net.stats()["netdevs"]["t"]["queues"] == 1


@alone
def test_polling_without_vhost_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    options = catalogue.parse("netdev", "tap,id=t,script=no,downscript=no,poll-us=50")
    with Network() as net:
        net.add_netdev("tap", id="t", script="no", downscript="no", poll_us=options.poll_us)
    assert caplog.messages == ["t: poll-us=50 is for vhost=on"]
