# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A virtio device between its transport and its function (virtio 1.2, sections 2.1 to 2.7 and 3.1).

A *transport* (``pci``, ``mmio``) shows registers to a driver and calls what is here: status,
features, rings, kicks. A *function* (a network card) knows what the queues are for. Neither knows
of the other.

Theory of operation. The status byte only gains bits until a reset. Features are the driver's choice
among those offered: a modern driver's are judged when it says FEATURES_OK, and the bit doesn't
stick if they make no sense; a legacy driver's count at once. A ring is *set up* while it is
described, *enabled* when the driver says so, and *runs* from DRIVER_OK on (a legacy driver's also
from its first kick) for as long as its memory is there. Where a ring goes on after a pause is
written in guest memory: everything is completed in order and as soon as it is done, so the used
index tells.

The guest's memory may change at any moment, and the right to it may go (bus mastering). Rings move
to the new memory at once; one whose memory has gone stands still until that is back. Machines
replace regions by taking them away first, so for a moment after a loss nothing is touched.

A ring that makes no sense breaks the device: DEVICE_NEEDS_RESET, and the driver is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vmwire.bus.virtio.features import (
    VIRTIO_F_ANY_LAYOUT,
    VIRTIO_F_BAD_FEATURE,
    VIRTIO_F_NOTIFY_ON_EMPTY,
    VIRTIO_F_RING_RESET,
    VIRTIO_F_VERSION_1,
    VIRTIO_RING_F_EVENT_IDX,
)
from vmwire.bus.virtio.requests import RequestQueue
from vmwire.bus.virtio.split import MAX_SIZE, Layout, SplitQueue
from vmwire.engine.clock import Timer, Timers
from vmwire.engine.dma import Dma
from vmwire.engine.memory import AddressFault, GuestMemory

ACKNOWLEDGE = 0x01
DRIVER = 0x02
DRIVER_OK = 0x04
FEATURES_OK = 0x08
NEEDS_RESET = 0x40
FAILED = 0x80

ISR_QUEUE = 1
ISR_CONFIG = 2

NO_VECTOR = 0xFFFF
LEGACY_ALIGNMENT = 4096
LEGACY_MASK = 0xFFFFFFFF
LEGACY_ONLY = VIRTIO_F_ANY_LAYOUT | VIRTIO_F_NOTIFY_ON_EMPTY

REPLACEMENT_S = 0.1
"""How long memory that has gone may take to come back before the device looks at it again."""


class Function(Protocol):
    """What a kind of device is: the part that doesn't depend on the transport.

    ``on_fault(index)`` and ``on_config_change()`` are called by it, and set by the device.
    """

    device_id: int
    offered: int
    """Feature bits; the device adds those of transports and rings that it serves itself."""
    queue_sizes: Sequence[int]
    """The most entries that each queue may have."""
    on_fault: Callable[[int], None]
    on_config_change: Callable[[], None]

    def serves_requests(self, index: int) -> bool:
        """Whether a queue's chains go both ways."""

    def writable(self, index: int) -> bool:
        """Whether the device fills a queue's buffers."""

    def negotiate(self, features: int) -> None:
        """The driver has chosen."""

    def start_queue(self, index: int, queue: SplitQueue) -> None:
        """A ring runs."""

    def stop_queue(self, index: int) -> None:
        """A ring doesn't run any more."""

    def kick(self, index: int) -> None:
        """The driver made buffers available."""

    def let_go(self) -> None:
        """Keep no view of the guest's memory."""

    def pause(self) -> None:
        """Touch neither rings nor buffers until ``unpause``."""

    def unpause(self) -> None:
        """Go on."""

    def config(self) -> bytes:
        """Return the device's configuration as the driver reads it."""

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver writes to the configuration."""

    def reset(self) -> None:
        """Forget the driver."""

    def save(self) -> dict[str, Any]:
        """Return the state as plain data."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on what ``save`` gave. ValueError if it isn't that."""


class Transport(Protocol):
    """What a device asks of its transport."""

    def queue_interrupt(self, vector: int) -> None:
        """Wake the driver for a queue."""

    def config_interrupt(self, vector: int) -> None:
        """Wake the driver for the configuration or the status."""


