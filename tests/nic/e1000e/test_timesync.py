# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The clock keeps time by TIMINCA and the tick of 40 ns, and stamps what it is asked to stamp."""

from __future__ import annotations

import struct

import pytest

from tests.nic.e1000.rig import DATA, EOP, MAC, PEER, RS, frame
from tests.nic.e1000e.rig import Rig
from tests.wire.packets import ethernet, ipv4, udp
from vmwire.nic.e1000e.registers import Registers as R

STEP = 40 << 18  # of a nanosecond's 2**18 parts, 40 each tick
ENABLED, VALID = 1 << 4, 1
L2, L4, BOTH, ALL, EVENTS = (kind << 1 for kind in (0, 1, 2, 4, 5))
TSTAMP = 1 << 4


@pytest.fixture
def rig() -> Rig:
    rig = Rig().start()
    rig.write(R.TIMINCA, 1 << 24 | STEP)
    rig.write(R.SYSTIML, 0)
    rig.write(R.SYSTIMH, 0)
    return rig


def clock(rig: Rig) -> int:
    return rig.read(R.SYSTIML) | rig.read(R.SYSTIMH) << 32


def test_clock_stands_until_it_is_told_how_to_go() -> None:
    rig = Rig()
    rig.timers.advance(10)
    assert clock(rig) == 0


def test_clock_goes_in_whole_steps(rig: Rig) -> None:
    rig.timers.advance(1.000000025)
    assert clock(rig) == 25_000_001 * STEP or clock(rig) == 25_000_000 * STEP
    assert clock(rig) % STEP == 0


def test_longer_periods_make_fewer_steps(rig: Rig) -> None:
    rig.write(R.TIMINCA, 5 << 24 | 7)
    before = clock(rig)
    rig.timers.advance(1)
    assert clock(rig) - before == 5_000_000 * 7


def test_another_rate_does_not_change_what_has_passed(rig: Rig) -> None:
    rig.timers.advance(1)
    rig.write(R.TIMINCA, 0)
    rig.timers.advance(5)
    assert clock(rig) == 25_000_000 * STEP


@pytest.mark.parametrize(("high", "difference"), [(2, 2 << 32 | 5), (1 << 31 | 1, -(1 << 32 | 5))])
def test_adjustments_add_or_take_off_once(rig: Rig, high: int, difference: int) -> None:
    rig.timers.advance(1)
    before = clock(rig)
    rig.write(R.TIMADJL, 5)
    rig.write(R.TIMADJH, high)
    assert clock(rig) == before + difference


def test_a_reset_of_the_card_leaves_the_clock(rig: Rig) -> None:
    rig.timers.advance(1)
    rig.write(R.CTRL, 1 << 26)
    rig.timers.advance(1)
    assert clock(rig) == 50_000_000 * STEP


def test_clock_goes_on_from_a_saved_state(rig: Rig) -> None:
    rig.timers.advance(1)
    other = Rig()
    other.chip.restore(rig.chip.save())
    other.timers.advance(1)
    assert clock(other) == 50_000_000 * STEP


def ptp(message: int, *, version: int = 2, vlan: bool = False) -> bytes:
    """A message of PTP in a frame of its own."""
    return frame_of(message_of(message, version), vlan)


def message_of(message: int, version: int) -> bytes:
    data = bytearray(44)
    data[0], data[1] = message, version
    struct.pack_into("!H", data, 30, 0xBEEF)
    data[32] = message
    return bytes(data)


def frame_of(data: bytes, vlan: bool) -> bytes:
    tag = b"\x81\x00\0\1" if vlan else b""
    return MAC + PEER + tag + b"\x88\xf7" + data


def over_udp(message: int, version: int) -> bytes:
    datagram = bytearray(udp(message_of(message, version)))
    struct.pack_into("!H", datagram, 2, 319)
    return MAC + ethernet(0x0800, ipv4(17, bytes(datagram)))[6:]


@pytest.mark.parametrize(
    ("kind", "chosen", "data", "stamped"),
    [
        (L2, 0, ptp(0), True),
        (L2, 0, ptp(0, vlan=True), True),
        (L2, 1 << 24, ptp(1), True),
        (L2, 0, ptp(1), False),
        (L2, 0, over_udp(0, 2), False),
        (L4, 1 << 16, over_udp(1, 1), True),
        (L4, 0, over_udp(1, 1), False),
        (L4, 0, ptp(0), False),
        (BOTH, 0, ptp(0), True),
        (BOTH, 0, over_udp(0, 2), True),
        (EVENTS, 0, ptp(3), True),
        (EVENTS, 0, ptp(11), False),
        (ALL, 0, frame(), True),
        (BOTH, 0, frame(), False),
        (6 << 1, 0, ptp(0), False),
    ],
)
def test_frames_that_are_stamped(
    rig: Rig, kind: int, chosen: int, data: bytes, stamped: bool
) -> None:
    rig.write(R.RXMTRL, 0x88F7 | chosen)
    rig.write(R.RXUDP, int.from_bytes((319).to_bytes(2, "big"), "little"))
    rig.write(R.TSYNCRXCTL, ENABLED | kind)
    rig.timers.advance(1)
    rig.receive(data)
    assert bool(rig.read(R.TSYNCRXCTL) & VALID) is stamped
    if stamped:
        assert rig.read(R.RXSTMPL) | rig.read(R.RXSTMPH) << 32 == 25_000_000 * STEP
        assert not rig.read(R.TSYNCRXCTL) & VALID


def test_a_stamp_stays_until_it_is_read(rig: Rig) -> None:
    rig.write(R.TSYNCRXCTL, ENABLED | L2)
    rig.receive(ptp(0))
    first = rig.read(R.RXSTMPL)
    rig.timers.advance(1)
    rig.receive(ptp(0))
    assert rig.read(R.RXSTMPL) == first
    assert rig.read(R.RXSATRH) & 0xFFFF == 0xBEEF


def test_a_sent_frame_is_stamped_if_its_descriptor_asks(rig: Rig) -> None:
    rig.write(R.TSYNCTXCTL, ENABLED)
    rig.timers.advance(1)
    rig.send(frame(), DATA | EOP | RS)
    assert not rig.read(R.TSYNCTXCTL) & VALID
    rig.send(frame(), DATA | EOP | RS, TSTAMP)
    assert rig.read(R.TSYNCTXCTL) & VALID
    assert rig.read(R.TXSTMPL) | rig.read(R.TXSTMPH) << 32 == 25_000_000 * STEP
    assert not rig.read(R.TSYNCTXCTL) & VALID
