# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""ARP of the user network (RFC 826): who answers for which address, and which guest is where.

The network answers for its own addresses (gateway, DNS), each with a MAC made of 52:55 and the
address; for nobody else, so that guests on one network find each other themselves. A guest's MAC
is learnt from whatever it says about itself. A guest that a connection is forwarded to before it
has spoken is asked for, at most once a second.

The table is bounded: a guest that claims ever new addresses pushes out the oldest entries, whose
owners are learnt again with their next frame.
"""

from collections import Counter
from typing import NamedTuple

from vmwire.netdev.user.plan import Plan, gateway_mac
from vmwire.wire.protocols import arp, ethernet
from vmwire.wire.protocols.checksum import Buffer
from vmwire.wire.protocols.errors import ParseError

MAX_NEIGHBOURS = 1024
MAX_ASKED = 256
ASK_AGAIN_S = 1.0


class Outgoing(NamedTuple):
    """An ARP message to send: Ethernet addresses and payload."""

    destination: bytes
    source: bytes
    payload: bytes


class Neighbours:
    """The network's ARP: feed it what arrives, send what it returns.

    ``macs`` may be read directly on hot paths.

    >>> neighbours = Neighbours(Plan())
    >>> neighbours.learn(bytes([10, 0, 2, 15]), bytes.fromhex("525400123456"))
    >>> neighbours.macs[bytes([10, 0, 2, 15])].hex(":")
    '52:54:00:12:34:56'
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.macs: dict[bytes, bytes] = {}
        self._asked: dict[bytes, float] = {}
        self.drops: Counter[str] = Counter()

    def receive(self, payload: Buffer) -> Outgoing | None:
        """Take an ARP message from a guest; what comes back is its answer."""
        try:
            packet = arp.Packet.parse(payload)
        except ParseError:
            self.drops["malformed ARP"] += 1
            return None
        self.learn(packet.sender_address, packet.sender_mac)
        if packet.operation != arp.REQUEST or not self._plan.own(packet.target_address):
            return None
        own, mac = packet.target_address, gateway_mac(packet.target_address)
        reply = arp.Packet(arp.REPLY, mac, own, packet.sender_mac, packet.sender_address)
        return Outgoing(packet.sender_mac, mac, reply.emit())

    def learn(self, address: bytes, mac: bytes) -> None:
        """Note where a guest is. Addresses that can't be a guest's are ignored."""
        if self.macs.get(address) == mac or not self._can_be_guest(address, mac):
            return
        self.macs.pop(address, None)
        self._asked.pop(address, None)
        self.macs[address] = mac
        if len(self.macs) > MAX_NEIGHBOURS:
            del self.macs[next(iter(self.macs))]

    def _can_be_guest(self, address: bytes, mac: bytes) -> bool:
        plan = self._plan
        if not plan.inside(address) or address in (plan.network, plan.broadcast):
            return False
        return ethernet.is_station(mac) and not plan.own(address)

    def ask(self, address: bytes, now: float) -> Outgoing | None:
        """The request for a guest not known yet; None if it was asked for just now.

        Addresses outside of the network, which no guest can answer for, are never asked for.
        """
        asked = self._asked.get(address)
        if (asked is not None and now < asked + ASK_AGAIN_S) or not self._plan.inside(address):
            return None
        self._asked.pop(address, None)
        self._asked[address] = now
        if len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        own = self._plan.gateway
        mac = gateway_mac(own)
        request = arp.Packet(arp.REQUEST, mac, own, arp.NO_MAC, address)
        return Outgoing(ethernet.BROADCAST, mac, request.emit())