@dataclass(slots=True, eq=False)
class Ring:
    """What is known of one ring. ``fresh``: it has not run since it was enabled."""

    index: int
    most: int
    size: int = 0
    descriptors: int = 0
    available: int = 0
    used: int = 0
    vector: int = NO_VECTOR
    enabled: bool = False
    fresh: bool = True
    queue: SplitQueue | None = None

    def forget(self) -> None:
        """As after a reset."""
        self.size = self.most
        self.descriptors = self.available = self.used = 0
        self.vector = NO_VECTOR
        self.enabled = False
        self.fresh = True

    def place_legacy(self, address: int, alignment: int = LEGACY_ALIGNMENT) -> None:
        """Lay the parts out as legacy drivers do (virtio 1.2, section 2.7.2)."""
        self.descriptors = address
        self.available = address + 16 * self.size
        end = self.available + 6 + 2 * self.size
        self.used = -(-end // alignment) * alignment

    def facts(self) -> tuple[int, ...]:
        """What is saved, beside the index."""
        return (
            self.size, self.descriptors, self.available, self.used, self.vector, self.enabled,
            self.fresh,
        )  # fmt: skip


class VirtioDevice:
    """One device. Nothing that a driver does raises out of it."""

    def __init__(self, function: Function, dma: Dma, timers: Timers) -> None:
        self.function = function
        self.transport: Transport
        self.revision = 0
        """Changes with all that ``save`` returns and guest memory can't tell."""
        self.status = 0
        self.features = 0
        self.generation = 0
        self.config_vector = NO_VECTOR
        self.isr = 0
        self.rings = [Ring(index, most, most) for index, most in enumerate(function.queue_sizes)]
        self._dma = dma
        self._timers = timers
        self._memory = dma.reachable
        self._settling: Timer | None = None
        function.on_fault = self._on_fault
        function.on_config_change = self.config_changed
        dma.on_change = self._on_memory_change

    # Features

    def offered(self, legacy: bool) -> int:
        """Feature bits for a driver of that generation."""
        if legacy:
            return self.function.offered & LEGACY_MASK | VIRTIO_F_BAD_FEATURE
        return self.function.offered & ~LEGACY_ONLY | VIRTIO_F_VERSION_1

    def choose_features(self, features: int, legacy: bool) -> None:
        """The driver writes what it wants; it may do so several times before it is settled."""
        if self.status & (FEATURES_OK | DRIVER_OK):
            return
        self.revision += 1
        if legacy:
            if features & VIRTIO_F_BAD_FEATURE:
                features = 0  # whoever takes that has not looked at what it takes
            self.features = features & self.offered(True)
            self.function.negotiate(self.features)
        else:
            self.features = features & ((1 << 64) - 1)

    @property
    def _features_fit(self) -> bool:
        unknown = self.features & ~self.offered(False)
        return not unknown and bool(self.features & VIRTIO_F_VERSION_1)

    # Status

    def set_status(self, value: int, legacy: bool) -> None:
        """The driver writes the status byte."""
        self.revision += 1
        if not value:
            self.reset()
            return
        gained = value & ~self.status
        if gained & FEATURES_OK and not legacy:
            if self._features_fit:
                self.function.negotiate(self.features)
            else:
                value &= ~FEATURES_OK
        if gained & DRIVER_OK and not legacy and not (value | self.status) & FEATURES_OK:
            value &= ~DRIVER_OK
        # NEEDS_RESET is the device's own; a running device is only stopped by a reset
        self.status = value & ~NEEDS_RESET | self.status & (NEEDS_RESET | FEATURES_OK | DRIVER_OK)
        if gained & value & DRIVER_OK:
            self._start_all()

    def reset(self) -> None:
        """As at power-on."""
        self.revision += 1
        for ring in self.rings:
            self._stop(ring)
            ring.forget()
        self._settle()
        self.function.reset()
        self.status = self.features = self.isr = self.generation = 0
        self.config_vector = NO_VECTOR

    @property
    def _alive(self) -> bool:
        return bool(self.status & DRIVER_OK) and not self.status & NEEDS_RESET

    # Rings

    def ring(self, index: int) -> Ring | None:
        """Return what is known of a ring; None: there is no such."""
        return self.rings[index] if 0 <= index < len(self.rings) else None

    def enable(self, ring: Ring) -> None:
        """The driver has described a ring and wants it."""
        self.revision += 1
        ring.enabled = True
        ring.fresh = True
        if self._alive:
            self._start(ring)

    def disable(self, ring: Ring) -> None:
        """The driver takes a ring back (a legacy one by its address, a modern one by its reset)."""
        self.revision += 1
        self._stop(ring)
        ring.enabled = False

    def reset_ring(self, ring: Ring) -> None:
        """The driver resets one ring, which then can be set up anew (section 2.6.1)."""
        if self.features & VIRTIO_F_RING_RESET:
            vector = ring.vector
            self.disable(ring)
            ring.forget()
            ring.vector = vector

    def kick(self, index: int, legacy: bool = False) -> None:
        """The driver made buffers available in a ring."""
        ring = self.ring(index)
        if ring is None:
            return
        if ring.queue is None:
            # Legacy drivers may use a ring before they say that they are ready
            if not legacy or self.status & (DRIVER_OK | NEEDS_RESET) or not ring.enabled:
                return
            self._start(ring)
        self.function.kick(index)
        if isinstance(ring.queue, RequestQueue):
            self.revision += 1  # requests change what the function is

    def _start_all(self) -> None:
        for ring in self.rings:
            if ring.enabled and ring.queue is None:
                self._start(ring)

    def _start(self, ring: Ring) -> None:
        """Let a ring run, if its memory is there."""
        size = ring.size
        if not 0 < size <= MAX_SIZE or size & (size - 1) or ring.queue is not None:
            return
        kind = RequestQueue if self.function.serves_requests(ring.index) else SplitQueue
        layout = Layout(size, ring.descriptors, ring.available, ring.used)
        try:
            queue = kind(
                self._memory,
                layout,
                writable=self.function.writable(ring.index),
                notify=lambda: self._notify(ring),
                event_index=bool(self.features & VIRTIO_RING_F_EVENT_IDX),
            )
        except AddressFault:
            return
        if not ring.fresh:
            queue.position = queue.used_index
        ring.fresh = False
        queue.notify_on_empty = bool(self.features & VIRTIO_F_NOTIFY_ON_EMPTY)
        ring.queue = queue
        self.revision += 1
        self.function.start_queue(ring.index, queue)

    def _stop(self, ring: Ring) -> None:
        queue, ring.queue = ring.queue, None
        if queue is not None:
            self.function.stop_queue(ring.index)
            queue.close()

    def _on_fault(self, index: int) -> None:
        """A ring is broken: the device is."""
        self.revision += 1
        self.status |= NEEDS_RESET
        if self.status & DRIVER_OK and self.features & VIRTIO_F_VERSION_1:
            self._notify_config()

    # The guest's memory

    def _on_memory_change(self) -> None:
        old, self._memory = self._memory, self._dma.reachable
        self.function.let_go()
        if _size(self._memory) < _size(old):
            self._await_more()
        else:
            self._settle()
        for ring in self.rings:
            if ring.queue is not None:
                try:
                    ring.queue.attach(self._memory)
                except AddressFault:
                    self._stop(ring)
            elif ring.enabled and self._alive:
                self._start(ring)

    def _await_more(self) -> None:
        """Memory has gone, perhaps only to be replaced."""
        if self._settling is None and any(ring.queue for ring in self.rings):
            self.function.pause()
            self._settling = self._timers.call_later(REPLACEMENT_S, self._settle)

    def _settle(self) -> None:
        settling, self._settling = self._settling, None
        if settling is not None:
            settling.cancel()
            self.function.unpause()

    # Telling the driver

    def _notify(self, ring: Ring) -> None:
        self.transport.queue_interrupt(ring.vector)

    def _notify_config(self) -> None:
        self.transport.config_interrupt(self.config_vector)

    def config_changed(self) -> None:
        """Something in the configuration is different now."""
        self.revision += 1
        self.generation = (self.generation + 1) & 0xFF
        if self.status & DRIVER_OK:
            self._notify_config()

    # State

    def save(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return {
            "status": self.status,
            "features": self.features,
            "generation": self.generation,
            "config vector": self.config_vector,
            "rings": [ring.facts() for ring in self.rings],
            "function": self.function.save(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on what ``save`` gave, and run from there. ValueError if it isn't that."""
        self.reset()
        try:
            status, features = int(state["status"]), int(state["features"])
            rings = [tuple(int(fact) for fact in facts) for facts in state["rings"]]
            self.generation = int(state["generation"]) & 0xFF
            self.config_vector = int(state["config vector"]) & NO_VECTOR
            function = state["function"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"no virtio device's state: {error!r}") from None
        if len(rings) != len(self.rings) or any(len(facts) != 7 for facts in rings):
            raise ValueError(f"a state of {len(rings)} rings for {len(self.rings)}")
        for ring, facts in zip(self.rings, rings, strict=True):
            _describe(ring, facts)
        if status & DRIVER_OK:
            # Why it was interrupted last isn't saved each time: let the driver look at everything
            self.isr = ISR_QUEUE | ISR_CONFIG
        self.status, self.features = status & 0xFF, features & ((1 << 64) - 1)
        if status & FEATURES_OK or not features & VIRTIO_F_VERSION_1:
            self.function.negotiate(self.features)
        self.function.restore(function)
        for ring in self.rings:
            # A ring that ran did so for a reason, which may be a legacy driver's early kick
            if ring.enabled and not status & NEEDS_RESET and (self._alive or not ring.fresh):
                self._start(ring)


def _describe(ring: Ring, facts: tuple[int, ...]) -> None:
    """Set a ring up by what was saved."""
    ring.size, ring.descriptors, ring.available, ring.used, ring.vector = facts[:5]
    ring.enabled, ring.fresh = bool(facts[5]), bool(facts[6])
    if not 0 < ring.size <= ring.most or not 0 <= ring.vector <= NO_VECTOR:
        raise ValueError(f"ring {ring.index} of {ring.size}")
    if any(not 0 <= address < 1 << 64 for address in facts[1:4]):
        raise ValueError(f"ring {ring.index} at no address")


def _size(memory: GuestMemory) -> int:
    return sum(region.end - region.base for region in memory.regions)
