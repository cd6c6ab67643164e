# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A DHCP client without sockets (RFC 2131, section 4.4): payloads in, payloads out.

It asks, takes the first offer, and is done with the acknowledgement; a refusal starts it anew.
Renewal isn't its business. Who sends nothing back in time is asked again by ``message()``.

>>> client = DhcpClient(bytes.fromhex("525400123456"), xid=7)
>>> dhcp.Message.parse(client.message()).type == dhcp.DISCOVER
True
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from vmwire.wire.protocols import dhcp
from vmwire.wire.protocols.errors import ParseError

WANTED = bytes(
    (dhcp.OPTION_SUBNET_MASK, dhcp.OPTION_ROUTER, dhcp.OPTION_DNS, dhcp.OPTION_MTU)
)  # fmt: skip
DEFAULT_MTU = 1500
OPTION_PARAMETERS = 55  # what the client would like to be told


@dataclass(frozen=True, slots=True)
class Lease:
    """What the server gave, as text; ``None`` for what it didn't."""

    address: str
    prefix: int
    gateway: str | None
    dns: str | None
    server: str
    mtu: int
    seconds: int


class DhcpClient:
    """One exchange for one card. ``lease`` is there when it is done."""

    def __init__(self, mac: bytes, xid: int, hostname: str = "") -> None:
        self.mac = mac
        self.xid = xid
        self.hostname = hostname
        self.lease: Lease | None = None
        self._offer: dhcp.Message | None = None

    def message(self) -> bytes:
        """What is to be sent now, from 0.0.0.0 to everybody."""
        options = {dhcp.OPTION_MESSAGE_TYPE: bytes((dhcp.DISCOVER,))}
        if self._offer is not None:
            options = {
                dhcp.OPTION_MESSAGE_TYPE: bytes((dhcp.REQUEST,)),
                dhcp.OPTION_REQUESTED_ADDRESS: self._offer.yiaddr,
                dhcp.OPTION_SERVER_ID: self._offer.options.get(dhcp.OPTION_SERVER_ID, b""),
            }
        if self.hostname:
            options[dhcp.OPTION_HOST_NAME] = self.hostname.encode()
        options[OPTION_PARAMETERS] = WANTED
        return dhcp.Message(dhcp.BOOTREQUEST, self.xid, self.mac, options).emit(300)

    def take(self, payload: bytes) -> bool:
        """Take a datagram that came to the client's port; whether there is something to send."""
        try:
            message = dhcp.Message.parse(payload)
        except ParseError:
            return False
        if (message.op, message.xid, message.chaddr) != (dhcp.BOOTREPLY, self.xid, self.mac):
            return False
        if message.type == dhcp.OFFER and self._offer is None:
            self._offer = message
            return True
        if message.type == dhcp.NAK:
            self._offer = None
            return True
        if message.type == dhcp.ACK and self._offer is not None:
            self.lease = _lease(message)
        return False


def _lease(message: dhcp.Message) -> Lease:
    options = message.options
    mask = options.get(dhcp.OPTION_SUBNET_MASK, b"\xff\xff\xff\0")
    mtu = int.from_bytes(options.get(dhcp.OPTION_MTU, b""), "big")
    return Lease(
        address=socket.inet_ntoa(message.yiaddr),
        prefix=int.from_bytes(mask, "big").bit_count(),
        gateway=_first(options.get(dhcp.OPTION_ROUTER)),
        dns=_first(options.get(dhcp.OPTION_DNS)),
        server=_first(options.get(dhcp.OPTION_SERVER_ID)) or socket.inet_ntoa(message.siaddr),
        mtu=mtu or DEFAULT_MTU,
        seconds=int.from_bytes(options.get(dhcp.OPTION_LEASE_TIME, b""), "big"),
    )


def _first(value: bytes | None) -> str | None:
    """The first of an option's addresses."""
    return socket.inet_ntoa(value[:4]) if value and len(value) >= 4 else None
