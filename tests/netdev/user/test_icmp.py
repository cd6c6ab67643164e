# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The ICMP of the user network. Answers from outside are played by a socket pair of this test;
the host's real ones are tried where it allows them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator

import pytest
from tests.netdev.user.harness import (
    DNS,
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    GUEST_MAC,
    Guest,
    echo_frame,
    ip_frame,
    udp_frame,
    watch_no_more,
)

from vmwire.netdev.user import icmp as module
from vmwire.netdev.user.echo_socket import Answer, EchoSocket, open_echo_socket
from vmwire.netdev.user.host_errors import HostError
from vmwire.netdev.user.icmp import Icmp
from vmwire.netdev.user.plan import Plan, packed
from vmwire.wire.frame import Frame
from vmwire.wire.protocols import icmp

PEER = packed("192.0.2.7")
Make = Callable[..., tuple[Guest, Icmp]]


class PlayedEcho(EchoSocket):
    """An echo socket whose other side is the test."""

    def __init__(self) -> None:
        here, self.there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        here.setblocking(False)
        super().__init__(here, None)
        self.sent: list[tuple[str, bytes, int]] = []
        self.coming: list[Answer] = []
        self.error = 0

    def send(self, address: str, message: bytes, ttl: int) -> None:
        if self.error:
            raise OSError(self.error, "played")
        self.sent.append((address, message, ttl))

    def answers(self) -> Iterator[Answer]:
        self.sock.recv(1)
        coming, self.coming = self.coming, []
        yield from coming

    def answer(self, *answers: Answer) -> None:
        """Have ``answers`` arrive."""
        self.coming += answers
        self.there.send(b"!")

    def close(self) -> None:
        super().close()
        self.there.close()


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[tuple[Guest, Icmp]] = []

    def build(plan: Plan | None = None) -> tuple[Guest, Icmp]:
        guest = Guest(plan)
        made.append((guest, Icmp(guest.loop, guest.output, guest.plan)))
        return made[-1]

    yield build
    for guest, part in made:
        part.close()
        guest.loop.close()


@pytest.fixture
def echoes(monkeypatch: pytest.MonkeyPatch) -> list[PlayedEcho]:
    opened: list[PlayedEcho] = []

    def open_played(taken: object) -> EchoSocket:
        opened.append(PlayedEcho())
        return opened[-1]

    monkeypatch.setattr(module, "open_echo_socket", open_played)
    return opened


def answered(guest: Guest) -> icmp.Message:
    """The one message that the guest got."""
    guest.turn_until(lambda: guest.frames)
    (packet,) = guest.packets()
    return packet.icmp


# The network's own addresses


@pytest.mark.parametrize("address", [GATEWAY, DNS])
@pytest.mark.parametrize("restrict", [False, True])
def test_own_address_answers_with_the_same_identifier_sequence_and_data(
    make: Make, address: bytes, restrict: bool
) -> None:
    guest, part = make(Plan(restrict=restrict))
    data = b"abcdefghabcdefghabcdefghabcdefgh"
    part.receive(*echo_frame(data, address, ident=0x1122, sequence=7))
    guest.turn_until(lambda: guest.frames)
    (packet,) = guest.packets()
    assert packet.ethernet[:6] == GUEST_MAC
    assert (packet.header.src, packet.header.dst, packet.header.ttl) == (address, GUEST, 255)
    message = packet.icmp
    assert (message.type, message.ident, message.sequence) == (icmp.ECHO_REPLY, 0x1122, 7)
    assert message.data == data


def test_reply_is_the_recorded_one(make: Make) -> None:
    guest, part = make()
    part.receive(*echo_frame(b"abcdefgh" * 4))
    guest.turn_until(lambda: guest.frames)
    recorded = bytes.fromhex(
        "0000a886112200016162636465666768616263646566676861626364656667686162636465666768"
    )
    assert guest.packets()[0].payload == recorded


def test_long_ping_is_answered_in_fragments(make: Make) -> None:
    guest, part = make()
    data = bytes(range(256)) * 16
    part.receive(*echo_frame(data))
    guest.turn_until(lambda: guest.frames)
    packets = guest.packets()
    assert len(packets) == 3
    whole = icmp.Message.parse(b"".join(packet.payload for packet in packets))
    assert whole.data == data


