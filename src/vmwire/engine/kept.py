# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""How what a machine has given us outlives the process that serves it.

The connection, the descriptors that came over it and a memory file of our own are kept in the fd
store; whoever serves the machine next takes them from there. The file holds the *state* as plain
data, in two halves of which a single byte says which one counts: so it is whole at any moment, also
at the one in which its writer is killed.
"""

from __future__ import annotations

import marshal
import mmap
import os
from typing import Any

from vmwire.engine.host import FdStore

_LENGTH = 4


class States:
    """Two halves of ``room`` bytes in ``memory`` from ``start`` on, and the byte at ``which``."""

    def __init__(self, memory: mmap.mmap, which: int, start: int, room: int, version: int) -> None:
        self._map = memory
        self._which = which
        self._starts = (start, start + room)
        self._room = room - _LENGTH
        self._version = version

    def write(self, state: dict[str, Any]) -> None:
        """Put a state down; the one before counts until this one is whole."""
        data = marshal.dumps({"version": self._version, **state})
        if len(data) > self._room:
            raise ValueError(f"a state of {len(data)} bytes")
        half = 1 - self._map[self._which]
        start = self._starts[half]
        self._map[start : start + _LENGTH] = len(data).to_bytes(_LENGTH, "little")
        self._map[start + _LENGTH : start + _LENGTH + len(data)] = data
        self._map[self._which] = half

    def read(self) -> dict[str, Any]:
        """Return the state that counts. ValueError if there is none, or none that we know."""
        start = self._starts[self._map[self._which] & 1]
        size = int.from_bytes(self._map[start : start + _LENGTH], "little")
        try:
            state = marshal.loads(self._map[start + _LENGTH : start + _LENGTH + size])
        except (EOFError, TypeError, ValueError) as error:
            raise ValueError(f"no state: {error}") from None
        if not isinstance(state, dict) or state.get("version") != self._version:
            raise ValueError("a state of another version")
        return state


class Names:
    """One card's names in the fd store; all begin with ``owner``."""

    def __init__(self, store: FdStore, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._names: set[str] = set()

    def keep(self, what: str, fd: int) -> None:
        """Keep a copy of a descriptor."""
        name = f"{self._owner} {what}"
        self._names.add(name)
        self._store.keep(name, fd)

    def put(self, what: str, fd: int | None) -> None:
        """Keep a descriptor, or let the one that had the name go."""
        name = f"{self._owner} {what}"
        if fd is not None:
            self.keep(what, fd)
        elif name in self._names:
            self._names.discard(name)
            self._store.drop(name)

    def take(self, what: str) -> int | None:
        """Return a descriptor of our own for what is kept."""
        name = f"{self._owner} {what}"
        fd = self._store.take(name)
        if fd is not None:
            self._names.add(name)
        return fd

    def new_file(self, what: str, size: int) -> mmap.mmap:
        """Make and keep a memory file; return it mapped."""
        fd = os.memfd_create("vmwire-card", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            self.keep(what, fd)
            return mmap.mmap(fd, size)
        finally:
            os.close(fd)

    def take_file(self, what: str, size: int) -> mmap.mmap | None:
        """Return a memory file that is kept, mapped. ValueError if it is of another size."""
        fd = self.take(what)
        if fd is None:
            return None
        try:
            if os.fstat(fd).st_size != size:
                raise ValueError("a memory file of another size")
            return mmap.mmap(fd, size)
        finally:
            os.close(fd)

    def drop(self) -> None:
        """Let everything go, the connection first."""
        for name in sorted(self._names):
            self._store.drop(name)
        self._names.clear()
