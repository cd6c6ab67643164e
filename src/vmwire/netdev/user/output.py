# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Toward the guests: what the user network sends, one burst a turn.

Everything but bulk TCP data goes through here: acknowledgements, answers of the services, UDP and
ICMP. Frames are gathered while a turn runs and leave together at its end. What the guest's side
has no room for waits in a short queue; past its end frames are lost and counted, as on a real
network.
"""

from __future__ import annotations

from collections.abc import Callable

from vmwire.netdev.user.fragments import fragment
from vmwire.netdev.user.plan import Plan
from vmwire.wire.frame import NO_OFFLOAD, Frame, Offload
from vmwire.wire.port import Port
from vmwire.wire.protocols.checksum import internet_checksum
from vmwire.wire.protocols.ipv4 import HEADER as IPV4_HEADER
from vmwire.wire.protocols.ipv4 import Header

ETHERTYPE_IPV4 = b"\x08\x00"
MAX_WAITING = 1024
"""Frames that wait for room before the next ones are dropped."""

TTL = 64
ETHERNET_MINIMUM = 60


class Output:
    """The user network's sending side.

    ``mac_of(address)`` gives the MAC of a guest, or None, in which case it sees to it that the
    guest is asked for it.
    """

    def __init__(
        self,
        port: Port,
        defer: Callable[[Callable[[], None]], None],
        mac_of: Callable[[bytes], bytes | None],
        plan: Plan,
    ) -> None:
        self._port = port
        self._plan = plan
        self._defer = defer
        self.mac_of = mac_of
        self._waiting: list[Frame] = []
        self._flush_due = False
        self._identification = 0

    def frame(self, frame: Frame) -> None:
        """Send a frame whose memory nobody else will touch."""
        if len(self._waiting) >= MAX_WAITING:
            self._port.drops["guest has no room"] += 1
            return
        self._waiting.append(frame)
        if not self._flush_due:
            self._flush_due = True
            self._defer(self.flush)

    def ethernet(self, destination: bytes, source: bytes, ethertype: bytes, payload: bytes) -> None:
        """Send an Ethernet frame, padded to the least length."""
        data = destination + source + ethertype + payload
        self.frame(Frame.of(data.ljust(ETHERNET_MINIMUM, b"\0")))

    def ipv4(
        self,
        source: bytes,
        destination: bytes,
        protocol: int,
        payload: bytes,
        *,
        mac: bytes | None = None,
        tos: int = 0,
        ttl: int = TTL,
        offload: Offload = NO_OFFLOAD,
    ) -> bool:
        """Send an IPv4 packet to a guest, in fragments if it is longer than the MTU.

        ``mac`` overrides the guest's MAC (broadcasts, and answers to a guest that has no address
        yet). False if the guest's MAC isn't known (it is asked).
        """
        to = mac if mac is not None else self.mac_of(destination)
        if to is None:
            self._port.drops["guest unknown"] += 1
            return False
        self._identification = (self._identification + 1) & 0xFFFF
        ethernet = to + self._plan.mac(source) + ETHERTYPE_IPV4
        length = IPV4_HEADER.size + len(payload)
        if length <= self._plan.mtu or offload.needs:
            packet = IPV4_HEADER.pack(
                0x45, tos, length, self._identification, 0, ttl, protocol, 0, source, destination
            )
            checksum = internet_checksum(packet)
            data = b"".join(
                (ethernet, packet[:10], checksum.to_bytes(2, "big"), packet[12:], payload)
            )
            self.frame(Frame.of(data.ljust(ETHERNET_MINIMUM, b"\0"), offload))
            return True
        header = Header(
            source, destination, protocol, len(payload), ttl, self._identification, tos=tos
        )
        for emitted, piece in fragment(header, payload, self._plan.mtu):
            data = b"".join((ethernet, emitted, piece))
            self.frame(Frame.of(data.ljust(ETHERNET_MINIMUM, b"\0")))
        return True

    def flush(self) -> None:
        """Offer what waits; the rest stays until the peer has room."""
        self._flush_due = False
        waiting = self._waiting
        if waiting:
            taken = self._port.send(waiting)
            del waiting[:taken]
