# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A learning switch: a hub that sends a frame only to where its destination is (IEEE 802.1Q, 8.7).

Theory of operation. The sender's address of each frame is learnt: it is behind the port that the
frame came in by. A frame to a known address leaves by that port alone (by none, if it came from
there); one to an unknown address, to a group or to all leaves by all ports, as from a hub. Tagged
frames are learnt for each VLAN by itself, so that a machine may have the same address in several.
Tags pass unchanged; no port is a member of some VLANs only.

What is learnt is forgotten after ``AGEING_S`` without a frame from there, and when its port loses
its carrier. The table is bounded, and so is each port's share of it: a guest that invents addresses
fills its own share, and then its further addresses are not learnt. Frames to those reach all, and
nobody else is forgotten.

Like a hub, a switch never refuses, and superframes pass whole. Frames of a burst that follow each
other to the same place stay one burst.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from vmwire.wire.frame import Frame
from vmwire.wire.hub import Hub, offer
from vmwire.wire.port import Port

AGEING_S = 300.0
SWEEP_S = 1.0
"""How often a full table is searched for what is too old."""
MOST_ADDRESSES = 4096
MOST_OF_A_PORT = 1024

HEAD = 16
"""Bytes that decide where a frame goes: both addresses, and the tag if there is one."""
TAG = b"\x81\x00"
NO_VLAN = b"\0\0"
"""What a tag says that is for a priority and nothing else (IEEE 802.1Q, 9.6)."""


class Switch(Hub):
    """A hub that learns.

    >>> switch = Switch("s", lambda: 0.0)
    >>> switch.add_port("a").name
    'a'
    """

    def __init__(self, name: str, now: Callable[[], float]) -> None:
        super().__init__(name, now)
        self.counters: Counter[str] = Counter()
        self._clock = now
        self._now = self._swept = now()
        self._places: dict[bytes, tuple[Port, float]] = {}
        """By address and VLAN: the port, and when it was last heard from there."""
        self._shares: Counter[Port] = Counter()
        """How many addresses are at each port."""

    def remove_port(self, port: Port) -> None:
        super().remove_port(port)
        del self._shares[port]

    def stats(self) -> dict[str, object]:
        """Return each port's counters as plain data, with the addresses that are known there."""
        ports = super().stats()
        known = {port.name: self._shares[port] for port in self.ports}
        return {**ports, "switch": {"addresses": known, **self.counters}}

    def _link_changed(self, port: Port, carrier: bool) -> None:
        super()._link_changed(port, carrier)
        if not carrier:
            self._drop_all([key for key, place in self._places.items() if place[0] is port])

    # Frames

    def _forward(self, source: Port, frames: Sequence[Frame]) -> None:
        self._now = self._clock()
        last = b""
        goal: Port | None = None
        start = 0
        for index, frame in enumerate(frames):
            head = frame.head(HEAD)
            if head == last:
                continue
            found = self._judge(source, head)
            if found is not goal:
                if index > start:
                    self._pass_on(source, goal, frames[start:index])
                goal, start = found, index
            last = head
        self._pass_on(source, goal, frames[start:] if start else frames)

    def _pass_on(self, source: Port, goal: Port | None, frames: Sequence[Frame]) -> None:
        if goal is None:
            super()._forward(source, frames)
        elif goal is not source:
            offer(goal, frames)

    def _judge(self, source: Port, head: bytes) -> Port | None:
        """Learn from a frame's head; return the port that it leaves by, None for all others."""
        if len(head) < HEAD:
            return None
        vlan = bytes((head[14] & 15, head[15])) if head[12:14] == TAG else NO_VLAN
        if not head[6] & 1:
            self._learn(head[6:12] + vlan, source)
        if head[0] & 1:
            return None
        goal, heard = self._places.get(head[:6] + vlan, (None, 0.0))
        return None if self._now - heard > AGEING_S else goal

    # The table

    def _learn(self, address: bytes, port: Port) -> None:
        known = self._places.get(address)
        if known is None or known[0] is not port:
            if known is not None:
                self._drop_all([address])
                self.counters["moved"] += 1
            if not self._has_room(port):
                self.counters["not learnt"] += 1
                return
            self._shares[port] += 1
        self._places[address] = (port, self._now)

    def _has_room(self, port: Port) -> bool:
        """Whether another address may be learnt at ``port``; old ones make room for it."""
        if not self._fits(port) and self._now - self._swept >= SWEEP_S:
            self._swept = self._now
            old = self._now - AGEING_S
            self._drop_all([key for key, place in self._places.items() if place[1] < old])
        return self._fits(port)

    def _fits(self, port: Port) -> bool:
        return len(self._places) < MOST_ADDRESSES and self._shares[port] < MOST_OF_A_PORT

    def _drop_all(self, addresses: Sequence[bytes]) -> None:
        for address in addresses:
            port, _ = self._places.pop(address)
            self._shares[port] -= 1
