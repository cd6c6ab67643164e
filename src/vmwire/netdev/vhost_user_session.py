# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""One connection to a vhost-user back end, and whose rings it serves: ours, or a card's.

A back end that has said what it can do is offered to the card on the wire first
(``bus.virtio.handed_on``). If no card's rings come within ``SETTLE_S``, it gets rings of our own. A
card may hand its rings on later, too; then ours are stopped before. When it wants them back, the
back end is asked where it left them, and waited for, but not for long: one that doesn't answer is
hung up on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from vmwire.bus.virtio.features import (
    VHOST_F_LOG_ALL,
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_F_VERSION_1,
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
    VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_RING_F_EVENT_IDX,
    names,
)
from vmwire.bus.virtio.front_end import (
    BackEnd,
    Plan,
    RingPlan,
    begin,
    sensible,
    signal_ring,
    stop_rings,
)
from vmwire.bus.virtio.handed_on import Handed, NotTaken
from vmwire.engine.clock import Timer
from vmwire.engine.loop import Loop
from vmwire.netdev.vhost_user_link import Copies, Link
from vmwire.netdev.vhost_user_rings import OwnRings
from vmwire.wire.frame import Frame
from vmwire.wire.port import Port

WANTED = (
    VIRTIO_F_VERSION_1
    | VIRTIO_NET_F_CSUM
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
    | VIRTIO_NET_F_MRG_RXBUF
    | VIRTIO_RING_F_EVENT_IDX
)
"""What a driver of ours makes use of."""
SETTLE_S = 0.05
"""How long a card on the wire has to hand its rings on before there are some of our own."""
GIVE_BACK_S = 0.25
"""How long we wait for a back end to say where it left a card's rings."""


class Session:
    """Serves ``port`` with ``pairs`` pairs of rings. A ``Taker``."""

    def __init__(
        self,
        link: Link,
        back_end: BackEnd,
        pairs: int,
        port: Port,
        loop: Loop,
        drops: Counter[str],
    ) -> None:
        self.pairs = pairs
        self.faults = 0
        self.negotiated = 0
        """The features that the rings' driver has agreed upon with the back end."""
        self._link = link
        self._back_end = back_end
        self._port = port
        self._loop = loop
        self._drops = drops
        self._own: OwnRings | None = None
        self._handed: Handed | None = None
        self._settling: Timer | None = None

    @property
    def rings(self) -> str:
        """Whose rings the back end serves."""
        if self._handed is not None:
            return "handed on"
        return "own" if self._own is not None and self._own.running else "none"

    def close(self) -> None:
        """The connection is over."""
        if self._settling is not None:
            self._settling.cancel()
        self._close_own()
        self._handed = None

    # Rings of our own

    @property
    def own_features(self) -> int:
        """What a driver of ours would agree upon."""
        wanted = WANTED | (VIRTIO_NET_F_MQ if self.pairs > 1 else 0)
        return sensible(self._back_end.offered & wanted)

    def settle(self) -> None:
        """Have rings of our own soon, if no card's come before."""
        if self._settling is None:
            self._settling = self._loop.call_later(SETTLE_S, self._use_own)

    def _use_own(self) -> None:
        self._settling = None
        if self._handed is not None or self._own is not None:
            return
        features = self.negotiated = self.own_features
        try:
            own = OwnRings(
                features, self.pairs, self._port, self._loop, self._drops, self._on_fault
            )
        except OSError as error:
            self._link.end(f"no memory for rings: {error.strerror}")
            return
        self._own = own
        self._link.follow(begin(self._back_end, own.plan()), lambda _: self._begin_own(own))

    def _begin_own(self, own: OwnRings) -> None:
        if own is self._own:
            own.start()
            self._port.resume()

    def _close_own(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            own.close()

    def _on_fault(self, why: str) -> None:
        self.faults += 1
        self._link.end(f"the back end breaks its rings' rules: {why}")

    def send(self, frames: Sequence[Frame]) -> int:
        """Send frames by our own rings; return how many were taken."""
        own = self._own
        return own.send(frames) if own is not None and own.running else 0

    def resume(self) -> None:
        """The wire has room again."""
        if self._own is not None and self._own.running:
            self._own.resume()

    # A card's

    @property
    def features(self) -> int:
        """What the back end can serve a card's driver. See ``Taker``."""
        return self._back_end.offered & ~(VHOST_USER_F_PROTOCOL_FEATURES | VHOST_F_LOG_ALL)

    def take(self, handed: Handed, lost: Callable[[str], None]) -> None:
        """See ``Taker``. The end of the connection is seen by the port, so nothing is ``lost``."""
        missing = handed.features & ~self._back_end.offered
        if missing:
            raise NotTaken(f"the back end doesn't have {', '.join(names(missing))}")
        link = self._link
        if self._own is not None:
            self._close_own()
            link.follow(stop_rings(range(2 * self.pairs)), _ignore)
        copies = Copies()
        script = begin(self._back_end, _plan(handed, copies))
        self._handed, self.negotiated = handed, handed.features
        link.follow(script, partial(self._begin_handed, handed), copies.fds)

    def _begin_handed(self, handed: Handed, _: object) -> None:
        """Have the back end look at each ring: a kick may have been missed."""
        if handed is self._handed:
            for ring in handed.rings:
                with suppress(OSError):  # a descriptor that can't be kicked is the machine's fault
                    os.write(ring.kick, (1).to_bytes(8, "little"))

    def signal(self, index: int, call: int, err: int) -> None:
        """See ``Taker``."""
        copies = Copies()
        script = signal_ring(self._back_end, index, copies(call), copies(err))
        self._link.follow(script, _ignore, copies.fds)

    def give_back(self) -> Mapping[int, int]:
        """See ``Taker``."""
        handed, self._handed = self._handed, None
        bases: dict[int, int] = {}
        if handed is not None and self._link.is_open:
            self._link.follow(stop_rings([ring.index for ring in handed.rings]), bases.update)
            if self._link.finish(GIVE_BACK_S):
                self.settle()
        return bases

    def stats(self) -> Mapping[str, Any]:
        """See ``Taker``."""
        return {"served by": self._port.name}


def _plan(handed: Handed, copies: Copies) -> Plan:
    """What a card hands on, as a back end is told of it."""
    rings = [
        RingPlan(
            ring.index, ring.size, ring.base, ring.addresses,
            copies(ring.kick), copies(ring.call), copies(ring.err),
        )
        for ring in handed.rings
    ]  # fmt: skip
    regions = [(region.info, copies(region.fd)) for region in handed.regions]
    return Plan(handed.features, regions, rings, handed.mtu)


def _ignore(result: object) -> None:
    """Nobody waits for a script's end."""
