# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""One queue of a tap, between a descriptor and the wire.

Linux, Documentation/networking/tuntap.rst. Each read and write is one frame, with virtio's ten-byte
net header in front where the tap has one (``vmwire.netdev.tun``): superframes then pass both ways
and nobody computes a checksum.

Theory of operation. *From the tap*: when it is readable, frames are read into a ring of buffers
that stay the same, and offered to the wire as one batch; the next batch overwrites them, since
frames are only lent. What the wire refuses stays in its buffer and the tap isn't watched until
``resume``, so the pressure ends in the kernel's queue. *To the tap*: one ``writev`` a frame. A tap
that has no room refuses; one whose interface is down loses frames, as a card does. Room for
reservations is one staging buffer behind space for the header: what was read into it goes out
with one ``write``.

Times to know on the per-frame paths: an exception costs a microsecond, which is why reads are by
unbuffered ``readinto`` (None when there is nothing).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import FileIO

from vmwire.engine.loop import READ, WRITE, Loop
from vmwire.netdev import tun
from vmwire.netdev.tap_slots import SLOT_BYTES, Slots
from vmwire.wire.frame import HEADER, Frame, Offload, View
from vmwire.wire.port import Port

MOST_FRAMES = 64
"""Frames read before they are offered; also the number of buffers."""
MOST_LARGE_FRAMES = 32
"""As long as they are superframes."""
TURN_BYTES = 2 << 20
"""What is read at most before other descriptors get their turn (some 500 small frames)."""
FRAME_BYTES = 4096
"""What any frame costs of that, besides its bytes."""
ASK_FOR_MORE = 8
"""Frames that come one by one before a second one is asked for."""


class TapQueue:
    """Moves frames between ``fd``, which is non-blocking and owned from here on, and ``port``.

    ``header`` says whether each frame has one. ``on_gone`` is told when the interface vanishes.
    """

    def __init__(
        self,
        fd: int,
        port: Port,
        loop: Loop,
        on_gone: Callable[[OSError], None],
        *,
        header: bool = True,
    ) -> None:
        self.fd = fd
        self._file = FileIO(fd, "r+", closefd=False)
        self._port = port
        self._loop = loop
        self._on_gone = on_gone
        self._start = HEADER.size if header else 0
        self.slots = Slots(MOST_FRAMES, header)
        self._refused: list[Frame] = []
        self._staged = memoryview(bytearray(SLOT_BYTES))
        self._small = False
        self._room = self.slots.wholes[:MOST_LARGE_FRAMES]
        self._in_bursts = True
        self._alone = 0
        self._unsent = 0
        """Bytes of a committed reservation that the tap had no room for."""
        self._events = 0
        self._elsewhere = False
        self._detached = False
        loop.watch(fd, 0, self._on_ready)
        self._watch(READ)

    def close(self) -> None:
        """Stop watching and close the descriptor."""
        self._loop.unwatch(self.fd)
        self._file.close()
        os.close(self.fd)
        self.fd = -1

    def part(self) -> None:
        """Keep away from the tap until ``rejoin``: somebody else reads and writes it."""
        self._elsewhere = True
        self._port.drops["read before rings were handed on"] += len(self._refused)
        self._refused = []
        self._loop.unwatch(self.fd)  # even of nothing it would wake us for each frame

    def detach(self) -> None:
        """Have the kernel use other queues until ``rejoin``, and keep away from this one."""
        self.part()
        self._detached = True
        tun.set_attached(self.fd, False)

    def rejoin(self) -> None:
        """Read and write the tap again."""
        if not self._elsewhere:
            return
        self._elsewhere = False
        if self._detached:
            self._detached = False
            with suppress(OSError):  # the interface may have been deleted
                tun.set_attached(self.fd, True)
        self._loop.watch(self.fd, 0, self._on_ready)
        self._events = 0
        self._watch(READ | (WRITE if self._unsent else 0))

    def _watch(self, events: int) -> None:
        if events != self._events and self.fd >= 0 and not self._elsewhere:
            self._events = events
            self._loop.change(self.fd, events)

    def _on_ready(self, events: int) -> None:
        if events & WRITE:
            self._on_writable()
        if events & ~WRITE:
            try:
                self._read()
            except OSError as error:
                self._on_gone(error)

    # From the tap to the wire

    def _read(self) -> None:
        if not self._in_bursts:
            self._read_one()
            return
        readinto, slots = self._file.readinto, self.slots
        budget = TURN_BYTES
        while budget > 0:
            room = self._room
            lengths: list[int] = []
            for slot in room:
                length = readinto(slot)
                if length is None:
                    break
                lengths.append(length)
            count = len(lengths)
            if not count:
                return
            size = sum(lengths)
            budget -= size + FRAME_BYTES * count
            self._in_bursts = count > 1
            if (size < FRAME_BYTES * count) is not self._small:
                self._small = not self._small
                self._room = slots.wholes[: MOST_FRAMES if self._small else MOST_LARGE_FRAMES]
            if not self._offer(slots.frames(lengths)) or count < len(room):
                return

    def _read_one(self) -> None:
        """Read while frames come one by one.

        Asking for a second one in vain costs a system call; if there is one, readiness says so at
        once. Now and then it is worth asking whether they come in bursts by now.
        """
        readinto, slots = self._file.readinto, self.slots
        length = readinto(slots.wholes[0])
        if length is None:
            return
        lengths = [length]
        self._alone += 1
        if not self._alone % ASK_FOR_MORE:
            second = readinto(slots.wholes[1])
            if second is not None:
                lengths.append(second)
                self._in_bursts = True
        self._offer(slots.frames(lengths))

    def _offer(self, frames: list[Frame]) -> bool:
        """Send what was read; whether the wire took it all."""
        taken = self._port.send(frames)
        if taken == len(frames):
            return True
        self._refused = frames[taken:]
        self._watch(self._events & ~READ)
        return False

    def resume(self) -> None:
        """The wire has room again."""
        refused = self._refused
        if refused:
            self._refused = refused[self._port.send(refused) :]
            if not self._refused:
                self._watch(self._events | READ)

    # From the wire to the tap

    def receive(self, frames: Sequence[Frame]) -> int:
        """Write each frame; stop at the first one that the tap has no room for."""
        if self._unsent:
            return 0
        fd, writev, header = self.fd, os.writev, self._start
        for index, frame in enumerate(frames):
            try:
                if header:
                    writev(fd, (frame.offload.packed, *frame.views))
                else:
                    writev(fd, frame.views)
            except BlockingIOError:
                self._watch(self._events | WRITE)
                return index
            except OSError as error:
                self._lose(error)
        return len(frames)

    def _lose(self, error: OSError) -> None:
        down = error.errno == errno.EIO
        self._port.drops["interface down" if down else f"tap says {error.strerror}"] += 1

    def _on_writable(self) -> None:
        self._watch(self._events & ~WRITE)
        if self._unsent:
            self._write_staged(self._unsent)
        if not self._unsent:
            self._port.resume()

    # Reservations

    def reserve(self, length: int) -> Sequence[View] | None:
        """Lend the staging buffer; None while it holds what the tap has no room for."""
        if self._unsent:
            return None
        start = self._start
        return (self._staged[start : start + length],)

    def commit(self, length: int, offload: Offload) -> None:
        """Write the first ``length`` bytes of what was lent."""
        start = self._start
        if start:
            self._staged[:start] = offload.packed
        self._write_staged(start + length)

    def _write_staged(self, length: int) -> None:
        try:
            full = self._file.write(self._staged[:length]) is None
        except OSError as error:
            self._lose(error)
            full = False
        self._unsent = length if full else 0
        if full:
            self._watch(self._events | WRITE)
