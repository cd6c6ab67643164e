# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A virtio network driver's rings in memory of our own, between a back end and the wire.

Virtio 1.2, section 5.1.6. The memory is a sealed memfd that is made for one back end and never
shown to another. Each descriptor has a buffer for good (``bus.virtio.driver.BufferRing``).

Theory of operation. *To the back end*: frames are copied into free buffers, one each, and shown at
once; the kick comes at the end of the turn, if it is wanted. A full ring refuses frames and asks to
be woken when half of it is free. *From the back end*: when it wakes us, frames are offered to the
wire as views of their buffers, which go back to the ring when they were taken; what the wire
refuses stays in its buffers until ``resume``, so the pressure ends at the back end.

A back end that says what can't be (``RingFault``) has lost these rings: nothing of theirs is
touched again, and ``on_fault`` hears of it at the end of the turn.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain

from vmwire.bus.virtio.driver import BufferRing
from vmwire.bus.virtio.features import (
    VIRTIO_F_VERSION_1,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_RING_F_EVENT_IDX,
)
from vmwire.bus.virtio.front_end import Plan, RingPlan, addresses_of, region_of
from vmwire.bus.virtio.queue import RingFault
from vmwire.engine.arena import Arena
from vmwire.engine.loop import EDGE, READ, Loop
from vmwire.wire.flows import flow_of
from vmwire.wire.frame import ETHERNET_HEADER, MAX_FRAME, NO_OFFLOAD, Frame, Gso, Offload
from vmwire.wire.port import Accepts, Port

HEADER = 12
LEGACY_HEADER = 10
"""Bytes of net header: virtio 1.x and mergeable buffers have a buffer count at its end."""

SEND_ENTRIES = 256
RECEIVE_ENTRIES = 1024
MERGED_BUFFER = 4096
"""A receive buffer where a frame may have several."""
WHOLE_BUFFER = 69632
"""A buffer that any frame fits into with its header (pages are touched only if they are used)."""
SMALL_FRAME = 2048
"""Up to here a frame is joined and copied at once."""
TURN_FRAMES = 256
"""Frames received before others get their turn."""

_PLAIN = bytes(LEGACY_HEADER) + b"\1\0"
_PLAIN_END = int.from_bytes(_PLAIN[8:], "little")
_GSO = {
    VIRTIO_NET_F_HOST_TSO4: Gso.TCPV4,
    VIRTIO_NET_F_HOST_TSO6: Gso.TCPV6,
    VIRTIO_NET_F_HOST_ECN: Gso.ECN,
    VIRTIO_NET_F_HOST_USO: Gso.UDP_L4,
}
_BIG = (
    VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_GUEST_TSO6
    | VIRTIO_NET_F_GUEST_USO4
    | VIRTIO_NET_F_GUEST_USO6
)


def accepts(features: int) -> Accepts:
    """What a back end takes as it is."""
    if not features & VIRTIO_NET_F_CSUM:
        return Accepts()
    gso = Gso.NONE
    for mask, kind in _GSO.items():
        if features & mask:
            gso |= kind
    return Accepts(True, gso)


class OwnRings:
    """``pairs`` pairs of rings for a driver that negotiated ``features``. Owns what it opens.

    ``start`` and ``stop`` are called when the back end has begun and before it ends.
    """

    def __init__(
        self,
        features: int,
        pairs: int,
        port: Port,
        loop: Loop,
        drops: Counter[str],
        on_fault: Callable[[str], None],
    ) -> None:
        self.features = features
        self._loop = loop
        self._arena = Arena(pairs * _room_for_a_pair(features), 0x10_0000)
        self._pairs = [_Pair(self, self._arena, port, loop, drops) for _ in range(pairs)]
        self._on_fault = on_fault
        self.running = False

    def plan(self) -> Plan:
        """What a back end is to be told."""
        rings = []
        for number, pair in enumerate(self._pairs):
            for index, ring in ((2 * number, pair.received), (2 * number + 1, pair.sent)):
                addresses = addresses_of(index, ring)
                call = pair.call if not index & 1 else pair.sent_call
                kick = pair.kick if not index & 1 else pair.sent_kick
                rings.append(RingPlan(index, ring.size, 0, addresses, kick, call))
        return Plan(self.features, [(region_of(self._arena), self._arena.fd)], rings)

    def start(self) -> None:
        """The back end serves the rings from now on."""
        self.running = True
        for pair in self._pairs:
            pair.start()

    def fail(self, fault: RingFault) -> None:
        """Touch nothing any more. The end comes when nobody looks into the memory any more."""
        self.running = False
        why = str(fault)
        self._loop.defer(lambda: self._on_fault(why))

    def send(self, frames: Sequence[Frame]) -> int:
        """Send frames, each flow's by one of the rings; return how many were taken."""
        pairs = self._pairs
        if len(pairs) == 1:
            return pairs[0].send(frames)
        for number, frame in enumerate(frames):
            if not pairs[flow_of(frame) % len(pairs)].send((frame,)):
                return number
        return len(frames)

    def resume(self) -> None:
        """The wire has room again."""
        for pair in self._pairs:
            pair.resume()

    def close(self) -> None:
        """Touch nothing any more, and give everything back."""
        self.running = False
        for pair in self._pairs:
            pair.close()
        self._arena.close()

    @property
    def size(self) -> int:
        """Bytes of memory that are shared, most of which are never touched."""
        return self._arena.size