def test_ping_with_a_wrong_checksum_is_dropped(make: Make) -> None:
    guest, part = make()
    frame, _, transport, end = echo_frame(b"abcdefgh" * 4)
    data = bytearray(frame.tobytes())
    data[-1] ^= 1
    part.receive(Frame.of(data), bytes(data[:138]), transport, end)
    guest.settle()
    assert not guest.frames
    assert part.counters["bad checksum"] == 1


@pytest.mark.parametrize("kind", [icmp.ECHO_REPLY, 13, 15, 17, icmp.REDIRECT, 255])
def test_other_messages_are_not_answered(make: Make, kind: int) -> None:
    guest, part = make()
    message = icmp.Message(kind, 0, bytes(4), bytes(20)).emit()
    part.receive(*ip_frame(message, protocol=1))
    guest.settle()
    assert not guest.frames
    assert part.counters["not an echo request"] == 1


def test_message_shorter_than_a_header_is_dropped(make: Make) -> None:
    guest, part = make()
    part.receive(*ip_frame(b"\x08\0\xf7\xff\0", protocol=1, padded=False))
    guest.settle()
    assert part.counters["short"] == 1


# Outside


def test_ping_goes_out_with_one_hop_less_and_its_answer_comes_back(
    make: Make, echoes: list[PlayedEcho]
) -> None:
    guest, part = make()
    part.receive(*echo_frame(b"payload", PEER, ident=0xBEEF, sequence=3, ttl=20))
    ((address, message, ttl),) = echoes[0].sent
    assert (address, ttl) == ("192.0.2.7", 19)
    assert message == b"\x08\0" + bytes(4) + b"\0\x03payload"
    echoes[0].answer(Answer(PEER, 3, b"payload", 50))
    guest.turn_until(lambda: guest.frames)
    (packet,) = guest.packets()
    assert packet.ethernet == GUEST_MAC + GATEWAY_MAC
    assert (packet.header.src, packet.header.ttl) == (PEER, 49)
    reply = packet.icmp
    assert (reply.type, reply.ident, reply.sequence) == (icmp.ECHO_REPLY, 0xBEEF, 3)
    assert reply.data == b"payload"


def test_answer_comes_once(make: Make, echoes: list[PlayedEcho]) -> None:
    guest, part = make()
    part.receive(*echo_frame(b"x", PEER, sequence=1))
    echoes[0].answer(Answer(PEER, 1, b"x", 64), Answer(PEER, 1, b"x", 64))
    guest.turn_until(lambda: guest.frames)
    guest.settle()
    assert len(guest.frames) == 1
    assert part.counters["unexpected answer"] == 1


def test_answer_from_somebody_else_is_dropped(make: Make, echoes: list[PlayedEcho]) -> None:
    guest, part = make()
    part.receive(*echo_frame(b"x", PEER, sequence=1))
    echoes[0].answer(Answer(packed("192.0.2.8"), 1, b"x", 64), Answer(PEER, 2, b"x", 64))
    guest.settle()
    assert not guest.frames


def test_pings_with_one_identifier_share_a_socket(make: Make, echoes: list[PlayedEcho]) -> None:
    _, part = make()
    part.receive(*echo_frame(b"x", PEER, sequence=1))
    part.receive(*echo_frame(b"x", packed("192.0.2.8"), sequence=2))
    part.receive(*echo_frame(b"x", PEER, ident=1))
    assert [len(echo.sent) for echo in echoes] == [2, 1]


def test_two_guests_with_one_identifier_get_their_own_answers(
    make: Make, echoes: list[PlayedEcho]
) -> None:
    guest, part = make()
    other = packed("10.0.2.16")
    guest.macs[other] = b"\x52\x54\0\0\0\x02"
    part.receive(*echo_frame(b"x", PEER))
    part.receive(*echo_frame(b"x", PEER, source=other))
    echoes[1].answer(Answer(PEER, 1, b"x", 64))
    guest.turn_until(lambda: guest.frames)
    assert guest.packets()[0].header.dst == other


@pytest.mark.parametrize(
    ("error", "code"), [(errno.ENETUNREACH, 0), (errno.EHOSTUNREACH, 1), (errno.EACCES, 13)]
)
def test_host_that_cannot_send_is_told(
    make: Make, echoes: list[PlayedEcho], error: int, code: int
) -> None:
    guest, part = make()
    part.receive(*echo_frame(b"x", PEER))
    guest.settle(1)
    echoes[0].error = error
    frame = echo_frame(b"x", PEER, sequence=2)
    part.receive(*frame)
    message = answered(guest)
    assert (message.type, message.code) == (icmp.DESTINATION_UNREACHABLE, code)
    assert message.data == frame[0].tobytes()[14 : frame[3]]


