# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Frames on a stream socket: each behind its length, as four bytes, most significant first.

This is the wire of QEMU's ``socket`` and ``stream`` netdevs, of passt, and of programs that speak
to them. A length above ``LONGEST`` ends the connection, as in QEMU: whoever announces that has lost
its place in the stream. A frame of no bytes is skipped (QEMU hears nothing more after one).

Theory of operation. *From the socket*: one buffer; as much as there is is read behind what is left
of the last frame, and all whole frames in it are offered to the wire as one batch, where they lie.
What the wire refuses stays there, and the socket isn't read until ``resume``: the peer's sends
stall, so the pressure reaches whoever sends there. *To the socket*: one ``sendmsg`` for a batch.
When the socket takes only a part, the rest of the frame that was cut is kept (at most one frame);
what follows it is refused until the socket is writable again.

With another vmwire at the far end, superframes go as they are (``netdev/superframes.py``).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from struct import Struct

from vmwire.engine.host import NotNow
from vmwire.engine.loop import READ, WRITE, Loop
from vmwire.netdev.queues import enlarge
from vmwire.netdev.superframes import (
    FIRST_BYTE,
    OVERHEAD,
    SIGNATURE,
    SIGNED,
    WHOLE,
    Acquaintance,
    wrapped,
)
from vmwire.wire.frame import HEADER, MAX_FRAME, Frame, Offload, View
from vmwire.wire.port import Port

LENGTH = Struct("!I")
LONGEST = 0x11000
"""The longest frame that may come."""
BUFFER_BYTES = 256 << 10
TURN_BYTES = 1 << 20
"""What is read at most before other descriptors get their turn."""
MOST_FRAMES = 256
"""Frames of one ``sendmsg`` (a frame has a few views; the kernel takes 1024)."""
MOST_VECTORS = 1024


