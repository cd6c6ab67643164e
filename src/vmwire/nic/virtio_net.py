# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A virtio network card (virtio 1.2, section 5.1) without its bus: features, queues, a port.

The machine's side (an ``attach``) negotiates features, starts, enables and stops queues, and passes
the driver's kicks on. Queue ``2 * n`` receives, queue ``2 * n + 1`` transmits (from the guest's
view). The control queue is the machine's own affair.

States. The card has a *driver* when the first pair of queues runs: started, enabled and not broken.
Only then its end of the wire is up; what comes before that is lost, as with a cable that isn't
plugged in. A ring that can't be followed is *broken*: it is counted, told to the machine, and not
touched again until it is stopped and started anew. While the guest's memory is being rearranged the
card is *paused*: it touches nothing and refuses frames.

The card is pure logic. ``defer`` runs a function at the end of the loop's turn: there the guest is
woken, at most once per queue and turn, however many frames came.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from vmwire.bus.virtio.features import (
    VIRTIO_F_ANY_LAYOUT,
    VIRTIO_F_VERSION_1,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_ANNOUNCE,
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
    VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
    names,
)
from vmwire.bus.virtio.queue import Queue, RingFault, View
from vmwire.nic.virtio_queues import HEADER, LEGACY_HEADER, Receiver, Transmitter
from vmwire.wire.flows import flow_of
from vmwire.wire.frame import ETHERNET_HEADER, MAX_FRAME, Frame, Gso, Offload
from vmwire.wire.port import PACKETS_ONLY, Accepts, Port, Room

log = logging.getLogger(__name__)

FEATURES = (
    VIRTIO_NET_F_CSUM
    | VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_MTU
    | VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_GUEST_TSO6
    | VIRTIO_NET_F_GUEST_ECN
    | VIRTIO_NET_F_HOST_TSO4
    | VIRTIO_NET_F_HOST_TSO6
    | VIRTIO_NET_F_HOST_ECN
    | VIRTIO_NET_F_MRG_RXBUF
    | VIRTIO_NET_F_GUEST_ANNOUNCE
    | VIRTIO_NET_F_MQ
    | VIRTIO_F_ANY_LAYOUT
    | VIRTIO_RING_F_INDIRECT_DESC
    | VIRTIO_RING_F_EVENT_IDX
    | VIRTIO_F_VERSION_1
    | VIRTIO_NET_F_GUEST_USO4
    | VIRTIO_NET_F_GUEST_USO6
    | VIRTIO_NET_F_HOST_USO
)
"""What a card offers unless its owner takes something away."""

SMALL_BUFFER_FRAME = 1518
"""The longest frame that fits the buffers of a driver with neither merging nor segmentation."""
MIN_MTU = 68
MAX_MTU = 65535

_GSO = {
    VIRTIO_NET_F_GUEST_TSO4: Gso.TCPV4,
    VIRTIO_NET_F_GUEST_TSO6: Gso.TCPV6,
    VIRTIO_NET_F_GUEST_ECN: Gso.ECN,
    VIRTIO_NET_F_GUEST_USO4 | VIRTIO_NET_F_GUEST_USO6: Gso.UDP_L4,
}

_GUEST_OFFLOADS = (
    VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_GUEST_TSO6
    | VIRTIO_NET_F_GUEST_ECN
    | VIRTIO_NET_F_GUEST_USO4
    | VIRTIO_NET_F_GUEST_USO6
)
"""What a driver may switch while it runs."""

_FILTERED_HEAD = 18
_BROADCAST = b"\xff" * 6
_RARP = 0x8035


