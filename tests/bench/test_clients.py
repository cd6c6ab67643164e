# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The DHCP and DNS clients, message by message."""

from __future__ import annotations

import pytest

from vmwire.bench import dns_client
from vmwire.bench.dhcp_client import DhcpClient
from vmwire.wire.protocols import dhcp, dns
from vmwire.wire.protocols.errors import ParseError

MAC = bytes.fromhex("525400123456")
SERVER = bytes((10, 0, 2, 2))
ADDRESS = bytes((10, 0, 2, 15))


def reply(kind: int, *, xid: int = 7, mac: bytes = MAC) -> bytes:
    options = {
        dhcp.OPTION_MESSAGE_TYPE: bytes((kind,)),
        dhcp.OPTION_SERVER_ID: SERVER,
        dhcp.OPTION_SUBNET_MASK: b"\xff\xff\xf0\0",
        dhcp.OPTION_ROUTER: SERVER,
        dhcp.OPTION_LEASE_TIME: (3600).to_bytes(4, "big"),
    }
    return dhcp.Message(dhcp.BOOTREPLY, xid, mac, options, yiaddr=ADDRESS).emit()


def test_offer_is_requested_and_acknowledgement_is_the_lease() -> None:
    client = DhcpClient(MAC, xid=7)
    assert dhcp.Message.parse(client.message()).type == dhcp.DISCOVER
    assert client.take(reply(dhcp.OFFER))
    request = dhcp.Message.parse(client.message())
    assert request.type == dhcp.REQUEST
    assert request.address(dhcp.OPTION_REQUESTED_ADDRESS) == ADDRESS
    assert request.address(dhcp.OPTION_SERVER_ID) == SERVER
    assert not client.take(reply(dhcp.ACK))
    lease = client.lease
    assert lease is not None
    assert (lease.address, lease.prefix, lease.gateway) == ("10.0.2.15", 20, "10.0.2.2")
    assert (lease.dns, lease.mtu, lease.seconds, lease.server) == (None, 1500, 3600, "10.0.2.2")


@pytest.mark.parametrize(
    "message",
    [reply(dhcp.OFFER, xid=8), reply(dhcp.OFFER, mac=bytes(6)), reply(dhcp.ACK), b"", bytes(300)],
    ids=["other exchange", "other card", "not asked", "empty", "zeros"],
)
def test_what_is_not_an_answer_to_us_is_ignored(message: bytes) -> None:
    client = DhcpClient(MAC, xid=7)
    assert not client.take(message)
    assert client.lease is None
    assert dhcp.Message.parse(client.message()).type == dhcp.DISCOVER


def test_refusal_starts_anew() -> None:
    client = DhcpClient(MAC, xid=7)
    client.take(reply(dhcp.OFFER))
    assert client.take(reply(dhcp.NAK))
    assert dhcp.Message.parse(client.message()).type == dhcp.DISCOVER


QUERY = bytes.fromhex("1234 0100 0001 0000 0000 0000 03777777 076578616d706c65 00 0001 0001")
POINTER = bytes.fromhex("c00c")
A_RECORD = POINTER + bytes.fromhex("0001 0001 0000003c 0004 c0000201")
CNAME_RECORD = POINTER + bytes.fromhex("0005 0001 0000003c 0002 c00c")


def test_query_is_the_bytes_of_the_standard() -> None:
    assert dns_client.query("www.example.", 0x1234) == QUERY


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64 + ".org"])
def test_what_is_no_name_is_not_asked(name: str) -> None:
    with pytest.raises(ValueError, match=r"label|domain"):
        dns_client.query(name, 1)


def test_addresses_are_read_behind_other_records() -> None:
    answer = bytes.fromhex("1234 8180 0001 0003 0000 0000") + QUERY[12:]
    found = dns_client.read_reply(answer + CNAME_RECORD + A_RECORD + A_RECORD)
    assert (found.ident, found.code) == (0x1234, "NOERROR")
    assert found.addresses == ["192.0.2.1", "192.0.2.1"]


def test_refusals_have_their_names() -> None:
    assert dns_client.read_reply(dns.failure(QUERY, dns.NXDOMAIN)).code == "NXDOMAIN"
    assert dns_client.read_reply(dns.failure(QUERY, 9)).code == "code 9"


@pytest.mark.parametrize("cut", [0, 11, 20, 38, 44])
def test_cut_reply_is_an_error_and_no_crash(cut: int) -> None:
    answer = bytes.fromhex("1234 8180 0001 0001 0000 0000") + QUERY[12:] + A_RECORD
    with pytest.raises(ParseError):
        dns_client.read_reply(answer[:cut])
    with pytest.raises(ParseError):
        dns_client.read_reply(QUERY)
