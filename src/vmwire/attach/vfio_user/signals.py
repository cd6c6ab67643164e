# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A card's interrupts as descriptors: what a vfio-user client wires, and how it is signalled.

There are five kinds, each with a number of lines: INTx, MSI, MSI-X, ERR, REQ. A line has an event
descriptor of the machine's that is written to interrupt (*trigger*), and may have two that the
machine writes to mask and unmask it without a message (linux/vfio.h, ``VFIO_IRQ_SET``).

INTx is a level, an event is an edge. So the line masks itself when it is signalled, and the machine
unmasks it when the guest has accessed the card: if the level is still up then, it is signalled
again. A message that comes while its line is masked, or before it has a descriptor, is kept, once.

But a machine that unmasks by a message does so while its guest waits for that access: most likely
in its interrupt handler, which is about to say by its next one whether it wants more (a NAPI driver
reads the causes, then masks them). What is signalled between can't be taken back. The guest would
be interrupted once more while it works through the ring, which Linux' e1000 answers by leaving
interrupts on until it is done. So the line is *held* until the guest's next access. Not for ever,
since there are handlers without a second one: how long follows what came of it lately. A machine
that unmasks by an event (KVM's) has seen its guest's handler end.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from vmwire.attach.vfio_user.refused import Refused
from vmwire.bus.pci.vfio_user import (
    ACTION_MASK,
    ACTION_TRIGGER,
    ACTION_UNMASK,
    ACTIONS,
    DATA_BOOL,
    DATA_EVENTFD,
    DATA_NONE,
    DATA_TYPES,
    ERR,
    INTX,
    IRQ_AUTOMASKED,
    IRQ_EVENTFD,
    IRQ_MASKABLE,
    IRQ_NORESIZE,
    MSI,
    MSIX,
    NUM_IRQS,
)
from vmwire.engine.clock import Timer
from vmwire.engine.loop import EDGE, READ, Loop

HANDLER_S = 0.001
"""How long a guest may take to its next access, at first."""
LEAST_HANDLER_S = 0.0002
"""… if it makes none. To make one takes it half of that."""
MOST_HANDLER_S = 0.008
"""… if it does: its machine may have more to do."""

FLAGS = (
    IRQ_EVENTFD | IRQ_MASKABLE | IRQ_AUTOMASKED,
    IRQ_EVENTFD | IRQ_MASKABLE | IRQ_NORESIZE,
    IRQ_EVENTFD | IRQ_MASKABLE,
    IRQ_EVENTFD | IRQ_NORESIZE,
    IRQ_EVENTFD | IRQ_NORESIZE,
)
"""What GET_IRQ_INFO says of each kind."""


@dataclass(slots=True, eq=False)
class Line:
    """One interrupt. ``fds`` are ours, by the action that they are for."""

    fds: dict[int, int] = field(default_factory=dict)
    masked: bool = False
    pending: bool = False


class Signals:
    """The lines of one connection: a ``vmwire.bus.pci.interrupts.Machine``.

    ``level()`` is the card's pin. ``on_wiring(index, number, action, fd)`` hears of every change of
    descriptors.
    """

    def __init__(
        self,
        counts: tuple[int, ...],
        loop: Loop,
        level: Callable[[], bool],
    ) -> None:
        self.counts = counts
        self.sent = 0
        """Interrupts that were signalled."""
        self._loop = loop
        self._level = level
        self.on_signal: Callable[[], None] | None = None
        self.on_wiring: Callable[[int, int, int, int | None], None] | None = None
        self._lines = [[Line() for _ in range(count)] for count in counts]
        self.held: Timer | None = None
        """Until when the pin isn't signalled, if the guest makes no access."""
        self.patience_s = HANDLER_S

    # What the card does

    def intx(self, up: bool) -> None:
        """The pin has risen or fallen."""
        if up and self._lines[INTX] and self.held is None:
            line = self._lines[INTX][0]
            if not line.masked and ACTION_TRIGGER in line.fds:
                line.masked = True
                self._signal(line)

    def accessed(self) -> None:
        """The guest has said what it wants: the pin is held no longer."""
        if self.held is not None:
            self._let_go()
            self.patience_s = min(2 * self.patience_s, MOST_HANDLER_S)
            self.intx(self._level())

    def _overdue(self) -> None:
        """The guest has said nothing."""
        self._let_go()
        if self._level():
            self.patience_s = max(self.patience_s / 4, LEAST_HANDLER_S)
            self.intx(True)

    def msi(self, vector: int) -> None:
        """An MSI message."""
        self._message(MSI, vector)

    def msix(self, vector: int) -> None:
        """An MSI-X message."""
        self._message(MSIX, vector)

    def _message(self, index: int, vector: int) -> None:
        lines = self._lines[index]
        if vector < len(lines):
            line = lines[vector]
            if line.masked or ACTION_TRIGGER not in line.fds:
                line.pending = True
            else:
                self._signal(line)

    def _signal(self, line: Line) -> None:
        fd = line.fds.get(ACTION_TRIGGER)
        if fd is None:
            return
        self.sent += 1
        if self.on_signal is not None:
            self.on_signal()
        try:
            os.eventfd_write(fd, 1)
        except OSError:
            pass  # so many that nobody fetched that one more can't be told

    # What the machine asks for

    def set(
        self, index: int, flags: int, start: int, count: int, data: bytes, fds: list[int]
    ) -> None:
        """Follow a SET_IRQS message; takes the descriptors that it needs out of ``fds``.

        Raises ``Refused``, and has done nothing then.
        """
        kind, action = _kind_and_action(index, flags)
        if kind != DATA_EVENTFD and fds:
            raise Refused(f"{len(fds)} descriptors without use")
        if len(data) != (count if kind == DATA_BOOL else 0):
            raise Refused(f"{len(data)} bytes of data for {count} interrupts")
        if start > self.counts[index] or count > self.counts[index] - start:
            raise Refused(f"interrupts {start} + {count} of {self.counts[index]}")
        if count == 0:
            self._disable(index, kind, action, start)
        elif kind == DATA_EVENTFD:
            self._wire(index, action, start, count, fds)
        else:
            for number in range(count):
                if kind == DATA_NONE or data[number]:
                    self._act(index, action, self._lines[index][start + number])

    def _disable(self, index: int, kind: int, action: int, start: int) -> None:
        """No count: all interrupts of a kind are off."""
        if kind != DATA_NONE or action != ACTION_TRIGGER or start:
            raise Refused("a count of 0 with anything but DATA_NONE and ACTION_TRIGGER")
        for number, line in enumerate(self._lines[index]):
            for each in ACTIONS:
                self._put(index, number, each, None)
            line.masked = line.pending = False

    def _wire(self, index: int, action: int, start: int, count: int, fds: list[int]) -> None:
        if fds and len(fds) != count:
            raise Refused(f"{len(fds)} descriptors for {count} interrupts")
        if any(stat.S_IFMT(os.fstat(fd).st_mode) for fd in fds):
            # A pipe or a socket isn't counted with; an event descriptor has no file type
            raise Refused("something else than an event descriptor")
        for number in range(start, start + count):
            self._put(index, number, action, fds.pop(0) if fds else None)
            if action == ACTION_TRIGGER:
                self._on_trigger_wired(index, self._lines[index][number])

    def _on_trigger_wired(self, index: int, line: Line) -> None:
        """Say what could not be said before."""
        line.masked = False
        if index == INTX:
            self.intx(self._level())
        elif line.pending and ACTION_TRIGGER in line.fds:
            line.pending = False
            self._signal(line)

    def _act(self, index: int, action: int, line: Line) -> None:
        if action == ACTION_TRIGGER:
            self._signal(line)
        elif action == ACTION_MASK:
            line.masked = True
        else:
            if index == INTX and line.masked and self.held is None:
                self.held = self._loop.call_later(self.patience_s, self._overdue)
            self._unmask(index, line)

    def _unmask(self, index: int, line: Line) -> None:
        line.masked = False
        if index == INTX:
            self.intx(self._level())
        elif line.pending:
            line.pending = False
            self._signal(line)

    # Descriptors

    def _put(self, index: int, number: int, action: int, fd: int | None) -> None:
        """Give a line another descriptor for ``action``, or none."""
        line = self._lines[index][number]
        old = line.fds.pop(action, None)
        if old is None and fd is None:
            return
        if old is not None:
            self._loop.unwatch(old)
            os.close(old)
        if fd is not None:
            os.set_blocking(fd, False)
            line.fds[action] = fd
            if action != ACTION_TRIGGER:
                self._watch(index, action, line, fd)
        if self.on_wiring is not None:
            self.on_wiring(index, number, action, fd)

    def _watch(self, index: int, action: int, line: Line, fd: int) -> None:
        try:
            self._loop.watch(fd, READ | EDGE, partial(self._on_event, index, action, line, fd))
        except OSError as error:
            del line.fds[action]
            os.close(fd)
            raise Refused(f"a descriptor that can't be waited for: {error.strerror}") from None

    def _on_event(self, index: int, action: int, line: Line, fd: int, events: int) -> None:
        """The machine masks or unmasks without a message: once for each write.

        A descriptor that counts down by ones is read once, too; only its edges wake us.
        """
        try:
            os.eventfd_read(fd)
        except BlockingIOError:
            return
        except OSError:
            self._loop.unwatch(fd)  # a timer or the like
            return
        if action == ACTION_UNMASK:  # the handler is over: the kernel's irqchip has seen its end
            self._unmask(index, line)
        else:
            self._act(index, action, line)

    def save(self) -> list[tuple[int, int, list[int], bool, bool]]:
        """Return what isn't as at the beginning: kind, number, actions wired, masked, pending."""
        return [
            (index, number, list(line.fds), line.masked, line.pending)
            for index, lines in enumerate(self._lines)
            for number, line in enumerate(lines)
            if line.fds or line.masked or line.pending
        ]

    def restore(
        self,
        state: list[tuple[int, int, list[int], bool, bool]],
        take: Callable[[int, int, int], int | None],
    ) -> None:
        """Take on what ``save`` gave; ``take`` finds a line's descriptors."""
        for index, number, actions, masked, pending in state:
            line = self._lines[index][number]
            # INTx masks itself by each interrupt; whether that is over nobody knows any more
            line.masked, line.pending = masked and index != INTX, pending
            for action in actions:
                fd = take(index, number, action)
                if fd is not None:
                    self._put(index, number, action, fd)

    def signal_again(self) -> None:
        """Repeat what may have been lost: one interrupt too many harms nobody."""
        self.intx_again()
        for index in (MSI, MSIX):
            for line in self._lines[index]:
                if not line.masked:
                    self._signal(line)

    def intx_again(self) -> None:
        """Signal the pin if it is up, also where that was done before."""
        if self._lines[INTX] and self._level():
            line = self._lines[INTX][0]
            line.masked = ACTION_TRIGGER in line.fds
            self._signal(line)

    def reset(self) -> None:
        """The card was reset: nothing is kept for later any more."""
        for lines in self._lines:
            for line in lines:
                line.pending = False
        if self._lines[INTX]:
            self._lines[INTX][0].masked = False
        self._let_go()

    def _let_go(self) -> None:
        if self.held is not None:
            self.held.cancel()
            self.held = None

    def close(self) -> None:
        """Close all descriptors; the wiring's listener isn't told."""
        self.on_wiring = None
        self._let_go()
        for index in range(NUM_IRQS):
            for number in range(self.counts[index]):
                for action in ACTIONS:
                    self._put(index, number, action, None)


def _kind_and_action(index: int, flags: int) -> tuple[int, int]:
    """Part the flags of SET_IRQS: exactly one of each sort. Raises ``Refused``."""
    if index >= NUM_IRQS:
        raise Refused(f"interrupt index {index}")
    kinds = [kind for kind in DATA_TYPES if flags & kind]
    actions = [action for action in ACTIONS if flags & action]
    if len(kinds) != 1 or len(actions) != 1 or flags & ~(kinds[0] | actions[0]):
        raise Refused(f"SET_IRQS flags {flags:#x}")
    if index >= ERR and actions[0] != ACTION_TRIGGER:
        raise Refused("masking of what can only be triggered")
    return kinds[0], actions[0]
