# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""RSS (data sheet, 7.1.10): Toeplitz hashes as Microsoft's verification suite has them."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from tests.nic.e1000.card import MAC, PEER, frame_to
from tests.nic.e1000e.card import STRIP, Card82574
from tests.wire.packets import superframe_tcp4
from vmwire.bench import e1000_spec
from vmwire.bench import e1000e_spec as spec
from vmwire.bench.e1000e import E1000eDriver, ReceivedExtended
from vmwire.wire.frame import Frame

KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)
EVERY_TYPE = (
    spec.MRQC_TCP_IPV4 | spec.MRQC_IPV4 | spec.MRQC_TCP_IPV6 | spec.MRQC_IPV6_EX | spec.MRQC_IPV6
)
SUITE = [
    ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323E8FC2, 0x51CCC178),
    ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xD718262A, 0xC626B0EA),
    ("24.19.198.95", 12898, "12.22.207.184", 38024, 0xD2D0A5DE, 0x5C2B394A),
    ("38.27.205.30", 48228, "209.142.163.6", 2217, 0x82989176, 0xAFC7327F),
    ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x5D1809C5, 0x10E828A2),
    ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2CC18CD5, 0x40207D3D),
    ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0F0C461C, 0xDDE51BBF),
    ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, "fe80::200:f8ff:fe21:67cf", 38024,
     0x4B61E985, 0x02D1FEEF),
]  # fmt: skip
"""Source and its port, destination and its port, the hash without ports, and with them."""
Flow = tuple[str, int, str, int, int, int]


def of_flow(flow: Flow, protocol: int = 6) -> bytes:
    """A packet of that flow, its checksums left aside."""
    source, destination = ip_address(flow[0]), ip_address(flow[2])
    transport = struct.pack("!HHIIBBHHH", flow[1], flow[3], 1, 1, 0x50, 0x18, 512, 0, 0) + bytes(40)
    if source.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(transport), 1, 0x4000, 64, protocol, 0)
        kind = b"\x08\0"
    else:
        head = struct.pack("!IHBB", 6 << 28, len(transport), protocol, 64)
        kind = b"\x86\xdd"
    return MAC + PEER + kind + head + source.packed + destination.packed + transport


@pytest.fixture
def driver(card: Card82574) -> E1000eDriver:
    driver = card.start(receive=STRIP)
    driver.start_rss(KEY, [0] * 128, EVERY_TYPE)
    return driver


def got(driver: E1000eDriver) -> ReceivedExtended:
    (found,) = driver.receive()
    assert isinstance(found, ReceivedExtended)
    return found


@pytest.mark.parametrize("flow", SUITE, ids=lambda flow: flow[0])
def test_tcp_is_hashed_with_its_ports(card: Card82574, driver: E1000eDriver, flow: Flow) -> None:
    card.nic.wire.send(of_flow(flow))
    found = got(driver)
    kind = spec.RSS_TCP_IPV4 if "." in flow[0] else spec.RSS_TCP_IPV6
    assert (found.rss_type, hex(found.rss_hash)) == (kind, hex(flow[5]))


@pytest.mark.parametrize("flow", SUITE, ids=lambda flow: flow[0])
def test_what_is_not_tcp_is_hashed_by_its_addresses(
    card: Card82574, driver: E1000eDriver, flow: Flow
) -> None:
    card.nic.wire.send(of_flow(flow, protocol=17))
    found = got(driver)
    kinds = (spec.RSS_IPV4,) if "." in flow[0] else (spec.RSS_IPV6, spec.RSS_IPV6_EX)
    assert found.rss_type in kinds
    assert hex(found.rss_hash) == hex(flow[4])


