# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The PHY, a Marvell 88E1000 at address 1, reached over MDIC (manual, 8.5 and 13.4.5).

States of the link. *Down*: no carrier, or powered down. *Negotiating*: there is a carrier, and the
two ends take their time; entered when the carrier comes, by a restart, and after a reset.
*Up*: at the speed that both ends can do, or at the forced one. Each change into and out of *up* is
told to the MAC. The partner can do everything, so that what we advertise decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from vmwire.engine.clock import Timer, Timers

ADDRESS = 1
NEGOTIATION_S = 0.5

# MDIC
OP_WRITE = 1
OP_READ = 2
READY = 1 << 28
INT_EN = 1 << 29
ERROR = 1 << 30

# Registers
CONTROL = 0
STATUS = 1
ID1 = 2
ID2 = 3
ADVERTISE = 4
PARTNER = 5
EXPANSION = 6
GIGABIT_CONTROL = 9
GIGABIT_STATUS = 10
SPECIFIC_CONTROL = 16
SPECIFIC_STATUS = 17

RESET = 1 << 15
LOOPBACK = 1 << 14
SPEED_LOW = 1 << 13
NEGOTIATE = 1 << 12
POWER_DOWN = 1 << 11
RESTART = 1 << 9
FULL_DUPLEX = 1 << 8
SPEED_HIGH = 1 << 6

STATUS_COMPLETE = 1 << 5
STATUS_LINK = 1 << 2
PARTNER_ACK = 1 << 14
EXPANSION_ABLE = 1 << 0

SPECIFIC_RESOLVED = 1 << 11
SPECIFIC_LINK = 1 << 10
SPECIFIC_DUPLEX = 1 << 13
SPECIFIC_SPEED_SHIFT = 14
_SPECIFIC_LINK_BITS = 0xEC00

_RESETS = {
    CONTROL: 0x1140, STATUS: 0x794D, ID1: 0x0141, ADVERTISE: 0x0DE1, PARTNER: 0x01E0,
    GIGABIT_CONTROL: 0x0E00, GIGABIT_STATUS: 0x3C00, SPECIFIC_CONTROL: 0x0360,
    SPECIFIC_STATUS: 0xAC00, 20: 0x0D60,
}  # fmt: skip
READ_ONLY = frozenset((STATUS, ID1, ID2, PARTNER, EXPANSION, 8, GIGABIT_STATUS, 15, 17, 19, 21))
_CONTROL_HELD = 0x7DC0

SPEED_10, SPEED_100, SPEED_1000 = range(3)
"""As the MAC's STATUS spells speeds, and the PHY's specific status too."""

_ABILITIES = (
    (GIGABIT_CONTROL, 1 << 9, SPEED_1000, True),
    (GIGABIT_CONTROL, 1 << 8, SPEED_1000, False),
    (ADVERTISE, 1 << 8, SPEED_100, True),
    (ADVERTISE, 1 << 7, SPEED_100, False),
    (ADVERTISE, 1 << 6, SPEED_10, True),
    (ADVERTISE, 1 << 5, SPEED_10, False),
)


