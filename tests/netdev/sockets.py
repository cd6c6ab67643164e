# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A bench for netdevs over sockets: real sockets of this machine, and a loop driven by hand."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.wire.boxes import End

from vmwire import catalogue
from vmwire.engine.host import Host
from vmwire.engine.loop import Loop
from vmwire.options.table import table_of
from vmwire.registry import NETDEVS, load


def framed(*data: bytes) -> bytes:
    return b"".join(struct.pack("!I", len(one)) + one for one in data)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(type=kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Bed:
    """Netdevs on one loop, each joined to an end of a wire."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.host = Host(self.loop, emit=lambda event, data: self.events.append((event, data)))
        self.netdevs: list[Any] = []

    def add(self, text: str) -> tuple[Any, End]:
        """Open the netdev of an option text; return it and what it is joined to."""
        options = catalogue.parse("netdev", text)
        found = load(NETDEVS, table_of(type(options)).name)
        assert found is not None
        netdev, end = found(options), End("end")
        end.port.connect(netdev.port)
        self.netdevs.append(netdev)
        netdev.open(self.host)
        return netdev, end

    def until(self, there: Callable[[], object]) -> None:
        """Let the loop work until something is so."""
        limit = time.monotonic() + 20
        while not there():
            assert time.monotonic() < limit, "it did not happen"
            self.loop.turn(0.01)

    def turn(self) -> None:
        """Let the loop do what there is to be done now."""
        while self.loop.turn(0):
            pass

    def close_boxes(self) -> None:
        """Close the netdevs, but not their loop."""
        for netdev in self.netdevs:
            netdev.close()

    def close(self) -> None:
        self.close_boxes()
        self.loop.close()
