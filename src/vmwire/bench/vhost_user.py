# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A vhost-user front end with a virtio-net driver behind it, in plain Python: a guest without a VM.

``FrontEnd`` speaks the protocol message by message, right or wrong, as a test wants it.
``NetDriver`` is a whole guest's network driver on top of it: it negotiates, shares an arena, starts
its rings, and sends and receives frames. Both block; a thread or process of the caller's runs them.

    with NetDriver("/run/me/n0.sock") as card:
        card.send(frame)
        for frame, offload in card.receive(timeout_s=1.0):
            ...
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vmwire.bus.virtio.driver import DriverRing
from vmwire.bus.virtio.features import (
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_F_VERSION_1,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
)
from vmwire.bus.virtio.front_end import (
    ANSWER_SIZE,
    BackEnd,
    Dialogue,
    Plan,
    RingPlan,
    Script,
    addresses_of,
    begin,
    greet,
    region_of,
    share,
    start_ring,
    stop_rings,
)
from vmwire.bus.virtio.vhost_user import (
    F_NEED_REPLY,
    HEADER,
    PROTOCOL_F_MQ,
    PROTOCOL_F_REPLY_ACK,
    U64,
    Header,
    Request,
    pack_message,
)
from vmwire.engine.arena import Arena
from vmwire.wire.frame import NO_OFFLOAD, Offload

PLAIN = VIRTIO_F_VERSION_1
USUAL = (
    VIRTIO_F_VERSION_1
    | VIRTIO_NET_F_CSUM
    | VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_GUEST_TSO6
    | VIRTIO_NET_F_HOST_TSO4
    | VIRTIO_NET_F_HOST_TSO6
    | VIRTIO_NET_F_MRG_RXBUF
    | VIRTIO_RING_F_EVENT_IDX
    | VIRTIO_RING_F_INDIRECT_DESC
)
"""What a current Linux guest negotiates, as far as it concerns the data path."""

T = TypeVar("T")
SILENT = BackEnd(offered=0, protocol=0, pairs=1)
"""One that acknowledges nothing."""


