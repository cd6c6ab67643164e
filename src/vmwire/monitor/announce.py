# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Cards announce themselves, so that switches learn where they are now (``announce-self``).

Each round sends a reverse ARP request (RFC 903) with each card's address out of it; a card whose
driver knows how to announce the guest asks for that, too. The first round is at once; the one after
round n comes ``initial + (n - 1) * step`` milliseconds later, at most ``max``. Announcements
have ids: a new one takes the place of an older one with its id, and one of no rounds ends it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vmwire.engine.clock import Timer
from vmwire.graph import Member
from vmwire.network import Network
from vmwire.registry import Announces
from vmwire.wire.frame import Frame
from vmwire.wire.protocols import arp, ethernet

ETHERTYPE_RARP = 0x8035
REQUEST_REVERSE = 3

LEAST_DELAY_MS = 1
MOST_ANNOUNCEMENTS = 64


@dataclass(slots=True)
class Schedule:
    """When to announce; times in milliseconds. The values are QEMU's own."""

    initial: int = 50
    max: int = 550
    rounds: int = 5
    step: int = 100

    def delay_ms(self, done: int) -> int:
        """How long after round ``done`` the next one comes."""
        delay = self.initial + (done - 1) * self.step
        return max(LEAST_DELAY_MS, min(delay, self.max))


def frame_of(mac: bytes) -> bytes:
    """The frame that tells where ``mac`` is."""
    header = ethernet.HEADER.pack(ethernet.BROADCAST, mac, ETHERTYPE_RARP)
    packet = arp.Packet(REQUEST_REVERSE, mac, arp.NO_ADDRESS, mac, arp.NO_ADDRESS)
    return (header + packet.emit()).ljust(ethernet.MINIMUM_LENGTH, b"\0")


class Announcer:
    """The announcements that go on in a network."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._timers: dict[str, Timer] = {}

    def announce(
        self, schedule: Schedule, cards: Collection[str] | None = None, id: str = ""
    ) -> None:
        """Announce ``cards``, or all. Returns after the first round."""
        self._network.loop.call(lambda: self._begin(schedule, cards, id))

    def _begin(self, schedule: Schedule, cards: Collection[str] | None, id: str) -> None:
        running = self._timers.pop(id, None)
        if running is not None:
            running.cancel()
        if schedule.rounds > 0:
            self._round(schedule, cards, id, 1)

    def _round(
        self, schedule: Schedule, cards: Collection[str] | None, id: str, number: int
    ) -> None:
        for member in self._network.devices.values():
            if cards is None or member.id in cards:
                announce(member)
        self._timers.pop(id, None)
        if number >= schedule.rounds or len(self._timers) >= MOST_ANNOUNCEMENTS:
            return
        self._timers[id] = self._network.loop.call_later(
            schedule.delay_ms(number) / 1000,
            lambda: self._round(schedule, cards, id, number + 1),
        )


def announce(member: Member) -> None:
    """One round of one card (in the engine's thread)."""
    chip = member.chip
    if isinstance(chip, Announces):
        chip.announce()
    elif member.mac is not None:
        member.box.port.send([Frame.of(frame_of(member.mac))])
