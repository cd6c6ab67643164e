# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The options of ``-netdev user``: QEMU's, with QEMU's meaning, and two of vmwire's own.

Where QEMU is generous, so are we, because a command line that QEMU starts must not fail for
vmwire: a network mask may have holes (membership is then decided bit by bit, as there), ``host``
may be the network's own address, text after a port of ``hostfwd`` is ignored, and addresses come
in all forms of inet_aton(3). Names of hosts are not resolved, neither there nor here.

Addresses are four bytes. Those that aren't given follow from the network: its host part is that of
``10.0.2.2`` for the gateway, of ``10.0.2.3`` for the name server and of ``10.0.2.15`` for the
first lease, as far as the mask leaves room for it.

Besides QEMU's options there are ``mtu`` (told to guests by DHCP, option 26; RFC 2132) and
``loopback`` (whether the gateway's address leads to the host's loopback).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from vmwire.errors import ConfigError
from vmwire.netdev.user.plan import POOL_SIZE, Plan, dotted
from vmwire.options.table import NotServedError, option, record
from vmwire.options.values import (
    BOOL,
    IDENTIFIER,
    STRING,
    UINT16,
    ParsedType,
    parse_ipv4,
    read_int,
    said,
)

MIN_MTU = 68  # RFC 791: what every IPv4 link carries
MAX_MTU = 65520  # the largest multiple of 16 that an IPv4 packet fits
MAX_NAME_BYTES = 255  # the length of a DHCP option is one byte

LATER = (
    "ipv6-prefix", "ipv6-net", "ipv6-prefixlen", "ipv6-host", "ipv6-dns",
    "tftp", "bootfile", "tftp-server-name", "smb", "smbserver", "guestfwd",
)  # fmt: skip

_PREFIX_LENGTH = re.compile(r"(?:\s*[+-]?[0-9]+)?", re.ASCII)


@dataclass(slots=True, frozen=True)
class Subnet:
    """``net=``: a network and its mask, which QEMU takes with holes in it too."""

    address: bytes
    mask: bytes

    def host(self, suffix: int) -> bytes:
        """The address with the host part of ``suffix``, cut to what the mask leaves."""
        number = int.from_bytes(self.address, "big")
        return (number | suffix & ~int.from_bytes(self.mask, "big")).to_bytes(4, "big")

    def __str__(self) -> str:
        return f"{dotted(self.address)}/{dotted(self.mask)}"


def _and(address: bytes, mask: bytes) -> bytes:
    return bytes(one & other for one, other in zip(address, mask, strict=True))


def parse_net(text: str) -> Subnet:
    """``a.b.c.d``, ``a.b.c.d/length`` or ``a.b.c.d/mask``; host bits are cleared."""
    start, slash, rest = text.partition("/")
    try:
        address = parse_ipv4(start)
    except ValueError:
        raise ValueError("Failed to parse netmask") from None
    mask = _parse_mask(rest) if slash else _usual_mask(address)
    return Subnet(_and(address, mask), mask)


def _parse_mask(text: str) -> bytes:
    """A prefix length in decimal (an empty one counts as 0), else an address."""
    if not _PREFIX_LENGTH.fullmatch(text):
        return said(parse_ipv4, "Failed to parse netmask (trailing chars)")(text)
    length = int(text or "0")
    if not 4 <= length <= 32:
        raise ValueError("Invalid netmask provided (must be in range 4-32)")
    return (0xFFFFFFFF ^ 0xFFFFFFFF >> length).to_bytes(4, "big")


_USUAL_MASKS: tuple[tuple[str, int, int], ...] = (
    # the first row that holds the address tells the length of its mask
    ("0.0.0.0", 1, 8),
    ("172.16.0.0", 12, 12),
    ("128.0.0.0", 2, 16),
    ("192.168.0.0", 16, 16),
    ("198.18.0.0", 16, 15),
    ("224.0.0.0", 3, 24),
    ("0.0.0.0", 0, 28),
)


def _usual_mask(address: bytes) -> bytes:
    """The mask that QEMU gives a network without one: by class, with the private ranges whole."""
    number = int.from_bytes(address, "big")
    for start, fixed, length in _USUAL_MASKS:
        if not (number ^ int.from_bytes(parse_ipv4(start), "big")) >> 32 - fixed:
            return _parse_mask(str(length))
    raise AssertionError("the last row holds every address")


