# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The address plan of one user network: who is who, and what the guest may reach.

Addresses on the hot path are four bytes in network order. The gateway stands for the host: what a
guest sends to it arrives at the host's loopback, and what comes from the host's loopback seems to
come from it.
"""

from __future__ import annotations

from dataclasses import dataclass

LOOPBACK = bytes((127, 0, 0, 1))
ANY = bytes(4)
BROADCAST = b"\xff\xff\xff\xff"

POOL_SIZE = 64
"""Addresses that are leased, if the network has so many."""


def dotted(address: bytes) -> str:
    """Return four bytes as a dotted quad."""
    return ".".join(map(str, address))


def packed(address: str) -> bytes:
    """Return a dotted quad as four bytes."""
    return bytes(map(int, address.split(".")))


def gateway_mac(address: bytes) -> bytes:
    """Return the MAC of one of the network's own addresses: 52:55 and the address."""
    return b"\x52\x55" + address


@dataclass(slots=True)
class Plan:
    """The addresses of a user network, and the switches that decide where guests may go."""

    network: bytes = packed("10.0.2.0")
    mask: bytes = packed("255.255.255.0")
    gateway: bytes = packed("10.0.2.2")
    dns: bytes = packed("10.0.2.3")
    first_lease: bytes = packed("10.0.2.15")
    mtu: int = 1500
    restrict: bool = False
    loopback: bool = True

    def inside(self, address: bytes) -> bool:
        """Whether ``address`` lies in the network."""
        return not (
            (int.from_bytes(address, "big") ^ int.from_bytes(self.network, "big"))
            & int.from_bytes(self.mask, "big")
        )

    def mac(self, address: bytes) -> bytes:
        """Return the MAC that packets from ``address`` come from: its own, or the gateway's."""
        return gateway_mac(address if self.own(address) else self.gateway)

    @property
    def broadcast(self) -> bytes:
        """The network's broadcast address."""
        host_bits = int.from_bytes(self.mask, "big") ^ 0xFFFFFFFF
        return (int.from_bytes(self.network, "big") | host_bits).to_bytes(4, "big")

    def own(self, address: bytes) -> bool:
        """Whether ``address`` is one that the network itself answers for."""
        return address in (self.gateway, self.dns)

    def for_many(self, address: bytes) -> bool:
        """Whether ``address`` is a group's, or everybody's in the network."""
        return address[0] >= 224 or address in (self.network, self.broadcast)

    def may_send(self, address: bytes) -> bool:
        """Whether a guest (or one that it routes for) can have ``address``."""
        first = address[0]
        return not (first == 0 or first == 127 or self.own(address) or self.for_many(address))

    def outside(self, address: bytes) -> bytes | None:
        """Where on the host's side ``address`` (as the guest says it) is; None: nowhere.

        Loopback, multicast, broadcast and the network's own range lead nowhere: the first would
        give a guest more of the host than the gateway does, the others have no unicast answer.
        """
        if address == self.gateway:
            return LOOPBACK if self.loopback else None
        first = address[0]
        if first == 0 or first == 127 or first >= 224 or self.inside(address):
            return None
        return address

    def seen_as(self, address: bytes) -> bytes:
        """How a host-side address looks to the guest; the inverse of ``outside``.

        A host may have an address in the guest's network (a VM in a VM, as a rule): the guest would
        look for it on its own wire, or take it for itself.
        """
        return self.gateway if address[0] == 127 or self.inside(address) else address