def _room_for_a_pair(features: int) -> int:
    buffers = RECEIVE_ENTRIES * _receive_buffer(features) + SEND_ENTRIES * WHOLE_BUFFER
    return buffers + 32 * (RECEIVE_ENTRIES + SEND_ENTRIES) + (64 << 10)


def _receive_buffer(features: int) -> int:
    return MERGED_BUFFER if features & VIRTIO_NET_F_MRG_RXBUF else WHOLE_BUFFER


class _Pair:
    """One ring for each way."""

    def __init__(
        self, rings: OwnRings, arena: Arena, port: Port, loop: Loop, drops: Counter[str]
    ) -> None:
        features = rings.features
        event_index = bool(features & VIRTIO_RING_F_EVENT_IDX)
        self._rings = rings
        self._port = port
        self._loop = loop
        self._drops = drops
        self._merged = bool(features & VIRTIO_NET_F_MRG_RXBUF)
        both = VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF
        self._header = HEADER if features & both else LEGACY_HEADER
        self.received = BufferRing(
            arena, RECEIVE_ENTRIES, _receive_buffer(features), writable=True,
            event_index=event_index,
        )  # fmt: skip
        self.sent = BufferRing(
            arena, SEND_ENTRIES, WHOLE_BUFFER, writable=False, event_index=event_index
        )
        self._heads = self.received.column("Q", 0), self.received.column("I", 8)
        """What the net headers of received frames begin and end with."""
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK
        self.kick, self.call = os.eventfd(0, flags), os.eventfd(0, flags)
        self.sent_kick, self.sent_call = os.eventfd(0, flags), os.eventfd(0, flags)
        self._will_kick = self._will_poll = False
        self._is_full = False
        self._refused: list[Frame] = []
        self._held: list[Sequence[int]] = []
        """The buffers of each refused frame."""

    def start(self) -> None:
        """Lend the receive buffers, and listen."""
        ring = self.received
        mine, ring.mine = ring.mine, []
        ring.lend(mine)
        self.sent.refuse_interrupts()
        self._loop.watch(self.call, READ | EDGE, self._on_call)
        self._loop.watch(self.sent_call, READ | EDGE, self._on_room)
        self._kick(ring, self.kick)
        self._on_call(0)

    def close(self) -> None:
        """Give everything back."""
        for fd in (self.call, self.sent_call):
            self._loop.unwatch(fd)
        for fd in (self.kick, self.call, self.sent_kick, self.sent_call):
            os.close(fd)
        self._refused.clear()
        self._held.clear()
        self.received.close()
        self.sent.close()

    def _kick(self, ring: BufferRing, fd: int) -> None:
        if ring.wants_kick():
            try:
                os.eventfd_write(fd, 1)
            except BlockingIOError:
                pass  # 2**64 - 2 kicks that nobody fetched: it will look

    # To the back end

    def send(self, frames: Sequence[Frame]) -> int:
        """Copy frames into free buffers and show them; return how many were taken."""
        taken, mine = 0, self.sent.mine
        try:
            while taken < len(frames) and (mine or self._has_room()):
                batch = frames[taken : taken + len(mine)]
                self._put(batch)
                taken += len(batch)
        except RingFault as fault:
            self._rings.fail(fault)
            return len(frames)
        if taken and not self._will_kick:
            self._will_kick = True
            self._loop.defer(self._kick_sent)
        return taken

    def _put(self, frames: Sequence[Frame]) -> None:
        ring, header = self.sent, self._header
        slots, lengths = ring.slots, ring.lengths
        ids = ring.mine[-len(frames) :]
        del ring.mine[-len(frames) :]
        tail = bytes(header - LEGACY_HEADER)
        offload, prefix = NO_OFFLOAD, bytes(header)
        for id, frame in zip(ids, frames, strict=True):
            length = header + frame.length
            slot = slots[id]
            if frame.offload is not offload:  # the frames of a burst are often alike
                offload = frame.offload
                prefix = offload.packed + tail
            if length <= SMALL_FRAME:
                slot[:length] = b"".join((prefix, *frame.views))
            else:
                slot[:header] = prefix
                place = header
                for view in frame.views:
                    end = place + len(view)
                    slot[place:end] = view
                    place = end
            lengths[id] = length
        ring.lend(ids)

    def _kick_sent(self) -> None:
        self._will_kick = False
        if self._rings.running:
            self._kick(self.sent, self.sent_kick)

    def _has_room(self) -> bool:
        """Take buffers back; if there are none, ask to be woken when half of the ring is free."""
        ring = self.sent
        ring.reclaim()
        if not ring.mine:
            ring.want_interrupt(ring.size // 2)
            if ring.has_used():
                ring.reclaim()
        self._is_full = not ring.mine
        return not self._is_full

    def _on_room(self, events: int) -> None:
        if not self._rings.running:
            return
        try:
            self.sent.reclaim()
        except RingFault as fault:
            self._rings.fail(fault)
            return
        if self._is_full and self.sent.mine:
            self._is_full = False
            self.sent.refuse_interrupts()
            self._port.resume()

    # From the back end

    def resume(self) -> None:
        """The wire has room again."""
        refused = self._refused
        if refused:
            taken = self._port.send(refused)
            if not self._rings.running:
                return
            self._lend_again(self._held[:taken])
            del refused[:taken], self._held[:taken]
            if not refused:
                self._on_call(0)

    def _on_call(self, events: int) -> None:
        """The back end has given buffers back, or may have."""
        if self._refused or not self._rings.running:
            return
        try:
            self._receive()
        except RingFault as fault:
            self._rings.fail(fault)

    def _receive(self) -> None:
        ring = self.received
        ids, lengths = ring.take_back(TURN_FRAMES)
        if ids:
            frames, held = self._frames(ids, lengths)
            taken = self._port.send(frames) if frames else 0
            if not self._rings.running:  # whoever heard of the frames has ended all this
                return
            self._lend_again(held[:taken])
            if taken < len(frames):
                self._refused, self._held = frames[taken:], held[taken:]
                return
        ring.want_interrupt()
        if ring.has_used() and not self._will_poll:
            self._will_poll = True
            self._loop.defer(self._poll)

    def _poll(self) -> None:
        self._will_poll = False
        self._on_call(0)

    def _lend_again(self, held: Sequence[Sequence[int]]) -> None:
        if held:
            self.received.lend([*chain.from_iterable(held)])
            self._kick(self.received, self.kick)

    def _frames(
        self, ids: list[int], lengths: list[int]
    ) -> tuple[list[Frame], list[Sequence[int]]]:
        """Frames of filled buffers, and the buffers of each. Raises ``RingFault``."""
        header, slots = self._header, self.received.slots
        if self._are_plain(ids, lengths):
            return [
                Frame((slots[id][header:length],), length - header)
                for id, length in zip(ids, lengths, strict=True)
            ], [*zip(ids, strict=True)]
        return self._frames_one_by_one(ids, lengths)

    def _are_plain(self, ids: list[int], lengths: list[int]) -> bool:
        """Whether each buffer has a frame of its own to which nothing is to be done."""
        begins, ends = self._heads
        if any(map(begins.__getitem__, ids)):
            return False
        if [*map(ends.__getitem__, ids)].count(_PLAIN_END) < len(ids) or self._header != HEADER:
            return False
        least, most = self._header + ETHERNET_HEADER, self._header + MAX_FRAME
        return min(lengths) >= least and max(lengths) <= most

    def _frames_one_by_one(
        self, ids: list[int], lengths: list[int]
    ) -> tuple[list[Frame], list[Sequence[int]]]:
        header, slots = self._header, self.received.slots
        plain = _PLAIN[:header]
        frames: list[Frame] = []
        held: list[Sequence[int]] = []
        dropped: list[int] = []
        place, count = 0, len(ids)
        while place < count:
            id, length = ids[place], lengths[place]
            slot = slots[id]
            head = slot[:header].tobytes()
            if length < header:
                raise RingFault(f"{length} bytes are less than a header")
            views: tuple[memoryview, ...] = (slot[header:length],)
            size, buffers = length - header, 1
            offload = NO_OFFLOAD
            if head != plain:
                offload = Offload.unpack(head[:LEGACY_HEADER])
                buffers = int.from_bytes(head[LEGACY_HEADER:], "little") if self._merged else 1
                if buffers != 1:
                    more = self._more(ids, lengths, place, buffers)
                    views += more
                    size += sum(map(len, more))
            mine = ids[place : place + buffers]
            place += buffers
            if not offload.known or not offload.least_length <= size <= MAX_FRAME:
                self._drops["malformed frame"] += 1
                dropped += mine
            else:
                frames.append(Frame(views, size, offload))
                held.append(mine)
        if dropped:
            self._lend_again([dropped])
        return frames, held

    def _more(
        self, ids: list[int], lengths: list[int], place: int, buffers: int
    ) -> tuple[memoryview, ...]:
        """What of a frame is in the buffers after its first one."""
        if buffers == 0:
            raise RingFault("a frame in no buffers")
        missing = place + buffers - len(ids)
        if missing > 0:  # they came with it, but in this turn there was an end to what was taken
            more = self.received.take_back(missing)
            ids += more[0]
            lengths += more[1]
        if place + buffers > len(ids):
            raise RingFault(f"a frame in {buffers} buffers, of which {len(ids) - place} came")
        slots = self.received.slots
        return tuple(slots[ids[at]][: lengths[at]] for at in range(place + 1, place + buffers))