class VirtioNet:
    """One card. ``port`` is its end of the wire.

    ``on_fault(index)`` hears of each queue that breaks.
    """

    def __init__(
        self,
        name: str,
        defer: Callable[[Callable[[], None]], None],
        *,
        offered: int = FEATURES,
        on_fault: Callable[[int], None] = lambda index: None,
    ) -> None:
        self.name = name
        self.offered = offered
        self.features = 0
        self.mtu: int | None = None
        self.drops: Counter[str] = Counter()
        """Frames lost here, by reason."""
        self.faults = 0
        """Rings that couldn't be followed."""
        self.filtered = 0
        """Frames that weren't for this card."""
        self.on_fault = on_fault
        self.on_wire_change: Callable[[], None] = _nothing
        """Hears when something about the wire has changed: who is there, and the carrier."""
        self._offloads = _GUEST_OFFLOADS
        self._wants: Callable[[bytes], bool] | None = None
        self._reserved: Sequence[View] = ()
        self._defer = defer
        self._queues: dict[int, Queue] = {}
        self._enabled: set[int] = set()
        self._broken: dict[int, str] = {}
        self._transmitters: dict[int, Transmitter] = {}
        self._receivers: dict[int, Receiver] = {}
        self._active: list[Receiver] = []
        self._reserving: Receiver | None = None
        self._completed: set[Queue] = set()
        self._paused = False
        self._plugged = True
        self._received = [0, 0]
        self._room = Room(self._reserve, self._commit, self._cancel)
        self._elsewhere = False
        self.port = Port(
            name,
            self._receive,
            resume=self._on_resume,
            room=self._room,
            link_changed=lambda up: self.on_wire_change(),
            accepts_changed=lambda: self.on_wire_change(),
        )
        self.port.set_link(False)

    # Features

    def negotiate(self, features: int) -> None:
        """Take the driver's choice. Queues that are started from now on follow it."""
        self.features = features
        self._offloads = _GUEST_OFFLOADS
        self.port.set_accepts(self._accepts())

    def set_guest_offloads(self, offloads: int) -> bool:
        """Hand the driver these offloads (feature bits) from now on, of those that it negotiated.

        False if it didn't negotiate them, and nothing changes.
        """
        if offloads & ~(self.features & _GUEST_OFFLOADS):
            return False
        self._offloads = offloads
        for receiver in self._receivers.values():
            receiver.checksums = bool(offloads & VIRTIO_NET_F_GUEST_CSUM)
        self.port.set_accepts(self._accepts())
        return True

    @property
    def guest_offloads(self) -> int:
        """The offloads that the driver is handed now."""
        return self.features & self._offloads

    def set_mtu(self, mtu: int) -> bool:
        """Take the MTU that the machine has told the driver; False if there can't be one such."""
        if not MIN_MTU <= mtu <= MAX_MTU:
            return False
        self.mtu = mtu
        self.port.set_accepts(self._accepts())
        return True

    def _accepts(self) -> Accepts:
        features = self.features & (self._offloads | ~_GUEST_OFFLOADS)
        gso = Gso.NONE
        for mask, kind in _GSO.items():
            if features & mask == mask:
                gso |= kind
        big = features & VIRTIO_NET_F_MRG_RXBUF or gso
        largest = MAX_FRAME if big else SMALL_BUFFER_FRAME
        if features & VIRTIO_NET_F_MTU and self.mtu is not None:
            largest = min(largest, self.mtu + ETHERNET_HEADER + 4)
        if not features & VIRTIO_NET_F_GUEST_CSUM:
            return Accepts(largest=largest)
        return Accepts(True, gso, largest)

    @property
    def header_size(self) -> int:
        """Bytes of net header in front of each frame."""
        if self.features & (VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF):
            return HEADER
        return LEGACY_HEADER

    # Queues

    def start_queue(self, index: int, queue: Queue) -> None:
        """Serve a queue from now on. It must have been stopped, or never started."""
        self._queues[index] = queue
        if index & 1:
            self._transmitters[index] = Transmitter(
                queue,
                self.header_size,
                self.port.send,
                self._note,
                partial(self._defer, partial(self.kick, index)),
                self.drops,
            )
        else:
            self._receivers[index] = Receiver(
                queue,
                self.header_size,
                bool(self.features & VIRTIO_NET_F_MRG_RXBUF),
                bool(self.guest_offloads & VIRTIO_NET_F_GUEST_CSUM),
                self._note,
                partial(self._defer, partial(self.kick, index)),
                self.drops,
            )
        self._update()
        self._defer(partial(self.kick, index))

    def stop_queue(self, index: int) -> Queue | None:
        """Stop serving a queue and return it, with all that was completed told to the driver."""
        queue = self._queues.pop(index, None)
        self._broken.pop(index, None)
        self._transmitters.pop(index, None)
        receiver = self._receivers.pop(index, None)
        if receiver is not None:
            receiver.let_go()
            self._received[0] += receiver.frames
            self._received[1] += receiver.bytes
        if queue is not None and queue in self._completed:
            self._completed.remove(queue)
            queue.flush()
        self._update()
        if receiver is not None and receiver.starved:
            self.port.resume()  # nobody waits for a driver that has gone
        return queue

    def enable_queue(self, index: int, enabled: bool) -> None:
        """Let a queue carry frames. A started one that isn't enabled discards what is sent."""
        if enabled:
            self._enabled.add(index)
        else:
            self._enabled.discard(index)
        self._update()
        self.kick(index)

    def carries(self, index: int) -> bool:
        """Whether a queue is started, enabled and not broken."""
        return index in self._enabled & self._queues.keys() - self._broken.keys()

    def set_elsewhere(self, elsewhere: bool) -> None:
        """The first pair of queues is stopped here, but served by somebody else: there is a driver.

        To be said before they stop, and after they are back.
        """
        self._elsewhere = elsewhere
        self._update()

    def reset(self) -> None:
        """Forget the driver: no queues, no features."""
        for index in list(self._queues):
            self.stop_queue(index)
        self._enabled.clear()
        self._paused = False
        self.mtu = None
        self.features = 0
        self._update()
        self.port.set_accepts(PACKETS_ONLY)

    def let_go(self) -> None:
        """Keep no view of the guest's memory; to be called before it changes."""
        for receiver in self._receivers.values():
            receiver.let_go()

    def pause(self) -> None:
        """Touch no ring and no buffer until ``unpause``."""
        self._paused = True

    def unpause(self) -> None:
        """Go on after ``pause``."""
        if self._paused:
            self._paused = False
            for index in self._queues:
                self._defer(partial(self.kick, index))

    def set_link(self, plugged: bool) -> None:
        """Plug or pull the cable at this card."""
        self._plugged = plugged
        self._update()

    def _update(self) -> None:
        """Work out anew which queues carry frames, and whether the cable has two ends."""
        ready = self._enabled & self._queues.keys() - self._broken.keys()
        for index, transmitter in self._transmitters.items():
            transmitter.discards = index not in self._enabled
        self._active = [
            receiver for index, receiver in sorted(self._receivers.items()) if index in ready
        ]
        # With several queues a frame's flow picks one, and a reservation knows no flow
        self.port.set_room(self._room if len(self._active) == 1 else None)
        self.port.set_link(self._plugged and (self._elsewhere or {0, 1} <= ready))

    def _break(self, index: int, fault: RingFault) -> None:
        """Stop following a ring that makes no sense."""
        self.faults += 1
        self._broken[index] = str(fault)
        log.warning("%s: queue %d is broken: %s", self.name, index, fault)
        self._update()
        self.on_fault(index)

    # Driver to wire

    def kick(self, index: int) -> None:
        """The driver made buffers available in a queue, or may have."""
        if self._paused or index in self._broken:
            return
        transmitter = self._transmitters.get(index)
        if transmitter is not None:
            try:
                transmitter.run()
            except RingFault as fault:
                self._break(index, fault)
            return
        receiver = self._receivers.get(index)
        if receiver is not None and receiver.starved:
            receiver.starved = False
            receiver.queue.refuse_kicks()
            self.port.resume()

    def _on_resume(self) -> None:
        for transmitter in self._transmitters.values():
            transmitter.resume()

    def announce(self, mac: bytes) -> None:
        """Tell the network where the guest is, for a driver that can't do it itself (RARP)."""
        body = b"\0\1\x08\0\6\4\0\3" + mac + bytes(4) + mac + bytes(4)
        frame = _BROADCAST + mac + _RARP.to_bytes(2, "big") + body
        self.port.send([Frame.of(frame.ljust(60, b"\0"))])

    # Wire to driver

    def set_filter(self, wants: Callable[[bytes], bool] | None) -> None:
        """Let in what ``wants`` says of a frame's first bytes; None: everything."""
        self._wants = wants

    def _receive(self, frames: Sequence[Frame]) -> int:
        if self._wants is None or not self._active:
            return self._deliver(frames)
        wants = self._wants
        passed = [at for at, frame in enumerate(frames) if wants(frame.head(_FILTERED_HEAD))]
        if len(passed) == len(frames):
            return self._deliver(frames)
        delivered = self._deliver([frames[at] for at in passed]) if passed else 0
        taken = len(frames) if delivered == len(passed) else passed[delivered]
        self.filtered += taken - delivered
        return taken

    def _deliver(self, frames: Sequence[Frame]) -> int:
        active = self._active
        if len(active) == 1:
            return self._receive_on(active[0], frames)
        if not active:
            self.drops["no driver"] += len(frames)
            return len(frames)
        for number, frame in enumerate(frames):
            receiver = active[flow_of(frame) % len(active)]
            if not self._receive_on(receiver, (frame,)):
                return number
        return len(frames)

    def _receive_on(self, receiver: Receiver, frames: Sequence[Frame]) -> int:
        if self._paused:
            receiver.starved = True
            return 0
        try:
            return receiver.receive(frames)
        except RingFault as fault:
            self._break_receiver(receiver, fault)
            self.drops["broken queue"] += len(frames)
            return len(frames)

    def _break_receiver(self, receiver: Receiver, fault: RingFault) -> None:
        broken = [index for index, other in self._receivers.items() if other is receiver]
        for index in broken:
            self._break(index, fault)

    def _reserve(self, length: int) -> Sequence[View] | None:
        receiver = self._active[0]
        if self._paused:
            receiver.starved = True
            return None
        try:
            views = receiver.reserve(length)
        except RingFault as fault:
            self._break_receiver(receiver, fault)
            return None
        self._reserving = receiver
        if self._wants is not None and views is not None:
            self._reserved = views
        return views

    def _commit(self, length: int, offload: Offload) -> None:
        receiver, self._reserving = self._reserving, None
        assert receiver is not None
        if self._wants is not None and self._reserved:
            wanted = self._wants(bytes(self._reserved[0][:_FILTERED_HEAD]))
            self._reserved = ()
            if not wanted:
                self.filtered += 1
                receiver.cancel()
                return
        receiver.commit(length, offload)

    def _cancel(self) -> None:
        receiver, self._reserving = self._reserving, None
        self._reserved = ()
        assert receiver is not None
        receiver.cancel()

    # Waking the guest

    def _note(self, queue: Queue) -> None:
        """Have the driver woken at the end of the turn."""
        if not self._completed:
            self._defer(self._flush)
        self._completed.add(queue)

    def _flush(self) -> None:
        for queue in self._completed:
            queue.flush()
        self._completed.clear()

    # What can be seen

    def stats(self) -> dict[str, object]:
        """Return counters and states as plain data.

        ``rx`` is what the guest got, ``tx`` what it sent; a superframe counts as one frame.
        ``drops`` are by reason; ``queues`` maps an index to ``on``, ``off`` (started, not enabled)
        or what broke it.
        """
        receivers = self._receivers.values()
        return {
            "rx_frames": self._received[0] + sum(receiver.frames for receiver in receivers),
            "rx_bytes": self._received[1] + sum(receiver.bytes for receiver in receivers),
            "tx_frames": self.port.frames,
            "tx_bytes": self.port.bytes,
            "drops": dict(self.drops + self.port.drops),
            "faults": self.faults,
            "link": self.port.link_up,
            "features": names(self.features),
            "mtu": self.mtu,
            "queues": {
                index: self._broken.get(index) or ("on" if index in self._enabled else "off")
                for index in sorted(self._queues)
            },
        }


def _nothing() -> None:
    """Nobody listens."""
