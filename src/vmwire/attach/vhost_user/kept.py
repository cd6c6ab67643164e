# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What of a vhost-user connection outlives a worker (``engine.kept``).

All that a front end has said is kept: features, memory, rings, the descriptors of each. Where the
rings are is in the memory that we share: chains are completed in the order in which they were
taken, so the used index, moved by what it was apart from the base at the ring's start, is the next
chain to take. What a worker had taken and not completed when it died is taken again: a frame may go
out twice, none is lost on the ring.

A worker that dies in the middle of a message leaves its front end without an answer, and nobody
knows how much of it was done. So the file says when one is being served; such a connection is ended
instead of kept, and so is one that has seen ``MOST_DEATHS`` workers die shortly one after another:
the front end notices, and connects again if it was told to (``reconnect=``).
"""

from __future__ import annotations

import mmap
from typing import Any

from vmwire.bus.virtio.vhost_user import RegionInfo, Request
from vmwire.engine.host import FdStore
from vmwire.engine.kept import Names, States

STATE_VERSION = 1
MOST_DEATHS = 2
LIVED_S = 10.0
"""A worker that has served for this long didn't die of taking over."""

_SERVING, _DEATHS, _WHICH = range(3)
_STATES = 16
_ROOM = 128 << 10
_SIZE = _STATES + 2 * _ROOM


class Record:
    """The memory file, mapped."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._map = memory
        states = States(memory, _WHICH, _STATES, _ROOM, STATE_VERSION)
        self.write, self.read = states.write, states.read

    @property
    def serving(self) -> bool:
        """Whether a message is being read or served."""
        return bool(self._map[_SERVING])

    @serving.setter
    def serving(self, value: bool) -> None:
        self._map[_SERVING] = value

    @property
    def deaths(self) -> int:
        """Workers that died soon after they had taken over."""
        return self._map[_DEATHS]

    @deaths.setter
    def deaths(self, value: int) -> None:
        self._map[_DEATHS] = min(value, 255)

    def close(self) -> None:
        """Unmap it."""
        self._map.close()


class Keeping(Names):
    """One card's names in the fd store, and its record."""

    record: Record | None = None

    def __init__(self, store: FdStore, name: str) -> None:
        super().__init__(store, f"vhost-user {name}")

    def connection(self, fd: int) -> None:
        """Keep a new connection, with an empty record."""
        self.record = Record(self.new_file("record", _SIZE))
        self.keep("connection", fd)

    def begin(self) -> None:
        """A message is about to be read."""
        if self.record is not None:
            self.record.serving = True

    def write(self, state: dict[str, Any]) -> None:
        """Put the state down: no message is being served."""
        if self.record is not None:
            self.record.write(state)
            self.record.serving = False

    def has_lived(self) -> None:
        """Whoever took over has lived for a while."""
        if self.record is not None:
            self.record.deaths = 0

    def take_record(self) -> Record:
        """Return the record that an earlier worker left. ValueError: there is none of ours."""
        memory = self.take_file("record", _SIZE)
        if memory is None:
            raise ValueError("a connection without a record")
        self.record = Record(memory)
        return self.record

    def region(self, info: RegionInfo, fd: int | None) -> None:
        """Keep a region's descriptor, or let it go."""
        self.put(_region(info), fd)

    def take_region(self, info: RegionInfo) -> int:
        """Return a region's descriptor, ours. ValueError: it isn't there."""
        return self._there(_region(info))

    def ring(self, index: int, which: Request, fd: int | None) -> None:
        """Keep one of a ring's descriptors, or let it go."""
        self.put(f"ring {index}.{int(which)}", fd)

    def take_ring(self, index: int, which: Request) -> int:
        """Return one of a ring's descriptors, ours. ValueError: it isn't there."""
        return self._there(f"ring {index}.{int(which)}")

    def log(self, fd: int) -> None:
        """Keep the dirty log's descriptor."""
        self.keep("log", fd)

    def take_log(self) -> int:
        """Return the dirty log's descriptor, ours. ValueError: it isn't there."""
        return self._there("log")

    def _there(self, what: str) -> int:
        fd = self.take(what)
        if fd is None:
            raise ValueError(f"no {what} was kept")
        return fd

    def close(self) -> None:
        """The connection is over: let everything go."""
        if self.record is not None:
            self.record.close()
            self.record = None
        self.drop()


def _region(info: RegionInfo) -> str:
    return f"region {info.guest_address:x}"