class FrameStream:
    """One connected stream socket, which is owned from here on, and the port it serves.

    ``on_lost(reason)`` is called once, when the peer has gone or broken the framing; the owner
    then calls ``close``. ``ends`` are the connection's two ends, for the peer to know us by.
    ``begun`` is what another process has read of a frame.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: Loop,
        port: Port,
        on_lost: Callable[[str], None],
        ends: tuple[str, str] | None = None,
        begun: bytes = b"",
    ) -> None:
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:  # TCP finds its own sizes
            enlarge(sock)
        self.socket = sock
        self._loop = loop
        self._port = port
        self._on_lost = on_lost
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start, self._end = 0, len(begun)
        self._buffer[: len(begun)] = begun
        self._refused: list[Frame] = []
        self._unsent: View = memoryview(b"")
        self._peer = Acquaintance(port, self._say)
        self._peer.reset(ends)
        self._unsaid = b""
        self._events = READ
        self._closed = False
        loop.watch(sock.fileno(), READ, self._on_ready)

    def close(self) -> None:
        """Stop and close the socket. Harmless when called twice."""
        if not self._closed:
            self._watch(0)
            self._closed = True
            self.socket.close()
            self._refused.clear()
            self._peer.reset(None)

    def begun(self) -> bytes:
        """What has come of the next frame; ``NotNow`` while others are under way."""
        if self._refused or self._unsent:
            raise NotNow
        return bytes(self._view[self._start : self._end])

    def _watch(self, events: int) -> None:
        """Watch for other events; with none, not even for the peer's end, which can't be silenced
        and is found again when we read on."""
        if events == self._events or self._closed:
            return
        fd = self.socket.fileno()
        if not events:
            self._loop.unwatch(fd)
        elif not self._events:
            self._loop.watch(fd, events, self._on_ready)
        else:
            self._loop.change(fd, events)
        self._events = events

    def _on_ready(self, events: int) -> None:
        if self._events & WRITE and events & ~READ:
            self._on_writable()
        if self._events & READ and events & ~WRITE:
            self._read()

    def _lose(self, reason: str) -> None:
        self._watch(0)
        self._on_lost(reason)

    # From the socket to the wire

    def _read(self) -> None:
        budget = TURN_BYTES
        while budget > 0:
            room = len(self._buffer) - self._end
            try:
                size = self.socket.recv_into(self._view[self._end :])
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(str(error.strerror))
                return
            if size == 0:
                self._lose(self._farewell())
                return
            self._end += size
            budget -= size
            if not self._deliver() or size < room:
                return

    def _farewell(self) -> str:
        return "the peer left in mid-frame" if self._end > self._start else "the peer left"

    def _deliver(self) -> bool:
        """Offer all whole frames to the wire; whether to go on reading."""
        begin = self._start
        frames = self._cut()
        if frames is None:
            self._lose(f"the peer announced a frame of more than {LONGEST} bytes")
            return False
        taken = self._port.send(frames) if frames else 0
        self._peer.carried(self._start - begin)
        if self._closed:
            return False
        if taken < len(frames):
            self._refused = frames[taken:]
            self._watch(self._events & ~READ)
            return False
        self._make_room()
        return True

    def _cut(self) -> list[Frame] | None:
        """The whole frames in the buffer, where they lie; None if the framing is broken."""
        frames: list[Frame] = []
        buffer, view, at, end = self._buffer, self._view, self._start, self._end
        unpack, offload_of = LENGTH.unpack_from, Offload.unpack
        while end - at >= 4:
            length = unpack(view, at)[0]
            if length > LONGEST:
                return None
            after = at + 4 + length
            if after > end:
                break
            if not length:
                self._port.drops["empty frame"] += 1
            elif buffer[at + 4] == FIRST_BYTE and buffer[at + 4 : at + 4 + SIGNED] == SIGNATURE:
                body = at + 4 + OVERHEAD
                if buffer[at + 4 + SIGNED] == WHOLE and body < after <= body + MAX_FRAME:
                    # what most are, without the way through open()
                    offload = offload_of(bytes(buffer[body - HEADER.size : body]))
                    frames.append(Frame((view[body:after],), after - body, offload))
                else:
                    self._peer.open(view[at + 4 : after], frames)
            else:
                frames.append(Frame((view[at + 4 : after],), length))
            at = after
        self._start = at
        return frames

    def _make_room(self) -> None:
        """Move what is left to the front, unless the longest frame fits behind it anyway."""
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = 0
        elif len(self._buffer) - start < LONGEST + 4:
            self._buffer[: end - start] = self._buffer[start:end]
            self._start, self._end = 0, end - start

    def resume(self) -> None:
        """The wire has room again: what it refused goes first."""
        refused = self._refused
        if not refused or self._closed:
            return
        self._refused = refused[self._port.send(refused) :]
        if not self._refused and not self._closed:
            self._make_room()
            self._watch(self._events | READ)

    # From the wire to the socket

    def receive(self, frames: Sequence[Frame]) -> int:
        """Send what the socket takes; return the number of frames."""
        if self._unsent or self._closed:
            return 0
        taken = 0
        while taken < len(frames):
            batch = frames[taken : taken + MOST_FRAMES]
            sent = self._send(batch)
            taken += sent
            if sent < len(batch) or self._unsent:
                self._watch(self._events | WRITE)
                break
        return taken

    def _send(self, frames: Sequence[Frame]) -> int:
        """Send a batch by one call; what is left of a frame that was cut is kept."""
        pack = LENGTH.pack
        parts: list[bytes | View] = []
        size = 0
        for frame in frames:
            length, offload = frame.length, frame.offload
            if offload.plain:
                parts.append(pack(length))
            else:
                length += OVERHEAD
                parts.append(pack(length) + wrapped(offload))
            parts += frame.views
            size += length + 4
        try:
            if len(parts) <= MOST_VECTORS:
                sent = self.socket.sendmsg(parts)
            else:
                sent = self.socket.send(b"".join(parts))
        except BlockingIOError:
            return 0
        except OSError:  # reading tells what has become of the peer
            self._port.drops["peer gone"] += len(frames)
            return len(frames)
        self._peer.carried(sent)
        return len(frames) if sent == size else self._keep_rest(frames, sent)

    def _keep_rest(self, frames: Sequence[Frame], sent: int) -> int:
        for index, frame in enumerate(frames):
            size = frame.length + 4 + (0 if frame.offload.plain else OVERHEAD)
            if sent < size:
                if sent == 0:
                    return index
                front = b"" if frame.offload.plain else wrapped(frame.offload)
                whole = b"".join((LENGTH.pack(size - 4), front, *frame.views))
                self._unsent = memoryview(whole)[sent:]
                return index + 1
            sent -= size
        return len(frames)

    def _say(self, capsule: bytes) -> None:
        """Send a capsule of our own as soon as no frame is under way."""
        self._unsaid = LENGTH.pack(len(capsule)) + capsule
        if not self._unsent:
            self._loop.defer(self._say_now)

    def _say_now(self) -> None:
        if self._unsaid and not self._unsent and not self._closed:
            self._unsent, self._unsaid = memoryview(self._unsaid), b""
            self._on_writable()
            if self._unsent:
                self._watch(self._events | WRITE)

    def _on_writable(self) -> None:
        if self._unsent:
            try:
                sent = self.socket.send(self._unsent)
            except BlockingIOError:
                return
            except OSError:
                sent = len(self._unsent)
            self._unsent = self._unsent[sent:]
        if self._unsaid and not self._unsent:
            self._say_now()
        elif not self._unsent:
            self._watch(self._events & ~WRITE)
            self._port.resume()
