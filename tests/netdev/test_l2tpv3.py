# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``-netdev l2tpv3``: headers as recorded from QEMU, and what is not let in."""

from __future__ import annotations

import errno
import os
import random
import socket
from collections import Counter

import pytest
from tests.netdev.sockets import Bed, free_port
from tests.wire.boxes import End
from tests.wire.packets import superframe_tcp4

from vmwire import catalogue
from vmwire.errors import ConfigError
from vmwire.netdev.l2tpv3 import Header
from vmwire.wire.frame import Frame

FRAME = bytes(range(60))
BASE = "src=127.0.0.1,dst=127.0.0.1"
COOKIES = "txsession=1,rxsession=2,txcookie=0xb1b2b3b4,rxcookie=0xa1a2a3a4"
LONG_COOKIES = (
    "txsession=1,rxsession=2,cookie64=on,txcookie=0xb1b2b3b4b5b6b7b8,rxcookie=0xa1a2a3a4a5a6a7a8"
)

# Options, the headers of three frames, the header that the peer's frames have. Recorded from QEMU,
# but for the last.
HEADERS = {
    "least": ("txsession=0x11223344", ["0003000011223344"] * 3, "0003000011223344"),
    "two sessions": ("txsession=1,rxsession=2", ["0003000000000001"] * 3, "0003000000000002"),
    "cookies": (COOKIES, ["0003000000000001b1b2b3b4"] * 3, "0003000000000002a1a2a3a4"),
    "long cookies": (
        LONG_COOKIES,
        ["0003000000000001b1b2b3b4b5b6b7b8"] * 3,
        "0003000000000002a1a2a3a4a5a6a7a8",
    ),
    "counter": (
        "txsession=1,rxsession=2,counter=on",
        ["000300000000000100000001", "000300000000000100000002", "000300000000000100000003"],
        "000300000000000200000009",
    ),
    "pinned": (
        "txsession=1,rxsession=2,counter=on,pincounter=on",
        ["000300000000000100000000"] * 3,
        "000300000000000200000000",
    ),
    "pinned without a counter": (
        "txsession=1,rxsession=2,pincounter=on",
        ["0003000000000001"] * 3,
        "0003000000000002",
    ),
    "long cookies, too": (  # whatever is said, as in QEMU
        LONG_COOKIES.replace("=on", "=off"),
        ["0003000000000001b1b2b3b4b5b6b7b8"] * 3,
        "0003000000000002a1a2a3a4a5a6a7a8",
    ),
    "offset": (
        "txsession=1,rxsession=2,offset=4",
        ["000300000000000100000000"] * 3,
        "0003000000000002ffffffff",
    ),
}


class Tunnel:
    """The netdev, joined to ``end``, and its peer's socket."""

    def __init__(self, bed: Bed, options: str) -> None:
        self.bed = bed
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind(("127.0.0.1", 0))
        self.peer.settimeout(5)
        self.port = free_port(socket.SOCK_DGRAM)
        ports = f"srcport={self.port},dstport={self.peer.getsockname()[1]}"
        self.netdev, self.end = bed.add(f"l2tpv3,id=t,{BASE},udp=on,{ports},{options}")

    def say(self, data: bytes) -> None:
        self.peer.sendto(data, ("127.0.0.1", self.port))

    def heard(self, count: int = 1) -> list[bytes]:
        self.bed.until(lambda: len(self.end.got) >= count)
        return self.end.data

    def dropped(self, reason: str) -> None:
        self.bed.until(lambda: self.netdev.port.drops[reason] == 1)
        assert self.end.got == []


@pytest.fixture
def bed(sockets: Bed) -> Bed:
    return sockets


@pytest.mark.parametrize(("options", "sent", "received"), HEADERS.values(), ids=HEADERS.keys())
def test_headers_are_those_of_qemu(bed: Bed, options: str, sent: list[str], received: str) -> None:
    tunnel = Tunnel(bed, options)
    tunnel.end.port.send([Frame.of(FRAME)] * len(sent))
    got = [tunnel.peer.recv(2000) for _ in sent]
    assert [data[: -len(FRAME)].hex() for data in got] == sent
    assert {data[-len(FRAME) :] for data in got} == {FRAME}
    tunnel.say(bytes.fromhex(received) + FRAME)
    assert tunnel.heard() == [FRAME]
    tunnel.peer.close()


GOOD = bytes.fromhex("0003000000000002a1a2a3a4")


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "empty frame"),
        (b"\0\3\0\0", "too short"),
        (GOOD, "too short"),
        (GOOD[:10], "too short"),
        (bytes.fromhex("0003000000000003a1a2a3a4") + FRAME, "wrong session"),
        (bytes.fromhex("0003000000000002a1a2a3a5") + FRAME, "wrong cookie"),
        (bytes.fromhex("c803001400000000") + FRAME, "control message"),
    ],
)
def test_what_is_not_of_the_session_is_dropped(bed: Bed, datagram: bytes, reason: str) -> None:
    tunnel = Tunnel(bed, COOKIES)
    tunnel.say(datagram)
    tunnel.dropped(reason)
    tunnel.say(GOOD + FRAME)
    assert tunnel.heard() == [FRAME]
    tunnel.peer.close()


