# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmwire.netdev.user.dhcp import (
    DECLINED_S,
    LEASE_S,
    OFFER_S,
    DhcpServer,
    Extras,
    Reply,
    pool,
)
from vmwire.netdev.user.plan import BROADCAST, POOL_SIZE, Plan, dotted, packed
from vmwire.wire.protocols import dhcp, ethernet
from vmwire.wire.protocols.dhcp import Message

DATA = Path(__file__).parents[2] / "data" / "user_network_dhcp.json"
RECORDINGS = json.loads(DATA.read_text())["recordings"]

GUEST_MAC = bytes.fromhex("525400123456")
OTHER_MAC = bytes.fromhex("525400123457")
XID = 0x3903F326


def ask(
    kind: int | None,
    mac: bytes = GUEST_MAC,
    requested: str = "",
    server: str = "",
    ciaddr: str = "0.0.0.0",
    extra: dict[int, bytes] | None = None,
) -> bytes:
    """A guest's message."""
    options = {} if kind is None else {dhcp.OPTION_MESSAGE_TYPE: bytes([kind])}
    if requested:
        options[dhcp.OPTION_REQUESTED_ADDRESS] = packed(requested)
    if server:
        options[dhcp.OPTION_SERVER_ID] = packed(server)
    message = Message(dhcp.BOOTREQUEST, XID, mac, options | (extra or {}), ciaddr=packed(ciaddr))
    return message.emit()


def answer(reply: Reply | None) -> Message:
    assert reply is not None
    return Message.parse(reply.payload)


def lease(server: DhcpServer, mac: bytes, now: float = 0) -> str:
    """Discover and request as a well-behaved guest does."""
    offer = answer(server.receive(mac, ask(dhcp.DISCOVER, mac), now))
    wanted = dotted(offer.yiaddr)
    ack = answer(server.receive(mac, ask(dhcp.REQUEST, mac, wanted, "10.0.2.2"), now))
    assert (ack.type, ack.yiaddr) == (dhcp.ACK, offer.yiaddr)
    return wanted


def facts(reply: Reply | None) -> dict[str, object] | None:
    """An answer in the terms of the recordings, without the MTU, which is ours."""
    if reply is None:
        return None
    message = Message.parse(reply.payload)
    return {
        "yiaddr": dotted(message.yiaddr),
        "siaddr": dotted(message.siaddr),
        "flags": f"{message.flags:04x}",
        "file": message.file.decode(),
        "length": len(reply.payload),
        "options": [[c, v.hex()] for c, v in message.options.items() if c != dhcp.OPTION_MTU],
    }


OTHER_NET = Plan(
    network=packed("192.168.5.0"),
    gateway=packed("192.168.5.2"),
    dns=packed("192.168.5.3"),
    first_lease=packed("192.168.5.15"),
)
WIDE_NET = Plan(
    network=packed("172.20.0.0"),
    mask=packed("255.255.0.0"),
    gateway=packed("172.20.1.1"),
    dns=packed("172.20.1.2"),
    first_lease=packed("172.20.9.9"),
)


@pytest.mark.parametrize(
    ("name", "plan", "extras"),
    [
        ("default", Plan(), Extras()),
        ("hostname", Plan(), Extras(hostname="myhost")),
        ("bootfile+tftp", Plan(), Extras(bootfile="pxe.0")),
        ("tftp-server-name", Plan(), Extras(bootfile="pxe.0", tftp_server_name="10.9.8.7")),
        ("tftp-server-name host", Plan(), Extras(tftp_server_name="tftp.example")),
        ("domainname", Plan(), Extras(domain_name="dom.example")),
        ("dnssearch one", Plan(), Extras(search_domains=("a.example",))),
        (
            "dnssearch three",
            Plan(),
            Extras(search_domains=("a.example", "b.example", "corp.other.test")),
        ),
        ("dnssearch long", Plan(), Extras(search_domains=tuple(c * 60 for c in "abcdefg"))),
        ("net 192.168.5.0/24", OTHER_NET, Extras()),
        ("net /16 host dns dhcpstart", WIDE_NET, Extras()),
        ("restrict", Plan(restrict=True), Extras()),
    ],
)
def test_answers_are_those_recorded(name: str, plan: Plan, extras: Extras) -> None:
    server = DhcpServer(plan, extras)
    recorded = RECORDINGS[name]
    assert facts(server.receive(GUEST_MAC, ask(dhcp.DISCOVER), 0)) == recorded["DISCOVER"]
    wanted = dotted(plan.first_lease)
    acknowledged = recorded.get("REQUEST .15") or recorded["REQUEST"]
    assert facts(server.receive(GUEST_MAC, ask(dhcp.REQUEST, requested=wanted), 0)) == acknowledged


