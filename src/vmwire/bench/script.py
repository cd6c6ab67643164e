# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
r"""Scripts of the bench machine: every access as a plain line, recorded and replayed.

Commands and answers are spelt as QEMU's qtest protocol spells them; numbers are decimal or 0x…:

    inb PORT                    outb PORT VALUE         also w, l        answer: OK 0x….
    readb ADDRESS               writeb ADDRESS VALUE    also w, l, q     answer: OK 0x….
    read ADDRESS LENGTH         answer: OK 0x<hex>      b64read: in base64
    write ADDRESS LENGTH 0x<hex>                        b64write: in base64
    memset ADDRESS LENGTH VALUE
    clock_step [NS]   clock_set NS      answer: OK <nanoseconds>; without NS: to the next timer
    irq_intercept_in ioapic             from now on note ``IRQ raise N``, ``IRQ lower N`` of lines
    irq_intercept_out NAME              the same of card NAME's own pin, which is number 0
    set_irq_in ioapic unnamed-gpio-in N LEVEL           drive a line
    endianness                          answer: OK little

and these of ours, for what qtest leaves to the command line and to other sockets:

    plug DRIVER,id=NAME,…       put a card in (as ``-device`` says it)
    send NAME HEX[:OFFLOAD] …   frames to card NAME at once, OFFLOAD as virtio's net header in hex
    link NAME up|down           the cable of card NAME
    accept NAME all|packets     what the far end of its wire takes
    room NAME yes|no            whether the far end takes frames at all
    reset NAME                  the bus's reset, at this card
    reload NAME                 save its state, power it on anew, restore the state

A log that ``-qtest-log`` wrote, QEMU's or ours, is a script too.

Below a command stands what it led to: ``IRQ raise NAME``, ``IRQ lower NAME``, ``MSI NAME VECTOR``,
``FRAME NAME HEX`` and last its answer. A command with an ``OK`` below it is compared in full when
the script is replayed; one without is only carried out, and one with a ``FAIL`` may make no sense.
``#`` begins a comment.

>>> script = Script.parse("outl 0xcf8 0x80000000\ninl 0xcfc\nOK 0x12378086\n")
>>> [step.command for step in script.steps]
['outl 0xcf8 0x80000000', 'inl 0xcfc']
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

EVENTS = ("IRQ", "MSI", "FRAME")
ANSWERS = ("OK", "FAIL")
_STAMP = re.compile(r"\[(I|R|S) \+?[0-9.]+\] ?")
"""What stands before each line of a log of QEMU's ``-qtest-log``."""


class ScriptError(ValueError):
    """A line that makes no sense; the message says which and why."""


@dataclass(slots=True)
class Step:
    """One command, what it led to, and its answer (None: not to be compared)."""

    command: str
    events: list[str] = field(default_factory=list)
    answer: str | None = None
    line: int = 0

    def lines(self) -> list[str]:
        """The step as it stands in a file."""
        return [self.command, *self.events, *([] if self.answer is None else [self.answer])]


@dataclass(slots=True)
class Script:
    """Steps in order; ``str`` and ``parse`` are each other's inverse."""

    steps: list[Step] = field(default_factory=list)

    @staticmethod
    def parse(text: str | Iterable[str]) -> Script:
        """Read a script. The commands themselves are judged when they are carried out."""
        lines = text.splitlines() if isinstance(text, str) else text
        script = Script()
        for number, line in enumerate(lines, 1):
            words = _without_stamp(line).partition("#")[0].split()
            if words:
                script._add(number, words)
        return script

    def _add(self, number: int, words: list[str]) -> None:
        line = " ".join(words)
        if words[0] not in (*EVENTS, *ANSWERS):
            self.steps.append(Step(line, line=number))
            return
        if not self.steps or self.steps[-1].answer is not None:
            raise ScriptError(f"line {number}: '{line}' follows no command")
        if words[0] in ANSWERS:
            self.steps[-1].answer = line
        else:
            self.steps[-1].events.append(line)

    @staticmethod
    def load(path: Path | str) -> Script:
        """Read a script's file."""
        try:
            return Script.parse(Path(path).read_text())
        except UnicodeDecodeError:
            raise ScriptError("this is no text") from None

    def save(self, path: Path | str) -> None:
        """Write a script's file."""
        Path(path).write_text(str(self))

    def __str__(self) -> str:
        return "".join(f"{line}\n" for step in self.steps for line in step.lines())


def _without_stamp(line: str) -> str:
    """A line of a qtest log without its time; nothing of one that is neither said nor answered."""
    stamp = _STAMP.match(line)
    if stamp is None:
        return line
    return "" if stamp[1] == "I" else line[stamp.end() :]


class Recorder:
    """Where a machine notes what is done to it and what it does."""

    def __init__(self) -> None:
        self.script = Script()

    def begin(self, command: str) -> None:
        """Note a command before it is carried out (it may never come back)."""
        self.script.steps.append(Step(command))

    def event(self, line: str) -> None:
        """Note something that the machine did meanwhile."""
        if self.script.steps:
            self.script.steps[-1].events.append(line)

    def end(self, answer: str = "") -> None:
        """Note the answer."""
        self.script.steps[-1].answer = f"OK {answer}".rstrip()


class Replayable(Protocol):
    """A machine that records itself and carries out command lines (``Bench``)."""

    recorder: Recorder | None

    def execute(self, line: str) -> str:
        """Carry a command out; ScriptError for one that makes no sense."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a replay went another way than the script says."""

    line: int
    command: str
    expected: list[str]
    found: list[str]

    def __str__(self) -> str:
        return f"line {self.line}: {self.command}: expected {self.expected}, got {self.found}"


def replay(script: Script, machine: Replayable) -> list[Difference]:
    """Carry out a script and compare; an empty list says that all went as recorded.

    Goes on after a difference. Raises ``ScriptError`` (with the line) at a command that makes no
    sense, unless the script has ``FAIL`` there. What the machine recorded meanwhile is left with
    its ``recorder``.
    """
    recorder = machine.recorder = Recorder()
    differences = []
    for step in script.steps:
        before = len(recorder.script.steps)
        try:
            answer = machine.execute(step.command)
        except ScriptError as error:
            if step.answer is not None and step.answer.startswith("FAIL"):
                continue
            raise ScriptError(f"line {step.line}: {error}") from error
        if step.answer is not None:
            done = recorder.script.steps[before:]
            found = [event for each in done for event in each.events] + [answer]
            expected = [*step.events, step.answer]
            if found != expected:
                differences.append(Difference(step.line, step.command, expected, found))
    return differences
