# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmwire.netdev.user.dns import (
    ATTEMPT_S,
    IDLE_S,
    MAX_ATTEMPTS,
    MAX_PENDING,
    MAX_PENDING_PER_GUEST,
    MAX_PER_RESOLVER,
    MAX_SOCKETS,
    MAX_USES,
    PREFERENCE_S,
    Answer,
    Client,
    DnsRelay,
    Resolver,
)
from vmwire.wire.protocols import dns

QUERY = bytes.fromhex("abcd0100000100000000000001610262630000010001")
ANSWER = bytes.fromhex(
    "abcd8180000100010000000001610262630000010001c00c000100010000003c000401020304"
)
GUEST = Client(bytes([10, 0, 2, 15]), 4200)
ONE, TWO, THREE = (Resolver(f"192.0.2.{n}") for n in (1, 2, 3))


class FakeUpstreams:
    """Sockets that keep what is sent, for the test to answer."""

    def __init__(self) -> None:
        self.opened: dict[int, Resolver] = {}
        self.sent: list[tuple[int, Resolver, bytes]] = []
        self.refused: set[Resolver] = set()
        self.unopenable: set[Resolver] = set()
        self._handles: Iterator[int] = iter(range(1_000_000))

    def open(self, resolver: Resolver) -> int | None:
        if resolver in self.unopenable:
            return None
        handle = next(self._handles)
        self.opened[handle] = resolver
        assert len(self.opened) <= MAX_SOCKETS
        return handle

    def send(self, handle: int, message: bytes) -> bool:
        resolver = self.opened[handle]
        if resolver in self.refused:
            return False
        self.sent.append((handle, resolver, message))
        return True

    def close(self, handle: int) -> None:
        del self.opened[handle]


class Bench:
    """A relay with hand-driven sockets."""

    def __init__(self, *resolvers: Resolver) -> None:
        self.upstreams = FakeUpstreams()
        self.resolvers = list(resolvers) or [ONE]
        ids = iter(range(0x1000, 0x1000000))
        self.relay = DnsRelay(self.upstreams, lambda: self.resolvers, lambda: next(ids) & 0xFFFF)

    def ask(self, client: Client = GUEST, message: bytes = QUERY, now: float = 0) -> list[Answer]:
        return self.relay.query(client, message, now)

    def reply(self, message: bytes = ANSWER, at: int = -1, now: float = 0) -> list[Answer]:
        """Answer what was sent, with the id that it was sent with."""
        handle, _, query = self.upstreams.sent[at]
        return self.relay.answer(handle, dns.with_id(message, dns.peek_id(query)), now)

    @property
    def asked(self) -> list[Resolver]:
        return [resolver for _, resolver, _ in self.upstreams.sent]


def with_flags(message: bytes, flags: int) -> bytes:
    return message[:2] + flags.to_bytes(2, "big") + message[4:]


def numbered(number: int) -> bytes:
    return dns.with_id(QUERY, number)


SERVFAIL = dns.failure(QUERY, dns.SERVFAIL)


def test_query_goes_out_under_an_id_of_our_own() -> None:
    bench = Bench()
    assert bench.ask() == []
    [(_, resolver, sent)] = bench.upstreams.sent
    assert resolver == ONE
    assert sent == dns.with_id(QUERY, 0x1000)


def test_answer_comes_back_under_the_guests_id() -> None:
    bench = Bench()
    bench.ask()
    assert bench.reply() == [Answer(GUEST, ANSWER)]
    assert len(bench.relay) == 0


def test_oversized_and_truncated_answers_pass_as_they_are() -> None:
    bench = Bench()
    for message in (ANSWER + bytes(60000), with_flags(ANSWER, 0x8380)):
        bench.ask()
        assert bench.reply(message) == [Answer(GUEST, message)]


def test_two_guests_with_one_id_and_port_are_told_apart() -> None:
    bench = Bench()
    other = Client(bytes([10, 0, 2, 16]), GUEST.port)
    bench.ask()
    bench.ask(other)
    assert bench.reply(at=1) == [Answer(other, ANSWER)]
    assert bench.reply(at=0) == [Answer(GUEST, ANSWER)]