class FrontEnd:
    """One connection to a back end. Requests with an answer return its payload.

    Without an answer within ``timeout_s`` there is a ``TimeoutError``; ConnectionError: the back
    end has closed the connection.
    """

    def __init__(self, path: str, timeout_s: float = 5.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_s)
        self.socket.connect(path)

    def tell(
        self, request: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 0
    ) -> None:
        """Send a message that has no answer."""
        self.send_bytes(pack_message(request, payload, flags), fds)

    def send_bytes(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send anything at all."""
        socket.send_fds(self.socket, [data], fds)

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """Send a message that has an answer of its own; return that."""
        self.tell(request, payload, fds)
        return self.answer(request)

    def order(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bool:
        """Send a message and ask for its acknowledgement (REPLY_ACK): whether it was done."""
        self.tell(request, payload, fds, F_NEED_REPLY)
        return U64.unpack(self.answer(request)) == (0,)

    def answer(self, request: int) -> bytes:
        """Read the answer to a request."""
        header = Header.unpack(self._read(HEADER.size))
        if header.request != request:
            raise ConnectionError(f"an answer to {header.request} instead of {request}")
        return self._read(header.size)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise ConnectionResetError("the back end has closed the connection")
            data += part
        return data

    def number(self, request: int) -> int:
        """Ask for a 64-bit number."""
        value: int = U64.unpack(self.ask(request))[0]
        return value

    def barrier(self) -> None:
        """Return when everything sent before has been served."""
        self.number(Request.GET_FEATURES)

    def follow(self, script: Script[T]) -> T:
        """Say what a script says, hear the answers, and return what comes out."""
        dialogue = Dialogue(script)
        while not dialogue.over:
            if dialogue.order is not None:
                self.send_bytes(dialogue.order.message, dialogue.order.fds)
                dialogue.sent()
            else:
                dialogue.feed(self._read(HEADER.size + ANSWER_SIZE))
        return dialogue.result

    def share(self, arenas: Sequence[Arena]) -> None:
        """Share memory: all of it, in one table."""
        self.follow(share(SILENT, [(region_of(arena), arena.fd) for arena in arenas]))

    def set_fd(self, request: int, index: int, fd: int) -> None:
        """Pass one of a ring's descriptors."""
        self.tell(request, U64.pack(index), [fd])

    def start_ring(self, index: int, ring: DriverRing, fds: RingFds, base: int = 0) -> None:
        """Describe a ring and start it."""
        self.follow(start_ring(SILENT, plan_of(index, ring, fds, base)))

    def stop_ring(self, index: int) -> int:
        """Stop a ring; return where it stood."""
        return self.follow(stop_rings([index]))[index]

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


@dataclass(frozen=True, slots=True)
class RingFds:
    """A ring's three event descriptors."""

    kick: int
    call: int
    error: int

    @staticmethod
    def make() -> RingFds:
        """Make three."""
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK
        return RingFds(os.eventfd(0, flags), os.eventfd(0, flags), os.eventfd(0, flags))

    def close(self) -> None:
        """Close them."""
        for fd in (self.kick, self.call, self.error):
            os.close(fd)


def plan_of(index: int, ring: DriverRing, fds: RingFds, base: int = 0) -> RingPlan:
    """A ring as a back end is told of it."""
    addresses = addresses_of(index, ring)
    return RingPlan(index, ring.size, base, addresses, fds.kick, fds.call, fds.error)


class NetDriver:
    """A virtio network card's driver with its queues.

    ``features`` are what it would like; ``self.features`` what it got. ``buffer_size`` is a receive
    buffer's (without mergeable buffers, the longest frame and its header must fit one).
    """

    def __init__(
        self,
        path: str,
        *,
        features: int = USUAL,
        pairs: int = 1,
        ring_size: int = 256,
        buffer_size: int = 1536,
        arena: Arena | None = None,
    ) -> None:
        self.front = FrontEnd(path)
        self.arena = arena or Arena(64 << 20, 0x10_0000)
        self.pairs = pairs
        self.buffer_size = buffer_size
        self.features = self._negotiate(features)
        self.header_size = (
            12 if self.features & (VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF) else 10
        )
        event_index = bool(self.features & VIRTIO_RING_F_EVENT_IDX)
        indirect = bool(self.features & VIRTIO_RING_F_INDIRECT_DESC)
        self.rings = [
            DriverRing(
                self.arena, ring_size, event_index=event_index, indirect=indirect and index & 1 == 1
            )
            for index in range(2 * pairs)
        ]
        self.fds = [RingFds.make() for _ in self.rings]
        self._buffers: list[dict[int, int]] = [{} for _ in self.rings]
        self._room = [
            [self.arena.allocate(65536 + 64) for _ in range(min(ring_size, 64))]
            for _ in range(pairs)
        ]
        self.start()

    def _negotiate(self, wanted: int) -> int:
        self.back_end = self.front.follow(greet(PROTOCOL_F_REPLY_ACK | PROTOCOL_F_MQ))
        return self.back_end.offered & (wanted | VHOST_USER_F_PROTOCOL_FEATURES)

    def start(self) -> None:
        """Share the memory, start and enable all rings, and fill the receive rings."""
        for index, ring in enumerate(self.rings):
            if not index & 1:
                for _ in range(ring.size):
                    self._add_buffer(index, self.arena.allocate(self.buffer_size))
        plans = [plan_of(index, ring, self.fds[index]) for index, ring in enumerate(self.rings)]
        memory = [(region_of(self.arena), self.arena.fd)]
        self.front.follow(begin(self.back_end, Plan(self.features, memory, plans)))
        for index in range(len(self.rings)):
            self.kick(index)
        self.front.barrier()

    def kick(self, index: int) -> None:
        """Tell the device of new buffers, if it wants to know."""
        if self.rings[index].wants_kick():
            os.eventfd_write(self.fds[index].kick, 1)

    # Sending

    def send(
        self, frame: bytes, offload: Offload = NO_OFFLOAD, *, pieces: int = 1, pair: int = 0
    ) -> None:
        """Send a frame cut into ``pieces`` buffers; waits while the ring is full."""
        index = 2 * pair + 1
        ring, room = self.rings[index], self._room[pair]
        while not room or ring.free < pieces:
            self._reclaim(index)
            if not room or ring.free < pieces:
                self.wait([index], 5.0)
        address = room.pop()
        data = offload.packed + bytes(self.header_size - len(offload.packed)) + frame
        self.arena.write(address, data)
        step = -(-len(data) // pieces)
        segments = [
            (address + start, min(step, len(data) - start)) for start in range(0, len(data), step)
        ]
        self._buffers[index][ring.add(segments, writable=False)] = address
        self.kick(index)

    def _reclaim(self, index: int) -> None:
        for head, _ in self.rings[index].used():
            self._room[index // 2].append(self._buffers[index].pop(head))

    def drained(self, timeout_s: float = 5.0) -> bool:
        """Wait until the device has taken everything that was sent."""
        deadline = time.monotonic() + timeout_s
        for index in range(1, len(self.rings), 2):
            self._reclaim(index)
            while self._buffers[index]:
                if not self.wait([index], deadline - time.monotonic()):
                    return False
                self._reclaim(index)
        return True

    # Receiving

    def receive(self, timeout_s: float = 1.0) -> list[tuple[bytes, Offload]]:
        """Return the frames that have come; waits for at least one, at most ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        indexes = range(0, len(self.rings), 2)
        while True:
            frames = [frame for index in indexes for frame in self._collect(index)]
            left = deadline - time.monotonic()
            if frames or left <= 0:
                return frames
            self.wait(indexes, left)

    def _collect(self, index: int) -> Iterator[tuple[bytes, Offload]]:
        buffers = self._buffers[index]
        pieces = iter([(buffers.pop(head), size) for head, size in self.rings[index].used()])
        for address, length in pieces:
            data = self._give_back(index, address, length)
            offload = Offload.unpack(data[:10])
            if self.header_size == 12:
                for _ in range(int.from_bytes(data[10:12], "little") - 1):
                    data += self._give_back(index, *next(pieces))
            yield data[self.header_size :], offload
        self.kick(index)

    def _give_back(self, index: int, address: int, length: int) -> bytes:
        data = self.arena.read(address, length)
        self._add_buffer(index, address)
        return data

    def _add_buffer(self, index: int, address: int) -> None:
        head = self.rings[index].add([(address, self.buffer_size)], writable=True)
        self._buffers[index][head] = address

    def wait(self, indexes: Sequence[int], timeout_s: float) -> bool:
        """Sleep until the device wakes us for one of these rings; False when it doesn't."""
        for index in indexes:
            self.rings[index].want_interrupt()
            if self.rings[index].has_used():
                return True
        fds = [self.fds[index].call for index in indexes]
        ready, _, _ = select.select(fds, [], [], max(0.0, timeout_s))
        for fd in ready:
            os.eventfd_read(fd)
        return bool(ready)

    def close(self) -> None:
        """Hang up and give everything back."""
        self.front.close()
        for fds in self.fds:
            fds.close()
        self.arena.close()

    def __enter__(self) -> NetDriver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