class Phy:
    """The transceiver. ``changed()`` hears of a link that came or went."""

    RESETS: ClassVar[Mapping[int, int]] = _RESETS

    def __init__(
        self, id2: int, timers: Timers, changed: Callable[[], None], *, slow: bool = True
    ) -> None:
        self.registers = [0] * 32
        self.up = False
        self.speed, self.full_duplex = SPEED_1000, True
        self._id2 = id2
        self._timers = timers
        self._changed = changed
        self._delay_s = NEGOTIATION_S if slow else 0.0
        self._carrier = False
        self._timer: Timer | None = None

    def reset(self, carrier: bool) -> None:
        """Power on: with a carrier the link is there at once."""
        self._stop()
        self._carrier = carrier
        self._set_defaults()
        self._set_up(carrier)

    def hard_reset(self) -> None:
        """The MAC pulled the PHY's reset pin (CTRL.PHY_RST)."""
        self._set_defaults()
        self._start()

    def _set_defaults(self) -> None:
        registers = self.registers
        registers[:] = [0] * 32
        for number, value in self.RESETS.items():
            registers[number] = value
        registers[ID2] = self._id2

    @property
    def loopback(self) -> bool:
        """Whether it sends back what the MAC sends."""
        return bool(self.registers[CONTROL] & LOOPBACK)

    # MDIC

    def access(self, value: int) -> int:
        """Do what was written to MDIC; return what it holds then."""
        operation, number = value >> 26 & 3, value >> 16 & 31
        value &= ~(READY | ERROR)
        if value >> 21 & 31 != ADDRESS or operation not in (OP_READ, OP_WRITE):
            return value | READY | ERROR
        if operation == OP_READ:
            return value & ~0xFFFF | self.read(number) | READY
        self.write(number, value & 0xFFFF)
        return value | READY

    def read(self, number: int) -> int:
        """Read one register."""
        return self.registers[number]

    def write(self, number: int, value: int) -> None:
        """Write one register."""
        if number == CONTROL:
            self._write_control(value)
        elif number not in READ_ONLY:
            self.registers[number] = value

    def _write_control(self, value: int) -> None:
        before, now = self.registers[CONTROL], value & _CONTROL_HELD
        self.registers[CONTROL] = now
        link_bits = NEGOTIATE | POWER_DOWN | SPEED_LOW | SPEED_HIGH | FULL_DUPLEX | LOOPBACK
        if value & (RESET | RESTART) or (before ^ now) & link_bits:
            self._start()

    # The link

    def set_carrier(self, carrier: bool) -> None:
        """The cable was plugged in or pulled."""
        if carrier != self._carrier:
            self._carrier = carrier
            self._start()

    def _start(self) -> None:
        """Find the link anew."""
        self._stop()
        control = self.registers[CONTROL]
        if not self._carrier or control & POWER_DOWN:
            self._set_up(False)
        elif control & NEGOTIATE and self._delay_s:
            self._set_up(False)
            self._timer = self._timers.call_later(self._delay_s, self._finish)
        else:
            self._finish()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _finish(self) -> None:
        """Both ends agree, or nobody asked them."""
        self._timer = None
        registers = self.registers
        if registers[CONTROL] & NEGOTIATE:
            found = [it for it in _ABILITIES if registers[it[0]] & it[1]]
            if not found:
                self._set_up(False)
                return
            self.speed, self.full_duplex = found[0][2:]
            registers[PARTNER] |= PARTNER_ACK
            registers[EXPANSION] |= EXPANSION_ABLE
            registers[STATUS] |= STATUS_COMPLETE
        else:
            control = registers[CONTROL]
            high, low = bool(control & SPEED_HIGH), bool(control & SPEED_LOW)
            self.speed = SPEED_1000 if high else SPEED_100 if low else SPEED_10
            self.full_duplex = bool(control & FULL_DUPLEX)
        self._set_up(True)

    def _set_up(self, up: bool) -> None:
        registers = self.registers
        registers[SPECIFIC_STATUS] &= ~_SPECIFIC_LINK_BITS
        if up:
            registers[STATUS] |= STATUS_LINK
            registers[SPECIFIC_STATUS] |= (
                SPECIFIC_RESOLVED
                | SPECIFIC_LINK
                | (SPECIFIC_DUPLEX if self.full_duplex else 0)
                | self.speed << SPECIFIC_SPEED_SHIFT
            )
        else:
            registers[STATUS] &= ~(STATUS_LINK | STATUS_COMPLETE)
            registers[PARTNER] &= ~PARTNER_ACK
            registers[EXPANSION] &= ~EXPANSION_ABLE
        was, self.up = self.up, up
        if up or was:
            self._changed()

    # State

    def save(self) -> dict[str, Any]:
        """Return the registers and where the link is."""
        return {
            "registers": list(self.registers),
            "up": self.up,
            "speed": self.speed,
            "full_duplex": self.full_duplex,
            "negotiating": self._timer is not None,
        }

    def restore(self, state: Mapping[str, Any], carrier: bool) -> None:
        """Take on what ``save`` gave, at a cable that may be another. ValueError if it can't be."""
        registers = [int(value) & 0xFFFF for value in state["registers"]]
        if len(registers) != 32 or state["speed"] not in range(3):
            raise ValueError("not a PHY's state")
        self._stop()
        self.registers[:] = registers
        self.up, self.speed = bool(state["up"]), int(state["speed"])
        self.full_duplex = bool(state["full_duplex"])
        self._carrier = carrier
        if state["negotiating"] or (self.up and not carrier):
            self._start()
