# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from tests.nic.e1000.rig import Pin
from vmwire.engine.clock import ManualClock, Timers
from vmwire.nic.e1000.interrupts import DELAY_UNIT_S, ITR_UNIT_S, Causes
from vmwire.nic.e1000.registers import LSC, RXT0, TXDW, Registers

ICR, IMS, ITR = Registers.ICR.index, Registers.IMS.index, Registers.ITR.index
RDTR, RADV, TIDV = Registers.RDTR.index, Registers.RADV.index, Registers.TIDV.index


class Logic:
    def __init__(self, **registers: int) -> None:
        self.words = Registers().words
        self.words[IMS] = 0xFFFFFFFF
        for name, value in registers.items():
            self.words[getattr(Registers, name).index] = value
        self.pin, self.timers = Pin(), Timers(ManualClock())
        self.causes = Causes(self.words, self.pin, self.timers)

    def rx(self) -> None:
        if cause := self.causes.rx.event():
            self.causes.raise_(cause)


def test_a_masked_cause_is_seen_by_reading_only() -> None:
    logic = Logic(IMS=0)
    logic.causes.raise_(LSC)
    assert (logic.pin.up, logic.causes.read(), logic.causes.read()) == (False, LSC, 0)


def test_the_pin_falls_when_the_mask_closes_and_rises_when_it_opens() -> None:
    logic = Logic()
    logic.causes.raise_(LSC)
    logic.words[IMS] = 0
    logic.causes.update()
    assert not logic.pin.up
    logic.words[IMS] = LSC
    logic.causes.update()
    assert logic.pin.up


def test_the_throttle_holds_the_second_interrupt_only() -> None:
    logic = Logic(ITR=1000)
    logic.causes.raise_(LSC)
    assert logic.pin.up
    logic.causes.read()
    logic.causes.raise_(RXT0)
    assert not logic.pin.up
    logic.timers.advance(999 * ITR_UNIT_S)
    assert not logic.pin.up
    logic.timers.advance(2 * ITR_UNIT_S)
    assert logic.pin.up


def test_a_cause_that_was_read_meanwhile_does_not_interrupt_after_the_throttle() -> None:
    logic = Logic(ITR=1000)
    for _ in range(2):
        logic.causes.raise_(LSC)
        logic.causes.read()
    logic.timers.advance(1)
    assert logic.pin.rises == 1


def test_the_throttle_counts_from_each_rise() -> None:
    logic = Logic(ITR=1000)
    for _ in range(100):
        logic.causes.raise_(RXT0)
        if logic.pin.up:
            logic.causes.read()
        logic.timers.advance(100 * ITR_UNIT_S)
    assert 9 <= logic.pin.rises <= 11


def test_each_frame_starts_the_receive_delay_again_until_the_absolute_one_ends() -> None:
    logic = Logic(RDTR=100, RADV=250)
    for _ in range(4):
        logic.rx()
        logic.timers.advance(60 * DELAY_UNIT_S)
    assert not logic.pin.up
    logic.rx()
    logic.timers.advance(11 * DELAY_UNIT_S)
    assert (logic.pin.up, logic.causes.read()) == (True, RXT0)
    logic.timers.advance(1)
    assert logic.pin.rises == 1


def test_delays_leave_few_timers_behind() -> None:
    logic = Logic(RDTR=100)
    for _ in range(1000):
        logic.rx()
        logic.timers.advance(200 * DELAY_UNIT_S)
        logic.causes.read()
    assert logic.timers.next_deadline() is None


def test_without_moderation_nothing_waits() -> None:
    logic = Logic(RDTR=100, ITR=1000)
    logic.causes.moderated = False
    for _ in range(3):
        logic.rx()
        assert logic.causes.read() == RXT0
    assert logic.pin.rises == 3


def test_reset_forgets_what_was_put_off() -> None:
    logic = Logic(RDTR=100, TIDV=100, ITR=1000)
    logic.rx()
    logic.causes.tx.event()
    logic.causes.raise_(LSC)
    logic.causes.reset()
    logic.words[ICR] = 0
    logic.timers.advance(1)
    assert (logic.pin.up, logic.words[ICR]) == (False, 0)


def test_what_was_put_off_is_reported_after_a_move() -> None:
    logic, other = Logic(RDTR=100, TIDV=100), Logic()
    logic.rx()
    logic.causes.tx.event()
    other.causes.restore(logic.causes.save())
    assert (other.pin.up, other.causes.read()) == (True, RXT0 | TXDW)
