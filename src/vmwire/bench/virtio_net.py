# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A virtio network card's driver in plain Python, over any transport, on the bench machine.

>>> from vmwire.bench.machine import Bench
>>> from vmwire.bench.virtio_pci import ModernPci
>>> with Bench() as pc:
...     nic = pc.plug("virtio-net-pci", mac="52:54:00:12:34:56", addr=4)
...     driver = VirtioNetDriver(pc, ModernPci(pc, 4)).start()
...     _ = driver.send(bytes.fromhex("ffffffffffff 525400123456 0800") + bytes(46))
...     _ = nic.wire.send(bytes.fromhex("525400123456 525500020202 0800") + b"hi".ljust(46))
...     len(nic.wire.take()[0]), driver.receive()[0][0][14:16]
(60, b'hi')

The driver polls: it looks at its rings when it is asked to. What a driver may not do is done with
``rings``, ``transport`` and ``memory`` directly.
"""

from __future__ import annotations

from typing import Protocol, Self

from vmwire.bench.pci import Allocator
from vmwire.bus.virtio.driver import DriverRing
from vmwire.bus.virtio.features import (
    VIRTIO_F_BAD_FEATURE,
    VIRTIO_F_VERSION_1,
    VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
)
from vmwire.wire.frame import NO_OFFLOAD, Offload

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
LEGACY_ALIGNMENT = 4096
BUFFER_SIZE = 2048
NO_ANSWER = 0xFF


class Cpu(Protocol):
    """What a driver's memory needs of its machine."""

    def read(self, address: int, length: int) -> bytes: ...
    def write(self, address: int, data: bytes | bytearray | memoryview) -> None: ...


class BenchMemory:
    """A machine's RAM as a place for rings: ``vmwire.bus.virtio.driver.Memory``."""

    def __init__(self, pc: Cpu, room: Allocator | None = None) -> None:
        self._pc = pc
        self.room = room or Allocator()

    def allocate(self, size: int, align: int = 16) -> int:
        """Return the address of ``size`` zeros that nobody else got."""
        address = self.room.take(size, align)
        self._pc.write(address, bytes(size))
        return address

    def view(self, address: int, size: int) -> memoryview:
        """Return a copy, to be read."""
        return memoryview(self._pc.read(address, size))

    def write(self, address: int, data: bytes) -> None:
        """Put ``data`` there."""
        self._pc.write(address, data)

    def read(self, address: int, size: int) -> bytes:
        """Copy from there."""
        return self._pc.read(address, size)


class Transport(Protocol):
    """A virtio device's registers, however they are reached."""

    legacy: bool

    def status(self) -> int:
        """Read the status byte."""

    def set_status(self, value: int) -> None:
        """Write it."""

    def features(self) -> int:
        """Read what the device offers."""

    def choose(self, features: int) -> None:
        """Write what the driver wants."""

    def queue_size(self, index: int) -> int:
        """The most entries that a queue may have; 0: there is no such queue."""

    def set_up(self, index: int, ring: DriverRing) -> None:
        """Describe a ring and enable it."""

    def kick(self, index: int) -> None:
        """Tell the device of new buffers."""

    def interrupt_status(self) -> int:
        """Read why the device interrupted, which ends the interrupt."""

    def config(self, offset: int, size: int) -> bytes:
        """Read the device's configuration."""

    def set_config(self, offset: int, data: bytes) -> None:
        """Write to it."""


