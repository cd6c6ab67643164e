# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Character devices as far as control channels need them: a byte stream to one peer.

The options are ``netdev.chardev``'s: ``socket,id=c,path=P`` (client), ``…,server=on,wait=off`` (one
peer at a time, one after the other), ``…,fd=N`` (a connected socket that was inherited), and
``stdio``. The short forms of ``-qtest`` and ``-qmp`` (``unix:PATH,server=on``, ``stdio``) mean the
same.

A stream owns its descriptors. A peer that says no more may still read: it is hung up on at the end,
or when the next one comes. What is written and doesn't fit into the socket waits here, up to a
limit; a peer that doesn't read for so long is hung up on. Nothing is read from a peer that has
much to read itself, or whose reader has enough to do.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from vmwire.engine.loop import ERROR, HANGUP, READ, WRITE, Loop
from vmwire.errors import ConfigError
from vmwire.netdev.binding import clear_the_way
from vmwire.netdev.chardev import ChardevOptions, SocketChardevOptions, StdioChardevOptions
from vmwire.options.syntax import parse_list
from vmwire.options.table import table_of

READ_BYTES = 1 << 20
MOST_WAITING = 256 << 20
"""Bytes that may wait for a peer that doesn't read."""
MUCH_WAITING = 1 << 20
"""From here on it is asked nothing more."""


class Reader(Protocol):
    """Who is at our end of a stream."""

    @property
    def crowded(self) -> bool:
        """Whether it has enough to do for now. Who says so calls ``Stream.go_on`` later."""

    def opened(self, send: Callable[[bytes], None]) -> None:
        """A peer is there; ``send`` reaches it."""

    def feed(self, data: bytes) -> None:
        """It sent something."""

    def closed(self) -> None:
        """It has left."""


@dataclass(slots=True, frozen=True)
class Chardev:
    """One chardev as it was described. ``fd`` -1: ``path`` says where; both empty: stdio.

    ``wait``: a server goes on only when its first peer is there.
    """

    path: str = ""
    server: bool = False
    wait: bool = False
    fd: int = -1


def for_stream(options: ChardevOptions) -> Chardev:
    """What an option describes, for a stream; ConfigError if a stream can't have it."""
    if isinstance(options, StdioChardevOptions):
        return Chardev()
    if (options.path is None and options.fd is None) or options.abstract:
        raise ConfigError("a socket for a control channel needs either path or fd")
    if options.reconnect or options.reconnect_ms:
        raise ConfigError("'reconnect' is not served: a peer that leaves is not called again")
    fd = options.fd
    if fd is not None and not (fd.isascii() and fd.isdecimal()):
        raise ConfigError(f"fd={fd} is not the number of an inherited descriptor")
    wait = options.server and options.wait is not False
    return Chardev(options.path or "", options.server, wait, -1 if fd is None else int(fd))


def read_short(text: str) -> Chardev | str:
    """What ``-qtest TEXT`` or ``-qmp TEXT`` means: a chardev, or the id of one."""
    if text == "stdio":
        return Chardev()
    kind, colon, rest = text.partition(":")
    if colon and kind == "chardev":
        return rest
    if not colon or kind != "unix":
        raise ConfigError("expects unix:PATH[,server=on[,wait=off]], chardev:ID or stdio")
    options = parse_list(rest, "path")
    options.set("id", "short")
    return for_stream(table_of(SocketChardevOptions).from_options(options))


