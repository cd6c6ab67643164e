# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What an offline self-test as Linux's driver makes it (``ethtool -t``) asks of the card.

Masks are those of the registers' descriptions in chapter 13; the steps are the driver's.
"""

from __future__ import annotations

import pytest

from tests.nic.e1000.card import ONLY_8254X, Card, Driver
from vmwire.bench import e1000_spec as spec

PATTERNS = (0x5A5A5A5A, 0xA5A5A5A5, 0x00000000, 0xFFFFFFFF)
TXCW = 0x0178
STATUS_READ_ONLY = 0xFFFFF833

HOLDING = {
    "FCAL": (spec.FCAL, 0xFFFFFFFF, 0xFFFFFFFF),
    "FCAH": (spec.FCAH, 0x0000FFFF, 0xFFFFFFFF),
    "FCT": (spec.FCT, 0x0000FFFF, 0xFFFFFFFF),
    "VET": (spec.VET, 0x0000FFFF, 0xFFFFFFFF),
    "RDTR": (spec.RDTR, 0x0000FFFF, 0xFFFFFFFF),
    "RDBAH": (spec.RDBAH, 0xFFFFFFFF, 0xFFFFFFFF),
    "RDLEN": (spec.RDLEN, 0x000FFF80, 0x000FFFFF),
    "RDH": (spec.RDH, 0x0000FFFF, 0x0000FFFF),
    "RDT": (spec.RDT, 0x0000FFFF, 0x0000FFFF),
    "FCRTH": (spec.FCRTH, 0x0000FFF8, 0x0000FFF8),
    "FCTTV": (spec.FCTTV, 0x0000FFFF, 0x0000FFFF),
    "TIPG": (spec.TIPG, 0x3FFFFFFF, 0x3FFFFFFF),
    "TDBAH": (spec.TDBAH, 0xFFFFFFFF, 0xFFFFFFFF),
    "TDLEN": (spec.TDLEN, 0x000FFF80, 0x000FFFFF),
    "RDBAL": (spec.RDBAL, 0xFFFFFFF0, 0xFFFFFFFF),
    "TXCW": (TXCW, 0xC000FFFF, 0x0000FFFF),
    "TDBAL": (spec.TDBAL, 0xFFFFFFF0, 0xFFFFFFFF),
    "TIDV": (spec.TIDV, 0x0000FFFF, 0x0000FFFF),
    **{f"RAL{n}": (spec.RAL + 8 * n, 0xFFFFFFFF, 0xFFFFFFFF) for n in range(16)},
    **{f"RAH{n}": (spec.RAH + 8 * n, 0x8003FFFF, 0xFFFFFFFF) for n in range(16)},
    "MTA0": (spec.MTA, 0xFFFFFFFF, 0xFFFFFFFF),
    "MTA127": (spec.MTA + 4 * 127, 0xFFFFFFFF, 0xFFFFFFFF),
}
"""Register, what it holds of what is written, and what a test writes of its pattern."""


@pytest.mark.parametrize("name", HOLDING)
def test_a_register_holds_a_pattern(card: Card, name: str) -> None:
    register, mask, write = HOLDING[name]
    driver = card.driver
    driver.reset()
    for pattern in PATTERNS:
        driver.write(register, pattern & write)
        assert driver.read(register) == pattern & write & mask


@pytest.mark.parametrize(("register", "mask", "value", "expected"), [
    (spec.RCTL, 0xFFFFFFFF, 0x00000000, 0x00000000),
    (spec.RCTL, 0x06DFB3FE, 0x003FFFFB, 0x003FFFFB & 0x06DFB3FE),
    (spec.RCTL, 0x06DFB3FE, 0xFFFFFFFF, 0x06DFB3FE),
    (spec.TCTL, 0xFFFFFFFF, 0x00000000, 0x00000000),
])  # fmt: skip
def test_control_registers_hold_what_is_set(
    card: Card, register: int, mask: int, value: int, expected: int
) -> None:
    driver = card.driver
    driver.reset()
    driver.write(register, value & mask)
    assert driver.read(register) & mask == expected


def test_status_does_not_take_writes(card: Card) -> None:
    driver = card.driver
    before = driver.read(spec.STATUS)
    driver.write(spec.STATUS, STATUS_READ_ONLY)
    assert driver.read(spec.STATUS) == before


@pytest.mark.parametrize("bit", range(10))
def test_each_cause_interrupts_only_while_it_is_unmasked(
    card: Card, driver: Driver, bit: int
) -> None:
    cause = 1 << bit
    line = card.nic.irq
    driver.write(spec.IMC, 0xFFFFFFFF)
    driver.read(spec.ICR)
    driver.write(spec.ICS, cause)
    assert not line.level
    driver.write(spec.IMS, cause)
    driver.write(spec.ICS, cause)
    assert line.level
    assert driver.read(spec.ICR) & cause
    driver.write(spec.IMC, ~cause & 0x7FFF)
    driver.write(spec.ICS, ~cause & 0x7FFF)
    assert not line.level


@ONLY_8254X
def test_the_loopback_test_gets_its_frames_back(card: Card) -> None:
    """1000BASE-T forced, the PHY loops; 64 rounds of frames of 1024 bytes with a pattern."""
    driver = card.start(ring=256)
    driver.write(spec.CTRL, driver.read(spec.CTRL) & ~(3 << 8) | 1 << 11 | 1 << 12 | 2 << 8 | 1)
    driver.phy_write(16, 0x0808)
    driver.phy_write(spec.PHY_CONTROL, 0x9140)
    driver.phy_write(spec.PHY_CONTROL, 0x8140)
    driver.phy_write(spec.PHY_CONTROL, 0x4140)
    for register, value in ((29, 0x1F), (30, 0x8FFC), (29, 0x1A), (30, 0x8FF0)):
        driver.phy_write(register, value)
    frame = bytearray(b"\xff" * 512 + b"\xaa" * 511 + b"\xff")
    frame[522], frame[524] = 0xBE, 0xAF
    for _ in range(8):
        for _ in range(64):
            driver.send(bytes(frame), kick=False)
        driver.kick()
        got = driver.receive()
        assert [one.data[:1024] for one in got] == [bytes(frame)] * 64
    assert card.take() == []


def test_the_link_test_finds_the_link_after_four_seconds(card: Card) -> None:
    driver = card.driver
    driver.reset()
    driver.write(spec.CTRL, driver.read(spec.CTRL) | spec.CTRL_SLU)
    driver.phy_write(spec.PHY_CONTROL, 0x1340)
    card.pc.clock_step(4_000_000_000)
    assert driver.read(spec.STATUS) & spec.STATUS_LU
