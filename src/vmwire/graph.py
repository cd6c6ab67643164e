# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The graph's parts as data: members, and the filters that stand before them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from vmwire.registry import Box, OfRegisters
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


def sides(member: Member, box: Through) -> tuple[Port, Port]:
    """The box's ports toward the member and away from it. ``left`` is toward the guest."""
    return (box.left, box.right) if member.kind == "device" else (box.right, box.left)


def chain(a: Member, b: Member) -> list[str]:
    """The ids along a wire, from one end through the filters to the other."""
    before = [each.id for each in a.filters]
    behind = [each.id for each in reversed(b.filters)]
    return [a.id, *before, *behind, b.id]
