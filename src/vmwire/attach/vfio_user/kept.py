# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What of a connection outlives a worker: a machine must not notice that one died.

QEMU aborts when a vfio-user server hangs up. So the connection, the descriptors that came over it
and a small *record* are kept in the fd store, and the next worker goes on where the last one was.

The record is a memory file of our own:

* a *journal* of what is under way: the message that was read and not yet answered, and bytes that
  were read behind it. It is written with plain stores, before and after each message;
* the *state*: wiring, windows, the card's own state. It is written before a change of wiring is
  answered, and for everything else before the loop goes to sleep, or after some busy turns: into
  one of two halves, of which a single byte says which one counts;
* the card's *place* in its rings, after each frame, for chips that can tell it (``Placed``). A card
  that forgot where it was would send old buffers again and fill the wrong ones.

A message that was begun is done again: on the state from before it, or from a little before. (What
a card did to memory since is done again, too.) One that was done but perhaps not answered is
answered. A message that was begun twice has killed two workers and gets an error.
"""

from __future__ import annotations

import mmap
import os

from vmwire.bus.pci.vfio_user import ACTIONS
from vmwire.engine.host import FdStore
from vmwire.engine.kept import Names, States

NONE, BEGUN, DONE = range(3)
LONGEST = 240
"""Bytes of a message that fits into the journal; longer ones write no registers."""
_MESSAGE = 3  # behind its state, its length, and how often it was done again
_REST = 256  # length, then bytes
_PLACE = 1024  # which half counts; the halves: length, then bytes
_PLACES = (1025, 1025 + 256)
_HALF = 512
_STATES = 4096
_ROOM = 1 << 20
_SIZE = _STATES + 2 * _ROOM

STATE_VERSION = 2


class Record:
    """The memory file, mapped."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._map = memory
        states = States(memory, _HALF, _STATES, _ROOM, STATE_VERSION)
        self.write, self.read = states.write, states.read
        self._has_rest = bool(self._map[_REST])

    # The journal

    def begin(self, message: bytes, rest: bytes = b"") -> None:
        """A message is about to be served; ``rest`` was read behind it."""
        size = len(message)
        self._put_rest(rest)
        if size <= LONGEST:
            self._map[: _MESSAGE + size] = bytes((BEGUN, size, 0)) + message

    def done(self) -> None:
        """What the message asked for is in the state, it is about to be answered."""
        self._map[0] = DONE

    def end(self, rest: bytes) -> None:
        """The message is answered; ``rest`` was read behind it."""
        self._put_rest(rest)
        self._map[0] = NONE

    def answered(self) -> None:
        """The answer is about to be sent."""
        self._map[0] = NONE

    def _put_rest(self, rest: bytes) -> None:
        if rest or self._has_rest:
            size = min(len(rest), LONGEST)
            self._map[_REST : _REST + 1 + size] = bytes((size,)) + rest[:size]
            self._has_rest = bool(rest)

    def under_way(self) -> tuple[int, int, bytes]:
        """Return the state of the message under way, how often it was done again, and it."""
        state, size, again = self._map[:_MESSAGE]
        return state, again, self._map[_MESSAGE : _MESSAGE + size]

    def again(self) -> None:
        """The message under way is about to be served once more."""
        self._map[2] = min(self._map[2] + 1, 255)

    @property
    def rest(self) -> bytes:
        """Bytes that were read behind the message under way."""
        size = self._map[_REST]
        return self._map[_REST + 1 : _REST + 1 + size]

    # The place in the rings

    def write_place(self, place: bytes) -> None:
        """Put down where the card is in its rings."""
        half = 1 - self._map[_PLACE]
        start, size = _PLACES[half], len(place)
        self._map[start : start + 1 + size] = bytes((size,)) + place
        self._map[_PLACE] = half

    @property
    def place(self) -> bytes:
        """Where the card was in its rings; empty if it couldn't tell."""
        start = _PLACES[self._map[_PLACE] & 1]
        return self._map[start + 1 : start + 1 + self._map[start]]

    def close(self) -> None:
        self._map.close()


class Keeping(Names):
    """One card's names in the fd store."""

    def __init__(self, store: FdStore, name: str) -> None:
        super().__init__(store, f"vfio-user {name}")

    def connection(self, fd: int) -> Record:
        """Keep a new connection; return an empty record for it."""
        record = Record(self.new_file("record", _SIZE))
        self.keep("connection", fd)
        return record

    def take_connection(self) -> tuple[int, Record] | None:
        """Return what an earlier worker left: a connection of our own, and its record."""
        fd = self.take("connection")
        if fd is None:
            return None
        memory = self.take_file("record", _SIZE)
        if memory is None:
            os.close(fd)
            return None
        return fd, Record(memory)

    def window(self, address: int, fd: int | None) -> None:
        """Keep a window's descriptor, or let it go."""
        self.put(f"window {address:x}", fd)

    def take_window(self, address: int) -> int | None:
        """Return a window's descriptor, ours."""
        return self.take(f"window {address:x}")

    def line(self, index: int, number: int, action: int, fd: int | None) -> None:
        """Keep an interrupt's descriptor, or let it go."""
        self.put(_line(index, number, action), fd)

    def take_line(self, index: int, number: int, action: int) -> int | None:
        """Return an interrupt's descriptor, ours."""
        return self.take(_line(index, number, action))


def _line(index: int, number: int, action: int) -> str:
    return f"interrupt {index}.{number}.{ACTIONS.index(action)}"