@pytest.mark.parametrize(("types", "kind"), [
    (spec.MRQC_TCP_IPV4, spec.RSS_TCP_IPV4),
    (spec.MRQC_IPV4, spec.RSS_IPV4),
    (spec.MRQC_TCP_IPV6, spec.RSS_NONE),
    (0, spec.RSS_NONE),
])  # fmt: skip
def test_only_enabled_types_are_hashed(
    card: Card82574, driver: E1000eDriver, types: int, kind: int
) -> None:
    driver.start_rss(KEY, [0] * 128, types)
    card.nic.wire.send(of_flow(SUITE[0]))
    found = got(driver)
    assert found.rss_type == kind
    assert kind or found.rss_hash == 0


def test_what_is_no_ip_has_no_hash_and_goes_to_the_first_queue(
    card: Card82574, driver: E1000eDriver
) -> None:
    driver.start_rss(KEY, [1] * 128, EVERY_TYPE)
    card.nic.wire.send(frame_to(MAC, 100))
    found = got(driver)
    assert (found.rss_type, found.rss_hash, found.queue) == (0, 0, 0)


@pytest.mark.parametrize("flow", SUITE, ids=lambda flow: flow[0])
def test_the_table_says_which_queue_a_flow_goes_to(
    card: Card82574, driver: E1000eDriver, flow: Flow
) -> None:
    table = [0] * 128
    table[flow[5] & 127] = 1
    driver.start_rss(KEY, table, EVERY_TYPE)
    card.nic.wire.send([of_flow(flow)] * 3)
    assert driver.receive() == []
    found = driver.second.receive()
    assert [each.data for each in found] == [of_flow(flow)] * 3
    assert {each.queue for each in found if isinstance(each, ReceivedExtended)} == {1}


def test_flows_of_one_burst_part_ways(card: Card82574, driver: E1000eDriver) -> None:
    flows = [(f"10.0.{n}.1", 1000 + n, "10.0.2.15", 80, 0, 0) for n in range(20)]
    driver.start_rss(KEY, [n & 1 for n in range(128)], EVERY_TYPE)
    burst = [of_flow(flow) for flow in flows]
    assert card.nic.wire.send(burst) == 20
    first = [each.data for each in driver.receive()]
    second = [each.data for each in driver.second.receive()]
    assert first and second
    assert sorted(first + second) == sorted(burst)
    assert [each for each in burst if each in first] == first
    assert [each for each in burst if each in second] == second


def test_a_superframe_stays_in_one_queue(card: Card82574, driver: E1000eDriver) -> None:
    driver.start_rss(KEY, [1] * 128, EVERY_TYPE)
    frame = superframe_tcp4(bytes(20_000), 1400)
    card.nic.wire.send(Frame.of(MAC + frame.tobytes()[6:], frame.offload))
    assert driver.receive() == []
    found = driver.second.receive()
    assert b"".join(each.data[54:] for each in found) == bytes(20_000)
    hashes = {each.rss_hash for each in found if isinstance(each, ReceivedExtended)}
    assert len(hashes) == 1


def test_a_full_second_queue_loses_or_holds_nothing_of_the_first(
    card: Card82574, driver: E1000eDriver
) -> None:
    table = [0] * 128
    table[SUITE[0][5] & 127] = 1
    driver.start_rss(KEY, table, EVERY_TYPE)
    driver.write(e1000_spec.RDT + 0x100, 0)
    card.nic.wire.send([of_flow(SUITE[0])] * 3)
    driver.write(e1000_spec.RDT + 0x100, driver.ring - 1)
    card.nic.wire.send([of_flow(SUITE[1])] * 3)
    assert [each.data for each in driver.receive()] == [of_flow(SUITE[1])] * 3


def test_the_key_and_the_table_hold_what_is_written(card: Card82574, driver: E1000eDriver) -> None:
    for at in range(0, spec.RSS_KEY_BYTES, 4):
        assert driver.read(spec.RSSRK + at) == int.from_bytes(KEY[at : at + 4], "little")
    for at in range(0, spec.RETA_ENTRIES, 4):
        driver.write(spec.RETA + at, 0x8080_8080)
        assert driver.read(spec.RETA + at) == 0x8080_8080