def test_answer_differing_in_case_is_accepted() -> None:
    bench = Bench()
    bench.ask()
    shouted = ANSWER[:12] + ANSWER[12:22].upper() + ANSWER[22:]
    assert shouted != ANSWER
    assert bench.reply(shouted) == [Answer(GUEST, shouted)]


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(ANSWER.replace(b"bc", b"xx"), id="another name"),
        pytest.param(ANSWER[:21] + b"\x02" + ANSWER[22:], id="another class"),
        pytest.param(QUERY, id="no answer at all"),
        pytest.param(ANSWER[:15], id="cut within the question"),
        pytest.param(with_flags(ANSWER, 0x8180)[:4] + bytes(8), id="success without question"),
    ],
)
def test_answer_that_does_not_fit_is_dropped_and_the_query_goes_on(forged: bytes) -> None:
    bench = Bench()
    bench.ask()
    assert bench.reply(forged) == []
    assert bench.relay.drops == {"DNS answer to no question": 1}
    assert bench.reply() == [Answer(GUEST, ANSWER)]


def test_answer_with_wrong_id_or_on_another_socket_is_dropped() -> None:
    bench = Bench()
    bench.ask()
    bench.ask(message=numbered(2))
    (first, _, _), (second, _, _) = bench.upstreams.sent
    assert first != second
    assert bench.relay.answer(first, dns.with_id(ANSWER, 0x1001), 0) == []
    assert bench.relay.answer(second, dns.with_id(ANSWER, 0x1000), 0) == []
    assert bench.relay.answer(first, ANSWER[:11], 0) == []
    assert len(bench.relay) == 2


def test_second_answer_is_dropped() -> None:
    bench = Bench()
    bench.ask()
    bench.reply()
    assert bench.reply() == []


def test_error_without_question_is_passed_on() -> None:
    bench = Bench()
    bench.ask()
    formerr = bytes.fromhex("abcd81810000000000000000")
    assert bench.reply(formerr) == [Answer(GUEST, formerr)]


def test_silent_resolver_is_followed_by_the_next() -> None:
    bench = Bench(ONE, TWO)
    bench.ask(now=0)
    assert bench.relay.next_deadline() == ATTEMPT_S
    assert bench.relay.expire(ATTEMPT_S - 0.1) == []
    assert bench.asked == [ONE]
    assert bench.relay.expire(ATTEMPT_S) == []
    assert bench.asked == [ONE, TWO]
    assert bench.reply(now=6) == [Answer(GUEST, ANSWER)]


def test_second_attempt_waits_behind_younger_queries() -> None:
    bench = Bench()
    bench.ask(now=0)
    bench.ask(message=numbered(2), now=1)
    bench.relay.expire(ATTEMPT_S)
    assert bench.relay.next_deadline() == 1 + ATTEMPT_S
    bench.relay.expire(1 + ATTEMPT_S)
    assert bench.relay.next_deadline() == 2 * ATTEMPT_S


def test_late_answer_of_the_first_resolver_is_dropped() -> None:
    bench = Bench(ONE, TWO)
    bench.ask()
    bench.relay.expire(ATTEMPT_S)
    assert bench.reply(at=0) == []


def test_servfail_when_all_were_silent() -> None:
    bench = Bench(ONE, TWO)
    bench.ask()
    bench.relay.expire(ATTEMPT_S)
    assert bench.relay.expire(2 * ATTEMPT_S) == [Answer(GUEST, SERVFAIL)]
    assert len(bench.relay) == 0
    assert bench.relay.drops == {"DNS query that no resolver answered": 1}


def test_lone_resolver_is_asked_twice() -> None:
    bench = Bench()
    bench.ask()
    bench.relay.expire(ATTEMPT_S)
    assert bench.asked == [ONE, ONE]
    assert bench.relay.expire(2 * ATTEMPT_S) == [Answer(GUEST, SERVFAIL)]


def test_attempts_are_bounded_however_many_resolvers_there_are() -> None:
    bench = Bench(*(Resolver(f"192.0.2.{n}") for n in range(100)))
    bench.ask()
    for round_number in range(1, 100):
        if bench.relay.expire(round_number * ATTEMPT_S):
            break
    assert len(bench.asked) == MAX_ATTEMPTS


def test_refusing_socket_sends_its_queries_to_the_next_at_once() -> None:
    bench = Bench(ONE, TWO)
    bench.ask()
    handle = bench.upstreams.sent[0][0]
    assert bench.relay.failed(handle, 0.1) == []
    assert bench.asked == [ONE, TWO]
    assert bench.relay.failed(bench.upstreams.sent[1][0], 0.2) == [Answer(GUEST, SERVFAIL)]


def test_failure_of_a_socket_without_queries_is_nothing() -> None:
    assert Bench().relay.failed(77, 0) == []


@pytest.mark.parametrize("way", ["refused", "unopenable"])
def test_host_that_refuses_all_gives_servfail_at_once(way: str) -> None:
    bench = Bench(ONE, TWO)
    getattr(bench.upstreams, way).update((ONE, TWO))
    assert bench.ask() == [Answer(GUEST, SERVFAIL)]
    assert len(bench.relay) == 0