@dataclass(slots=True, frozen=True)
class ForwardRule:
    """``hostfwd=``: connections (or datagrams) to a host's port go to a guest's."""

    protocol: str
    """``tcp`` or ``udp``."""
    host_address: bytes
    """Where to listen; 0.0.0.0 for everywhere."""
    host_port: int
    """0 lets the kernel choose."""
    guest_address: bytes | None
    """None for the address of the first lease."""
    guest_port: int
    text: str = ""
    """The rule as it was typed, for messages."""

    def __str__(self) -> str:
        if self.text:
            return self.text
        guest = dotted(self.guest_address) if self.guest_address else ""
        host = dotted(self.host_address)
        return f"{self.protocol}:{host}:{self.host_port}-{guest}:{self.guest_port}"


def parse_forward(text: str) -> ForwardRule:
    """``[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport``.

    >>> rule = parse_forward("tcp::5555-:22")
    >>> rule.protocol, rule.host_port, rule.guest_address, rule.guest_port
    ('tcp', 5555, None, 22)
    """
    rule = _Splitter(text, text)
    protocol = rule.until(":", "No : separators") or "tcp"
    if protocol == "unix":
        raise NotServedError("hostfwd=unix: is not served by vmwire yet")
    if protocol not in ("tcp", "udp"):
        raise rule.bad("Bad protocol name")
    host_address = rule.address(rule.until(":", "Missing : separator"), "Bad host address")
    host_port = rule.port(rule.until("-", "Bad host port separator"), "Bad host port", least=0)
    guest_address = rule.address(rule.until(":", "Missing guest address"), "Bad guest address")
    guest_port = rule.port(rule.rest, "Bad guest port", least=1)
    anywhere = bytes(4)
    return ForwardRule(
        protocol,
        host_address,
        host_port,
        guest_address if guest_address != anywhere else None,
        guest_port,
        text,
    )


@dataclass(slots=True)
class _Splitter:
    """A rule that is taken apart from the left, and the reason why it can't be."""

    text: str
    rest: str

    def bad(self, reason: str) -> ValueError:
        return ValueError(f"Invalid host forwarding rule '{{value}}' ({reason})")

    def until(self, separator: str, reason: str) -> str:
        part, found, self.rest = self.rest.partition(separator)
        if not found:
            raise self.bad(reason)
        return part

    def address(self, text: str, reason: str) -> bytes:
        try:
            return parse_ipv4(text) if text else bytes(4)
        except ValueError:
            raise self.bad(reason) from None

    def port(self, text: str, reason: str, least: int) -> int:
        try:
            number, _ignored = read_int(text)
        except ValueError:
            raise self.bad(reason) from None
        if not least <= number <= 0xFFFF:
            raise self.bad(reason)
        return number


def _address_type(sentence: str) -> ParsedType:
    return ParsedType(result=bytes, parse=said(parse_ipv4, sentence), written=dotted)


def _name_type(parse: Callable[[str], str]) -> ParsedType:
    return ParsedType(result=str, parse=parse)


def _host_name(text: str) -> str:
    if len(text.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"'vhostname' parameter cannot exceed {MAX_NAME_BYTES} bytes")
    return text


def _domain_name(text: str) -> str:
    if not text:
        raise ValueError("'domainname' parameter cannot be empty")
    if len(text.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"'domainname' parameter cannot exceed {MAX_NAME_BYTES} bytes")
    return text


DEFAULT_NET = parse_net("10.0.2.0/24")


