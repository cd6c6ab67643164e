# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A pseudowire of Ethernet frames over IP: ``-netdev l2tpv3``, RFC 3931 with static sessions.

    l2tpv3,id=ID,src=HOST,dst=HOST,txsession=N[,rxsession=N][,txcookie=N,rxcookie=N][,cookie64=on]
    …,udp=on,srcport=PORT,dstport=PORT          in UDP instead of IP protocol 115

A datagram is a header and a frame (section 4.1). All numbers are big-endian:

    0x00030000      4 bytes, in UDP only: flags (T is clear: data) and version
    session         4 bytes, of the receiver's choosing
    cookie          0, 4 or 8 bytes that a blind sender would have to guess: 8 if cookie64= is
                    given, be it on or off (as in QEMU, or its ends couldn't talk to ours)
    counter         4 bytes, with counter=on; always 0 with pincounter=on
    offset          so many zeros

Linux's pseudowires have four bytes of their own behind the cookie, unless they are made with
``l2spec_type none``: counter=on,pincounter=on stands for them.

Session and cookie of what arrives must be right; its counter is not looked at, so frames that
overtook each other arrive as they come. Datagrams of others than ``dst`` are dropped by the kernel;
``strangers=on`` lets them in, as QEMU does.

Many datagrams go and come by one call (``netdev/datagram_batches.py``). Between two vmwires of one
machine superframes go whole.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.netdev import mmsg
from vmwire.netdev.addresses import Place, look_up
from vmwire.netdev.datagram_batches import Intake, Messages, Segments
from vmwire.netdev.datagram_line import (
    UDP_LARGEST,
    Connected,
    DatagramLine,
    Parts,
    Sender,
    ToAddress,
    Wire,
)
from vmwire.netdev.stream_line import name_of
from vmwire.options.table import option, record
from vmwire.options.values import BOOL, IDENTIFIER, STRING, UINT32, UINT64
from vmwire.wire.frame import View

IPPROTO_L2TP = 115
DATA_IN_UDP = bytes.fromhex("00030000")
CONTROL = 0x80
"""The flag T in a header's first byte: a control message."""
LEAST_PACKET, LEAST_PACKET_BYTES = 0x45, 20
"""The first byte of an IPv4 header without options, and the header's length."""
OFFSETS = 256
IP_LARGEST = 65515


@record("netdev", "l2tpv3")
@dataclass(slots=True, kw_only=True)
class L2tpv3Options:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)
    src: str = option(STRING, required=True, help="our name or address")
    dst: str = option(STRING, required=True, help="the peer's name or address")
    srcport: str | None = option(STRING, help="our UDP port")
    dstport: str | None = option(STRING, help="the peer's UDP port")
    ipv6: bool = option(BOOL, default=False, help="on/off, over IPv6")
    udp: bool = option(BOOL, default=False, help="on/off, in UDP and not in IP itself")
    cookie64: bool | None = option(
        BOOL, help="if given, on or off: cookies have 64 bits and not 32"
    )
    counter: bool = option(BOOL, default=False, help="on/off, a counter in each header")
    pincounter: bool = option(BOOL, default=False, help="on/off, the counter is always 0")
    txcookie: int | None = option(UINT64, help="cookie that the peer expects")
    rxcookie: int | None = option(UINT64, help="cookie that the peer sends")
    txsession: int = option(UINT32, required=True, help="session of the peer")
    rxsession: int | None = option(UINT32, help="our session (or that of the peer)")
    offset: int = option(UINT32, default=0, help="bytes between header and frame, up to 255")
    strangers: bool = option(
        BOOL, default=False, ours=True, help="on/off, take frames of others than dst"
    )

    def __post_init__(self) -> None:
        if self.udp and (self.srcport is None or self.dstport is None):
            raise ConfigError("need both src and dst port for udp")
        if (self.txcookie is None) != (self.rxcookie is None):
            raise ConfigError("require both 'rxcookie' and 'txcookie' or neither")
        if self.offset >= OFFSETS:
            raise ConfigError(f"offset must be less than {OFFSETS} bytes")
        for name in ("txcookie", "rxcookie"):
            cookie = getattr(self, name)
            if cookie is not None and self.cookie64 is None and cookie >> 32:
                raise ConfigError(f"{name} has more than 32 bits: that needs cookie64=on")


