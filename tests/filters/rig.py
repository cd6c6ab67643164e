# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A guest's end and a netdev's, filters between them, and a clock by hand."""

from __future__ import annotations

import socket
from collections.abc import Callable

from tests.wire.boxes import End

from vmwire import registry
from vmwire.engine.clock import ManualClock
from vmwire.engine.host import Host
from vmwire.engine.loop import Loop
from vmwire.filter_objects import FilterObjects
from vmwire.filters.selective import Selective
from vmwire.graph import Filter, Member


class NetdevEnd(End):
    """A netdev, as far as the graph looks at it."""

    def open(self, host: Host) -> None:
        pass

    def close(self) -> None:
        pass

    def stats(self) -> dict[str, object]:
        return {}


class Rig:
    """``guest`` sends what the netdev receives (rx), ``netdev`` sends what the guest gets (tx)."""

    def __init__(self, *, room: int = 1 << 30, memory: int = 0) -> None:
        self.clock = ManualClock()
        self.loop = Loop(self.clock)
        self.guest = End("guest", memory=memory)
        self.netdev = NetdevEnd("netdev", room=room)
        self.guest.port.connect(self.netdev.port)
        self.filters: dict[str, Filter] = {}
        self.member = Member("netdev", "n", "end", self.netdev)
        self.objects = FilterObjects(Host(self.loop), {"n": self.member}, self.filters)
        self.peers: list[socket.socket] = []

    def add(self, type: str, **options: object) -> Selective:
        """Add a filter; its box."""
        assert type in registry.FILTERS
        values = {"id": f"f{len(self.filters)}", "netdev": "n", **options}
        self.objects.add_filter(type, values)
        box = self.filters[str(values["id"])].box
        assert isinstance(box, Selective)
        return box

    def chardev(self, id: str = "c") -> socket.socket:
        """A chardev of a connected socket; the peer's end."""
        ours, peer = socket.socketpair()
        peer.settimeout(2)
        self.objects.add_chardev("socket", {"id": id, "fd": str(ours.detach())})
        self.peers.append(peer)
        return peer

    def turn(self, turns: int = 5) -> None:
        for _ in range(turns):
            self.loop.turn(0)

    def until(self, condition: Callable[[], object]) -> None:
        for _ in range(200):
            if condition():
                return
            self.loop.turn(0.01)
        assert condition(), "it didn't happen"

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.turn()

    def close(self) -> None:
        for each in [*self.filters.values()]:
            each.box.close()
        for peer in self.peers:
            peer.close()
        self.loop.close()


def framed(*data: bytes) -> bytes:
    """Plain frames as chardevs have them."""
    return b"".join(len(each).to_bytes(4, "big") + each for each in data)
