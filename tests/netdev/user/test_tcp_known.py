# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""TCP of the user network: the one look at a segment of a known connection.

``TcpTable.receive_known`` takes what is not odd in any way. All else has to get the answer that it
gets where every segment is looked at carefully, so each odd frame is sent to two networks, one of
which knows the careful way only.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
from tests.netdev.user.guest import ACK, FIN, GUEST, MAC, PSH, RST, SYN, Bench, TcpPeer

from vmwire.netdev.user import tcp_speaker
from vmwire.wire.frame import F_DATA_VALID, F_NEEDS_CSUM, NO_OFFLOAD, Frame, Offload
from vmwire.wire.protocols import tcp
from vmwire.wire.protocols.checksum import internet_checksum
from vmwire.wire.protocols.ipv4 import Header

FAR = bytes((192, 0, 2, 9))
"""An address outside, so that hops count. Connections to it lead to the test's server."""
DNS_MAC = bytes.fromhex("52550a000203")
OTHER_MAC = bytes.fromhex("525400999999")
VALID = Offload(F_DATA_VALID)
LEFT = Offload(F_NEEDS_CSUM, checksum_start=34, checksum_offset=16)
DATA = b"some data"


class Connected:
    """A network with a connection of its guest, and what came of a frame."""

    def __init__(self, server: socket.socket) -> None:
        self.bench = Bench()
        self.table = self.bench.netdev._tcp
        self.peer = TcpPeer(self.bench, server.getsockname()[1], FAR)
        self.peer.open(tcp.Options(mss=1460, window_scale=7, sack_permitted=True))
        self.host, _ = server.accept()
        self.host.setblocking(False)

    def looks_carefully(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have nothing taken at one look."""
        monkeypatch.setattr(self.table, "receive_known", lambda frame, head: False)

    def takes_at_one_look(self, frame: Frame) -> bool:
        """Whether the frame is not odd."""
        return self.table.receive_known(frame, frame.head(138))

    def send(self, frame: Frame) -> None:
        """Send a frame of the guest."""
        assert self.bench.port.send([frame]) == 1
        self.bench.settle()

    def delivered(self) -> bytes | None:
        """What the host has got; None after a reset."""
        try:
            return self.host.recv(1000)
        except BlockingIOError:
            return b""
        except ConnectionResetError:
            return None

    def close(self) -> None:
        self.host.close()
        self.bench.close()


@pytest.fixture
def connected(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Connected]]:
    """Makes networks that are alike to the last random number."""
    real = socket.socket.connect_ex
    monkeypatch.setattr(tcp_speaker, "getrandbits", lambda bits: 7_000_000)
    monkeypatch.setattr(
        socket.socket, "connect_ex", lambda self, to: real(self, server.getsockname())
    )
    made: list[Connected] = []

    def make() -> Connected:
        made.append(Connected(server))
        return made[-1]

    yield make
    for each in made:
        each.close()


# Nothing odd


@pytest.mark.parametrize("offload", [VALID, LEFT])
@pytest.mark.parametrize("padding", [0, 20])
@pytest.mark.parametrize("cuts", [(), (54,), (40,), (58, 60)])
def test_a_usual_segment_is_taken_at_one_look(
    connected: Callable[[], Connected],
    monkeypatch: pytest.MonkeyPatch,
    offload: Offload,
    padding: int,
    cuts: tuple[int, ...],
) -> None:
    """Wherever its memory is cut, and however far the wire padded it."""
    own = connected()
    monkeypatch.delattr(type(own.table), "receive")
    data = memoryview(own.peer.segment(ACK | PSH, DATA) + bytes(padding))
    bounds = [0, *cuts, len(data)]
    views = [data[start:end] for start, end in pairwise(bounds)]
    own.send(Frame(views, len(data), offload))
    assert own.delivered() == DATA
    assert [segment.ack for segment in own.bench.segments()] == [own.peer.nxt + len(DATA)]


@pytest.mark.parametrize("flags", [ACK, ACK | FIN, RST, RST | ACK])
def test_a_segment_without_data_is_taken_at_one_look(
    connected: Callable[[], Connected], monkeypatch: pytest.MonkeyPatch, flags: int
) -> None:
    own = connected()
    monkeypatch.delattr(type(own.table), "receive")
    own.send(Frame.of(own.peer.segment(flags), VALID))
    if flags & RST:
        assert own.delivered() is None
    assert bool(own.table.flows) is not bool(flags & RST)


def test_options_of_tcp_are_nothing_odd(
    connected: Callable[[], Connected], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = connected()
    monkeypatch.delattr(type(own.table), "receive")
    options = tcp.Options(window_scale=3)
    own.send(Frame.of(own.peer.segment(ACK, DATA, options=options), VALID))
    assert own.delivered() == DATA


# Odd ones


def summed(data: bytes) -> bytes:
    """Put the IPv4 header's checksum right."""
    size = (data[14] & 15) * 4
    header = data[14:24] + b"\0\0" + data[26 : 14 + size]
    return data[:24] + internet_checksum(header).to_bytes(2, "big") + data[26:]


def changed(data: bytes, at: int, new: bytes, *, sum_too: bool = True) -> bytes:
    """Put ``new`` into a frame at ``at``."""
    made = data[:at] + new + data[at + len(new) :]
    return summed(made) if sum_too else made


def of_the_ip_header(data: bytes, at: int, new: bytes) -> bytes:
    return changed(data, 14 + at, new)


def with_ip_options(peer: TcpPeer) -> bytes:
    """Options that look like the ports of the connection, in front of the real ones."""
    segment = peer.segment(ACK, DATA)[34:]
    header = Header(GUEST, FAR, 6, len(segment), options=segment[:4])
    return peer.segment(ACK)[:14] + header.emit() + segment


@dataclass
class Odd:
    """An odd frame, and what is to come of it."""

    make: Callable[[TcpPeer], bytes]
    counted: str = ""
    """The drop that is counted; without one it's a segment like others."""
    delivered: bytes = b""
    answer: Callable[[bytes], bool] | None = None
    """Holds for the one frame that comes back."""
    offload: Offload = VALID


def ordinary(peer: TcpPeer) -> bytes:
    return peer.segment(ACK, DATA)


def is_time_exceeded(frame: bytes) -> bool:
    return (frame[23], frame[34]) == (1, 11)


def is_challenge(frame: bytes) -> bool:
    return (frame[23], frame[47]) == (6, ACK)


ODD = {
    "VLAN tag": Odd(
        lambda peer: ordinary(peer)[:12] + b"\x81\x00\x00\x01" + ordinary(peer)[12:],
        "other EtherType",
    ),
    "other EtherType": Odd(
        lambda peer: changed(ordinary(peer), 12, b"\x88\xb5"), "other EtherType"
    ),
    "IP version": Odd(lambda peer: of_the_ip_header(ordinary(peer), 0, b"\x65"), "bad IPv4 header"),
    "IP options": Odd(with_ip_options, delivered=DATA),
    "first fragment": Odd(lambda peer: of_the_ip_header(ordinary(peer), 6, b"\x20\x00")),
    "last fragment": Odd(lambda peer: of_the_ip_header(ordinary(peer), 6, b"\x00\x01")),
    "far fragment": Odd(lambda peer: of_the_ip_header(ordinary(peer), 6, b"\x3f\x00")),
    "unfragmentable fragment": Odd(lambda peer: of_the_ip_header(ordinary(peer), 6, b"\x60\x00")),
    "reserved bit": Odd(
        lambda peer: of_the_ip_header(ordinary(peer), 6, b"\x80\x00"), delivered=DATA
    ),
    "TTL 1": Odd(
        lambda peer: of_the_ip_header(ordinary(peer), 8, b"\x01"), answer=is_time_exceeded
    ),
    "TTL 0": Odd(
        lambda peer: of_the_ip_header(ordinary(peer), 8, b"\x00"), answer=is_time_exceeded
    ),
    "other protocol": Odd(
        lambda peer: of_the_ip_header(ordinary(peer), 9, b"\x84"), "other protocol"
    ),
    "MAC of somebody else": Odd(lambda peer: changed(ordinary(peer), 0, OTHER_MAC), "not for us"),
    "MAC of the name server": Odd(lambda peer: changed(ordinary(peer), 0, DNS_MAC), delivered=DATA),
    "MAC of everybody": Odd(lambda peer: changed(ordinary(peer), 0, b"\xff" * 6), delivered=DATA),
    "from another MAC": Odd(lambda peer: changed(ordinary(peer), 6, OTHER_MAC), delivered=DATA),
    "from a group's MAC": Odd(
        lambda peer: changed(ordinary(peer), 6, b"\x01" + MAC[1:]), "bad source"
    ),
    "bad IP checksum": Odd(
        lambda peer: changed(ordinary(peer), 24, b"\x12\x34", sum_too=False), "bad IPv4 checksum"
    ),
    "short frame": Odd(lambda peer: ordinary(peer)[:49], "bad IPv4 header"),
    "frame that ends in the ports": Odd(lambda peer: ordinary(peer)[:37], "bad IPv4 header"),
    "packet that ends in the TCP header": Odd(
        lambda peer: of_the_ip_header(ordinary(peer), 2, b"\x00\x24")[:50], "other protocol"
    ),
    "length beyond the frame": Odd(
        lambda peer: of_the_ip_header(ordinary(peer), 2, (50).to_bytes(2, "big")), "bad IPv4 header"
    ),
    "data beyond the packet": Odd(
        lambda peer: changed(ordinary(peer), 46, b"\xf0"), "bad header"
    ),
    "data inside the header": Odd(
        lambda peer: changed(ordinary(peer), 46, b"\x40"), "bad header"
    ),
    "SYN": Odd(lambda peer: peer.segment(SYN | ACK, DATA), answer=is_challenge),
    "checksum to be verified": Odd(ordinary, delivered=DATA, offload=NO_OFFLOAD),
    "wrong checksum": Odd(
        lambda peer: changed(ordinary(peer), 50, b"\x12\x34"), "bad checksum", offload=NO_OFFLOAD
    ),
    "connection that nobody knows": Odd(
        lambda peer: changed(ordinary(peer), 34, b"\x12\x34"), "stray",
        answer=lambda frame: bool(frame[47] & RST),
    ),
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_what_is_odd_gets_the_answer_of_the_careful_way(
    connected: Callable[[], Connected], monkeypatch: pytest.MonkeyPatch, odd: Odd
) -> None:
    own, careful = connected(), connected()
    careful.looks_carefully(monkeypatch)
    frame = Frame.of(odd.make(own.peer), odd.offload)
    own.send(frame)
    careful.send(frame)
    counted = told(own)
    answers = own.bench.frames
    assert (own.delivered(), counted) == (odd.delivered, told(careful))
    assert careful.delivered() == odd.delivered
    assert answers == careful.bench.frames
    assert counted.get(odd.counted, 0) == bool(odd.counted)
    if odd.answer is not None:
        (answer,) = answers
        assert odd.answer(answer)


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_what_is_odd_is_not_taken_at_one_look(connected: Callable[[], Connected], odd: Odd) -> None:
    own = connected()
    assert not own.takes_at_one_look(Frame.of(odd.make(own.peer), odd.offload))
    own.send(Frame.of(own.peer.segment(ACK, DATA), VALID))
    assert own.delivered() == DATA


def told(network: Connected) -> dict[str, int]:
    """All counters of a network."""
    netdev = network.bench.netdev
    return dict(netdev._stack.counters) | dict(netdev._tcp.counters) | dict(netdev._icmp.counters)
