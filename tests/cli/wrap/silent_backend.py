# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A vhost-user back end that only says yes: enough for QEMU to build its card and show it.

It serves the start-up half of the vhost-user protocol (QEMU's docs/interop/vhost-user, "Message
types") for any number of sockets in one thread. Rings are never looked at.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
from pathlib import Path

HEADER = struct.Struct("<III")

VERSION = 1
REPLY = 1 << 2
NEED_REPLY = 1 << 3

GET_FEATURES = 1
GET_VRING_BASE = 11
GET_PROTOCOL_FEATURES = 15
GET_QUEUE_NUM = 17

# event idx, indirect, VERSION_1, PROTOCOL_FEATURES, LOG_ALL, checksum and TSO both ways,
# mergeable buffers, announce, MQ.
FEATURES = sum(1 << bit for bit in (0, 1, 7, 8, 9, 11, 12, 13, 15, 21, 22, 26, 28, 29, 30, 32))
# MQ, LOG_SHMFD, REPLY_ACK
PROTOCOL_FEATURES = 1 << 0 | 1 << 1 | 1 << 3


def answer(request: int, body: bytes, features: int) -> bytes | None:
    """The reply's body, or None where a request has none."""
    if request == GET_FEATURES:
        return struct.pack("<Q", features)
    if request == GET_PROTOCOL_FEATURES:
        return struct.pack("<Q", PROTOCOL_FEATURES)
    if request == GET_QUEUE_NUM:
        return struct.pack("<Q", 8)
    if request == GET_VRING_BASE:
        index, _ = struct.unpack("<II", body)
        return struct.pack("<II", index, 0)
    return None


class SilentBackends:
    """``with SilentBackends([path, ...]):`` the paths listen until the block ends."""

    def __init__(self, paths: list[Path], features: int = FEATURES) -> None:
        self.features = features
        self.accepted: dict[Path, int] = dict.fromkeys(paths, 0)
        self.memory_tables = 0
        self._selector = selectors.DefaultSelector()
        self._stop_read, self._stop_write = os.pipe()
        self._selector.register(self._stop_read, selectors.EVENT_READ, None)
        for path in paths:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen()
            self._selector.register(listener, selectors.EVENT_READ, path)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> SilentBackends:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._stop_write, b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        os.close(self._stop_read)
        os.close(self._stop_write)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == self._stop_read:
                    return
                assert isinstance(key.fileobj, socket.socket)
                if isinstance(key.data, Path):
                    connection, _ = key.fileobj.accept()
                    self.accepted[key.data] += 1
                    self._selector.register(connection, selectors.EVENT_READ, None)
                elif not self._serve(key.fileobj):
                    self._selector.unregister(key.fileobj)
                    key.fileobj.close()

    def _serve(self, connection: socket.socket) -> bool:
        """One message; False at the connection's end."""
        try:
            header, fds, _, _ = socket.recv_fds(connection, HEADER.size, 8)
            for fd in fds:
                os.close(fd)
            if len(header) < HEADER.size:
                return False
            request, flags, size = HEADER.unpack(header)
            body = connection.recv(size, socket.MSG_WAITALL) if size else b""
            if request == 5:
                self.memory_tables += 1
            reply = answer(request, body, self.features)
            if reply is None and flags & NEED_REPLY:
                reply = struct.pack("<Q", 0)
            if reply is not None:
                connection.sendall(HEADER.pack(request, VERSION | REPLY, len(reply)) + reply)
        except OSError:
            return False
        return True