def test_no_resolver_gives_servfail() -> None:
    bench = Bench()
    bench.resolvers.clear()
    assert bench.ask() == [Answer(GUEST, SERVFAIL)]


@pytest.mark.parametrize("rcode", [dns.SERVFAIL, dns.NOTIMP, dns.REFUSED])
def test_resolver_that_declines_is_followed_by_the_next(rcode: int) -> None:
    bench = Bench(ONE, TWO)
    bench.ask()
    declined = dns.failure(QUERY, rcode)
    assert bench.reply(declined) == []
    assert bench.asked == [ONE, TWO]
    assert bench.reply(declined) == [Answer(GUEST, declined)]


def test_what_a_resolver_said_is_better_than_silence() -> None:
    bench = Bench(ONE, TWO)
    bench.ask()
    refused = dns.failure(QUERY, dns.REFUSED)
    bench.reply(refused)
    assert bench.relay.expire(ATTEMPT_S) == [Answer(GUEST, refused)]


def test_no_such_domain_is_an_answer() -> None:
    bench = Bench(ONE, TWO)
    bench.ask()
    missing = dns.failure(QUERY, dns.NXDOMAIN)
    assert bench.reply(missing) == [Answer(GUEST, missing)]
    assert bench.asked == [ONE]


def test_resolver_that_helped_out_is_asked_first_for_a_while() -> None:
    bench = Bench(ONE, TWO)
    bench.ask()
    bench.relay.expire(ATTEMPT_S)
    bench.reply(now=ATTEMPT_S)
    bench.ask(now=6)
    assert bench.asked[-1] == TWO
    bench.reply(now=6)
    bench.ask(now=ATTEMPT_S + PREFERENCE_S)
    assert bench.asked[-1] == ONE


def test_helper_that_fails_in_turn_is_no_longer_first() -> None:
    bench = Bench(ONE, TWO)
    bench.ask()
    bench.relay.expire(ATTEMPT_S)
    bench.reply(now=ATTEMPT_S)
    bench.ask(now=6)
    bench.relay.expire(6 + ATTEMPT_S)
    assert bench.asked[-2:] == [TWO, ONE]
    bench.ask(message=numbered(9), now=12)
    assert bench.asked[-1] == ONE


def test_changed_resolvers_take_effect_with_the_next_attempt() -> None:
    bench = Bench(ONE)
    bench.ask()
    bench.resolvers[:] = [THREE]
    bench.relay.expire(ATTEMPT_S)
    bench.ask(message=numbered(5), now=ATTEMPT_S)
    assert bench.asked == [ONE, THREE, THREE]


def test_repeated_query_is_sent_again_but_pending_once() -> None:
    bench = Bench()
    bench.ask()
    assert bench.ask(now=1) == []
    assert len(bench.relay) == 1
    assert bench.upstreams.sent[0] == bench.upstreams.sent[1]
    assert bench.reply() == [Answer(GUEST, ANSWER)]
    assert bench.relay.next_deadline() == 0 + IDLE_S


def test_one_guest_cannot_take_the_whole_table() -> None:
    bench = Bench()
    for number in range(1000):
        bench.ask(message=numbered(number))
    assert len(bench.relay) == MAX_PENDING_PER_GUEST
    bench.ask(Client(bytes([10, 0, 2, 16]), 1))
    assert len(bench.relay) == MAX_PENDING_PER_GUEST + 1
    assert bench.relay.drops == {"too many DNS queries of one guest": 1000 - MAX_PENDING_PER_GUEST}


def test_thousand_queries_to_a_dead_upstream_stay_bounded_and_end_in_servfail() -> None:
    bench = Bench(ONE, TWO, THREE)
    for number in range(1000):
        bench.ask(Client(bytes([10, 0, 2, number % 8]), 1000), numbered(number))
    assert len(bench.relay) == MAX_PENDING
    assert len(bench.upstreams.opened) <= MAX_SOCKETS
    answers: list[Answer] = []
    for second in range(1, 31):
        answers += bench.relay.expire(float(second))
    assert len(answers) == MAX_PENDING
    assert {dns.Header.parse(a.message).rcode for a in answers} == {dns.SERVFAIL}
    assert (len(bench.relay), bench.relay.sockets) == (0, 0)
    assert bench.relay.next_deadline() is None
    assert bench.ask(now=40) == [], "and it works again"


def test_sockets_are_spread_over_retired_and_closed() -> None:
    bench = Bench()
    for number in range(MAX_USES * MAX_PER_RESOLVER * 3):
        bench.ask(message=numbered(number))
        bench.reply()
        assert len(bench.upstreams.opened) <= MAX_PER_RESOLVER
    assert len({handle for handle, _, _ in bench.upstreams.sent}) >= MAX_PER_RESOLVER * 3
    uses = [handle for handle, _, _ in bench.upstreams.sent]
    assert max(uses.count(handle) for handle in set(uses)) == MAX_USES