SEQUENCE = [
    ("DISCOVER", ask(dhcp.DISCOVER)),
    ("DISCOVER again same mac", ask(dhcp.DISCOVER)),
    ("DISCOVER second mac", ask(dhcp.DISCOVER, OTHER_MAC)),
    ("REQUEST .15", ask(dhcp.REQUEST, requested="10.0.2.15", server="10.0.2.2")),
    ("REQUEST .15 no server id", ask(dhcp.REQUEST, requested="10.0.2.15")),
    ("REQUEST no requested ip, ciaddr .15", ask(dhcp.REQUEST, ciaddr="10.0.2.15")),
    ("REQUEST no requested ip no ciaddr", ask(dhcp.REQUEST)),
    ("DISCOVER requesting .77", ask(dhcp.DISCOVER, requested="10.0.2.77")),
    ("RELEASE", ask(dhcp.RELEASE, ciaddr="10.0.2.15", server="10.0.2.2")),
    ("DISCOVER after RELEASE", ask(dhcp.DISCOVER)),
    ("DISCOVER rapid commit", ask(dhcp.DISCOVER, extra={80: b""})),
    ("DISCOVER with params list", ask(dhcp.DISCOVER, extra={55: b"\x01\x03\x06"})),
    ("DISCOVER max size 576", ask(dhcp.DISCOVER, extra={57: b"\x02\x40"})),
]


def test_sequence_is_answered_as_recorded() -> None:
    server = DhcpServer(Plan())
    for name, message in SEQUENCE:
        mac = Message.parse(message).chaddr
        assert facts(server.receive(mac, message, 0)) == RECORDINGS["sequences"][name], name


@pytest.mark.parametrize("name", ["BOOTP no options, magic only", "BOOTP zero vend"])
def test_bootp_is_answered_as_recorded(name: str) -> None:
    vendor = dhcp.MAGIC + b"\xff" + bytes(59) if "magic" in name else bytes(64)
    server = DhcpServer(Plan())
    for _ in range(2):
        reply = server.receive(GUEST_MAC, ask(None)[:236] + vendor, 0)
        assert facts(reply) == RECORDINGS["BOOTP"][name]


def test_bare_bootp_header_is_answered_and_a_bootp_reply_is_not() -> None:
    server = DhcpServer(Plan())
    reply = server.receive(GUEST_MAC, ask(None)[:236], 0)
    assert facts(reply) == RECORDINGS["BOOTP"]["BOOTP 236 bytes no vend"]
    assert server.receive(GUEST_MAC, b"\x02" + ask(dhcp.DISCOVER)[1:], 0) is None


def test_guests_get_addresses_in_the_recorded_order() -> None:
    server = DhcpServer(Plan())
    offers = [server.receive(mac, ask(dhcp.DISCOVER, mac), 0) for mac in map(number_mac, range(16))]
    recorded = [address for [[address, _]] in RECORDINGS["20 macs"][:16]]
    assert [dotted(answer(offer).yiaddr) for offer in offers] == recorded


def number_mac(number: int) -> bytes:
    return b"\x52\x54\x00" + number.to_bytes(3, "big")


def test_answers_carry_the_mtu_and_go_to_everybody() -> None:
    reply = DhcpServer(Plan(mtu=9000)).receive(GUEST_MAC, ask(dhcp.DISCOVER), 0)
    assert answer(reply).options[dhcp.OPTION_MTU] == bytes.fromhex("2328")
    assert reply is not None
    assert (reply.address, reply.mac, reply.leased) == (BROADCAST, ethernet.BROADCAST, None)


