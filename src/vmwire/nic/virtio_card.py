# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The whole virtio network card (virtio 1.2, section 5.1): what a transport shows registers of.

::

    bus/virtio/pci, mmio        registers
            |
    bus/virtio/device           status, features, rings
            |
        VirtioCard ─────────── configuration, control queue, filter
            |
        VirtioNet ── Port       frames (the part that vhost-user has, too)

Queues. Pair ``n`` is queues ``2 * n`` (receive) and ``2 * n + 1``; the control queue is the last,
or queue 2 for a driver that knows of no further pairs. The first pair carries frames from the
start, further ones when the driver asks for them.

Link. The guest's carrier is up while this card's own cable is plugged and the far end's is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Any

from vmwire.bus.virtio.features import (
    VIRTIO_F_NOTIFY_ON_EMPTY,
    VIRTIO_F_RING_RESET,
    VIRTIO_F_VERSION_1,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
    VIRTIO_NET_F_CTRL_MAC_ADDR,
    VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_RX_EXTRA,
    VIRTIO_NET_F_CTRL_VLAN,
    VIRTIO_NET_F_CTRL_VQ,
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
    VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_SPEED_DUPLEX,
    VIRTIO_NET_F_STATUS,
)
from vmwire.bus.virtio.queue import RingFault
from vmwire.bus.virtio.requests import RequestQueue
from vmwire.bus.virtio.split import SplitQueue
from vmwire.nic.options import VirtioNetOptions
from vmwire.nic.virtio_control import Control
from vmwire.nic.virtio_filter import RxFilter
from vmwire.nic.virtio_net import FEATURES, VirtioNet
from vmwire.wire.port import Port

log = logging.getLogger(__name__)

CARD_FEATURES = (
    FEATURES
    | VIRTIO_NET_F_CTRL_GUEST_OFFLOADS
    | VIRTIO_NET_F_MAC
    | VIRTIO_NET_F_STATUS
    | VIRTIO_NET_F_CTRL_VQ
    | VIRTIO_NET_F_CTRL_RX
    | VIRTIO_NET_F_CTRL_VLAN
    | VIRTIO_NET_F_CTRL_RX_EXTRA
    | VIRTIO_NET_F_CTRL_MAC_ADDR
    | VIRTIO_F_NOTIFY_ON_EMPTY
    | VIRTIO_F_RING_RESET
)
"""What a card offers unless its owner takes something away."""

_NEEDS = (
    (
        VIRTIO_NET_F_CTRL_VQ,
        VIRTIO_NET_F_CTRL_RX
        | VIRTIO_NET_F_CTRL_RX_EXTRA
        | VIRTIO_NET_F_CTRL_VLAN
        | VIRTIO_NET_F_CTRL_MAC_ADDR
        | VIRTIO_NET_F_CTRL_GUEST_OFFLOADS
        | VIRTIO_NET_F_GUEST_ANNOUNCE
        | VIRTIO_NET_F_MQ,
    ),
    (
        VIRTIO_NET_F_CSUM,
        VIRTIO_NET_F_HOST_TSO4
        | VIRTIO_NET_F_HOST_TSO6
        | VIRTIO_NET_F_HOST_ECN
        | VIRTIO_NET_F_HOST_USO,
    ),
    (
        VIRTIO_NET_F_GUEST_CSUM,
        VIRTIO_NET_F_GUEST_TSO4
        | VIRTIO_NET_F_GUEST_TSO6
        | VIRTIO_NET_F_GUEST_ECN
        | VIRTIO_NET_F_GUEST_USO4
        | VIRTIO_NET_F_GUEST_USO6,
    ),
)
"""A feature, and those that make no sense without it (section 5.1.3.1)."""

STATUS_LINK_UP = 1
STATUS_ANNOUNCE = 2

CONTROL_QUEUE_SIZE = 64
_CONFIG = Struct("<6sHHHIB")  # MAC, status, most pairs, MTU, speed, duplex
_PARTS = (
    (VIRTIO_NET_F_SPEED_DUPLEX, 17),
    (VIRTIO_NET_F_MTU, 12),
    (VIRTIO_NET_F_MQ, 10),
    (VIRTIO_NET_F_STATUS, 8),
    (VIRTIO_NET_F_MAC, 6),
)
"""How many bytes of configuration there are: as far as the last offered feature needs."""
_DUPLEX = {"half": 0, "full": 1}
_UNKNOWN_SPEED, _UNKNOWN_DUPLEX = 0xFFFFFFFF, 0xFF