class Header:
    """The header of a session: made for what is sent, and judged in what arrives."""

    def __init__(self, options: L2tpv3Options) -> None:
        self._start = DATA_IN_UDP if options.udp else b""
        self._tail = bytes(options.offset)
        self._counts = options.counter
        self._pinned = options.pincounter
        self._count = 0
        session = options.txsession if options.rxsession is None else options.rxsession
        width = 4 if options.cookie64 is None else 8
        self._sent = self._key(options.txsession, options.txcookie, width)
        self._expected = self._key(session, options.rxcookie, width)
        self._fixed = self._start + self._sent + self._tail
        self._key_at = len(self._start)
        self._usual = self._start + self._expected
        self._in_udp = options.udp
        # Behind its own header an IPv4 socket of a raw protocol has the packet's.
        self._has_packet = not options.udp and not options.ipv6
        self.length = len(self._fixed) + (4 if self._counts else 0)

    @staticmethod
    def _key(session: int, cookie: int | None, width: int) -> bytes:
        end = b"" if cookie is None else cookie.to_bytes(width, "big")
        return session.to_bytes(4, "big") + end

    def ahead(self, count: int) -> Sequence[bytes]:
        """The headers of the next frames."""
        if not self._counts:
            return [self._fixed] * count
        start, tail, first = self._start + self._sent, self._tail, self._count + 1
        numbers = [0] * count if self._pinned else range(first, first + count)
        return [start + (n & 0xFFFFFFFF).to_bytes(4, "big") + tail for n in numbers]

    def passed(self, count: int) -> None:
        """So many were sent."""
        self._count = self._count + count & 0xFFFFFFFF

    def frames_of(self, datagrams: Sequence[View], drops: Counter[str]) -> list[View]:
        """The frames in what arrived; what holds none is counted."""
        first = LEAST_PACKET if self._has_packet else self._usual[0]
        begin = LEAST_PACKET_BYTES if self._has_packet else 0
        usual, end, body = self._usual, begin + len(self._usual), begin + self.length
        found: list[View] = []
        for datagram in datagrams:
            if len(datagram) > body and datagram[0] == first and datagram[begin:end] == usual:
                found.append(datagram[body:])
                continue
            unusual = self._frame_of(datagram)
            if isinstance(unusual, str):
                drops[unusual] += 1
            else:
                found.append(unusual)
        return found

    def _frame_of(self, datagram: View) -> View | str:
        """The frame in a datagram, or why there is none."""
        if not datagram:
            return "empty frame"
        at = (datagram[0] & 0xF) * 4 if self._has_packet else 0
        begin, expected = at + self._key_at, self._expected
        if len(datagram) <= at + self.length:
            return "too short"
        if self._in_udp and datagram[at] & CONTROL:
            return "control message"
        if datagram[begin : begin + len(expected)] != expected:
            right_session = datagram[begin : begin + 4] == expected[:4]
            return "wrong cookie" if right_session else "wrong session"
        return datagram[at + self.length :]


class ThroughTunnel:
    """Has what it is given sent behind a header."""

    def __init__(self, sender: Sender, header: Header) -> None:
        self.socket = sender.socket
        self.close = sender.close
        self._sender = sender
        self._header = header

    def send(self, parts: Parts) -> None:
        self._sender.send([*self._header.ahead(1), *parts])
        self._header.passed(1)


class L2tpv3Netdev(DatagramLine):
    """The box."""

    OPTIONS = L2tpv3Options

    def __init__(self, options: L2tpv3Options) -> None:
        super().__init__(options.id, self._tunnel)
        self._options = options

    def _tunnel(self, host: Host) -> Wire:
        options = self._options
        header = Header(options)
        here = self._place("src", options.src, options.srcport)
        there = self._place("dst", options.dst, options.dstport)
        sock = self._socket()
        try:
            sock.bind(here.address)
            if not options.strangers:
                sock.connect(there.address)
        except OSError as error:
            sock.close()
            raise ConfigError(f"could not bind socket: {error.strerror}") from None
        sender = ToAddress(sock, there.address) if options.strangers else Connected(sock)
        largest = (UDP_LARGEST if options.udp else IP_LARGEST) - header.length
        tunnel = ThroughTunnel(sender, header)
        wire = Wire(sock, tunnel, "l2tpv3: connected", largest, unwrap=header.frames_of)
        if mmsg.POSSIBLE:
            wire.intake = Intake(sock)
            if not options.strangers:
                wire.send_many = (Segments if options.udp else Messages)(sock, header).send
        if not options.strangers and _is_of_this_machine(there):
            wire.ends = self._ends(sock, there)
        return wire

    def _ends(self, sock: socket.socket, peer: Place) -> tuple[str, str]:
        """What the two ends are called: addresses alone may be shared by several tunnels."""
        options = self._options
        mine = options.txsession if options.rxsession is None else options.rxsession
        here, there = (
            name_of(address) if options.udp else str(address[0])
            for address in (sock.getsockname(), peer.address)
        )
        return f"{here} {mine}", f"{there} {options.txsession}"

    def _place(self, name: str, host: str, port: str | None) -> Place:
        options = self._options
        family = socket.AF_INET6 if options.ipv6 else socket.AF_INET
        kind = socket.SOCK_DGRAM if options.udp else socket.SOCK_RAW
        try:
            return look_up(host, port if options.udp else None, family, kind, 0)[0]
        except ConfigError as error:
            raise ConfigError(f"could not resolve {name}: {error.message}") from None

    def _socket(self) -> socket.socket:
        options = self._options
        family = socket.AF_INET6 if options.ipv6 else socket.AF_INET
        try:
            if options.udp:
                sock = socket.socket(family, socket.SOCK_DGRAM)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                return sock
            return socket.socket(family, socket.SOCK_RAW, IPPROTO_L2TP)
        except OSError as error:
            hint = "" if options.udp else " (without udp=on it takes CAP_NET_RAW)"
            raise ConfigError(f"socket creation failed: {error.strerror}{hint}") from None


def _is_of_this_machine(place: Place) -> bool:
    """Whether an address is one of ours: a socket can be bound to it."""
    with socket.socket(place.family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((place.address[0], 0, *place.address[2:]))
        except OSError:
            return False
    return True