@pytest.mark.parametrize("open", [False, True])
def test_strangers_are_let_in_if_that_is_asked_for(bed: Bed, open: bool) -> None:
    tunnel = Tunnel(bed, f"{COOKIES},strangers={'on' if open else 'off'}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(GOOD + b"from a stranger", ("127.0.0.1", tunnel.port))
    tunnel.say(GOOD + b"from the peer")
    expected = [b"from a stranger", b"from the peer"] if open else [b"from the peer"]
    assert tunnel.heard(len(expected)) == expected
    tunnel.end.port.send([Frame.of(FRAME)])
    assert tunnel.peer.recv(2000).endswith(FRAME)
    tunnel.peer.close()


def test_a_successor_opens_while_its_predecessor_stands_by(bed: Bed) -> None:
    tunnel = Tunnel(bed, COOKIES)
    ports = f"srcport={tunnel.port},dstport={tunnel.peer.getsockname()[1]}"
    _, end = bed.add(f"l2tpv3,id=next,{BASE},udp=on,{ports},{COOKIES}")
    tunnel.netdev.close()
    tunnel.say(GOOD + FRAME)
    bed.until(lambda: end.data == [FRAME])
    tunnel.peer.close()


def test_sessions_are_each_others_by_default(bed: Bed) -> None:
    tunnel = Tunnel(bed, "txsession=7")
    tunnel.say(bytes.fromhex("0003000000000007") + FRAME)
    assert tunnel.heard() == [FRAME]
    tunnel.peer.close()


def two(bed: Bed, options: str) -> tuple[End, End]:
    """Both ends of a tunnel through the loopback."""
    a, b = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    start = f"{BASE},{options}"
    ports = [f",srcport={a},dstport={b}", f",srcport={b},dstport={a}"]
    _, left = bed.add(
        f"l2tpv3,id=a,{start}{ports[0]},txsession=1,rxsession=2,txcookie=3,rxcookie=4"
    )
    _, right = bed.add(
        f"l2tpv3,id=b,{start}{ports[1]},txsession=2,rxsession=1,txcookie=4,rxcookie=3"
    )
    return left, right


ENCAPSULATIONS = pytest.mark.parametrize(
    "encapsulation",
    [
        "udp=on",
        pytest.param(
            "udp=off",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="sockets of IP itself take root"),
        ),
    ],
)


@ENCAPSULATIONS
def test_superframes_are_cut_until_both_ends_know_each_other_and_whole_from_then_on(
    bed: Bed, encapsulation: str
) -> None:
    left, right = two(bed, encapsulation)
    superframe = superframe_tcp4(bytes(14480), 1448)
    left.port.send([superframe])
    bed.until(lambda: len(right.got) == 10)
    right.got.clear()

    def known() -> bool:  # hello is a datagram, and may be lost as any
        left.port.send([superframe])
        return left.port.peer.accepts.gso

    bed.until(known)
    bed.turn()
    assert {frame.length for frame in right.got[:10]} == {1502}
    right.got.clear()
    left.port.send([superframe])
    bed.until(lambda: right.got)
    assert right.got[0].length == superframe.length
    left.port.send([superframe_tcp4(bytes(65000), 1448)])  # longer than a packet
    bed.until(lambda: len(right.got) == 2)
    left.port.send([Frame.of(FRAME)] * 9)
    bed.until(lambda: right.data[2:] == [FRAME] * 9)


def test_a_peer_that_comes_later_and_again_is_found(bed: Bed) -> None:
    tunnel = Tunnel(bed, COOKIES)
    where = tunnel.peer.getsockname()
    for _ in range(2):
        tunnel.peer.close()
        for _ in range(3):
            tunnel.end.port.send([Frame.of(FRAME)] * 2)
            bed.loop.turn(0.01)
        assert sum(tunnel.netdev.port.drops.values()) > 0
        tunnel.netdev.port.drops.clear()
        tunnel.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tunnel.peer.bind(where)
        tunnel.peer.settimeout(5)
        tunnel.end.port.send([Frame.of(FRAME)])
        assert tunnel.peer.recv(2000).endswith(FRAME)
    tunnel.say(GOOD + FRAME)
    assert tunnel.heard() == [FRAME]
    tunnel.peer.close()


