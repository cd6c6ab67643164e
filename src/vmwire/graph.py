# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The graph's parts: members, the filters that stand before them, the wires between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from vmwire.errors import ConfigError
from vmwire.netdev.hubport import HubportNetdev
from vmwire.registry import Box, OfRegisters
from vmwire.wire.frame import Frame, Offload
from vmwire.wire.hub import Hub
from vmwire.wire.port import Port
from vmwire.wire.through import Through

Kind = Literal["netdev", "device", "filter"]


@dataclass(slots=True, eq=False)
class Filter:
    """A box in the line before a member."""

    id: str
    type: str
    box: Through
    member: Member
    options: Any = None
    """The record that it was made of, if there is one."""

    def stats(self) -> dict[str, Any]:
        """Type, place and counters as plain data."""
        return {"type": self.type, "at": self.member.id, **self.box.stats()}


@dataclass(slots=True, eq=False)
class Member:
    """A netdev or a device, with the filters before it, nearest first."""

    kind: Kind
    id: str
    type: str
    box: Box
    options: Any = None
    """The record that it was made of."""
    filters: list[Filter] = field(default_factory=list)
    number: int = field(default_factory=count().__next__)
    """What was made later has a higher one."""
    anonymous: bool = False
    """Whether its id was made up for it."""

    @property
    def mac(self) -> bytes | None:
        """The address that a card was given."""
        return getattr(self.options, "mac", None)

    @property
    def outward(self) -> Port:
        """The port that a wire is joined to: the last filter's, or the member's own."""
        return sides(self, self.filters[-1].box)[1] if self.filters else self.box.port

    def insert(self, filter: Filter, at: int) -> None:
        """Put a filter before the member, as the one with this index."""
        inner = sides(self, self.filters[at - 1].box)[1] if at else self.box.port
        inner.insert(*sides(self, filter.box))
        self.filters.insert(at, filter)

    @property
    def chip(self) -> object:
        """Who knows what such a card alone does: its chip, or the box itself."""
        return self.box.register_chip if isinstance(self.box, OfRegisters) else self.box

    def set_link(self, up: bool) -> None:
        """Pull or plug its cable. A card whose driver has a say in it too does it itself."""
        pull: Callable[[bool], None] = getattr(self.box, "set_link", self.box.port.set_link)
        pull(up)

    def inject(self, data: bytes, offload: Offload) -> bool:
        """Hand it a frame as if its wire had brought it; False if there was no room."""
        peer = self.box.port.peer
        if peer is None:
            raise ConfigError(f"'{self.id}' is joined to nothing")
        return peer.send([Frame.of(data, offload)]) == 1

    def stats(self) -> dict[str, Any]:
        """Type, carrier and counters as plain data."""
        return {"type": self.type, "carrier": self.box.port.carrier, **self.box.stats()}


def sides(member: Member, box: Through) -> tuple[Port, Port]:
    """The box's ports toward the member and away from it. ``left`` is toward the guest."""
    return (box.left, box.right) if member.kind == "device" else (box.right, box.left)


class Wires:
    """The wires between members, each joined through the filters before its ends."""

    def __init__(self) -> None:
        self._wires: list[tuple[Member, Member]] = []

    def links(self) -> list[list[str]]:
        """The wires as chains of ids, each from one end through the filters to the other."""
        return [_chain(*wire) for wire in self._wires]

    def peer_of(self, member: Member) -> Member | None:
        """What a member is joined to."""
        for a, b in self._wires:
            if member in (a, b):
                return b if member is a else a
        return None

    def connect(self, a: Member, b: Member) -> None:
        """Join a member to one that must be free."""
        if a is b:
            raise ConfigError(f"'{a.id}' can't be joined to itself")
        if self.peer_of(b) is not None:
            raise ConfigError(f"netdev '{b.id}' is in use ({how_to_share(b)})")
        hubs = [m.box.hub for m in (a, b) if isinstance(m.box, HubportNetdev)]
        if len(hubs) == 2 and self._reachable(*hubs):
            raise ConfigError(f"'{a.id}' and '{b.id}' are on hubs that are joined already: "
                              "frames would circle")  # fmt: skip
        a.outward.connect(b.outward)
        self._wires.append((a, b))

    def disconnect(self, member: Member) -> None:
        """Part a member from what it is joined to, if it is."""
        member.outward.disconnect()
        self._wires = [wire for wire in self._wires if member not in wire]

    def _reachable(self, start: Hub, goal: Hub) -> bool:
        """Whether two hubs are the same, or joined through hubports."""
        joined = [
            (a.box.hub, b.box.hub)
            for a, b in self._wires
            if isinstance(a.box, HubportNetdev) and isinstance(b.box, HubportNetdev)
        ]
        seen = {start}
        for _ in joined:  # each round goes one hub further
            seen |= {hub for pair in joined if not seen.isdisjoint(pair) for hub in pair}
        return goal in seen


def _chain(a: Member, b: Member) -> list[str]:
    """The ids along a wire, from one end through the filters to the other."""
    before = [each.id for each in a.filters]
    behind = [each.id for each in reversed(b.filters)]
    return [a.id, *before, *behind, b.id]


def how_to_share(member: Member) -> str:
    """What to type so that several have what only one can be joined to."""
    if member.kind == "device":
        return "a device has one wire"
    return (
        f"to share it: -netdev hubport,id=h0,hubid=0,netdev={member.id} and for each card "
        "a -netdev hubport,id=h1,hubid=0"
    )
