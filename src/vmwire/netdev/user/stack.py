# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The user network's first look at what a guest sends: which protocol gets it.

A burst of frames comes in; each is judged once (addressed to us? whole header? right checksum?) and
handed to ARP, TCP, UDP or ICMP with a private copy of its first bytes, so that nothing that the
guest changes later can matter. At the burst's end the protocols that gather (TCP pushes, UDP runs)
are told, while the frames are still lent. Nothing is ever refused: a refused data frame would block
the acknowledgements behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from typing import Protocol

from vmwire.netdev.user.arp import Neighbours
from vmwire.netdev.user.fragments import Reassembler
from vmwire.netdev.user.output import Output
from vmwire.netdev.user.plan import ANY, Plan, gateway_mac
from vmwire.wire.frame import Frame
from vmwire.wire.offload import finish
from vmwire.wire.protocols.checksum import ones_complement_sum
from vmwire.wire.protocols.errors import ParseError
from vmwire.wire.protocols.ipv4 import FRAGMENT_MASK, Header

HEAD = 138
"""Bytes of a frame that are copied: Ethernet, a VLAN tag, the longest IPv4 and TCP headers."""
IPV4 = b"\x08\x00"
ARP = b"\x08\x06"
IPV4_AT = 14
LENGTHS = Struct("!HHH")  # total length, identification, flags and fragment offset
PROTOCOL_ICMP = 1
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
TCP = b"\x06"
UDP = b"\x11"
DHCP_SERVER_PORT = b"\x00\x43"
DNS_PORT = b"\x00\x35"


class Transport(Protocol):
    """A protocol above IPv4."""

    def receive(self, frame: Frame, head: bytes, transport: int, end: int) -> None:
        """Take a packet whose transport header is at ``transport`` and that ends at ``end``."""


class Gathering(Transport, Protocol):
    """A protocol with flows, that gathers a burst."""

    def receive_known(self, frame: Frame, head: bytes) -> bool:
        """Take a frame of a known flow if there is nothing odd about it; else say False."""

    def end_burst(self) -> None:
        """The burst is over; its frames are lent until this returns."""


class Icmp(Transport, Protocol):
    """The protocol that also reports on others."""

    def time_exceeded(self, head: bytes) -> None:
        """Report a packet whose hops are used up."""