def test_granted_address_is_told_to_the_caller() -> None:
    server = DhcpServer(Plan())
    reply = server.receive(GUEST_MAC, ask(dhcp.REQUEST), 0)
    assert reply is not None and reply.leased == packed("10.0.2.15")
    assert server.leases(0) == [(packed("10.0.2.15"), GUEST_MAC)]
    assert server.leases(LEASE_S) == []


@pytest.mark.parametrize("wanted", ["10.0.2.200", "192.168.9.9", "10.0.2.2", "10.0.2.255"])
def test_request_for_what_is_not_in_the_pool_is_refused(wanted: str) -> None:
    message = answer(DhcpServer(Plan()).receive(GUEST_MAC, ask(dhcp.REQUEST, requested=wanted), 0))
    assert message.type == dhcp.NAK
    assert message.yiaddr == bytes(4)
    assert message.options == {
        53: bytes([dhcp.NAK]),
        54: packed("10.0.2.2"),
        56: b"requested address not available",
    }


def test_request_for_another_guests_address_is_refused_and_costs_nothing() -> None:
    server = DhcpServer(Plan())
    own, other = lease(server, GUEST_MAC), lease(server, OTHER_MAC)
    for message in (
        ask(dhcp.REQUEST, requested=other),
        ask(dhcp.REQUEST, ciaddr=other),
    ):
        assert answer(server.receive(GUEST_MAC, message, 1)).type == dhcp.NAK
    assert lease(server, GUEST_MAC, 2) == own


def test_free_address_is_given_to_who_asks_for_it() -> None:
    server = DhcpServer(Plan())
    offer = server.receive(GUEST_MAC, ask(dhcp.DISCOVER, requested="10.0.2.40"), 0)
    assert dotted(answer(offer).yiaddr) == "10.0.2.40"
    # After a restart of ours a guest asks for what it had, without an offer.
    ack = answer(server.receive(OTHER_MAC, ask(dhcp.REQUEST, OTHER_MAC, "10.0.2.50"), 0))
    assert (ack.type, dotted(ack.yiaddr)) == (dhcp.ACK, "10.0.2.50")


def test_guest_that_takes_another_address_gives_back_the_first() -> None:
    server = DhcpServer(Plan())
    first = lease(server, GUEST_MAC)
    ack = answer(server.receive(GUEST_MAC, ask(dhcp.REQUEST, requested="10.0.2.50"), 0))
    assert dotted(ack.yiaddr) == "10.0.2.50"
    assert lease(server, OTHER_MAC) == first
    assert len(server.leases(0)) == 2


def test_request_to_another_server_is_left_to_it() -> None:
    server = DhcpServer(Plan())
    server.receive(GUEST_MAC, ask(dhcp.DISCOVER), 0)
    message = ask(dhcp.REQUEST, requested="10.0.2.15", server="10.0.2.99")
    assert server.receive(GUEST_MAC, message, 0) is None
    assert server.drops == {"DHCP request to another server": 1}
    assert lease(server, OTHER_MAC) == "10.0.2.15", "the offer was withdrawn"


def test_inform_is_answered_to_the_guest_without_a_lease() -> None:
    server = DhcpServer(Plan(), Extras(domain_name="dom.example"))
    reply = server.receive(GUEST_MAC, ask(dhcp.INFORM, ciaddr="10.0.2.99"), 0)
    message = answer(reply)
    assert reply is not None
    assert (reply.address, reply.mac, reply.leased) == (packed("10.0.2.99"), GUEST_MAC, None)
    assert (message.type, message.yiaddr) == (dhcp.ACK, bytes(4))
    assert dhcp.OPTION_LEASE_TIME not in message.options
    assert message.options[dhcp.OPTION_DOMAIN_NAME] == b"dom.example"
    assert server.leases(0) == []


def test_inform_without_address_is_answered_to_everybody() -> None:
    reply = DhcpServer(Plan()).receive(GUEST_MAC, ask(dhcp.INFORM), 0)
    assert reply is not None and reply.address == BROADCAST


def test_declined_address_rests_and_then_comes_back() -> None:
    server = DhcpServer(Plan())
    first = lease(server, GUEST_MAC)
    decline = ask(dhcp.DECLINE, requested=first, server="10.0.2.2")
    assert server.receive(GUEST_MAC, decline, 0) is None
    assert lease(server, GUEST_MAC, 1) == "10.0.2.16"
    assert server.leases(1) == [(packed("10.0.2.16"), GUEST_MAC)]
    assert lease(server, OTHER_MAC, DECLINED_S) == first