def test_host_that_allows_no_pings_says_prohibited(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "open_echo_socket", lambda taken: None)
    guest, part = make()
    part.receive(*echo_frame(b"x", PEER))
    assert answered(guest).code == icmp.ADMINISTRATIVELY_PROHIBITED
    assert part.counters["ping not permitted"] == 1


def test_without_a_watch_pings_are_prohibited_for_now(
    make: Make, echoes: list[PlayedEcho], monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, part = make()
    with monkeypatch.context() as patch:
        refused = watch_no_more(guest.loop, patch)
        part.receive(*echo_frame(b"x", PEER))
    assert answered(guest).code == icmp.ADMINISTRATIVELY_PROHIBITED
    assert part.counters["no socket"] == 1
    assert refused and echoes[0].sock.fileno() == -1
    assert not part.flows
    part.receive(*echo_frame(b"x", PEER))
    assert len(echoes[1].sent) == 1


@pytest.mark.parametrize(
    ("kind", "code"), [(icmp.TIME_EXCEEDED, 0), (icmp.DESTINATION_UNREACHABLE, 1)]
)
def test_error_of_a_router_reaches_the_guest_with_its_own_packet(
    make: Make, echoes: list[PlayedEcho], monkeypatch: pytest.MonkeyPatch, kind: int, code: int
) -> None:
    guest, part = make()
    router = packed("198.51.100.1")
    frame = echo_frame(b"x" * 30, PEER, sequence=9)
    part.receive(*frame)
    quote = b"\x08\0\0\0" + b"\x77\x77" + b"\0\x09"
    error = HostError(errno.EHOSTUNREACH, kind, code, PEER, 0, router, quote)
    monkeypatch.setattr(module, "read_errors", lambda sock: iter([error]))
    (flow,) = part.flows.values()
    part._read_errors(flow)
    guest.turn_until(lambda: guest.frames)
    (packet,) = guest.packets()
    assert packet.header.src == router
    assert (packet.icmp.type, packet.icmp.code) == (kind, code)
    assert packet.icmp.data == frame[0].tobytes()[14 : frame[3]]


@pytest.mark.parametrize("address", ["10.0.2.4", "10.0.2.99", "127.0.0.1"])
def test_address_that_leads_nowhere_is_unreachable(make: Make, address: str) -> None:
    guest, part = make()
    part.receive(*echo_frame(b"x", packed(address)))
    message = answered(guest)
    assert (message.type, message.code) == (icmp.DESTINATION_UNREACHABLE, 0)


@pytest.mark.parametrize("address", ["10.0.2.255", "255.255.255.255", "224.0.0.1"])
def test_ping_to_many_is_not_answered(make: Make, address: str) -> None:
    guest, part = make()
    part.receive(*echo_frame(b"x", packed(address)))
    guest.settle()
    assert not guest.frames


def test_restricted_guest_hears_nothing_from_outside(make: Make, echoes: list[PlayedEcho]) -> None:
    guest, part = make(Plan(restrict=True))
    part.receive(*echo_frame(b"x", PEER))
    part.receive(*echo_frame(b"x", packed("10.0.2.4")))
    part.time_exceeded(udp_frame(b"x", 9, PEER, ttl=1)[1])
    guest.settle()
    assert not guest.frames
    assert not echoes


def test_silent_socket_is_closed_after_a_minute(
    make: Make, echoes: list[PlayedEcho], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, part = make()
    part.receive(*echo_frame(b"x", PEER))
    start = part.now()
    monkeypatch.setattr(part, "now", lambda: start + 55)
    part._sweep()
    assert part.flows
    monkeypatch.setattr(part, "now", lambda: start + 61)
    part._sweep()
    assert not part.flows
    assert echoes[0].sock.fileno() == -1


def test_sockets_and_what_they_remember_are_bounded(make: Make, echoes: list[PlayedEcho]) -> None:
    _, part = make()
    for ident in range(100):
        part.receive(*echo_frame(b"x", PEER, ident=ident))
    assert len(part.flows) == module.MAX_FLOWS
    for sequence in range(1000):
        part.receive(*echo_frame(b"x", PEER, ident=99, sequence=sequence))
    assert len(part.flows[GUEST + b"\0\x63"].waited_for) == module.MAX_WAITED_FOR


# Errors about others


def test_unreachable_quotes_the_packet_and_comes_from_the_gateway(make: Make) -> None:
    guest, part = make()
    frame = udp_frame(b"hello", 9, PEER)
    part.unreachable(frame[1], 0)
    guest.turn_until(lambda: guest.frames)
    (packet,) = guest.packets()
    header = packet.header
    assert (header.src, header.dst, header.tos, header.ttl) == (GATEWAY, GUEST, 0xC0, 255)
    assert packet.icmp.data == frame[0].tobytes()[14 : frame[3]]


def test_closed_port_is_said_by_the_destination(make: Make) -> None:
    guest, part = make()
    part.unreachable(udp_frame(b"hello", 9, PEER)[1], icmp.PORT_UNREACHABLE)
    guest.turn_until(lambda: guest.frames)
    (packet,) = guest.packets()
    assert packet.header.src == PEER
    assert packet.ethernet == GUEST_MAC + GATEWAY_MAC


def test_time_exceeded_is_the_recorded_one(make: Make) -> None:
    guest, part = make()
    part.time_exceeded(udp_frame(b"", 9, packed("192.0.2.77"), ttl=1)[1])
    guest.turn_until(lambda: guest.frames)
    (packet,) = guest.packets()
    message = packet.icmp
    assert (message.type, message.code, message.rest) == (11, 0, bytes(4))
    assert message.data[:24] == bytes.fromhex("4500001c123400000111d9410a00020fc000024d0fa00009")
    assert len(message.data) == 28


def test_guest_that_is_not_known_yet_gets_its_error(make: Make) -> None:
    guest, part = make()
    guest.macs.clear()
    part.unreachable(udp_frame(b"hello", 9, PEER)[1], 0)
    guest.turn_until(lambda: guest.frames)


def test_error_about_an_error_is_not_sent(make: Make) -> None:
    guest, part = make()
    message = icmp.Message(icmp.DESTINATION_UNREACHABLE, 3, bytes(4), bytes(28)).emit()
    part.unreachable(ip_frame(message, PEER, 1)[1], 0)
    part.unreachable(udp_frame(b"x", 9, packed("224.0.0.1"))[1], 0)
    part.unreachable(udp_frame(b"x", 9, PEER, source=packed("192.0.2.200"))[1], 0)
    part.unreachable(b"short", 0)
    guest.settle()
    assert not guest.frames


def test_errors_are_limited_in_rate(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    guest, part = make()
    start = part.now()
    monkeypatch.setattr(part, "now", lambda: start)
    for _ in range(500):
        part.unreachable(udp_frame(b"hello", 9, PEER)[1], 0)
    guest.turn_until(lambda: guest.frames)
    assert len(guest.packets()) == 50
    monkeypatch.setattr(part, "now", lambda: start + 0.101)
    for _ in range(500):
        part.unreachable(udp_frame(b"hello", 9, PEER)[1], 0)
    guest.turn_until(lambda: guest.frames)
    assert 20 <= len(guest.packets()) <= 21


# The host's real sockets


def test_real_echo_socket_hears_its_own_answer_and_no_other() -> None:
    one = open_echo_socket(())
    if one is None:
        pytest.skip("this host allows no pings")
    two = open_echo_socket(() if one.ident is None else (one.ident,))
    assert two is not None
    guest = Guest()
    try:
        for echo, data in ((one, b"first"), (two, b"second")):
            echo.send("127.0.0.9", b"\x08\0" + bytes(4) + b"\x12\x34" + data, 33)
        got: list[Answer] = []
        for echo in (one, two):
            guest.loop.watch(echo.fd, 1, lambda _, echo=echo: got.extend(echo.answers()))
        guest.turn_until(lambda: len(got) == 2)
        guest.settle()
        peer = packed("127.0.0.9")
        assert sorted(got) == [
            Answer(peer, 0x1234, b"first", 64), Answer(peer, 0x1234, b"second", 64),
        ]  # fmt: skip
    finally:
        one.close()
        two.close()
        guest.loop.close()