def test_idle_sockets_are_closed() -> None:
    bench = Bench()
    bench.ask(now=0)
    bench.reply(now=1)
    assert bench.relay.next_deadline() == IDLE_S
    bench.relay.expire(IDLE_S)
    assert bench.upstreams.opened == {}
    assert bench.relay.next_deadline() is None


def test_sockets_of_former_resolvers_make_room() -> None:
    bench = Bench()
    for number in range(30):
        bench.resolvers[:] = [Resolver(f"192.0.2.{number}")]
        bench.ask(message=numbered(number))
        bench.reply()
    assert len(bench.upstreams.opened) <= MAX_SOCKETS
    assert len(bench.asked) == 30


def test_taken_ids_are_not_given_again() -> None:
    upstreams = FakeUpstreams()
    ids = iter([7, 7, 7, 7, 7, 7, 8])
    relay = DnsRelay(upstreams, lambda: [ONE], lambda: next(ids))
    for number in range(MAX_PER_RESOLVER + 1):
        relay.query(GUEST, numbered(number), 0)
    assert [dns.peek_id(message) for _, _, message in upstreams.sent] == [7, 7, 7, 7, 8]


def test_close_forgets_everything() -> None:
    bench = Bench()
    bench.ask()
    bench.relay.close()
    assert (len(bench.relay), bench.upstreams.opened) == (0, {})
    assert bench.relay.expire(100) == []


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "malformed DNS query"),
        (QUERY[:11], "malformed DNS query"),
        (ANSWER, "DNS answer from a guest"),
    ],
)
def test_what_is_no_query_is_dropped(message: bytes, reason: str) -> None:
    bench = Bench()
    assert bench.ask(message=message) == []
    assert bench.relay.drops == {reason: 1}
    assert bench.upstreams.sent == []


def test_query_without_readable_question_is_a_format_error() -> None:
    bench = Bench()
    looped = QUERY[:12] + bytes.fromhex("c00c00010001")
    assert bench.ask(message=looped) == [Answer(GUEST, bytes.fromhex("abcd81810000000000000000"))]
    assert bench.upstreams.sent == []


@given(st.binary(max_size=60))
def test_any_bytes_of_a_guest_are_relayed_answered_or_counted(message: bytes) -> None:
    bench = Bench()
    answers = bench.ask(message=message)
    assert answers or bench.upstreams.sent or bench.relay.drops


@given(st.binary(max_size=60))
def test_any_bytes_of_a_resolver_leave_the_relay_whole(message: bytes) -> None:
    bench = Bench()
    bench.ask()
    bench.relay.answer(bench.upstreams.sent[0][0], message, 0)
    if len(message) >= 12:
        bench.reply(message)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "reply", "decline", "fail", "wait", "refuse", "change"]),
            st.integers(0, 40),
        ),
        max_size=60,
    )
)
def test_every_query_ends_exactly_once(steps: list[tuple[str, int]]) -> None:
    bench = Bench(ONE, TWO)
    asked: set[tuple[Client, int]] = set()
    ended: list[tuple[Client, int]] = []
    now = 0.0
    for step, number in steps:
        answers: list[Answer] = []
        if step == "ask":
            client = Client(bytes([10, 0, 2, number % 3]), number)
            asked.add((client, number))
            answers = bench.ask(client, numbered(number), now)
        elif step in ("reply", "decline") and number < len(bench.upstreams.sent):
            message = ANSWER if step == "reply" else dns.failure(QUERY, dns.REFUSED)
            answers = bench.reply(message, number, now)
        elif step == "fail":
            answers = bench.relay.failed(number, now)
        elif step == "wait":
            now += number / 4
            answers = bench.relay.expire(now)
        elif step == "refuse":
            bench.upstreams.refused = {[ONE, TWO, THREE][number % 3]}
        elif step == "change":
            bench.resolvers[:] = [[ONE], [ONE, TWO], [THREE, ONE], []][number % 4]
        for answer in answers:
            ended.append((answer.client, dns.peek_id(answer.message)))
            asked.discard(ended[-1])
    for _ in range(MAX_ATTEMPTS + 1):
        now += ATTEMPT_S
        asked -= {(a.client, dns.peek_id(a.message)) for a in bench.relay.expire(now)}
    bench.relay.expire(now + IDLE_S)
    assert (asked, len(bench.relay), bench.upstreams.opened) == (set(), 0, {})