def test_guest_can_decline_or_release_only_its_own_address() -> None:
    server = DhcpServer(Plan())
    own = lease(server, GUEST_MAC)
    server.receive(OTHER_MAC, ask(dhcp.DECLINE, OTHER_MAC, own), 0)
    server.receive(OTHER_MAC, ask(dhcp.RELEASE, OTHER_MAC, ciaddr=own), 0)
    server.receive(GUEST_MAC, ask(dhcp.RELEASE, ciaddr="10.0.2.77"), 0)
    server.receive(GUEST_MAC, ask(dhcp.DECLINE, requested="10.0.2.77"), 0)
    assert server.leases(0) == [(packed(own), GUEST_MAC)]


def test_released_address_is_kept_for_its_guest_until_needed() -> None:
    server = DhcpServer(Plan())
    own = lease(server, GUEST_MAC)
    server.receive(GUEST_MAC, ask(dhcp.RELEASE, ciaddr=own), 1)
    assert lease(server, GUEST_MAC, 2) == own
    server.receive(GUEST_MAC, ask(dhcp.RELEASE, ciaddr=own), 3)
    assert lease(server, OTHER_MAC, 4) == own
    assert lease(server, GUEST_MAC, 5) == "10.0.2.16"


def test_lease_runs_out_after_a_day() -> None:
    server = DhcpServer(Plan())
    own = lease(server, GUEST_MAC)
    assert lease(server, OTHER_MAC, LEASE_S - 1) == "10.0.2.16"
    assert lease(server, number_mac(9), LEASE_S) == own


def test_bootp_client_keeps_its_address() -> None:
    server = DhcpServer(Plan())
    server.receive(GUEST_MAC, ask(None)[:236], 0)
    assert lease(server, OTHER_MAC, LEASE_S * 1000) == "10.0.2.16"


def test_full_pool_answers_nobody_new_and_says_so() -> None:
    server = DhcpServer(Plan())
    given = {lease(server, number_mac(n)) for n in range(POOL_SIZE)}
    assert len(given) == POOL_SIZE
    for kind in (dhcp.DISCOVER, dhcp.REQUEST, None):
        assert server.receive(GUEST_MAC, ask(kind), 1) is None
    assert server.drops == {"DHCP pool is full": 3}
    assert lease(server, number_mac(5), 2) in given


def test_offers_that_are_not_taken_free_the_pool_again() -> None:
    server = DhcpServer(Plan())
    for number in range(1000):
        server.receive(GUEST_MAC, ask(dhcp.DISCOVER, number_mac(number)), 0)
    assert server.drops["DHCP pool is full"] == 1000 - POOL_SIZE
    assert lease(server, GUEST_MAC, OFFER_S) == "10.0.2.15"


def test_pool_leaves_out_own_addresses_and_goes_around() -> None:
    small = Plan(
        network=packed("10.1.2.0"),
        mask=packed("255.255.255.240"),
        gateway=packed("10.1.2.2"),
        dns=packed("10.1.2.3"),
        first_lease=packed("10.1.2.13"),
    )
    numbers = [address[3] for address in pool(small, 64)]
    assert numbers == [13, 14, 1, 4, 5, 6, 7, 8, 9, 10, 11, 12]


def test_pool_never_holds_the_broadcast_address() -> None:
    small = Plan(
        network=packed("10.1.2.0"),
        mask=packed("255.255.255.240"),
        gateway=packed("10.1.2.2"),
        dns=packed("10.1.2.3"),
        first_lease=packed("10.1.2.15"),
    )
    assert pool(small, 2) == (packed("10.1.2.1"), packed("10.1.2.4"))
    assert pool(Plan(mask=packed("255.255.255.255")), 4) == ()