@pytest.mark.parametrize("count", [1, 5])
def test_what_the_host_refuses_to_send_is_counted_and_it_goes_on(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    tunnel = Tunnel(bed, COOKIES)

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    with monkeypatch.context() as patch:
        patch.setattr(tunnel.netdev._wire, "send_many", refuse)
        patch.setattr(tunnel.netdev._sender, "send", refuse)
        assert tunnel.end.port.send([Frame.of(FRAME)] * count) == count
    assert tunnel.netdev.port.drops["send: ENOBUFS"] == count
    tunnel.end.port.send([Frame.of(FRAME)])
    assert tunnel.peer.recv(2000).endswith(FRAME)
    tunnel.peer.close()


@pytest.mark.parametrize("udp", [True, False])
@pytest.mark.parametrize("ipv6", [True, False])
def test_no_datagram_does_harm(udp: bool, ipv6: bool) -> None:
    text = f"l2tpv3,id=t,{BASE},{COOKIES},counter=on,offset=9,srcport=1,dstport=1"
    options = catalogue.parse("netdev", f"{text},udp={'on' if udp else 'off'}")
    options.ipv6 = ipv6
    header = Header(options)
    dice = random.Random(5)
    good = bytes.fromhex(("00030000" if udp else "") + "00000002a1a2a3a4") + bytes(13)
    packet = b"" if udp or ipv6 else b"\x46" + bytes(23)
    for _ in range(3000):
        data = bytearray(packet + good + dice.randbytes(dice.choice((0, 1, 60))))
        for _ in range(dice.choice((0, 1, 1, 4))):
            data[dice.randrange(len(data))] = dice.randrange(256)
        del data[dice.choice((len(data), dice.randrange(len(data) + 1))) :]
        drops: Counter[str] = Counter()
        found = header.frames_of([memoryview(data)], drops)
        assert len(found) + drops.total() == 1


def test_two_of_them_are_a_tunnel(bed: Bed) -> None:
    left, right = two(bed, "udp=on,cookie64=on,counter=on,offset=3")
    left.port.send([Frame.of(bytes([n]) * 1514) for n in range(50)])
    bed.until(lambda: len(right.got) == 50)
    right.port.send([Frame.of(FRAME)])
    bed.until(lambda: left.data == [FRAME])
    assert right.data[49] == bytes([49]) * 1514


@pytest.mark.skipif(os.geteuid() != 0, reason="sockets of IP itself take root")
@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "address"), [("", "127.0.0.1"), ("ipv6=on,", "::1")], ids=["IPv4", "IPv6"]
)
def test_ip_itself_carries_frames(bed: Bed, options: str, address: str) -> None:
    ends = f"src={address},dst={address},{options}"
    _, left = bed.add(f"l2tpv3,id=a,{ends}txsession=1,rxsession=2")
    _, right = bed.add(f"l2tpv3,id=b,{ends}txsession=2,rxsession=1,counter=off")
    left.port.send([Frame.of(FRAME)])
    bed.until(lambda: right.data == [FRAME])
    right.port.send([Frame.of(b"x" * 1514)])
    bed.until(lambda: left.data == [b"x" * 1514])


def test_frames_too_long_for_a_datagram_are_counted(bed: Bed) -> None:
    tunnel = Tunnel(bed, COOKIES)
    tunnel.end.port.send([Frame.of(bytes(65507)), Frame.of(FRAME)])
    assert tunnel.peer.recv(2000).endswith(FRAME)
    assert tunnel.end.port.drops["too long"] == 1
    tunnel.peer.close()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("l2tpv3,id=x", "Parameter 'src' is missing"),
        (f"l2tpv3,id=x,{BASE}", "Parameter 'txsession' is missing"),
        (f"l2tpv3,id=x,{BASE},txsession=1,udp=on", "need both src and dst port for udp"),
        (f"l2tpv3,id=x,{BASE},txsession=1,udp=on,srcport=1", "need both src and dst port for udp"),
        (f"l2tpv3,id=x,{BASE},txsession=abc", "Parameter 'txsession' expects"),
        (f"l2tpv3,id=x,{BASE},txsession=0x1ffffffff", "Parameter 'txsession' expects uint32_t"),
        (f"l2tpv3,id=x,{BASE},txsession=1,rxcookie=1", "require both 'rxcookie' and 'txcookie'"),
        (f"l2tpv3,id=x,{BASE},txsession=1,offset=5000", "offset must be less than 256 bytes"),
        (f"l2tpv3,id=x,{BASE},txsession=1,txcookie=0x1ffffffff,rxcookie=1", "cookie64=on"),
    ],
)
def test_contradictions_are_told_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        catalogue.parse("netdev", text)
    assert complaint in str(raised.value)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("src=nosuch.invalid,dst=127.0.0.1", "could not resolve src"),
        ("src=127.0.0.1,dst=nosuch.invalid", "could not resolve dst"),
        ("src=192.0.2.200,dst=127.0.0.1", "could not bind socket: Cannot assign"),
        ("src=::1,dst=::1", "could not resolve src"),
    ],
)
def test_addresses_that_cannot_be_are_told(bed: Bed, options: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        bed.add(f"l2tpv3,id=x,{options},udp=on,srcport=5000,dstport=5001,txsession=1")
