# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A virtio card's rings in somebody else's hands: the kernel's, or another program's.

A netdev that can serve a network card's rings itself is a *taker*. It says so by the port that it
ends in (``TakingPort``), and a card whose rings lie in shared memory looks there: at the port that
it is joined to *directly*. With a filter, a capture or a hub in between there is nothing to be
seen, and frames pass through this process as ever.

Theory of operation. The rings are with the card or with the taker, all of them that carry frames.
``take`` hands them on: the taker then moves the frames, and neither box touches ring or wire.
``give_back`` brings them home and says where each was left. Whoever wants to change anything
(memory, features, a ring's place, the dirty log, what is on the wire) takes them back first, so a
taker only ever sees rings that stay as they are, but for the descriptors that they are told by
(``signal``). Each handing on is complete in itself.

A taker that can't serve what it is handed raises ``NotTaken`` and leaves everything as it was; one
that can't go on later calls ``lost``. Either way the card serves its rings itself from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vmwire.bus.virtio.features import VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF
from vmwire.bus.virtio.vhost_user import RegionInfo, RingAddresses
from vmwire.wire.port import Port


class NotTaken(Exception):
    """A taker can't serve these rings; says why."""


@dataclass(frozen=True, slots=True)
class HandedRegion:
    """One piece of the machine's memory.

    ``info`` is how the machine describes it: the guest's address, the size, the machine's own
    address, the offset in ``fd``. ``here`` is its address in this process. It stays mapped, and
    ``fd`` open, until the rings are back.
    """

    info: RegionInfo
    fd: int
    here: int


@dataclass(frozen=True, slots=True)
class HandedRing:
    """One ring. ``addresses`` are the machine's; ``base`` is the next chain to take.

    Descriptors are lent until ``give_back``, or for ``call`` and ``err`` until the next ``signal``;
    -1 is none.
    """

    index: int
    size: int
    base: int
    addresses: RingAddresses
    kick: int
    call: int
    err: int


@dataclass(frozen=True, slots=True)
class Handed:
    """All that a taker gets: whole pairs of started and enabled rings, in order, from pair 0 on."""

    name: str
    """The card's, for messages."""
    features: int
    """What the driver has negotiated."""
    mtu: int | None
    regions: tuple[HandedRegion, ...]
    rings: tuple[HandedRing, ...]

    @property
    def pairs(self) -> int:
        """How many pairs of rings there are."""
        return len(self.rings) // 2

    @property
    def header_size(self) -> int:
        """Bytes of net header in front of each frame (virtio 1.2, section 5.1.6)."""
        return 12 if self.features & (VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF) else 10

    def here(self, address: int, length: int) -> int:
        """Where ``length`` bytes at the machine's own ``address`` are in this process.

        Raises ``NotTaken``.
        """
        for region in self.regions:
            offset = address - region.info.user_address
            if 0 <= offset <= region.info.size - length:
                return region.here + offset
        raise NotTaken(f"no memory at the machine's {address:#x}")


class Taker(Protocol):
    """Who can serve rings. Called in the loop's thread, never from within a call of its own."""

    @property
    def features(self) -> int:
        """The virtio features that it can serve, of those that reach a driver."""

    def take(self, handed: Handed, lost: Callable[[str], None]) -> None:
        """Serve these rings from now on, and look at each once: kicks may have been missed.

        ``lost(why)``: it can't any more; the card then calls ``give_back``. Raises ``NotTaken``.
        """

    def signal(self, index: int, call: int, err: int) -> None:
        """A ring has other descriptors to be signalled from now on (-1: none)."""

    def give_back(self) -> Mapping[int, int]:
        """Touch the rings no more, and return each one's base: the next chain to take.

        One that isn't known is left out; the card then takes it that chains were completed in the
        order in which they were taken, and goes on behind the last completed one.
        """

    def stats(self) -> Mapping[str, Any]:
        """What there is to be told of rings that are being served."""


class TakingPort(Port):
    """The port of a netdev that can take rings.

    A card that is joined to it looks for ``taker`` whenever something about the port changes.
    """

    taker: Taker | None = None

    def set_taker(self, taker: Taker | None) -> None:
        """Offer to take rings, or don't any more. Rings that are taken come back first."""
        if taker is not self.taker:
            self.taker = taker
            if self.peer is not None:
                self.peer.on_accepts_changed()


def taker_of(port: Port) -> Taker | None:
    """Who could serve the rings of the card that ``port`` belongs to."""
    return port.peer.taker if isinstance(port.peer, TakingPort) else None
