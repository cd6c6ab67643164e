# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A line over datagrams, one frame in each: what ``socket`` and ``dgram`` have in common.

Theory of operation. *From the socket*: datagrams are read into a ring of buffers, as many as there
are up to a bound, and offered to the wire as one batch; the next batch overwrites them. What the
wire refuses stays in its buffer, and the socket isn't read until ``resume``; the kernel drops what
its own queue doesn't hold. An empty datagram is skipped (QEMU hears nothing more after one). *To
the socket*: one send a frame. A socket that is full refuses; a frame that nobody can take (no such
peer, too long for a datagram) is lost and counted, as on any network.

A *sender* is how frames leave, and knows about the peer's comings and goings:

* ``Connected``: a socket that is connected to its peer, so that the kernel drops what strangers
  send; given sockets too.
* ``ToAddress``: to one address, whoever answers: for multicast, and where strangers are wanted.
* ``ToFile``: to a Unix socket that may not be there yet, or be made anew. A second socket, so that
  the loop can wait until the peer's queue has room, and so that ours goes on to take frames of a
  new peer while this one is still connected to the old.

Between two vmwires on one machine superframes go whole (``netdev/superframes.py``), in two
datagrams if one can't hold them, and small frames of a burst share one. Across a network they
don't: one lost packet would be 64 KiB.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vmwire.engine.host import Host
from vmwire.engine.loop import ERROR, READ, WRITE
from vmwire.netdev.datagram_batches import Intake
from vmwire.netdev.queues import enlarge
from vmwire.netdev.superframes import (
    FIRST_BYTE,
    FIRST_HEAD,
    OVERHEAD,
    REST_HEAD,
    SIGNATURE,
    SIGNED,
    Acquaintance,
    bundled,
    wrapped,
)
from vmwire.wire.frame import MAX_FRAME, Frame, View, total_length
from vmwire.wire.port import Accepts, Port, stats

log = logging.getLogger(__name__)

UDP_LARGEST = 65507
"""Bytes in a datagram over IPv4."""
SLOT_BYTES = 0x11000
BATCH_FRAMES = 64
TURN_BYTES = 1 << 20
FRAME_BYTES = 4096
"""What any frame costs of that, besides its bytes."""
BUNDLE_BYTES = 32 << 10
MOST_BUNDLED = 64
LOOK_AGAIN_S = 0.1
"""How long to do without a peer whose socket isn't there."""

Parts = Sequence[bytes | View]
Unwrap = Callable[[Sequence[View], Counter[str]], Sequence[View]]


class Sender(Protocol):
    """How frames leave."""

    socket: socket.socket
    """The one to wait for when a send would block."""

    def send(self, parts: Parts) -> None:
        """Send one datagram; raises ``OSError``."""

    def close(self) -> None:
        """Close what is its own."""


class Connected:
    """Through a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def send(self, parts: Parts) -> None:
        try:
            self.socket.sendmsg(parts)
        except ConnectionRefusedError:  # said of an earlier one: the peer may be there by now
            self.socket.sendmsg(parts)

    def close(self) -> None:
        """The socket is the line's."""


class ToAddress:
    """Through a socket that isn't connected; ``own`` says whether it is only for this."""

    def __init__(self, sock: socket.socket, address: Any, *, own: bool = False) -> None:
        self.socket = sock
        self._address = address
        self._own = own

    def send(self, parts: Parts) -> None:
        self.socket.sendmsg(parts, (), 0, self._address)

    def close(self) -> None:
        if self._own:
            self.socket.close()


class ToFile:
    """To a Unix socket, connected whenever it is there."""

    def __init__(self, address: str | bytes, now: Callable[[], float]) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self._address = address
        self._now = now
        self._connected = False
        self._again_at = 0.0

    def send(self, parts: Parts) -> None:
        if self._connected:
            try:
                self.socket.sendmsg(parts)
                return
            except (ConnectionError, FileNotFoundError):
                self._connected = False
                self._again_at = 0.0
        self._connect()
        self.socket.sendmsg(parts)

    def _connect(self) -> None:
        if self._now() < self._again_at:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the peer isn't there")
        self._again_at = self._now() + LOOK_AGAIN_S
        self.socket.connect(self._address)
        self._connected = True

    def close(self) -> None:
        self.socket.close()