class Stream:
    """A chardev in use: connects or listens, and carries bytes between a peer and a reader."""

    def __init__(self, chardev: Chardev, loop: Loop, reader: Reader) -> None:
        self._chardev = chardev
        self._loop = loop
        self._reader = reader
        self._listener: socket.socket | None = None
        self._in = self._out = -1
        self._ended = True
        """The peer says no more."""
        self._waiting = bytearray()
        self._blocked = False
        """The socket has no room for what waits."""
        self._events = 0
        self._is_watched = True
        self._hurried = False

    @property
    def reader(self) -> Reader:
        """Who is at our end."""
        return self._reader

    @property
    def stuffed(self) -> bool:
        """Whether the peer has much to read, and should be given nothing more."""
        return len(self._waiting) > MUCH_WAITING and not self._ended

    @property
    def over(self) -> bool:
        """Whether there is no peer and none will come."""
        return self._ended and self._listener is None

    def open(self) -> None:
        """Reach the peer, or wait for it, as the chardev says. ConfigError if that can't be."""
        chardev = self._chardev
        if chardev.fd < 0 and not chardev.path:
            self._begin(os.dup(0), os.dup(1))
        elif chardev.server:
            self._listen()
        else:
            self._begin_socket(self._connected())

    def close(self) -> None:
        """Hang up. Harmless when called twice."""
        self._hang_up()
        if self._listener is not None:
            self._loop.unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None
            if self._chardev.path:
                with contextlib.suppress(OSError):
                    os.unlink(self._chardev.path)

    def send(self, data: bytes) -> None:
        """Send to the peer, now or when it has room. With nobody there it is lost."""
        if self._out < 0:
            return
        self._waiting += data
        self._flush(0)

    def go_on(self) -> None:
        """The reader may have room again."""
        if self._in >= 0 and not self._ended:
            self._rewatch()

    def flush(self) -> None:
        """Before the end: give the peer what waits, however long it takes to read it."""
        if self._waiting and self._out >= 0:
            os.set_blocking(self._out, not self._hurried)
            self._flush(0)
            while self._waiting and not self._hurried:
                self._flush(0)

    def hurry(self) -> None:
        """Wait for no peer any more, not even in a write that has begun (a signal's handler)."""
        self._hurried = True
        if self._out >= 0:
            os.set_blocking(self._out, False)

    # Reaching the peer

    def _connected(self) -> socket.socket:
        chardev = self._chardev
        if chardev.fd >= 0:
            try:
                return socket.socket(fileno=os.dup(chardev.fd))
            except OSError as error:
                raise ConfigError(f"fd={chardev.fd}: {error.strerror}") from None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(chardev.path)
        except OSError as error:
            connection.close()
            raise ConfigError(f"Failed to connect to '{chardev.path}': {error.strerror}") from None
        return connection

    def _listen(self) -> None:
        chardev = self._chardev
        if chardev.fd >= 0:
            self._listener = self._connected()
        else:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                clear_the_way(chardev.path, socket.SOCK_STREAM)
                self._listener.bind(chardev.path)
                self._listener.listen(1)
            except OSError as error:
                self._listener.close()
                self._listener = None
                raise ConfigError(
                    f"Failed to bind socket to {chardev.path}: {error.strerror}"
                ) from None
        if chardev.wait:
            self._accept(READ)
        self._listener.setblocking(False)
        self._loop.watch(self._listener.fileno(), READ, self._accept)
        self._listen_while_alone()

    def _accept(self, events: int) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        self._begin_socket(connection)

    def _listen_while_alone(self) -> None:
        if self._listener is not None:
            self._loop.change(self._listener.fileno(), READ if self._ended else 0)

    def _begin_socket(self, connection: socket.socket) -> None:
        fd = connection.detach()
        self._begin(fd, fd)
        if self._listener is not None and not self._listener.getblocking():
            self._listen_while_alone()

    def _begin(self, readable: int, writable: int) -> None:
        self._hang_up()
        self._in, self._out = readable, writable
        self._ended = False
        if readable == writable:  # what stdio is may be somebody else's too: it stays as it is
            os.set_blocking(readable, False)
        self._blocked = False
        self._events = READ
        try:
            self._loop.watch(readable, READ, self._on_events)
            self._is_watched = True
        except PermissionError:  # a plain file can't be waited for: it is read when asked
            self._is_watched = False
            self._loop.post(self._read_file)
        self._reader.opened(self.send)

    # Bytes

    def _on_events(self, events: int) -> None:
        if events & WRITE:
            self._flush(events)
        if not self._ended and events & (READ | HANGUP | ERROR):
            self._read()

    def _read(self) -> None:
        try:
            data = os.read(self._in, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._reader.feed(data)
            self.go_on()
        else:
            self._end()

    def _end(self) -> None:
        """The peer says no more."""
        self._ended = True
        self._loop.unwatch(self._in)
        self._listen_while_alone()
        self._reader.closed()

    def _read_file(self) -> None:
        if not self._ended:
            if not self._reader.crowded:
                self._read()
            self._loop.post(self._read_file)

    def _rewatch(self) -> None:
        events = 0 if self.stuffed or self._reader.crowded else READ
        if self._blocked and self._in == self._out:
            events |= WRITE
        if events != self._events and self._is_watched:
            self._events = events
            self._loop.change(self._in, events)

    def _flush(self, events: int) -> None:
        self._blocked = False
        while self._waiting and not self._blocked:
            try:
                del self._waiting[: os.write(self._out, self._waiting)]
            except BlockingIOError:
                self._blocked = True
            except OSError:  # the peer has left: reading says so
                self._waiting.clear()
        if len(self._waiting) > MOST_WAITING and not self._ended:
            self._end()
            self._hang_up()
        self.go_on()

    def _hang_up(self) -> None:
        if self._in < 0:
            return
        self._loop.unwatch(self._in)
        if self._hurried:  # for whoever shares it
            os.set_blocking(self._out, True)
        for fd in {self._in, self._out}:
            os.close(fd)
        self._in = self._out = -1
        self._ended = True
        self._waiting.clear()