@record("netdev", "user", later=LATER)
@dataclass(slots=True, kw_only=True)
class UserOptions:
    """What a user can say of a user-mode network.

    >>> options = UserOptions(id="u", net=parse_net("192.168.5.0/24"))
    >>> dotted(options.plan().first_lease)
    '192.168.5.15'
    """

    id: str = option(IDENTIFIER, required=True, help="name of this netdev")
    ipv4: bool | None = option(BOOL, help="on/off, whether guests get IPv4 (default: on)")
    ipv6: bool | None = option(
        BOOL, help="on/off, accepted as in QEMU; IPv6 is not answered yet (default: on)"
    )
    restrict: bool = option(
        BOOL, default=False, help="on/off, whether guests reach nothing but what is forwarded"
    )
    net: Subnet | None = option(
        ParsedType(result=Subnet, parse=parse_net, written=str),
        help=f"the guests' network, as ADDRESS/LENGTH or ADDRESS/MASK (default: {DEFAULT_NET})",
    )
    host: bytes | None = option(
        _address_type("Failed to parse host"), help="the gateway (default: .2 of the network)"
    )
    dns: bytes | None = option(
        _address_type("Failed to parse DNS"), help="the name server (default: .3 of the network)"
    )
    dhcpstart: bytes | None = option(
        _address_type("Failed to parse DHCP start address"),
        help=f"the first of up to {POOL_SIZE} leases (default: .15 of the network)",
    )
    dnssearch: list[str] = option(
        STRING, repeated=True, help="a domain that guests search; may be given several times"
    )
    domainname: str | None = option(_name_type(_domain_name), help="the guests' domain")
    hostname: str | None = option(_name_type(_host_name), help="the guests' host name")
    hostfwd: list[ForwardRule] = option(
        ParsedType(result=ForwardRule, parse=parse_forward, written=str),
        repeated=True,
        help="forward [tcp|udp]:[HOSTADDR]:PORT-[GUESTADDR]:PORT; may be given several times",
    )
    mtu: int = option(
        UINT16, default=1500, ours=True, help=f"told to guests by DHCP, {MIN_MTU} to {MAX_MTU}"
    )
    loopback: bool = option(
        BOOL,
        default=True,
        ours=True,
        help="on/off, whether the gateway leads to the host's loopback",
    )

    def __post_init__(self) -> None:
        addresses = (self.net, self.host, self.dns)
        if not self.ipv4_on and any(address is not None for address in addresses):
            raise ConfigError("IPv4 disabled but netmask/host/dns provided")
        if not self.ipv4_on and not self.ipv6_on:
            raise ConfigError("IPv4 and IPv6 disabled")
        if not MIN_MTU <= self.mtu <= MAX_MTU:
            raise ConfigError(f"Parameter 'mtu' expects a number from {MIN_MTU} to {MAX_MTU}")
        self._check_addresses(self.plan())

    def _check_addresses(self, plan: Plan) -> None:
        """QEMU's rules. The name server may be outside, if guests may go there."""
        if not plan.inside(plan.gateway):
            raise ConfigError("Host doesn't belong to network")
        if self.restrict and not plan.inside(plan.dns):
            raise ConfigError("DNS doesn't belong to network")
        if plan.dns == plan.gateway:
            raise ConfigError("DNS must be different from host")
        if not plan.inside(plan.first_lease):
            raise ConfigError("DHCP doesn't belong to network")
        if plan.first_lease in (plan.gateway, plan.dns):
            raise ConfigError("DHCP must be different from host and DNS")

    @property
    def ipv4_on(self) -> bool:
        """Whether guests get IPv4: asking for IPv6 alone switches it off, as in QEMU."""
        return self.ipv4 if self.ipv4 is not None else not self.ipv6

    @property
    def ipv6_on(self) -> bool:
        """Whether QEMU would give guests IPv6."""
        return self.ipv6 if self.ipv6 is not None else not self.ipv4

    def plan(self) -> Plan:
        """The addresses, with those that weren't given."""
        net = self.net or DEFAULT_NET
        return Plan(
            network=net.address,
            mask=net.mask,
            gateway=self.host or net.host(0x0202),
            dns=self.dns or net.host(0x0203),
            first_lease=self.dhcpstart or net.host(0x020F),
            mtu=self.mtu,
            restrict=self.restrict,
            loopback=self.loopback,
        )

    def unanswered(self) -> str | None:
        """What these options ask for that vmwire leaves without an answer; None for nothing."""
        if not self.ipv4_on:
            return "IPv4 is off and IPv6 is not answered by vmwire yet: guests get no network"
        if self.ipv6:
            return "IPv6 is not answered by vmwire yet"
        return None
