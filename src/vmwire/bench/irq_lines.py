# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The machine's interrupt lines, numbered as the I/O APIC's inputs are.

Several sources can hold a line up (PCI's are shared); it falls with the last of them. Nobody is
behind the lines, for there is no CPU: they are watched.

>>> lines = IrqLines(lambda number, up: print(number, up))
>>> lines.set(11, "PIRQ A", True); lines.set(11, "PIRQ B", True); lines.set(11, "PIRQ A", False)
11 True
>>> lines.level(11)
True
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

LINES = 24


class IrqLines:
    """See the module. ``changed(number, up)`` is told when a line rises or falls."""

    def __init__(self, changed: Callable[[int, bool], None]) -> None:
        self._changed = changed
        self._held: list[set[Hashable]] = [set() for _ in range(LINES)]

    def level(self, number: int) -> bool:
        """Whether a line is up."""
        return bool(self._held[number])

    def set(self, number: int, source: Hashable, up: bool) -> None:
        """``source`` holds a line up, or lets it go."""
        held = self._held[number]
        before = bool(held)
        if up:
            held.add(source)
        else:
            held.discard(source)
        if bool(held) != before:
            self._changed(number, bool(held))