class VirtioNetDriver:
    """One card's driver. ``features`` are what it would like; ``self.features`` what it got."""

    def __init__(
        self,
        pc: Cpu,
        transport: Transport,
        *,
        features: int | None = None,
        pairs: int = 1,
        ring_size: int = 0,
        buffer_size: int = BUFFER_SIZE,
        room: Allocator | None = None,
    ) -> None:
        self.memory = BenchMemory(pc, room)
        self.transport = transport
        self.pairs = pairs
        self.rings: dict[int, DriverRing] = {}
        self.features = 0
        self._wanted = features
        self._ring_size = ring_size
        self._buffer_size = buffer_size
        self._buffers: dict[int, dict[int, int]] = {}
        self._room: list[int] = []

    # Beginning

    def start(self) -> Self:
        """Reset the card, negotiate, set the rings up, fill those for receiving, and go."""
        self.negotiate()
        self.set_up_rings()
        self.transport.set_status(self.transport.status() | DRIVER_OK)
        for index in range(0, 2 * self.pairs, 2):
            self.fill(index)
        return self

    def negotiate(self) -> None:
        """Reset the card and settle the features."""
        transport = self.transport
        transport.set_status(0)
        transport.set_status(ACKNOWLEDGE)
        transport.set_status(ACKNOWLEDGE | DRIVER)
        offered = transport.features() & ~(VIRTIO_F_BAD_FEATURE if transport.legacy else 0)
        wanted = offered if self._wanted is None else self._wanted
        if not transport.legacy:
            wanted |= VIRTIO_F_VERSION_1
        self.features = offered & wanted
        transport.choose(self.features)
        if not transport.legacy:
            transport.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
            assert transport.status() & FEATURES_OK, "the card refuses the features"

    def set_up_rings(self) -> None:
        """Make and describe a ring for each queue in use."""
        indexes = list(range(2 * self.pairs))
        if self.features & VIRTIO_NET_F_CTRL_VQ:
            indexes.append(self.control_index)
        for index in indexes:
            self.set_up_ring(index)

    def set_up_ring(self, index: int) -> DriverRing:
        """Make a ring and describe it."""
        legacy = self.transport.legacy
        most = self.transport.queue_size(index)
        size = most if legacy else min(most, self._ring_size or most)
        ring = DriverRing(
            self.memory,
            size,
            event_index=bool(self.features & VIRTIO_RING_F_EVENT_IDX),
            indirect=bool(self.features & VIRTIO_RING_F_INDIRECT_DESC) and bool(index & 1),
            alignment=LEGACY_ALIGNMENT if legacy else 0,
        )
        self.rings[index] = ring
        self._buffers[index] = {}
        self.transport.set_up(index, ring)
        return ring

    @property
    def control_index(self) -> int:
        """Where the control queue is."""
        if not self.features & VIRTIO_NET_F_MQ:
            return 2
        return 2 * int.from_bytes(self.transport.config(8, 2), "little")

    @property
    def header_size(self) -> int:
        """Bytes of net header in front of each frame."""
        return 12 if self.features & (VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF) else 10

    @property
    def mac(self) -> bytes:
        """The card's address, from its configuration."""
        return self.transport.config(0, 6)

    @property
    def status(self) -> int:
        """The link and the wish for an announcement, from the configuration."""
        return int.from_bytes(self.transport.config(6, 2), "little")

    def kick(self, index: int) -> None:
        """Tell the device of new buffers, if it wants to know."""
        if self.rings[index].wants_kick():
            self.transport.kick(index)

    # Sending

    def send(
        self, frame: bytes, offload: Offload = NO_OFFLOAD, *, pieces: int = 1, pair: int = 0
    ) -> int:
        """Send a frame cut into ``pieces`` buffers; return its chain's head."""
        index = 2 * pair + 1
        header = offload.packed.ljust(self.header_size, b"\0")
        data = header + frame
        address = self.memory.allocate(len(data))
        self.memory.write(address, data)
        step = -(-len(data) // pieces)
        segments = [
            (address + start, min(step, len(data) - start)) for start in range(0, len(data), step)
        ]
        head = self.rings[index].add(segments, writable=False)
        self.kick(index)
        return head

    def sent(self, pair: int = 0) -> int:
        """How many frames the card has done with since the last call."""
        return len(self.rings[2 * pair + 1].used())

    # Receiving

    def fill(self, index: int, count: int | None = None) -> None:
        """Give the card receive buffers: as many as there is room for, or ``count``."""
        ring = self.rings[index]
        for _ in range(ring.free if count is None else count):
            address = self._room.pop() if self._room else self.memory.allocate(self._buffer_size)
            head = ring.add([(address, self._buffer_size)], writable=True, publish=False)
            self._buffers[index][head] = address
        ring.publish()
        self.kick(index)

    def receive(self, pair: int = 0) -> list[tuple[bytes, Offload]]:
        """Return the frames that have come, and give their buffers back."""
        index = 2 * pair
        parts = iter(self.rings[index].used())
        frames = []
        for part in parts:
            data = self._take(index, part)
            offload = Offload.unpack(data[:10])
            if self.header_size == 12:
                for _ in range(int.from_bytes(data[10:12], "little") - 1):
                    data += self._take(index, next(parts))
            frames.append((data[self.header_size :], offload))
        if frames:
            self.fill(index, min(self.rings[index].free, len(self._room)))
        return frames

    def _take(self, index: int, part: tuple[int, int]) -> bytes:
        head, length = part
        address = self._buffers[index].pop(head)
        self._room.append(address)
        return self.memory.read(address, length)

    # The control queue

    def command(self, kind: int, command: int, data: bytes = b"") -> int:
        """Send a request over the control queue; return its answer (0: done)."""
        index = self.control_index
        ring = self.rings[index]
        said = self.memory.allocate(2 + len(data))
        answer = self.memory.allocate(1)
        self.memory.write(said, bytes((kind, command)) + data)
        self.memory.write(answer, bytes((NO_ANSWER,)))
        parts = [(said, 2, 0), (said + 2, len(data), 0), (answer, 1, 2)]
        self.add_request([part for part in parts if part[1]])
        self.kick(index)
        ring.used()
        return self.memory.read(answer, 1)[0]

    def add_request(self, parts: list[tuple[int, int, int]]) -> None:
        """Make a chain of (address, length, flags) available in the control queue."""
        self.rings[self.control_index].add_parts(parts)