def offered_features(options: VirtioNetOptions) -> int:
    """The feature bits of a card with these options."""
    offered = options.features(CARD_FEATURES)
    if options.mq:
        offered |= VIRTIO_NET_F_MQ
    if not options.host_mtu:
        offered &= ~VIRTIO_NET_F_MTU
    if options.speed >= 0 or options.duplex is not None:
        offered |= VIRTIO_NET_F_SPEED_DUPLEX
    for needed, dependents in _NEEDS:
        if not offered & needed:
            offered &= ~dependents
    return offered


def config_size(options: VirtioNetOptions) -> int:
    """Bytes of a card's configuration."""
    offered = offered_features(options)
    return next((size for feature, size in _PARTS if offered & feature), 0)


class VirtioCard:
    """A card without a transport: a ``vmwire.bus.virtio.device.Function``."""

    device_id = 1

    def __init__(
        self,
        name: str,
        options: VirtioNetOptions,
        mac: bytes,
        defer: Callable[[Callable[[], None]], None],
    ) -> None:
        self.name = name
        self.offered = offered_features(options)
        self.net = VirtioNet(name, defer, offered=self.offered)
        self.net.on_fault = self._fault
        self.port: Port = self.net.port
        self.port.on_peer_link = self._on_peer_link
        self.filter = RxFilter(mac)
        self.control = Control(self)
        self.on_fault: Callable[[int], None] = lambda index: None
        self.on_config_change: Callable[[], None] = lambda: None
        self.on_filter_change: Callable[[], None] = lambda: None
        """Told of the first change of the filter since it was last asked for."""
        self._defer = defer
        self._mac = mac
        self._pairs = options.queue_pairs
        self._mtu = options.host_mtu
        self._speed = options.speed if options.speed >= 0 else _UNKNOWN_SPEED
        self._duplex = _DUPLEX.get(options.duplex or "", _UNKNOWN_DUPLEX)
        self._config_size = config_size(options)
        control = (CONTROL_QUEUE_SIZE,) if self.offered & VIRTIO_NET_F_CTRL_VQ else ()
        pair = (options.rx_queue_size, options.tx_queue_size)
        self.queue_sizes: Sequence[int] = pair * self._pairs + control
        self._control_queue: RequestQueue | None = None
        self._paused = False
        self._plugged = self._peer_up = True
        self._announcing = False
        self._pairs_used = 1
        self._filter_told = False
        self.reset()

    # What the device asks

    @property
    def _control_index(self) -> int:
        if not self.offered & VIRTIO_NET_F_CTRL_VQ:
            return -1
        return 2 * self._pairs if self.net.features & VIRTIO_NET_F_MQ else 2

    def serves_requests(self, index: int) -> bool:
        return index == self._control_index

    def writable(self, index: int) -> bool:
        return not index & 1

    def negotiate(self, features: int) -> None:
        self.net.negotiate(features)
        self.filter.begin(bool(features & VIRTIO_NET_F_CTRL_VLAN))
        self._use_pairs(1)

    def start_queue(self, index: int, queue: SplitQueue) -> None:
        if isinstance(queue, RequestQueue):
            self._control_queue = queue
            self._defer(self._run_control)
        elif index < 2 * self._pairs:
            self.net.start_queue(index, queue)

    def stop_queue(self, index: int) -> None:
        if index == self._control_index:
            self._control_queue = None
        else:
            self.net.stop_queue(index)

    def kick(self, index: int) -> None:
        if index == self._control_index:
            self._run_control()
        else:
            self.net.kick(index)

    def _run_control(self) -> None:
        queue = self._control_queue
        if queue is None or self._paused:
            return
        try:
            if self.control.run(queue):
                self._defer(self._run_control)
        except RingFault as fault:
            self._control_queue = None
            self.net.faults += 1
            log.warning("%s: the control queue is broken: %s", self.name, fault)
            self._fault(self._control_index)

    def _fault(self, index: int) -> None:
        self.on_fault(index)

    def let_go(self) -> None:
        self.net.let_go()

    def pause(self) -> None:
        self._paused = True
        self.net.pause()

    def unpause(self) -> None:
        self._paused = False
        self.net.unpause()
        self._defer(self._run_control)

    def reset(self) -> None:
        self.net.reset()
        if self._mtu:
            self.net.set_mtu(self._mtu)
        self._control_queue = None
        self._announcing = False
        self._paused = False
        self.filter.reset(self._mac)
        self._follow_filter()
        self._use_pairs(1)

    # Configuration

    @property
    def _status(self) -> int:
        link = STATUS_LINK_UP if self._plugged and self._peer_up else 0
        return link | (STATUS_ANNOUNCE if self._announcing else 0)

    def config(self) -> bytes:
        """Return the configuration; fields of features that aren't offered end it."""
        whole = _CONFIG.pack(
            self.filter.mac, self._status, self._pairs, self._mtu, self._speed, self._duplex
        )
        return whole[: self._config_size]

    def write_config(self, offset: int, data: bytes) -> None:
        """Let a driver that has no command for it set the address; nothing else can be written."""
        if self.net.features & (VIRTIO_NET_F_CTRL_MAC_ADDR | VIRTIO_F_VERSION_1):
            return
        mac = self.filter.mac
        self.filter.mac = (mac[:offset] + data + mac[offset + len(data) :])[: len(mac)]
        if self.filter.mac != mac:
            self.filter_changed()

    def set_link(self, up: bool) -> None:
        """Plug or pull the cable at the card."""
        before = self._status
        self._plugged = up
        self.net.set_link(up)
        self._status_changed(before)

    def _on_peer_link(self, up: bool) -> None:
        before = self._status
        self._peer_up = up
        self._status_changed(before)

    def _status_changed(self, before: int) -> None:
        if self._status != before:
            self.on_config_change()

    @property
    def mac(self) -> bytes:
        """The address that the driver has given to the card, or its own."""
        return self.filter.mac

    def announce(self) -> None:
        """Tell the network where the guest is, and have the guest's driver do it, too."""
        self.net.announce(self.filter.mac)
        if self.net.features & VIRTIO_NET_F_GUEST_ANNOUNCE and self._control_queue is not None:
            before = self._status
            self._announcing = True
            self._status_changed(before)

    # What the control queue asks

    def acknowledge_announcement(self) -> bool:
        announcing, self._announcing = self._announcing, False
        return announcing

    def set_pairs(self, pairs: int) -> bool:
        if not self.net.features & VIRTIO_NET_F_MQ or not 1 <= pairs <= self._pairs:
            return False
        self._use_pairs(pairs)
        return True

    def _use_pairs(self, pairs: int) -> None:
        self._pairs_used = pairs
        for index in range(2 * self._pairs):
            self.net.enable_queue(index, index < 2 * pairs)

    def set_guest_offloads(self, offloads: int) -> bool:
        if not self.net.features & VIRTIO_NET_F_CTRL_GUEST_OFFLOADS:
            return False
        return self.net.set_guest_offloads(offloads)

    def filter_changed(self) -> None:
        self._follow_filter()
        if not self._filter_told:
            self._filter_told = True
            self.on_filter_change()

    def _follow_filter(self) -> None:
        self.net.set_filter(None if self.filter.open else self.filter.wants)

    def rx_filter(self) -> dict[str, Any]:
        """Return the filter as ``query-rx-filter`` tells it; its next change is news again."""
        self._filter_told = False
        return {"name": self.name, **self.filter.report()}

    # State

    def save(self) -> dict[str, Any]:
        return {
            "filter": self.filter.save(),
            "pairs": self._pairs_used,
            "offloads": self.net.guest_offloads,
            "announcing": self._announcing,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        try:
            self.filter.restore(state["filter"])
            pairs, offloads = int(state["pairs"]), int(state["offloads"])
            self._announcing = bool(state["announcing"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no virtio network card's state: {error!r}") from None
        if not 1 <= pairs <= self._pairs:
            raise ValueError(f"{pairs} pairs of queues")
        self._use_pairs(pairs)
        self.net.set_guest_offloads(offloads)
        self._follow_filter()

    def stats(self) -> dict[str, object]:
        """Return counters and states as plain data: the data path's, and

        ``filtered`` (frames that weren't for the guest) and ``control`` (requests by outcome).
        """
        return self.net.stats() | {
            "filtered": self.net.filtered,
            "control": dict(self.control.served),
            "pairs": self._pairs_used,
        }