def test_long_search_list_is_left_out_unless_the_guest_has_room() -> None:
    domains = tuple(f"{c * 50}.example" for c in "abcdef")
    server = DhcpServer(Plan(), Extras(search_domains=domains))
    short = answer(server.receive(GUEST_MAC, ask(dhcp.DISCOVER), 0))
    assert dhcp.OPTION_DOMAIN_SEARCH not in short.options
    assert server.drops == {"DHCP option 119 did not fit": 1}
    roomy = ask(dhcp.DISCOVER, extra={dhcp.OPTION_MAXIMUM_SIZE: (1400).to_bytes(2, "big")})
    long = answer(server.receive(GUEST_MAC, roomy, 0))
    assert long.options[dhcp.OPTION_DOMAIN_SEARCH] == dhcp.emit_search_list(domains)


def test_guest_that_claims_endless_room_gets_at_most_one_frame() -> None:
    domains = tuple(f"{c}{n}" * 30 for c in "abcdefgh" for n in range(4))
    server = DhcpServer(Plan(), Extras(search_domains=domains))
    reply = server.receive(GUEST_MAC, ask(dhcp.DISCOVER, extra={57: b"\xff\xff"}), 0)
    assert reply is not None and len(reply.payload) <= 1472


def test_search_domains_that_are_none_are_left_out_and_named() -> None:
    bad = ("a..b", "", "x" * 300, "\u00e9.example")
    server = DhcpServer(Plan(), Extras(search_domains=("a.example", *bad)))
    offer = answer(server.receive(GUEST_MAC, ask(dhcp.DISCOVER), 0))
    assert offer.options[dhcp.OPTION_DOMAIN_SEARCH] == dhcp.emit_search_list(["a.example"])
    assert server.bad_domains == bad


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(ask(1)[:100], "malformed DHCP", id="short"),
        pytest.param(ask(1)[:-1] + b"\x32\xff", "malformed DHCP", id="option past the end"),
        pytest.param(ask(99), "unknown DHCP message type", id="unknown type"),
        pytest.param(ask(dhcp.OFFER), "unknown DHCP message type", id="a server's type"),
        pytest.param(b"\x01\x06" + ask(1)[2:], "DHCP that is no request", id="other hardware"),
        pytest.param(
            ask(1, ethernet.BROADCAST), "DHCP without a hardware address", id="broadcast client"
        ),
        pytest.param(
            ask(1)[:2] + b"\x10" + ask(1)[3:],
            "DHCP without a hardware address",
            id="16-byte address",
        ),
    ],
)
def test_bad_messages_are_counted_and_not_answered(message: bytes, reason: str) -> None:
    server = DhcpServer(Plan())
    assert server.receive(GUEST_MAC, message, 0) is None
    assert server.drops == {reason: 1}
    assert server.leases(0) == []


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, 1, 3, 4, 7, 8]),
            st.integers(0, 5),
            st.sampled_from(["", "10.0.2.15", "10.0.2.16", "10.0.2.17", "10.0.2.2"]),
            st.sampled_from(["0.0.0.0", "10.0.2.15", "10.0.2.16"]),
            st.sampled_from([0, 30, 601, 86400]),
        ),
        max_size=40,
    )
)
def test_no_two_guests_ever_hold_one_address(
    steps: list[tuple[int | None, int, str, str, int]],
) -> None:
    server = DhcpServer(Plan())
    granted: dict[bytes, tuple[bytes, float]] = {}
    now = 0.0
    for kind, guest, requested, ciaddr, pause in steps:
        now += pause
        mac = number_mac(guest)
        if kind in (dhcp.DECLINE, dhcp.RELEASE):
            granted = {a: g for a, g in granted.items() if g[0] != mac}
        reply = server.receive(mac, ask(kind, mac, requested, ciaddr=ciaddr), now)
        if reply is None or reply.leased is None:
            continue
        holder, until = granted.get(reply.leased, (mac, 0.0))
        assert holder == mac or until <= now
        granted = {a: g for a, g in granted.items() if g[0] != mac}
        granted[reply.leased] = (mac, float("inf") if kind is None else now + LEASE_S)


@given(st.binary(max_size=120))
def test_any_options_are_answered_or_counted(options: bytes) -> None:
    server = DhcpServer(Plan())
    message = ask(dhcp.DISCOVER)[:240] + options
    if server.receive(GUEST_MAC, message, 0) is None and not server.drops:
        assert Message.parse(message).type in (dhcp.DECLINE, dhcp.RELEASE)
