# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The host's side of a guest's datagrams: its sockets, and sending through them in bursts.

An *endpoint* is a socket that stands for one address and port of a guest: one of its own, made
when the guest first sends from there, or a listener that is forwarded to it. A *path* leads from
an endpoint to one peer. Datagrams of a burst gather on their paths; runs of one size then leave by
one call (``UDP_SEGMENT``, Linux 4.18), where the route takes them.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from struct import Struct

from vmwire.netdev.mmsg import SOL_UDP, UDP_SEGMENT
from vmwire.netdev.user.datagram_reader import (
    FIRST_STRIDE,
    IP_PKTINFO,
    MAX_RUN,
    MAX_SEGMENTS,
    ask_for_runs,
)
from vmwire.netdev.user.host_errors import HostError, ask_for_errors, read_errors
from vmwire.wire.frame import View

PACKET_INFO = Struct("=I4s4s")
SEGMENT_SIZE = Struct("=H")

BUFFER = 4 << 20
"""What sockets ask for in each direction; the host's limits decide."""

IDLE_S = 240.0
"""QEMU's; RFC 4787 4.3 asks for two minutes at least."""
QUERY_IDLE_S = 20.0
"""For who only asked name servers: one question, one answer."""
DNS_PORT = 53

UNREACHABLE_CODE = {
    errno.ENETUNREACH: 0,
    errno.EHOSTUNREACH: 1,
    errno.ECONNREFUSED: 3,
    errno.EACCES: 13,
    errno.EPERM: 13,
}
"""ICMP destination-unreachable codes for what a send says (RFC 792, RFC 1812 5.2.7.1)."""
NO_SEGMENTATION = frozenset((errno.EINVAL, errno.EIO, errno.EMSGSIZE))
"""What a send says that can't cut a run: the route's MTU is too small, the device can't sum."""
FULL = frozenset((errno.EAGAIN, errno.ENOBUFS))

FLAGS = socket.MSG_DONTWAIT

Buffer = bytes | View
Ancillary = list[tuple[int, int, bytes]]


class Endpoint:
    """A socket of the host for one address and port of a guest."""

    __slots__ = (
        "closed",
        "fd",
        "guest",
        "guest_port",
        "idle_s",
        "key",
        "listening",
        "paths",
        "sock",
        "stride",
        "used",
    )

    def __init__(self, sock: socket.socket, guest: bytes, guest_port: int, listening: bool) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.guest = guest
        self.guest_port = guest_port
        self.key = guest + guest_port.to_bytes(2, "big")
        self.listening = listening
        self.paths: dict[bytes, Path] = {}
        self.stride = FIRST_STRIDE
        self.used = 0.0
        self.idle_s = IDLE_S
        self.closed = False


class Path:
    """The way from an endpoint to one peer, and what waits to go there."""

    __slots__ = (
        "address",
        "ancillary",
        "datagrams",
        "endpoint",
        "head",
        "key",
        "local",
        "segments",
        "used",
    )

    def __init__(
        self, endpoint: Endpoint, key: bytes, address: tuple[str, int], local: bytes = b""
    ) -> None:
        """``key`` is guest address, peer (as the guest sees it), guest port, peer's port.

        ``local``: the host's address that datagrams are to come from.
        """
        self.endpoint = endpoint
        self.key = key
        self.address = address
        self.ancillary: Ancillary = []
        if local:
            info = PACKET_INFO.pack(0, local, bytes(4))
            self.ancillary.append((socket.IPPROTO_IP, IP_PKTINFO, info))
        self.datagrams: list[Buffer] = []
        self.segments = segmentation_works()
        self.local = local
        self.head = b""
        """The first bytes of the last frame of the guest that went here: errors quote it."""
        self.used = 0.0

    def leads(self, address: tuple[str, int], local: bytes) -> bool:
        """Whether this is the way to ``address`` from the host's address ``local``."""
        return self.address == address and self.local == local


def segmentation_works() -> bool:
    """Whether this kernel cuts runs (UDP_SEGMENT)."""
    if not _segmentation:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.getsockopt(SOL_UDP, UDP_SEGMENT)
            except OSError:
                _segmentation.append(False)
            else:
                _segmentation.append(True)
    return _segmentation[0]


_segmentation: list[bool] = []


def open_socket() -> socket.socket:
    """Make the socket of a guest's endpoint. Its port is chosen with the first datagram."""
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_INET, kind)
    prepare(sock)
    return sock


def prepare(sock: socket.socket) -> None:
    """Give a socket what both kinds of endpoint have."""
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    ask_for_errors(sock)
    ask_for_runs(sock)


