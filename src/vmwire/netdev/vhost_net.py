# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The kernel's own virtio-net: rings that it serves straight to and from a tap.

Linux, include/uapi/linux/vhost.h and vhost_types.h. A descriptor of ``/dev/vhost-net`` is one pair
of rings: ring 0 of it receives (from the guest's view), ring 1 transmits, and each has a *backend*,
which is a queue of a tap.

Theory of operation. A device is *opened* with the netdev, which tells what its rings can do. It is
*owned* from the first handing on: from then on the kernel reads and writes this process's memory,
and nobody but this process may say anything to it. A pair *runs* while it has a backend: without
one the kernel looks at nothing. So each handing on describes everything anew, backends last, and
each giving back takes the backends away and asks where the rings stand.

When this process dies, its devices stop with it. One that the caller opened (``vhostfd=``) stops
only when nobody has a copy: so it isn't in the fd store while it is owned, and a successor gets it
disowned.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fcntl import ioctl
from struct import Struct
from typing import Any

from vmwire.bus.virtio.features import (
    VIRTIO_F_ANY_LAYOUT,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MRG_RXBUF,
)
from vmwire.bus.virtio.handed_on import Handed, HandedRing, NotTaken

VHOST_NET = "/dev/vhost-net"

VHOST_GET_FEATURES = 0x8008AF00
VHOST_SET_FEATURES = 0x4008AF00
VHOST_SET_OWNER = 0xAF01
VHOST_RESET_OWNER = 0xAF02
VHOST_SET_MEM_TABLE = 0x4008AF03
VHOST_SET_VRING_NUM = 0x4008AF10
VHOST_SET_VRING_ADDR = 0x4028AF11
VHOST_SET_VRING_BASE = 0x4008AF12
VHOST_GET_VRING_BASE = 0xC008AF12
VHOST_SET_VRING_KICK = 0x4008AF20
VHOST_SET_VRING_CALL = 0x4008AF21
VHOST_SET_VRING_ERR = 0x4008AF22
VHOST_SET_VRING_BUSYLOOP_TIMEOUT = 0x4008AF23
VHOST_NET_SET_BACKEND = 0x4008AF30

VHOST_NET_F_VIRTIO_NET_HDR = 1 << 27
"""The kernel makes up the net header, because the tap has none. To drivers the bit means something
else (ANY_LAYOUT), which is so with any kernel that has this one."""

FEATURES = Struct("=Q")
STATE = Struct("=II")  # ring, number
FILE = Struct("=Ii")  # ring, descriptor
ADDRESSES = Struct("=IIQQQQ")  # ring, flags, descriptors, used, available, log
MEMORY = Struct("=II")  # regions, padding
REGION = Struct("=QQQQ")  # guest address, size, address here, padding
assert ADDRESSES.size == 40 and REGION.size == 32

DESCRIPTOR_BYTES, AVAILABLE_BYTES, USED_BYTES = 16, 2, 8
RING_HEAD = 4  # flags and index of an available or used ring
NO_FD = -1

OFFLOADS = (
    VIRTIO_NET_F_CSUM
    | VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_GUEST_TSO6
    | VIRTIO_NET_F_GUEST_ECN
    | VIRTIO_NET_F_GUEST_USO4
    | VIRTIO_NET_F_GUEST_USO6
    | VIRTIO_NET_F_HOST_TSO4
    | VIRTIO_NET_F_HOST_TSO6
    | VIRTIO_NET_F_HOST_ECN
    | VIRTIO_NET_F_HOST_USO
)
"""What a card does by the net header; with a tap that has one the tap does it."""
_OF_RINGS = VIRTIO_NET_F_MRG_RXBUF | sum(1 << bit for bit in range(24, 51))
"""What the kernel's rings have a say in: virtio 1.2, section 2.2, and merged buffers."""


class Device:
    """One pair of rings in the kernel. ``fd`` is owned from here on. Raises ``OSError``: ENOTTY for
    something that is none."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.is_owned = False
        self.before_owned: Callable[[], None] = _nothing
        answer = ioctl(fd, VHOST_GET_FEATURES, bytes(FEATURES.size))
        self.features: int = FEATURES.unpack(answer)[0]

    def close(self) -> None:
        """Let it go; the kernel stops what runs."""
        os.close(self.fd)

    def own(self) -> None:
        """Have the kernel work in this process's memory. Raises ``OSError``."""
        if not self.is_owned:
            self.before_owned()
            ioctl(self.fd, VHOST_SET_OWNER)
            self.is_owned = True

    def disown(self) -> None:
        """Let another process own it. Raises ``OSError``."""
        if self.is_owned:
            ioctl(self.fd, VHOST_RESET_OWNER)
            self.is_owned = False

    def describe(self, features: int, memory: bytes) -> None:
        """Say what was negotiated, and where memory is. Raises ``OSError``."""
        ioctl(self.fd, VHOST_SET_FEATURES, FEATURES.pack(features))
        ioctl(self.fd, VHOST_SET_MEM_TABLE, bytearray(memory))  # bytes may be 1024 at most

    def describe_ring(self, handed: Handed, ring: HandedRing, poll_us: int) -> None:
        """Say all about a ring. Raises ``OSError``, ``NotTaken``."""
        fd, number = self.fd, ring.index & 1
        ioctl(fd, VHOST_SET_VRING_NUM, STATE.pack(number, ring.size))
        ioctl(fd, VHOST_SET_VRING_BASE, STATE.pack(number, ring.base))
        ioctl(fd, VHOST_SET_VRING_ADDR, ADDRESSES.pack(number, 0, *_places(handed, ring), 0))
        ioctl(fd, VHOST_SET_VRING_KICK, FILE.pack(number, ring.kick))
        self.signal(number, ring.call, ring.err)
        if poll_us:
            ioctl(fd, VHOST_SET_VRING_BUSYLOOP_TIMEOUT, STATE.pack(number, poll_us))

    def signal(self, number: int, call: int, err: int) -> None:
        """Say what to signal for a ring. Raises ``OSError``."""
        ioctl(self.fd, VHOST_SET_VRING_CALL, FILE.pack(number, call))
        ioctl(self.fd, VHOST_SET_VRING_ERR, FILE.pack(number, err))

    def set_backend(self, tap: int) -> None:
        """Run both rings on a tap's queue, or stop them. Raises ``OSError``."""
        for number in (0, 1):
            ioctl(self.fd, VHOST_NET_SET_BACKEND, FILE.pack(number, tap))

    def base(self, number: int) -> int:
        """Where a ring stands that has no backend. Raises ``OSError``."""
        answer = ioctl(self.fd, VHOST_GET_VRING_BASE, STATE.pack(number, 0))
        base: int = STATE.unpack(answer)[1]
        return base & 0xFFFF


class VhostNet:
    """A ``Taker``: the pairs that ``devices`` serve, on the queues of one tap.

    ``header``: whether the tap has one; ``lacks``: features of a network card that it can't do.
    ``begin(pairs, header_size)`` has the tap's owner keep away from the tap, put as many queues
    into service and return their descriptors; ``end`` undoes that.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        begin: Callable[[int, int], Sequence[int]],
        end: Callable[[], None],
        *,
        header: bool = True,
        lacks: int = 0,
        poll_us: int = 0,
    ) -> None:
        self.devices = list(devices)
        self._begin = begin
        self._end = end
        self._header = header
        self._poll_us = poll_us
        self._rings: tuple[HandedRing, ...] = ()
        can = devices[0].features | VIRTIO_F_ANY_LAYOUT | ~_OF_RINGS
        self._features = can & ~lacks & (-1 if header else ~OFFLOADS)

    @property
    def features(self) -> int:
        """What the kernel's rings and the tap can do."""
        return self._features

    def take(self, handed: Handed, lost: Callable[[str], None]) -> None:
        """Have the kernel serve the rings. See ``Taker.take``."""
        if handed.pairs > len(self.devices):
            raise NotTaken(f"{handed.pairs} pairs of rings, {len(self.devices)} queues of the tap")
        pairs = list(zip(self.devices, _in_pairs(handed.rings), strict=False))
        try:
            for device, rings in pairs:
                self._prepare(device, handed, rings)
            self._rings = handed.rings
            queues = self._begin(handed.pairs, handed.header_size)
            for (device, _), queue in zip(pairs, queues, strict=True):
                device.set_backend(queue)
        except OSError as error:
            if self._rings:
                self.give_back()
            raise NotTaken(f"{VHOST_NET}: {error.strerror}") from None
        for ring in handed.rings:
            with suppress(BlockingIOError):
                os.eventfd_write(ring.kick, 1)

    def _prepare(self, device: Device, handed: Handed, rings: Sequence[HandedRing]) -> None:
        device.own()
        features = handed.features & device.features & ~VHOST_NET_F_VIRTIO_NET_HDR
        device.describe(
            features if self._header else features | VHOST_NET_F_VIRTIO_NET_HDR, _memory(handed)
        )
        for ring in rings:
            device.describe_ring(handed, ring, self._poll_us)

    def signal(self, index: int, call: int, err: int) -> None:
        """Other descriptors to be signalled. See ``Taker.signal``."""
        with suppress(OSError):  # one that isn't there any more signals nobody
            self.devices[index // 2].signal(index & 1, call, err)

    def give_back(self) -> Mapping[int, int]:
        """Stop the kernel. See ``Taker.give_back``."""
        rings, self._rings = self._rings, ()
        bases: dict[int, int] = {}
        for device in self.devices[: len(rings) // 2]:
            with suppress(OSError):
                device.set_backend(NO_FD)
        for ring in rings:
            with suppress(OSError):
                bases[ring.index] = self.devices[ring.index // 2].base(ring.index & 1)
        self._end()
        return bases

    def stats(self) -> dict[str, Any]:
        """Who serves them."""
        return {"by": "vhost-net", "pairs": len(self._rings) // 2}


def _in_pairs(rings: Sequence[HandedRing]) -> list[Sequence[HandedRing]]:
    return [rings[at : at + 2] for at in range(0, len(rings), 2)]


def _memory(handed: Handed) -> bytes:
    """The memory table."""
    return MEMORY.pack(len(handed.regions), 0) + b"".join(
        REGION.pack(region.info.guest_address, region.info.size, region.here, 0)
        for region in handed.regions
    )


def _places(handed: Handed, ring: HandedRing) -> tuple[int, int, int]:
    """Where a ring's descriptors, used and available parts are in this process."""
    at, size = ring.addresses, ring.size
    return (
        handed.here(at.descriptors, DESCRIPTOR_BYTES * size),
        handed.here(at.used, RING_HEAD + USED_BYTES * size),
        handed.here(at.available, RING_HEAD + AVAILABLE_BYTES * size),
    )


def _nothing() -> None:
    """Nobody has to know that a device is about to be owned."""
