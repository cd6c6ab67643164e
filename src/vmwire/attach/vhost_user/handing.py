# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""When a connection's rings are handed on to whoever is on the wire, and when they come back.

The contract is ``bus.virtio.handed_on``. Rings are handed on at the end of a turn in which all was
as it must be: the taker is joined to the card directly, both ends of the wire are up, the first
pair of rings carries frames, nobody migrates the machine, no memory is on its way. They come back
at once when the wire changes, and before any message that concerns them is served; at the end of
that turn they are handed on again, if nothing speaks against it.

What a worker leaves behind is the same whoever served the rings: a ring's position is its used
index, moved by the ring's ``lead``. So a worker that takes over starts with all rings at home.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vmwire.attach.vhost_user.lasting import start_again
from vmwire.attach.vhost_user.ring import Ring
from vmwire.bus.virtio.features import (
    VHOST_F_LOG_ALL,
    VHOST_USER_F_PROTOCOL_FEATURES,
    names,
)
from vmwire.bus.virtio.handed_on import Handed, HandedRing, NotTaken, Taker, taker_of
from vmwire.bus.virtio.vhost_user import Request
from vmwire.wire.port import Port

if TYPE_CHECKING:
    from vmwire.attach.vhost_user.backend import Backend

log = logging.getLogger(__name__)

_NOT_A_DRIVERS = VHOST_F_LOG_ALL | VHOST_USER_F_PROTOCOL_FEATURES


class Handing:
    """The rings of ``backend``, here or elsewhere."""

    def __init__(self, backend: Backend, defer: Callable[[Callable[[], None]], None]) -> None:
        self._backend = backend
        self._defer = defer
        self._taker: Taker | None = None
        """Who has the rings."""
        self._rings: list[Ring] = []
        self._refused: Taker | None = None
        """Who couldn't serve them as they are."""
        self._told = ""
        self._waiting = False
        self._still = False
        backend.nic.on_wire_change = self._on_wire_change

    def servable(self, features: int) -> int:
        """Those of ``features`` that are served whoever serves the rings."""
        taker = taker_of(self._backend.nic.port)
        return features if taker is None else features & (taker.features | _NOT_A_DRIVERS)

    def stats(self) -> dict[str, Any] | None:
        """What is to be told of rings that are elsewhere; None: they are here."""
        if self._taker is None:
            return None
        return {"rings": len(self._rings), **self._taker.stats()}

    # When

    def review(self) -> None:
        """Hand the rings on at the end of this turn, if that can be."""
        if not self._waiting and self._taker is None and not self._still:
            self._waiting = True
            self._defer(self._hand_on)

    def disturb(self) -> None:
        """Have all rings here: something about them is about to change."""
        self._refused = None
        self._take_back()

    def signal(self, ring: Ring) -> None:
        """A ring has other descriptors to be signalled."""
        if ring.handed and self._taker is not None:
            self._taker.signal(ring.index, *_signals(ring))

    def stand_still(self) -> None:
        """Have all rings here until ``go_on``."""
        self._still = True
        self._take_back()

    def go_on(self) -> None:
        """Hand rings on again."""
        self._still = False
        self.review()

    def close(self) -> None:
        """Have all rings here, for good."""
        self.stand_still()
        self._backend.nic.on_wire_change = _nothing

    def _on_wire_change(self) -> None:
        port = self._backend.nic.port
        if self._taker is not None and (taker_of(port) is not self._taker or not port.carrier):
            self._take_back()
        self.review()

    # Handing on

    def _hand_on(self) -> None:
        self._waiting = False
        port = self._backend.nic.port
        taker = taker_of(port)
        if taker is None or taker is self._refused or self._still or not port.carrier:
            return
        if self._backend.logs or self._backend.settling:
            return
        rings = self._carrying()
        if not rings or self._taker is not None:
            return
        try:
            self._give(taker, rings)
        except NotTaken as why:
            self._refused = taker
            self._warn(f"{port.name}: rings stay with vmwire: {why}")
        else:
            log.info("%s: %d rings are served by %s", port.name, len(rings), _name(port.peer))

    def _carrying(self) -> list[Ring]:
        """The rings of whole pairs that carry frames, from the first one on."""
        found: list[Ring] = []
        for index in range(0, 2 * self._backend.pairs, 2):
            if not all(map(self._backend.nic.carries, (index, index + 1))):
                break
            found += [self._backend.rings[index], self._backend.rings[index + 1]]
        return found

    def _give(self, taker: Taker, rings: list[Ring]) -> None:
        backend = self._backend
        wrong = backend.features & ~(taker.features | _NOT_A_DRIVERS)
        if wrong:
            raise NotTaken(f"the driver negotiated {', '.join(names(wrong))}")
        backend.nic.set_elsewhere(True)
        for ring in rings:
            backend.suspend(ring)
            ring.handed = True
        self._taker, self._rings = taker, rings
        try:
            taker.take(self._handed(rings), self._on_lost)
        except NotTaken:
            self._taker = None
            self._home({})  # where they stand is in their memory, if some were served already
            raise

    def _handed(self, rings: list[Ring]) -> Handed:
        backend = self._backend
        return Handed(
            backend.nic.name,
            backend.features & ~_NOT_A_DRIVERS,
            backend.nic.mtu,
            backend.memory.handed(),
            tuple(map(_handed_ring, rings)),
        )

    # Taking back

    def _take_back(self) -> None:
        taker, self._taker = (
            self._taker,
            None,
        )  # its giving back is heard of as a change of the wire
        if taker is not None:
            self._home(taker.give_back())

    def _home(self, bases: Mapping[int, int]) -> None:
        """Go on with the rings that were elsewhere."""
        backend, rings = self._backend, self._rings
        self._rings = []
        for ring in rings:
            ring.handed = False
            base = bases.get(ring.index)
            if base is None:
                start_again(backend, ring, ring.lead)
            else:
                ring.base = base
                backend.start(ring)
        backend.nic.set_elsewhere(False)

    def _on_lost(self, why: str) -> None:
        """Whoever served the rings can't any more."""
        self._warn(f"{self._backend.nic.name}: rings are back at vmwire: {why}")
        self._refused = self._taker
        self._take_back()

    def _warn(self, text: str) -> None:
        """Warn, but not of the same each time that a driver starts."""
        log.log(logging.INFO if text == self._told else logging.WARNING, text)
        self._told = text


def _handed_ring(ring: Ring) -> HandedRing:
    assert ring.addresses is not None  # it ran
    kick = ring.fds[Request.SET_VRING_KICK]
    return HandedRing(ring.index, ring.size, ring.base, ring.addresses, kick, *_signals(ring))


def _signals(ring: Ring) -> tuple[int, int]:
    return ring.fds.get(Request.SET_VRING_CALL, -1), ring.fds.get(Request.SET_VRING_ERR, -1)


def _name(port: Port | None) -> str:
    return "nobody" if port is None else port.name


def _nothing() -> None:
    """The connection is over."""
