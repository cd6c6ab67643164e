# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The DNS relay on the host's side: its UDP sockets on the engine's loop, and one timer."""

import secrets
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count

from vmwire.engine.clock import Timer
from vmwire.engine.loop import READ, Loop
from vmwire.netdev.user.dns import Answer, Client, DnsRelay, Resolver

MAX_MESSAGE = 0xFFFF
ANSWERS_A_TURN = 32  # of one socket, so that a flood can't hold the loop


class UpstreamSockets:
    """The relay's `Upstreams`: each handle is one connected UDP socket.

    A connected socket hears its resolver only, and hears of it when the resolver refuses.
    """

    def __init__(
        self,
        loop: Loop,
        on_message: Callable[[int, bytes], None],
        on_failure: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._on_message = on_message
        self._on_failure = on_failure
        self._handles = count()
        self.counters: Counter[str] = Counter()
        self._sockets: dict[int, socket.socket] = {}

    def open(self, resolver: Resolver) -> int | None:
        try:
            sock = connected_socket(resolver)
        except OSError:
            return None
        handle = next(self._handles)
        try:
            self._loop.watch(sock.fileno(), READ, lambda events: self._on_readable(handle, sock))
        except OSError:
            self.counters["no socket"] += 1
            sock.close()
            return None
        self._sockets[handle] = sock
        return handle

    def send(self, handle: int, message: bytes) -> bool:
        sock = self._sockets[handle]
        try:
            try:
                sock.send(message)
            except ConnectionRefusedError:
                sock.send(message)  # the first call only told of an earlier message's fate
        except OSError:
            return False
        return True

    def close(self, handle: int) -> None:
        sock = self._sockets.pop(handle)
        self._loop.unwatch(sock.fileno())
        sock.close()

    def _on_readable(self, handle: int, sock: socket.socket) -> None:
        for _ in range(ANSWERS_A_TURN):
            try:
                message = sock.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                self._on_failure(handle)
            else:
                self._on_message(handle, message)
            if handle not in self._sockets:  # the relay has closed it meanwhile
                return


class DnsService:
    """The relay at work. `deliver(guest address, guest port, message)` takes the answers."""

    def __init__(
        self,
        loop: Loop,
        resolvers: Callable[[], Sequence[Resolver]],
        deliver: Callable[[bytes, int, bytes], None],
    ) -> None:
        self._loop = loop
        self._deliver = deliver
        self._timer: Timer | None = None
        self._upstreams = UpstreamSockets(loop, self._on_message, self._on_failure)
        self.relay = DnsRelay(self._upstreams, resolvers, lambda: secrets.randbits(16))

    def query(self, address: bytes, port: int, message: bytes) -> None:
        """Relay a guest's query."""
        self._finish(self.relay.query(Client(address, port), message, self._loop.now()))

    def stats(self) -> dict[str, int]:
        """Return numbers of now and counters, as plain data."""
        now = {"pending": len(self.relay), "sockets": self.relay.sockets}
        return now | dict(self.relay.drops) | dict(self._upstreams.counters)

    def close(self) -> None:
        """Close the sockets; queries that are under way are forgotten."""
        self.relay.close()
        self._disarm()

    def _on_message(self, handle: int, message: bytes) -> None:
        self._finish(self.relay.answer(handle, message, self._loop.now()))

    def _on_failure(self, handle: int) -> None:
        self._finish(self.relay.failed(handle, self._loop.now()))

    def _on_timer(self) -> None:
        self._timer = None
        self._finish(self.relay.expire(self._loop.now()))

    def _finish(self, answers: list[Answer]) -> None:
        for client, message in answers:
            self._deliver(client.address, client.port, message)
        self._arm()

    def _arm(self) -> None:
        """Have the timer run by the next deadline; one that runs too early sets itself again."""
        deadline = self.relay.next_deadline()
        if deadline is None:
            self._disarm()
        elif self._timer is None or self._timer.when > deadline:
            self._disarm()
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def connected_socket(resolver: Resolver) -> socket.socket:
    """A non-blocking UDP socket from a random port to the resolver."""
    address: tuple[str, int] | tuple[str, int, int, int] = (resolver.address, resolver.port)
    family = socket.AF_INET
    if ":" in resolver.address:
        family = socket.AF_INET6
        scope = socket.if_nametoindex(resolver.scope) if resolver.scope else 0
        address = (resolver.address, resolver.port, 0, scope)
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock
