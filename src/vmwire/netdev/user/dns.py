# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The DNS relay of the user network, without I/O: guests' queries to the host's resolvers.

Theory of operation. A query of a guest becomes *pending*: it goes out under a random id of our own
through one of a few upstream sockets, each of which is connected to one resolver. The answer is
known by socket, id and question together, gets the guest's id back, and is passed on otherwise as
it came, whatever its size. If a resolver says nothing for `ATTEMPT_S`, can't be reached, or
declines (SERVFAIL, NOTIMP, REFUSED), the next one is asked; a lone resolver is asked twice. When
all have failed the guest gets SERVFAIL, or what the last resolver said. A resolver that answered
where another had failed is asked first for a while.

Sockets are shared, at most `MAX_PER_RESOLVER` each and `MAX_SOCKETS` in all; one is retired after
`MAX_USES` queries, so that a forged answer has to guess a port that doesn't stay, and closed when
it has been idle. A guest that repeats a pending query has it sent again, without a second entry.

Limits: 512 pending queries, 256 of one guest; beyond them a query is dropped, as on a busy
network, and the guest asks again.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from vmwire.wire.protocols import dns
from vmwire.wire.protocols.errors import ParseError

MAX_PENDING = 512
MAX_PENDING_PER_GUEST = 256
MAX_SOCKETS = 16
MAX_PER_RESOLVER = 4
MAX_USES = 64
ATTEMPT_S = 5.0
MIN_ATTEMPTS = 2
MAX_ATTEMPTS = 4
IDLE_S = 10.0
PREFERENCE_S = 60.0

_DECLINED = frozenset((dns.SERVFAIL, dns.NOTIMP, dns.REFUSED))


class Resolver(NamedTuple):
    """A DNS server of the host's. `scope` is the interface of a link-local IPv6 address."""

    address: str
    port: int = dns.PORT
    scope: str = ""


class Client(NamedTuple):
    """Where a query came from."""

    address: bytes
    port: int


class Answer(NamedTuple):
    """A message for a guest."""

    client: Client
    message: bytes


class Upstreams(Protocol):
    """The sockets toward the resolvers. None of these raises for what the host refuses."""

    def open(self, resolver: Resolver) -> int | None:
        """A new socket, connected to the resolver from a random port; None: the host refuses."""

    def send(self, handle: int, message: bytes) -> bool:
        """Send on a socket; False if the host refuses."""

    def close(self, handle: int) -> None:
        """Close a socket that `open` gave."""


@dataclass(slots=True)
class _Socket:
    resolver: Resolver
    last_used: float
    uses: int = 0
    pending: int = 0


@dataclass(slots=True, eq=False)
class _Query:
    """A guest's query; `key` and `deadline` are those of the attempt that is under way."""

    client: Client
    message: bytes
    question: dns.Question
    tried: list[Resolver] = field(default_factory=list)
    key: tuple[int, int] = (-1, -1)
    deadline: float = 0.0
    declined: bytes | None = None

    @property
    def identity(self) -> tuple[Client, int, bytes]:
        return (self.client, dns.peek_id(self.message), self.question.wire)


