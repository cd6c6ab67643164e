# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A tap descriptor as a box on the wire: the kernel's network stack is the guest behind it.

Linux, Documentation/networking/tuntap.rst and include/uapi/linux/if_tun.h. Each read and write is
one frame with virtio's ten-byte net header in front, so superframes pass both ways and nobody
computes a checksum.

Theory of operation. *From the tap*: when it is readable, frames are read into a ring of buffers
that stay the same, and offered to the wire as one batch; the next batch overwrites them, since
frames are only lent. What the wire refuses stays in its buffer and the tap isn't watched until
``resume``, so the pressure ends in the kernel's queue. *To the tap*: one ``writev`` a frame. A tap
that has no room refuses; one whose interface is down loses frames, as a card does. Room for
reservations is one staging buffer behind space for the header: what was read into it goes out
with one ``write``.

What the kernel may leave undone in frames that it gives us follows what the wire's other end
accepts, so that it segments itself if somebody must. It gets everything undone: it verifies
nothing of a frame whose checksum is still to be done, and cuts superframes only on their way out.

Times to know on the per-frame paths: an exception costs a microsecond, which is why reads are by
unbuffered ``readinto`` (None when there is nothing).
"""

from __future__ import annotations

import errno
import logging
import os
from array import array
from collections.abc import Sequence
from contextlib import suppress
from fcntl import ioctl
from io import FileIO
from struct import Struct

from vmwire.engine.loop import READ, WRITE, Loop
from vmwire.wire.frame import HEADER, MAX_FRAME, Frame, Gso, Offload, View
from vmwire.wire.port import EVERYTHING, Accepts, Port, Room, stats

log = logging.getLogger(__name__)

TUN_DEVICE = "/dev/net/tun"

TUNSETIFF = 0x400454CA
TUNGETIFF = 0x800454D2
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
TUNSETVNETLE = 0x400454DC
TUNSETCARRIER = 0x400454E2

IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000

TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_TSO_ECN = 0x08
TUN_F_USO4 = 0x20
TUN_F_USO6 = 0x40
TUN_F_USO = TUN_F_USO4 | TUN_F_USO6

IFREQ = Struct("16sH22x")
assert IFREQ.size == 40

BATCH_FRAMES = 32
"""Frames read before they are offered; also the number of buffers."""
TURN_BYTES = 2 << 20
"""What is read at most before other descriptors get their turn (some 500 small frames)."""
FRAME_BYTES = 4096
"""What any frame costs of that, besides its bytes."""
ASK_FOR_MORE = 8
"""Frames that come one by one before a second one is asked for."""
SLOT_BYTES = HEADER.size + MAX_FRAME


def open_tap(name: str) -> tuple[int, str]:
    """Make a tap interface in this thread's network namespace; return (descriptor, its name).

    ``name`` may hold ``%d``. The interface lives as long as the descriptor and its copies.
    """
    fd = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = IFREQ.pack(name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
        given: bytes = IFREQ.unpack(ioctl(fd, TUNSETIFF, request))[0]
        ioctl(fd, TUNSETVNETHDRSZ, array("i", [HEADER.size]))
        ioctl(fd, TUNSETVNETLE, array("i", [1]))
    except BaseException:
        os.close(fd)
        raise
    return fd, given.rstrip(b"\0").decode()


def offload_flags(accepts: Accepts) -> int:
    """What the kernel may leave undone for a reader who takes ``accepts``."""
    if not accepts.checksum:
        return 0
    flags = TUN_F_CSUM
    if accepts.gso & Gso.TCPV4:
        flags |= TUN_F_TSO4
    if accepts.gso & Gso.TCPV6:
        flags |= TUN_F_TSO6
    if accepts.gso & Gso.ECN and flags & (TUN_F_TSO4 | TUN_F_TSO6):
        flags |= TUN_F_TSO_ECN
    if accepts.gso & Gso.UDP_L4:
        flags |= TUN_F_USO
    return flags


def set_offload(fd: int, flags: int) -> int:
    """Tell the kernel; return the flags that it took (before Linux 6.2 there is no USO)."""
    try:
        ioctl(fd, TUNSETOFFLOAD, flags)
    except OSError as error:
        if error.errno != errno.EINVAL or not flags & TUN_F_USO:
            raise
        flags &= ~TUN_F_USO
        ioctl(fd, TUNSETOFFLOAD, flags)
    return flags


class _Slot:
    """One buffer of the ring: where to read, the header in it, the frame behind it."""

    __slots__ = ("body", "header", "whole")

    def __init__(self) -> None:
        self.whole = memoryview(bytearray(SLOT_BYTES))
        self.header = self.whole[: HEADER.size]
        self.body = self.whole[HEADER.size :]


class TapPort:
    """The box: without a tap until ``open``, and its link down until then."""

    def __init__(self, name: str) -> None:
        self._fd = -1
        self._slots = [_Slot() for _ in range(BATCH_FRAMES)]
        self._refused: list[Frame] = []
        self._staged = memoryview(bytearray(SLOT_BYTES))
        self._in_bursts = True
        self._alone = 0
        self._unsent = 0
        """Bytes of a committed reservation that the tap had no room for."""
        self._events = 0
        self.port = Port(
            name,
            self.receive,
            resume=self._resume,
            link_changed=self._on_link,
            accepts_changed=self._set_offload,
            accepts=EVERYTHING,
            room=Room(self._reserve, self._commit, _nothing),
        )
        self.port.set_link(False)

    def open(self, fd: int, loop: Loop) -> None:
        """Take ``fd``, a non-blocking tap with ten-byte headers (``open_tap``), and own it."""
        self._fd = fd
        self._file = FileIO(fd, "r+", closefd=False)
        self._loop = loop
        if not _has_uso(fd):
            self.port.set_accepts(Accepts(True, EVERYTHING.gso & ~Gso.UDP_L4))
        self._set_offload()
        loop.watch(fd, 0, self._on_ready)
        self._watch(READ)
        self.port.set_link(True)

    def close(self) -> None:
        """Stop watching and close the descriptor. Harmless when called twice."""
        if self._fd >= 0:
            self.port.set_link(False)
            self._loop.unwatch(self._fd)
            self._file.close()
            os.close(self._fd)
            self._fd = -1

    def stats(self) -> dict[str, object]:
        """Return the port's counters as plain data."""
        return stats(self.port)

    # State

    def _watch(self, events: int) -> None:
        if events != self._events and self._fd >= 0:
            self._events = events
            self._loop.change(self._fd, events)

    def _set_offload(self) -> None:
        if self._fd < 0:
            return
        with suppress(OSError):  # the guest may have deleted the interface
            set_offload(self._fd, offload_flags(self.port.peer_accepts))

    def _on_link(self, up: bool) -> None:
        """Let the guest see the cable, where that can be: the guest may have deleted the
        interface, and a kernel before 5.0 doesn't know how."""
        if self._fd < 0:
            return
        with suppress(OSError):
            ioctl(self._fd, TUNSETCARRIER, array("i", [up]))

    def _on_ready(self, events: int) -> None:
        if events & WRITE:
            self._on_writable()
        if events & ~WRITE:
            try:
                self._read()
            except OSError as error:
                self._vanished(error)

    def _vanished(self, error: OSError) -> None:
        """The interface is gone (whoever is root in the namespace may delete it)."""
        log.warning("%s: the tap is gone: %s", self.port.name, error.strerror)
        self.close()

    # From the tap to the wire

    def _one_slot(self) -> list[_Slot]:
        """Return where to read when frames come one by one.

        Asking for a second one in vain costs a system call; if there is one, readiness says so at
        once. Now and then it is worth asking whether they come in bursts by now.
        """
        self._alone += 1
        return self._slots[: 1 if self._alone % ASK_FOR_MORE else 2]

    def _read(self) -> None:
        readinto, slots = self._file.readinto, self._slots
        unpack, send = Offload.unpack, self.port.send
        start = HEADER.size
        budget, cost = TURN_BYTES, FRAME_BYTES
        while budget > 0:
            frames = []
            for slot in slots if self._in_bursts else self._one_slot():
                length = readinto(slot.whole)
                if length is None:
                    budget = 0
                    break
                length -= start
                frames.append(Frame((slot.body[:length],), length, unpack(slot.header.tobytes())))
                budget -= length + cost
                if budget <= 0:
                    break
            if not frames:
                return
            if not self._in_bursts:
                budget = 0
            self._in_bursts = len(frames) > 1
            taken = send(frames)
            if taken < len(frames):
                self._refused = frames[taken:]
                self._watch(self._events & ~READ)
                return

    def _resume(self) -> None:
        refused = self._refused
        if refused:
            self._refused = refused[self.port.send(refused) :]
            if not self._refused:
                self._watch(self._events | READ)

    # From the wire to the tap

    def receive(self, frames: Sequence[Frame]) -> int:
        """Write each frame; stop at the first one that the tap has no room for."""
        if self._unsent:
            return 0
        fd, writev = self._fd, os.writev
        for index, frame in enumerate(frames):
            try:
                writev(fd, (frame.offload.packed, *frame.views))
            except BlockingIOError:
                self._watch(self._events | WRITE)
                return index
            except OSError as error:
                self._lose(error)
        return len(frames)

    def _lose(self, error: OSError) -> None:
        down = error.errno == errno.EIO
        self.port.drops["interface down" if down else f"tap says {error.strerror}"] += 1

    def _on_writable(self) -> None:
        self._watch(self._events & ~WRITE)
        if self._unsent:
            self._write_staged(self._unsent)
        if not self._unsent:
            self.port.resume()

    # Reservations

    def _reserve(self, length: int) -> Sequence[View] | None:
        if self._unsent:
            return None
        start = HEADER.size
        return (self._staged[start : start + length],)

    def _commit(self, length: int, offload: Offload) -> None:
        start = HEADER.size
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


def _has_uso(fd: int) -> bool:
    """Whether this kernel knows UDP superframes on a tap (one that is gone knows nothing)."""
    with suppress(OSError):
        return bool(set_offload(fd, TUN_F_CSUM | TUN_F_USO) & TUN_F_USO)
    return False


def _nothing() -> None:
    """A reservation that is given back leaves nothing to be done: the next one overwrites it."""
