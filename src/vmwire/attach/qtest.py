# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""QEMU's qtest protocol: a harness plays the CPU by lines of text.

Each line is a command, each gets one line as its answer: ``OK``, ``OK VALUE`` or ``FAIL TEXT``;
``IRQ raise N`` and ``IRQ lower N`` come in between for interrupts that are intercepted. What the
commands do stands in `vmwire.bench.commands`, with the ones of the bench's own.

Where QEMU ends with a failed assertion (a missing argument, a port above 0xffff) the answer here is
``FAIL`` with what is wrong.

This part does no I/O. `feed` takes bytes and only keeps the lines; `step` carries out one of them,
so that whoever turns the loop can let the network run before each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from fractions import Fraction

from vmwire.bench import commands
from vmwire.bench.machine import Bench
from vmwire.bench.script import ScriptError

LONGEST_LINE = 2 * commands.MOST_BYTES + 256
"""``write`` with the most bytes that one line may carry, in hex."""

TICKS_PER_S = Fraction(1193182, 32768)
"""How often the timer of a PC ticks that nobody has set: twice in 65536 cycles of its clock. No
interrupt comes of it here; but a harness that steps from timer to timer gets on by it."""

CROWD = 1024
"""Commands that wait, and no more are read."""

Log = Callable[[str], None]


def _ignore(text: str) -> None:
    """The log of who keeps none."""


class QtestSession:
    """One peer's commands, for one machine."""

    def __init__(self, pc: Bench, log: Log = _ignore) -> None:
        self._pc = pc
        self._log = log
        self._send: Callable[[bytes], None] | None = None
        self._lines: deque[bytes] = deque()
        self._part = bytearray()
        pc.on_irq = self._on_irq

    # Bytes

    def opened(self, send: Callable[[bytes], None]) -> None:
        """A peer is there."""
        self._log("I OPENED")
        self._send = send

    def feed(self, data: bytes) -> None:
        """Keep the lines of what came."""
        *whole, rest = data.split(b"\n")
        for line in whole:
            self._lines.append(bytes(self._part) + line)
            self._part.clear()
        self._part += rest
        if len(self._part) > LONGEST_LINE:  # it is answered when it ends, without its text
            del self._part[LONGEST_LINE:]

    def closed(self) -> None:
        """The peer says no more; what it asked for is done all the same, and answered."""
        self._log("I CLOSED")
        self._part.clear()

    # Commands

    @property
    def crowded(self) -> bool:
        """Whether many commands wait."""
        return len(self._lines) >= CROWD

    @property
    def pending(self) -> bool:
        """Whether a command waits for ``step``."""
        return bool(self._lines)

    def step(self) -> None:
        """Carry out the next command and answer it."""
        line = self._lines.popleft().decode("ascii", "replace").rstrip("\r")
        self._log(f"R {line}")
        self._answer(self.execute(line))

    def execute(self, line: str) -> str:
        """The answer to one command."""
        words = line.split()
        if len(line) >= LONGEST_LINE:
            return "FAIL the line is too long"
        if not words or words[0] not in commands.QTEST_VERBS:
            return f"FAIL Unknown command '{words[0] if words else ''}'"
        try:
            if words[0].startswith("clock_"):
                return self._move_clock(words)
            return commands.execute(self._pc, line)
        except ScriptError as error:
            return f"FAIL {error}"

    def _move_clock(self, words: list[str]) -> str:
        """Move the clock. A step to the next timer ends at the PC's own tick at the latest."""
        before = self._pc.now_ns
        if words == ["clock_step"]:
            words = ["clock_step", str(self._next_ns() - before)]
        elif words[0] == "clock_step" and words[1].startswith("-"):
            words = ["clock_step", "0"]
        answer = commands.execute(self._pc, " ".join(words))
        if words[0] == "clock_set":
            there = commands.number(words[1]) == self._pc.now_ns
            return answer if there else f"FAIL {self._pc.now_ns}"
        return answer if self._pc.now_ns > before else "FAIL could not advance time"

    def _next_ns(self) -> int:
        due = self._pc.timers.next_deadline()
        if self._pc.board is None:
            if due is None:
                raise ScriptError("no timer is pending")
            return round(due * 1e9)
        ticks = self._pc.now_ns * TICKS_PER_S // 10**9
        while (tick := ticks * 10**9 // TICKS_PER_S) <= self._pc.now_ns:
            ticks += 1
        return tick if due is None else min(tick, round(due * 1e9))

    def _answer(self, text: str) -> None:
        self._log(f"S {text}")
        if self._send is not None:
            self._send(text.encode() + b"\n")

    def _on_irq(self, number: int, up: bool) -> None:
        self._answer(f"IRQ {'raise' if up else 'lower'} {number}")