def runs(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut a burst into (start, stop) of runs: one size, the last of a run may be shorter.

    >>> list(runs([64, 64, 10, 64, 70]))
    [(0, 3), (3, 4), (4, 5)]
    """
    start = 0
    while start < len(sizes):
        size = sizes[start]
        stop = start + 1
        longest = min(len(sizes), start + max(1, min(MAX_SEGMENTS, MAX_RUN // max(size, 1))))
        while stop < longest and sizes[stop] == size and size:
            stop += 1
        if stop < longest and 0 < sizes[stop] < size:
            stop += 1
        yield start, stop
        start = stop


class Sender:
    """Sends what waits on paths, and tells about errors.

    ``unreachable(head, code)`` is called with the frame of the guest that an error is about.
    ``paths`` finds the path that an error on an endpoint's socket is about.
    """

    def __init__(
        self,
        counters: Counter[str],
        path_of: Callable[[Endpoint, HostError], Path | None],
        unreachable: Callable[[bytes, int], None],
    ) -> None:
        self._counters = counters
        self._path_of = path_of
        self._unreachable = unreachable

    def flush(self, path: Path, now: float) -> None:
        """Send all that waits on ``path``."""
        datagrams = path.datagrams
        path.datagrams = []
        path.used = path.endpoint.used = now
        if len(datagrams) == 1:
            self._send(path, datagrams, 0, 1)
            return
        for start, stop in runs([len(datagram) for datagram in datagrams]):
            if stop - start > 1 and path.segments:
                self._send(path, datagrams[start:stop], len(datagrams[start]), stop - start)
            else:
                self._send_singly(path, datagrams[start:stop])

    def superframe(
        self, path: Path, views: Sequence[View], total: int, size: int, now: float
    ) -> None:
        """Send a guest's superframe of ``total`` bytes in datagrams of ``size``."""
        if path.datagrams:
            self.flush(path, now)
        path.used = path.endpoint.used = now
        if path.segments and total <= min(MAX_RUN, MAX_SEGMENTS * size):
            self._send(path, views, size, -(-total // size))
            return
        data = memoryview(b"".join(views))
        path.datagrams = [data[at : at + size] for at in range(0, total, size)]
        self.flush(path, now)

    def _send_singly(self, path: Path, datagrams: Sequence[Buffer]) -> None:
        for datagram in datagrams:
            self._send(path, (datagram,), 0, 1)

    def _send(self, path: Path, buffers: Sequence[Buffer], size: int, count: int) -> None:
        """Send one datagram, or ``count`` of them by one call, in pieces of ``size``."""
        error = self._try(path, buffers, size)
        if error and error not in FULL and self.read_errors(path.endpoint):
            # the complaint was about an earlier datagram
            error = self._try(path, buffers, size)
        if not error:
            self._counters["datagrams out"] += count
        elif count > 1 and error in NO_SEGMENTATION:
            path.segments = False
            self._counters["segmentation refused"] += 1
            whole = memoryview(b"".join(buffers))
            for at in range(0, len(whole), size):
                self._send(path, (whole[at : at + size],), 0, 1)
        else:
            self._lost(path, error, count)

    def _try(self, path: Path, buffers: Sequence[Buffer], size: int) -> int:
        """Return 0, or the error's number."""
        try:
            if size:
                cut = (SOL_UDP, UDP_SEGMENT, SEGMENT_SIZE.pack(size))
                path.endpoint.sock.sendmsg(buffers, (*path.ancillary, cut), FLAGS, path.address)
            elif path.ancillary:
                path.endpoint.sock.sendmsg(buffers, path.ancillary, FLAGS, path.address)
            else:
                path.endpoint.sock.sendto(buffers[0], FLAGS, path.address)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _lost(self, path: Path, error: int, count: int) -> None:
        if error in FULL:
            self._counters["host socket full"] += count
            return
        self._counters[f"send {errno.errorcode.get(error, str(error))}"] += count
        code = UNREACHABLE_CODE.get(error)
        if code is not None:
            self._unreachable(path.head, code)

    def read_errors(self, endpoint: Endpoint) -> int:
        """Tell guests about the ICMP errors that a socket has; return how many there were."""
        count = 0
        for error in read_errors(endpoint.sock):
            count += 1
            path = self._path_of(endpoint, error)
            # the kernel itself answers "fragmentation needed" (code 4), by smaller fragments
            if path is not None and path.head and error.type == 3 and error.code != 4:
                self._counters["unreachable"] += 1
                self._unreachable(path.head, error.code)
        return count
