# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""One Intel card on the bench, with its driver: what the scenarios run on.

A *kind* is a card and the way in which it is driven: the 82574L is driven with its own receive
descriptors too. What is common to all cards is in this folder's scenarios, and runs with each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tests.wire.packets import V4, V6, ethernet, ipv4, ipv6, pseudo, slow_sum, tcp, udp
from vmwire.bench.cards import Nic
from vmwire.bench.e1000 import E1000Driver
from vmwire.bench.e1000e import EXTENDED, E1000eDriver
from vmwire.bench.machine import Bench

Driver = E1000Driver | E1000eDriver

FAMILY = ("e1000", "e1000-82544gc", "e1000-82545em")
DEVICE_IDS = {"e1000": 0x100E, "e1000-82544gc": 0x100C, "e1000-82545em": 0x100F, "e1000e": 0x10D3}
KINDS: dict[str, tuple[str, Callable[..., Driver]]] = {
    **{name: (name, E1000Driver) for name in FAMILY},
    "e1000e": ("e1000e", E1000eDriver),
    "e1000e extended": ("e1000e", partial(E1000eDriver, layout=EXTENDED)),
}
CARDS = tuple(DEVICE_IDS)
ONLY_8254X = pytest.mark.parametrize("card", FAMILY, indirect=True)
LEGACY_DESCRIPTORS = pytest.mark.parametrize("card", CARDS, indirect=True)
"""For scenarios that read or write receive descriptors themselves."""
MAC = bytes.fromhex("525400123456")
PEER = bytes.fromhex("525500020202")
BROADCAST = b"\xff" * 6
GROUP = bytes.fromhex("01005e000001")


class Card:
    """``pc``, ``nic`` and a started ``driver``."""

    def __init__(self, pc: Bench, kind: str, **properties: Any) -> None:
        self.pc = pc
        self.model, self._make_driver = KINDS[kind]
        self.nic: Nic = pc.plug(self.model, id="nic0", mac=MAC, addr=4, **properties)
        self.driver = self._make_driver(pc, 4)

    def start(self, **options: Any) -> Driver:
        """Bring the card up, with another ring or buffer size perhaps."""
        ring = options.pop("ring", 64)
        buffer_size = options.pop("buffer_size", 2048)
        self.driver = self._make_driver(self.pc, 4, ring=ring, buffer_size=buffer_size)
        return self.driver.start(**options)

    def take(self) -> list[bytes]:
        """What came out on the wire."""
        return self.nic.wire.take()


@contextmanager
def card_on_bench(kind: str, **properties: Any) -> Iterator[Card]:
    with Bench(32 << 20) as pc:
        yield Card(pc, kind, **properties)


def frame_to(destination: bytes, length: int = 60, kind: int = 0x88B5, seed: int = 0) -> bytes:
    """A frame of that length (without FCS) whose bytes tell their places."""
    head = destination + PEER + struct.pack("!H", kind)
    return head + bytes((seed + at * 7) & 0xFF for at in range(length - len(head)))


def frame_from(length: int = 60, destination: bytes = PEER, seed: int = 0) -> bytes:
    """A frame that the card sends."""
    head = destination + MAC + b"\x88\xb5"
    return head + bytes((seed + at * 7) & 0xFF for at in range(length - len(head)))


def finished(transport: bytes, addresses: bytes, protocol: int) -> bytes:
    """The transport segment with its checksum in place."""
    at = 16 if protocol == 6 else 6
    out = bytearray(transport)
    out[at : at + 2] = b"\0\0"
    total = slow_sum(pseudo(addresses, protocol, len(out)) + bytes(out)) ^ 0xFFFF
    struct.pack_into("!H", out, at, total or 0xFFFF)
    return bytes(out)


def packet(version: int, protocol: int, payload: bytes, *, vlan: bool = False) -> bytes:
    """A right IPv4 or IPv6 packet with TCP (6) or UDP (17), to the card."""
    addresses = V4 if version == 4 else V6
    transport = tcp(0x18, payload) if protocol == 6 else udp(payload)
    transport = finished(transport, addresses, protocol)
    network = (ipv4 if version == 4 else ipv6)(protocol, transport)
    return MAC + ethernet(0x0800 if version == 4 else 0x86DD, network, vlan)[6:]


def unsummed(version: int, protocol: int, payload: bytes) -> tuple[bytes, int, int]:
    """A packet as a stack hands it to a card for checksums: the pseudo-header sum is in place.

    Returns it with the transport header's and its checksum's place. The IPv4 header's is zero.
    """
    frame = bytearray(packet(version, protocol, payload))
    frame[0:6], frame[6:12] = PEER, MAC
    start = 34 if version == 4 else 54
    offset = start + (16 if protocol == 6 else 6)
    addresses = V4 if version == 4 else V6
    total = slow_sum(pseudo(addresses, protocol, len(frame) - start))
    struct.pack_into("!H", frame, offset, total)
    if version == 4:
        frame[24:26] = b"\0\0"
    return bytes(frame), start, offset


def with_headers(version: int, payload: bytes) -> bytes:
    """A TCP packet as a stack hands it over for TSO: without lengths, and the sum knows none."""
    frame = bytearray(unsummed(version, 6, payload)[0])
    if version == 4:
        frame[16:18] = b"\0\0"
    else:
        frame[18:20] = b"\0\0"
    start, addresses = (34, V4) if version == 4 else (54, V6)
    struct.pack_into("!H", frame, start + 16, slow_sum(pseudo(addresses, 6, 0)))
    return bytes(frame)
