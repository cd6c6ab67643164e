# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The DHCP and BOOTP server of the user network (RFC 2131, RFC 951), without I/O.

Theory of operation. The pool begins at the plan's first lease and goes on upward, around the
network if need be, leaving out the network's own addresses. An address of the pool is

* *free*: never given, released, or run out;
* *offered* for a minute: a guest that asks and doesn't come back takes nothing away;
* *leased* for a day (to a BOOTP client, which doesn't renew, for good);
* *declined* for ten minutes: a guest found somebody else using it.

A guest is known by its hardware address and gets the address that it has or had, else the one that
it asks for, else the first free one. If there is none, it gets no answer, which is counted. There
are never more leases than pool addresses, whatever a guest sends.

Answers are broadcast, as a guest without an address may hear nothing else; only INFORM is answered
to the address that the guest names. They are those of QEMU's server, with an MTU option in
addition, and these differences where QEMU's answer would do harm: a REQUEST that names another
server is not ours to answer; INFORM is answered; a refusal names the server and gives no address; a
message whose options end beyond its end is dropped. `restrict` leaves out router and DNS.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

from vmwire.netdev.user.plan import BROADCAST, POOL_SIZE, Plan
from vmwire.wire.protocols import dhcp, ethernet
from vmwire.wire.protocols.checksum import Buffer
from vmwire.wire.protocols.errors import ParseError

LEASE_S = 86400
OFFER_S = 60.0
DECLINED_S = 600.0
FOREVER = float("inf")

MINIMUM_LENGTH = 548  # of an answer; what every client can take (RFC 2131 2: 576 with headers)
IP_AND_UDP = 28
REFUSAL = b"requested address not available"


@dataclass(slots=True, frozen=True)
class Extras:
    """What a lease tells a guest beside addresses. Empty strings are not told."""

    hostname: str = ""
    domain_name: str = ""
    search_domains: tuple[str, ...] = ()
    bootfile: str = ""
    tftp_server_name: str = ""


class Reply(NamedTuple):
    """An answer: UDP payload from port 67 to port 68, where to, and the address it grants."""

    payload: bytes
    address: bytes
    mac: bytes
    leased: bytes | None


@dataclass(slots=True)
class Lease:
    """Who has an address, and until when. A declined address has no client."""

    client: bytes | None
    until: float
    bound: bool


class _Exchange(NamedTuple):
    """A guest's message, where it came from, and when."""

    message: dhcp.Message
    mac: bytes
    now: float

    @property
    def client(self) -> bytes:
        return self.message.chaddr

    @property
    def wanted(self) -> bytes | None:
        """The address that a REQUEST is about: by option before it is used, else `ciaddr`."""
        requested = self.message.address(dhcp.OPTION_REQUESTED_ADDRESS)
        if requested is not None:
            return requested
        return self.message.ciaddr if self.message.ciaddr != dhcp.NO_ADDRESS else None


_Handler = Callable[[_Exchange], Reply | None]


class DhcpServer:
    """Feed it what guests send to port 67.

    `drops` counts messages that were not answered, by reason. Search domains that are no domain
    names are left out, as QEMU leaves them out with a warning; `bad_domains` is for saying so.
    """

    def __init__(self, plan: Plan, extras: Extras | None = None) -> None:
        self._plan = plan
        self._extras = extras or Extras()
        self._extra_options = extra_options(self._extras)
        domains = self._extras.search_domains
        self.bad_domains = tuple(domain for domain in domains if not is_domain(domain))
        self._pool = pool(plan, POOL_SIZE)
        self._leases: dict[bytes, Lease] = {}
        self._by_client: dict[bytes, bytes] = {}
        self.drops: Counter[str] = Counter()
        self._handlers: dict[int | None, _Handler] = {
            None: self._on_bootp,
            dhcp.DISCOVER: self._on_discover,
            dhcp.REQUEST: self._on_request,
            dhcp.DECLINE: self._on_decline,
            dhcp.RELEASE: self._on_release,
            dhcp.INFORM: self._on_inform,
        }

    def receive(self, mac: bytes, payload: Buffer, now: float) -> Reply | None:
        """Take a message that came from `mac`; what comes back is its answer."""
        try:
            message = dhcp.Message.parse(payload)
        except ParseError:
            return self._drop("malformed DHCP")
        if (message.op, message.htype) != (dhcp.BOOTREQUEST, dhcp.HARDWARE_ETHERNET):
            return self._drop("DHCP that is no request")
        if len(message.chaddr) != 6 or not ethernet.is_station(message.chaddr):
            return self._drop("DHCP without a hardware address")
        handler = self._handlers.get(message.type)
        if handler is None:
            return self._drop("unknown DHCP message type")
        return handler(_Exchange(message, mac, now))

    def leases(self, now: float) -> list[tuple[bytes, bytes]]:
        """Address and hardware address of each guest that holds a lease."""
        return [
            (address, lease.client)
            for address, lease in self._leases.items()
            if lease.client and lease.bound and lease.until > now
        ]

    def save(self) -> list[tuple[bytes, bytes | None, float, bool]]:
        """Return who has which address, as plain data."""
        return [(at, each.client, each.until, each.bound) for at, each in self._leases.items()]

    def restore(self, leases: list[tuple[bytes, bytes | None, float, bool]]) -> None:
        """Take on what ``save`` gave, on a clock that goes on. Others' addresses are left out."""
        for address, client, until, bound in leases:
            if address in self._pool:
                self._leases[address] = Lease(client, until, bound)
                if client is not None:
                    self._by_client[client] = address

    # Messages

    def _on_bootp(self, exchange: _Exchange) -> Reply | None:
        address = self._choose(exchange.client, None, exchange.now)
        if address is None:
            return self._drop("DHCP pool is full")
        self._grant(address, exchange.client, FOREVER)
        return self._answer(exchange, dhcp.ACK, address)

    def _on_discover(self, exchange: _Exchange) -> Reply | None:
        client, now = exchange.client, exchange.now
        address = self._choose(client, exchange.wanted, now)
        if address is None:
            return self._drop("DHCP pool is full")
        lease = self._leases.get(address)
        if lease is None or lease.client != client or lease.until < now + OFFER_S:
            self._grant(address, client, now + OFFER_S, bound=False)
        return self._answer(exchange, dhcp.OFFER, address)

    def _on_request(self, exchange: _Exchange) -> Reply | None:
        client, wanted, now = exchange.client, exchange.wanted, exchange.now
        server = exchange.message.address(dhcp.OPTION_SERVER_ID)
        if server is not None and server != self._plan.gateway:
            self._withdraw_offer(client, now)
            return self._drop("DHCP request to another server")
        if wanted is None:
            address = self._choose(client, None, now)
        else:
            address = wanted if self._may_have(client, wanted, now) else None
        if address is not None:
            self._grant(address, client, now + LEASE_S)
            return self._answer(exchange, dhcp.ACK, address)
        return self._drop("DHCP pool is full") if wanted is None else self._refuse(exchange)

    def _on_decline(self, exchange: _Exchange) -> None:
        address = self._by_client.get(exchange.client)
        if address is not None and address == exchange.wanted:
            del self._by_client[exchange.client]
            self._leases[address] = Lease(None, exchange.now + DECLINED_S, bound=False)

    def _on_release(self, exchange: _Exchange) -> None:
        address = self._by_client.get(exchange.client)
        if address is not None and address == exchange.message.ciaddr:
            self._leases[address].until = exchange.now

    def _on_inform(self, exchange: _Exchange) -> Reply:
        reply = self._answer(exchange, dhcp.ACK, None)
        if exchange.message.ciaddr == dhcp.NO_ADDRESS:
            return reply
        return reply._replace(address=exchange.message.ciaddr, mac=exchange.mac)

    # Leases

    def _choose(self, client: bytes, wanted: bytes | None, now: float) -> bytes | None:
        """The address that a guest gets: its own, the wanted one, the first free one."""
        own = self._by_client.get(client)
        if own is not None:
            return own
        if wanted is not None and self._is_free(wanted, now):
            return wanted
        return next((address for address in self._pool if self._is_free(address, now)), None)

    def _is_free(self, address: bytes, now: float) -> bool:
        lease = self._leases.get(address)
        return address in self._pool if lease is None else lease.until <= now

    def _may_have(self, client: bytes, address: bytes, now: float) -> bool:
        return self._by_client.get(client) == address or self._is_free(address, now)

    def _grant(self, address: bytes, client: bytes, until: float, bound: bool = True) -> None:
        """Give the address to the guest; it loses what it had, as does who had the address."""
        self._forget(client)
        before = self._leases.get(address)
        if before is not None and before.client is not None:
            self._forget(before.client)
        self._leases[address] = Lease(client, until, bound)
        self._by_client[client] = address

    def _forget(self, client: bytes) -> None:
        address = self._by_client.pop(client, None)
        if address is not None:
            del self._leases[address]

    def _withdraw_offer(self, client: bytes, now: float) -> None:
        address = self._by_client.get(client)
        if address is not None and not self._leases[address].bound:
            self._leases[address].until = now

    # Answers

    def _drop(self, reason: str) -> Reply | None:
        self.drops[reason] += 1
        return None

    def _refuse(self, exchange: _Exchange) -> Reply:
        options = {
            dhcp.OPTION_MESSAGE_TYPE: bytes((dhcp.NAK,)),
            dhcp.OPTION_SERVER_ID: self._plan.gateway,
            dhcp.OPTION_MESSAGE: REFUSAL,
        }
        message = exchange.message
        refusal = dhcp.Message(dhcp.BOOTREPLY, message.xid, message.chaddr, options)
        return Reply(refusal.emit(MINIMUM_LENGTH), BROADCAST, ethernet.BROADCAST, None)

    def _answer(self, exchange: _Exchange, kind: int, address: bytes | None) -> Reply:
        """An OFFER or ACK; without an address it is the answer to an INFORM."""
        message = exchange.message
        answer = dhcp.Message(
            dhcp.BOOTREPLY,
            message.xid,
            message.chaddr,
            self._base_options(kind, address is not None),
            ciaddr=dhcp.NO_ADDRESS if address else message.ciaddr,
            yiaddr=address or dhcp.NO_ADDRESS,
            siaddr=self._plan.gateway,
            file=self._extras.bootfile.encode()[:127],
        )
        self._add_extras(answer, self._room_for(message))
        leased = address if kind == dhcp.ACK else None
        return Reply(answer.emit(MINIMUM_LENGTH), BROADCAST, ethernet.BROADCAST, leased)

    def _base_options(self, kind: int, with_lease: bool) -> dict[int, bytes]:
        plan = self._plan
        options = {
            dhcp.OPTION_MESSAGE_TYPE: bytes((kind,)),
            dhcp.OPTION_SERVER_ID: plan.gateway,
            dhcp.OPTION_SUBNET_MASK: plan.mask,
        }
        if not plan.restrict:
            options[dhcp.OPTION_ROUTER] = plan.gateway
            options[dhcp.OPTION_DNS] = plan.dns
        if with_lease:
            options[dhcp.OPTION_LEASE_TIME] = LEASE_S.to_bytes(4, "big")
        options[dhcp.OPTION_MTU] = plan.mtu.to_bytes(2, "big")
        return options

    def _add_extras(self, answer: dhcp.Message, room: int) -> None:
        """Add what fits; a search list that doesn't is left out, which is counted."""
        room -= len(answer.emit())
        for code, value in self._extra_options.items():
            size = len(dhcp.emit_option(code, value))
            if size <= room:
                answer.options[code] = value
                room -= size
            else:
                self.drops[f"DHCP option {code} did not fit"] += 1

    def _room_for(self, message: dhcp.Message) -> int:
        """How long an answer may be: what the guest says that it takes, at most one frame."""
        said = int.from_bytes(message.options.get(dhcp.OPTION_MAXIMUM_SIZE, b"")[:2], "big")
        return max(min(said, self._plan.mtu) - IP_AND_UDP, MINIMUM_LENGTH)


def pool(plan: Plan, size: int) -> tuple[bytes, ...]:
    """The addresses to lease: from the plan's first one upward, then from the network's start."""
    lowest = int.from_bytes(plan.network, "big") + 1
    beyond = int.from_bytes(plan.broadcast, "big")
    first = int.from_bytes(plan.first_lease, "big")
    first = first if lowest <= first < beyond else lowest
    numbers = chain(range(first, beyond), range(lowest, first))
    addresses = (number.to_bytes(4, "big") for number in numbers)
    return tuple(islice((address for address in addresses if not plan.own(address)), size))


def extra_options(extras: Extras) -> dict[int, bytes]:
    """The options for what a lease tells beside addresses."""
    options = {
        dhcp.OPTION_HOST_NAME: extras.hostname.encode(),
        dhcp.OPTION_DOMAIN_NAME: extras.domain_name.encode(),
        dhcp.OPTION_DOMAIN_SEARCH: dhcp.emit_search_list(filter(is_domain, extras.search_domains)),
        dhcp.OPTION_TFTP_SERVER_NAME: extras.tftp_server_name.encode(),
    }
    return {code: value for code, value in options.items() if value}


def is_domain(name: str) -> bool:
    """Whether a search list can hold the name."""
    try:
        return bool(dhcp.split_domain(name))
    except ValueError:
        return False