def _nothing() -> None:
    """Most sockets leave nothing behind."""


@dataclass(slots=True)
class Wire:
    """What a line is opened with: the socket that hears, and how frames leave.

    ``ends`` are (mine, theirs) where superframes may go whole. ``own_address`` is what our own
    frames come back from (multicast). ``unwrap(datagrams, drops)`` finds the frames in datagrams
    that hold more, and counts those that hold none. ``intake`` reads many datagrams at once.
    ``send_many(frames, start)`` sends one or more plain frames from ``start`` on and returns how
    many; it isn't asked for the last.
    """

    socket: socket.socket
    sender: Sender
    info: str
    largest: int = MAX_FRAME
    ends: tuple[str, str] | None = None
    own_address: Any = None
    farewell: Callable[[], None] = _nothing
    unwrap: Unwrap | None = None
    intake: Intake | None = None
    send_many: Callable[[Sequence[Frame], int], int] | None = None


class DatagramLine:
    """A port, and the socket behind it. ``make(host)`` opens that, or raises ``ConfigError``."""

    def __init__(self, name: str, make: Callable[[Host], Wire]) -> None:
        self.port = Port(name, self._receive, resume=self._resume)
        self._make = make
        self._wire: Wire | None = None
        self._refused: list[Frame] = []
        self._waiting = False

    def open(self, host: Host) -> None:
        """Open the socket; raises ``ConfigError``."""
        wire = self._wire = self._make(host)
        self._loop = host.loop
        self._sender = wire.sender
        self._unwrap = wire.unwrap
        finished = Accepts(largest=wire.largest)
        self._peer = Acquaintance(self.port, self._say, now=host.loop.now, finished=finished)
        self._peer.reset(wire.ends)
        if wire.intake is None:
            self._slots = [memoryview(bytearray(SLOT_BYTES)) for _ in range(BATCH_FRAMES)]
        self._events = 0
        for sock in (wire.socket, wire.sender.socket):
            sock.setblocking(False)
            enlarge(sock)
        if wire.sender.socket is not wire.socket:
            host.loop.watch(wire.sender.socket.fileno(), 0, self._on_writable)
        host.loop.watch(wire.socket.fileno(), 0, self._on_ready)
        self._watch_input(True)

    def close(self) -> None:
        """Close the socket. Harmless when called twice."""
        wire, self._wire = self._wire, None
        if wire is not None:
            self._loop.unwatch(wire.socket.fileno())
            self._loop.unwatch(wire.sender.socket.fileno())
            wire.sender.close()
            wire.farewell()
            wire.socket.close()
            self._refused.clear()

    def set_link(self, up: bool) -> None:
        """Pull or plug the cable."""
        self.port.set_link(up)

    @property
    def info(self) -> str:
        """What ``info network`` says."""
        return "" if self._wire is None else self._wire.info

    def stats(self) -> dict[str, object]:
        """Return the port's counters as plain data."""
        return stats(self.port)

    # Readiness

    def _watch_input(self, on: bool) -> None:
        self._watch(self._events | READ if on else self._events & ~READ)

    def _watch(self, events: int) -> None:
        if self._wire is not None and events != self._events:
            self._events = events
            self._loop.change(self._wire.socket.fileno(), events)

    def _wait(self, on: bool) -> None:
        """Wait until the sender can send, or no longer."""
        assert self._wire is not None
        self._waiting = on
        if self._sender.socket is self._wire.socket:
            self._watch(self._events | WRITE if on else self._events & ~WRITE)
        else:
            self._loop.change(self._sender.socket.fileno(), WRITE if on else 0)

    def _on_ready(self, events: int) -> None:
        if self._waiting and events & WRITE:
            self._on_writable(events)
        if self._refused and events & ERROR and self._wire is not None:
            self._wire.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # or it stays
        elif events & ~WRITE:
            self._read()

    def _on_writable(self, events: int) -> None:
        if self._waiting:
            self._wait(False)
            self.port.resume()

    # From the socket to the wire

    def _read(self) -> None:
        budget = TURN_BYTES
        while budget > 0 and self._wire is not None and not self._refused:
            frames: list[Frame] = []
            size, more = self._fill(self._wire, frames)
            budget -= size + FRAME_BYTES * BATCH_FRAMES
            taken = self.port.send(frames) if frames else 0
            if self._wire is None:
                return
            self._peer.keep_piece()
            self._peer.carried(size)
            if taken < len(frames):
                self._refused = frames[taken:]
                self._watch_input(False)
            if not more:
                return

    def _fill(self, wire: Wire, frames: list[Frame]) -> tuple[int, bool]:
        """Read a batch into ``frames``; return its bytes, and whether there may be more."""
        if wire.intake is not None:
            return self._fill_at_once(wire.intake, frames)
        size = 0
        receive, own = wire.socket.recvfrom_into, wire.own_address
        receive_into = wire.socket.recv_into
        source = None
        for slot in self._slots:
            try:
                if own is None:
                    length = receive_into(slot)
                else:
                    length, source = receive(slot)
            except BlockingIOError:
                return size, False
            except OSError as error:  # what became of something that we sent
                self.port.drops[f"peer: {error.strerror}"] += 1
                continue
            size += length
            if own is not None and source == own:
                self.port.drops["own frame"] += 1
            else:
                self._take((slot[:length],), frames)
        return size, True

    def _fill_at_once(self, intake: Intake, frames: list[Frame]) -> tuple[int, bool]:
        try:
            datagrams, more = intake.read()
        except OSError as error:
            self.port.drops[f"peer: {error.strerror}"] += 1
            return 0, True
        self._take(datagrams, frames)
        return sum(map(len, datagrams)), more

    def _take(self, datagrams: Sequence[View], frames: list[Frame]) -> None:
        """Add what is in datagrams to ``frames``."""
        if self._unwrap is not None:
            datagrams = self._unwrap(datagrams, self.port.drops)
        for data in datagrams:
            if data and data[0] != FIRST_BYTE:  # as most are
                frames.append(Frame((data,), len(data)))
            elif not data:
                self.port.drops["empty frame"] += 1
            elif data[:SIGNED] == SIGNATURE:
                self._peer.open(data, frames)
            else:
                frames.append(Frame((data,), len(data)))

    def _resume(self) -> None:
        refused = self._refused
        if refused:
            self._refused = refused[self.port.send(refused) :]
            if not self._refused:
                self._watch_input(True)

    # From the wire to the socket

    def _receive(self, frames: Sequence[Frame]) -> int:
        if self._wire is None:
            self.port.drops["closed"] += len(frames)
            return len(frames)
        if self._waiting:
            return 0
        send_many = self._wire.send_many
        taken = 0
        while taken < len(frames) and not self._waiting:
            frame = frames[taken]
            together = self._alike(frames, taken) if self._peer.known else 1
            try:
                if together > 1:
                    self._sender.send(bundled(frames[taken : taken + together]))
                elif frame.offload.plain:
                    if send_many is None or taken + 1 == len(frames):
                        self._sender.send(frame.views)
                    else:
                        together = send_many(frames, taken)
                else:
                    self._send_whole(frame)
            except BlockingIOError:
                self._wait(True)
                break
            except OSError as error:
                self._lose(error, together)
            taken += together
        self._peer.carried(total_length(frames[:taken]))
        return taken

    def _alike(self, frames: Sequence[Frame], start: int) -> int:
        """How many frames from ``start`` on go in one datagram: several in a bundle, or one."""
        size = count = 0
        for frame in frames[start : start + MOST_BUNDLED]:
            size += frame.length
            if size > BUNDLE_BYTES:
                break
            count += 1
        return max(1, count)

    def _send_whole(self, frame: Frame) -> None:
        assert self._wire is not None
        limit = self._wire.largest
        if frame.length + OVERHEAD <= limit:
            self._sender.send([wrapped(frame.offload), *frame.views])
            return
        half = frame.length // 2
        self._sender.send([FIRST_HEAD, frame.offload.packed, *frame.payload(0, half)])
        self._sender.send([REST_HEAD, *frame.payload(half)])

    def _lose(self, error: OSError, frames: int) -> None:
        name = errno.errorcode.get(error.errno or 0, "error")
        self.port.drops[_LOSSES.get(error.errno or 0, f"send: {name}")] += frames

    def _say(self, capsule: bytes) -> None:
        try:
            self._sender.send([capsule])
        except OSError:  # it is said again
            pass


_LOSSES = {
    errno.ECONNREFUSED: "no peer",
    errno.ENOENT: "no peer",
    errno.EMSGSIZE: "too long",
}