class DnsRelay:
    """Feed it queries, answers, socket failures and time; send the answers it returns.

    `resolvers()` is asked anew for each attempt, so that changes on the host take effect at once;
    `random_id()` gives 16 unpredictable bits.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        resolvers: Callable[[], Sequence[Resolver]],
        random_id: Callable[[], int],
    ) -> None:
        self._upstreams = upstreams
        self._resolvers = resolvers
        self._random_id = random_id
        self._pending: dict[tuple[int, int], _Query] = {}  # in order of their deadlines
        self._by_identity: dict[tuple[Client, int, bytes], _Query] = {}
        self._per_guest: Counter[bytes] = Counter()
        self._sockets: dict[int, _Socket] = {}
        self._preferred: Resolver | None = None
        self._preferred_until = 0.0
        self.drops: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def sockets(self) -> int:
        return len(self._sockets)

    # Events

    def query(self, client: Client, message: bytes, now: float) -> list[Answer]:
        """Take a guest's query; what comes back at once is only ever a failure."""
        try:
            header = dns.Header.parse(message)
        except ParseError:
            return self._drop("malformed DNS query")
        if header.is_response:
            return self._drop("DNS answer from a guest")
        try:
            question = dns.parse_question(message)
        except ParseError:
            self._drop("malformed DNS query")
            return [Answer(client, dns.failure(message, dns.FORMERR))]
        query = _Query(client, bytes(message), question)
        if (repeated := self._by_identity.get(query.identity)) is not None:
            self._upstreams.send(repeated.key[0], dns.with_id(message, repeated.key[1]))
            return []
        if len(self._pending) >= MAX_PENDING:
            return self._drop("too many DNS queries")
        if self._per_guest[client.address] >= MAX_PENDING_PER_GUEST:
            return self._drop("too many DNS queries of one guest")
        return [] if self._forward(query, now) else [self._give_up(query)]

    def answer(self, handle: int, message: bytes, now: float) -> list[Answer]:
        """Take a message that arrived on an upstream socket."""
        try:
            header = dns.Header.parse(message)
        except ParseError:
            return self._drop("malformed DNS answer")
        query = self._pending.get((handle, header.id))
        if query is None or not _fits(query.question, header, message):
            return self._drop("DNS answer to no question")
        self._unregister(query)
        restored = dns.with_id(message, dns.peek_id(query.message))
        if header.rcode in _DECLINED:
            query.declined = restored
            if self._untried(query, now) is not None and self._forward(query, now):
                return []
        elif len(query.tried) > 1:
            self._preferred, self._preferred_until = query.tried[-1], now + PREFERENCE_S
        return [Answer(query.client, restored)]

    def failed(self, handle: int, now: float) -> list[Answer]:
        """Take notice that a socket reported an error: its queries go elsewhere."""
        hit = [query for (socket, _), query in self._pending.items() if socket == handle]
        return self._retry(hit, now)

    def next_deadline(self) -> float | None:
        """When `expire` has something to do."""
        deadlines = [s.last_used + IDLE_S for s in self._sockets.values() if not s.pending]
        first = next(iter(self._pending.values()), None)
        if first is not None:
            deadlines.append(first.deadline)
        return min(deadlines, default=None)

    def expire(self, now: float) -> list[Answer]:
        """Ask the next resolver for what has waited long enough; close idle sockets."""
        late = []
        for query in self._pending.values():
            if query.deadline > now:
                break
            late.append(query)
        answers = self._retry(late, now)
        for handle, socket in list(self._sockets.items()):
            if not socket.pending and socket.last_used + IDLE_S <= now:
                self._close(handle)
        return answers

    def close(self) -> None:
        """Close all sockets and forget all queries."""
        self._pending.clear()
        self._by_identity.clear()
        self._per_guest.clear()
        for handle in list(self._sockets):
            self._close(handle)

    # Attempts

    def _retry(self, queries: list[_Query], now: float) -> list[Answer]:
        answers = []
        for query in queries:
            self._unregister(query)
            if query.tried[-1] == self._preferred:
                self._preferred = None
            if not self._forward(query, now):
                answers.append(self._give_up(query))
        return answers

    def _forward(self, query: _Query, now: float) -> bool:
        """Send the query to the first resolver left that takes it; False if none is left."""
        while (resolver := self._next_resolver(query, now)) is not None:
            query.tried.append(resolver)
            handle = self._socket_for(resolver, now)
            if handle is None:
                continue
            ident = self._new_id(handle)
            if self._upstreams.send(handle, dns.with_id(query.message, ident)):
                self._register(query, handle, ident, now)
                return True
        return False

    def _next_resolver(self, query: _Query, now: float) -> Resolver | None:
        if len(query.tried) >= MAX_ATTEMPTS:
            return None
        if (untried := self._untried(query, now)) is not None:
            return untried
        known = self._resolvers()
        return known[0] if known and len(query.tried) < MIN_ATTEMPTS else None

    def _untried(self, query: _Query, now: float) -> Resolver | None:
        left = [resolver for resolver in self._resolvers() if resolver not in query.tried]
        if self._preferred in left and now < self._preferred_until:
            return self._preferred
        return left[0] if left else None

    def _give_up(self, query: _Query) -> Answer:
        self.drops["DNS query that no resolver answered"] += 1
        return Answer(query.client, query.declined or dns.failure(query.message, dns.SERVFAIL))

    def _drop(self, reason: str) -> list[Answer]:
        self.drops[reason] += 1
        return []

    # Books

    def _register(self, query: _Query, handle: int, ident: int, now: float) -> None:
        query.key = (handle, ident)
        query.deadline = now + ATTEMPT_S
        self._pending[query.key] = query
        self._by_identity[query.identity] = query
        self._per_guest[query.client.address] += 1
        socket = self._sockets[handle]
        socket.uses += 1
        socket.pending += 1
        socket.last_used = now

    def _unregister(self, query: _Query) -> None:
        del self._pending[query.key]
        del self._by_identity[query.identity]
        self._per_guest[query.client.address] -= 1
        if not self._per_guest[query.client.address]:
            del self._per_guest[query.client.address]
        handle = query.key[0]
        socket = self._sockets[handle]
        socket.pending -= 1
        if socket.uses >= MAX_USES and not socket.pending:
            self._close(handle)

    def _new_id(self, handle: int) -> int:
        ident = self._random_id()
        while (handle, ident) in self._pending:
            ident = self._random_id()
        return ident

    # Sockets

    def _socket_for(self, resolver: Resolver, now: float) -> int | None:
        """A socket for the next query to the resolver: a new one while there may be more."""
        if self._count(resolver) < MAX_PER_RESOLVER and self._make_room():
            handle = self._upstreams.open(resolver)
            if handle is not None:
                self._sockets[handle] = _Socket(resolver, now)
                return handle
        mine = [handle for handle, s in self._sockets.items() if s.resolver == resolver]
        return min(mine, key=lambda handle: self._sockets[handle].uses, default=None)

    def _count(self, resolver: Resolver) -> int:
        return sum(socket.resolver == resolver for socket in self._sockets.values())

    def _make_room(self) -> bool:
        """Whether one more socket may be opened; closes an idle one for it if need be."""
        if len(self._sockets) < MAX_SOCKETS:
            return True
        idle = next((handle for handle, s in self._sockets.items() if not s.pending), None)
        if idle is None:
            return False
        self._close(idle)
        return True

    def _close(self, handle: int) -> None:
        del self._sockets[handle]
        self._upstreams.close(handle)


def _fits(asked: dns.Question, header: dns.Header, message: bytes) -> bool:
    """Whether an answer is one to the question; only an error may come without a question."""
    if not header.is_response:
        return False
    if header.questions == 0:
        return header.rcode != dns.NOERROR
    try:
        return asked.matches(dns.parse_question(message))
    except ParseError:
        return False