class Stack:
    """Demultiplexes frames. ``on_dhcp`` and ``on_dns`` take UDP payloads for the services:
    (guest's MAC, payload), and (guest address, guest port, payload)."""

    def __init__(
        self,
        plan: Plan,
        output: Output,
        neighbours: Neighbours,
        *,
        now: Callable[[], float],
        on_dhcp: Callable[[bytes, bytes], None],
        on_dns: Callable[[bytes, int, bytes], None],
        on_guest: Callable[[bytes, bytes], None],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.reassembler = Reassembler()
        self._plan = plan
        self._output = output
        self._neighbours = neighbours
        self._macs = neighbours.macs
        self._now = now
        self._on_dhcp = on_dhcp
        self._on_dns = on_dns
        self._on_guest = on_guest
        self._own_macs = {gateway_mac(plan.gateway), gateway_mac(plan.dns)}

    def use(self, tcp: Gathering, udp: Gathering, icmp: Icmp) -> None:
        """Connect the protocols, which need the stack's output first."""
        self._tcp = tcp
        self._udp = udp
        self._icmp = icmp

    def receive(self, frames: Sequence[Frame]) -> int:
        """Take a burst; always all of it."""
        for frame in frames:
            head = bytes(frame.views[0][:HEAD])
            if len(head) < HEAD and len(head) < frame.length:
                head = frame.head(HEAD)
            protocol = head[23:24]
            if protocol == TCP:
                if self._tcp.receive_known(frame, head):
                    continue
            elif protocol == UDP and self._udp.receive_known(frame, head):
                continue
            ethertype = head[12:14]
            if ethertype == IPV4:
                self._receive_ipv4(frame, head)
            elif ethertype == ARP:
                self._receive_arp(frame)
            else:
                self.counters["other EtherType"] += 1
        self._tcp.end_burst()
        self._udp.end_burst()
        return len(frames)

    def _receive_arp(self, frame: Frame) -> None:
        known = len(self._macs)
        answer = self._neighbours.receive(frame.head(HEAD)[14:])
        if answer is not None:
            self._output.ethernet(answer.destination, answer.source, ARP, answer.payload)
        if len(self._macs) != known:
            address = next(reversed(self._macs))
            self._on_guest(address, self._macs[address])

    def _receive_ipv4(self, frame: Frame, head: bytes) -> None:
        if len(head) < IPV4_AT + 20:
            self.counters["short"] += 1
            return
        if head[:6] not in self._own_macs and not head[0] & 1:
            self.counters["not for us"] += 1
            return
        transport = IPV4_AT + (head[IPV4_AT] & 15) * 4
        total, _, fragment = LENGTHS.unpack_from(head, IPV4_AT + 2)
        end = IPV4_AT + total
        if head[IPV4_AT] >> 4 != 4 or not IPV4_AT + 20 <= transport <= end <= frame.length:
            self.counters["bad IPv4 header"] += 1
            return
        if ones_complement_sum(head[IPV4_AT:transport]) != 0xFFFF:
            self.counters["bad IPv4 checksum"] += 1
            return
        if self._macs.get(head[26:30]) != head[6:12] and not self._learn(head, transport):
            self.counters["bad source"] += 1
            return
        if fragment & FRAGMENT_MASK:
            self._reassemble(frame, head)
        elif head[22] <= 1 and not self._plan.own(head[30:34]):
            self._icmp.time_exceeded(head)
        else:
            self._dispatch(frame, head, transport, end)

    def _learn(self, head: bytes, transport: int) -> bool:
        """Note a sender that was not known to be there; whether it can be one at all.

        Others than stations must not be answered (RFC 1122, 3.2.1.3). Only DHCP is spoken without
        an address.
        """
        address, mac = head[26:30], head[6:12]
        if not self._plan.may_send(address):
            asks = head[transport + 2 : transport + 4] == DHCP_SERVER_PORT
            return address == ANY and head[23:24] == UDP and asks
        if mac[0] & 1:
            return False
        self._neighbours.learn(address, mac)
        if self._macs.get(address) == mac:
            self._on_guest(address, mac)
        return True

    def _dispatch(self, frame: Frame, head: bytes, transport: int, end: int) -> None:
        protocol = head[23]
        if protocol == PROTOCOL_TCP and end >= transport + 20:
            self._tcp.receive(frame, head, transport, end)
        elif protocol == PROTOCOL_UDP and end >= transport + 8:
            self._receive_udp(frame, head, transport, end)
        elif protocol == PROTOCOL_ICMP and end >= transport + 8:
            self._icmp.receive(frame, head, transport, end)
        else:
            self.counters["other protocol"] += 1

    def _receive_udp(self, frame: Frame, head: bytes, transport: int, end: int) -> None:
        port = head[transport + 2 : transport + 4]
        destination = head[30:34]
        if port == DHCP_SERVER_PORT and (head[0] & 1 or destination == self._plan.gateway):
            for request in self._datagrams(frame, head, transport, end):
                self._on_dhcp(head[6:12], request)
        elif port == DNS_PORT and destination == self._plan.dns:
            guest_port = int.from_bytes(head[transport : transport + 2], "big")
            if not self._plan.restrict:
                for query in self._datagrams(frame, head, transport, end):
                    self._on_dns(head[26:30], guest_port, query)
        else:
            self._udp.receive(frame, head, transport, end)

    def _datagrams(self, frame: Frame, head: bytes, transport: int, end: int) -> Iterator[bytes]:
        """Payloads for a service: one, or those of a superframe."""
        if not frame.offload.needs:
            yield self._datagram(frame, head, transport, end)
            return
        for part in finish(frame):
            yield self._datagram(part, part.head(HEAD), transport, part.length)

    def _datagram(self, frame: Frame, head: bytes, transport: int, end: int) -> bytes:
        """Return a service's payload: as long as both headers say; empty if its sum is wrong."""
        length = int.from_bytes(head[transport + 4 : transport + 6], "big")
        data = b"".join(frame.payload(transport, end - transport))
        if not 8 <= length <= len(data):
            self.counters["bad UDP length"] += 1
            return b""
        if data[6:8] != b"\0\0" and not frame.offload.checked:
            pseudo = ones_complement_sum(head[26:34], PROTOCOL_UDP + length)
            if ones_complement_sum(data[:length], pseudo) != 0xFFFF:
                self.counters["bad checksum"] += 1
                return b""
        return data[8:length]

    def _reassemble(self, frame: Frame, head: bytes) -> None:
        """Keep a fragment; the datagram that it completes is dispatched as a frame of our own."""
        packet = frame.tobytes()[IPV4_AT:]
        try:
            header = Header.parse(packet)
        except ParseError:
            self.counters["bad fragment"] += 1
            return
        payload = packet[header.length : header.length + header.payload_length]
        whole = self.reassembler.add(header, payload, self._now())
        if whole is None:
            return
        data = head[:IPV4_AT] + whole.header.emit() + whole.payload
        transport = IPV4_AT + whole.header.length
        self._dispatch_whole(Frame.of(data), data[:HEAD], transport)

    def _dispatch_whole(self, frame: Frame, head: bytes, transport: int) -> None:
        if head[22] <= 1 and not self._plan.own(head[30:34]):
            self._icmp.time_exceeded(head)
        else:
            self._dispatch(frame, head, transport, frame.length)
            # the memory is ours and lives as long as the burst's views of it
