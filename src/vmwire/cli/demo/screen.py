# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the demo writes: one line a step, a live line in a terminal, a table at the end.

Made for 80 columns. In a terminal the running step is shown as it goes; elsewhere each step is one
line when it is done. Colour (green, red, grey) only in a terminal, and not with NO_COLOR set.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import TextIO

WIDTH = 79
NAME_WIDTH = 10
BAR_WIDTH = 24

GREEN, RED, GREY, BOLD = "32", "31", "90", "1"
MARKS = {True: ("✓", "ok", GREEN), False: ("✗", "NO", RED), None: ("–", "--", GREY)}
WORDS = {True: "yes", False: "NO", None: "–"}


class Screen:
    """Writes to one stream, which is a terminal or not."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.live = out.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = self.live and not os.environ.get("NO_COLOR")
        self._unicode = (out.encoding or "").lower().replace("-", "") == "utf8"
        self._is_open = False

    def line(self, text: str = "") -> None:
        """Write a line."""
        self._write(f"{text}\n")

    def title(self, text: str) -> None:
        """Write what this is all about."""
        self._write(f"{self._painted(text, BOLD)}\n\n")

    def fact(self, name: str, text: str) -> None:
        """Write one of the facts that stand before the steps."""
        self._paragraph(f"{name:<{NAME_WIDTH}}", text)

    def running(self, name: str, text: str) -> None:
        """Show how far a step is, in a terminal."""
        if self.live:
            begin = f"  {self._painted('·', GREY)} {name:<{NAME_WIDTH}}"
            self._out.write(f"\r\x1b[K{begin}{text}")
            self._out.flush()
            self._is_open = True

    def done(self, name: str, worked: bool | None, text: str) -> None:
        """Write what became of a step."""
        self.clear()
        sign, word, colour = MARKS[worked]
        mark = sign if self._unicode else word
        begin = f"  {mark} {name:<{NAME_WIDTH}}"
        self._paragraph(begin, text, (mark, colour))

    def clear(self) -> None:
        """Take the live line away."""
        if self._is_open:
            self._out.write("\r\x1b[K")
            self._is_open = False

    def bar(self, part: float) -> str:
        """A bar for the part that is done, 0 to 1."""
        full = round(min(max(part, 0.0), 1.0) * BAR_WIDTH)
        sign, rest = ("━", "─") if self._unicode else ("#", ".")
        return self._painted(sign * full, GREEN) + self._painted(rest * (BAR_WIDTH - full), GREY)

    def table(self, heads: Sequence[str], rows: Sequence[tuple[str, bool | None, str]]) -> None:
        """Write what worked: what, whether, how well."""
        widths = [max(len(row[0]) for row in rows), len(heads[1])]
        dash = "─" if self._unicode else "-"
        rule = [*widths, WIDTH - sum(widths) - 6]
        self._write(f"  {heads[0]:<{widths[0]}}  {heads[1]:<{widths[1]}}  {heads[2]}\n")
        self._write("  " + "  ".join(dash * min(width, 30) for width in rule) + "\n")
        for what, worked, figure in rows:
            word = WORDS[worked] if self._unicode or worked is not None else "-"
            painted = self._painted(f"{word:<{widths[1]}}", MARKS[worked][2])
            self._write(f"  {what:<{widths[0]}}  {painted}  {figure}".rstrip() + "\n")

    def _paragraph(self, begin: str, text: str, mark: tuple[str, str] | None = None) -> None:
        lines = textwrap.wrap(
            text,
            WIDTH,
            initial_indent=begin,
            subsequent_indent=" " * len(begin),
            break_on_hyphens=False,
            break_long_words=False,
        ) or [begin.rstrip()]
        if mark is not None:
            lines[0] = lines[0].replace(mark[0], self._painted(*mark), 1)
        for line in lines:
            self._write(f"{line}\n")

    def _painted(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour and text else text

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def amount(size: float) -> str:
    """
    >>> amount(2_310_000_000), amount(45_600)
    ('2.31 GB', '45.6 kB')
    """
    return _scaled(size, ("bytes", "kB", "MB", "GB", "TB"))


def speed(size: float, seconds: float) -> str:
    """
    >>> speed(1_250_000_000, 1.0), speed(100_000_000, 1.0)
    ('10 Gbit/s', '800 Mbit/s')
    """
    return _scaled(8 * size / max(seconds, 1e-9), ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"))


def duration(seconds: float) -> str:
    """
    >>> duration(0.00014), duration(0.25), duration(7.94)
    ('0.14 ms', '250 ms', '7.9 s')
    """
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.2g} ms" if seconds < 0.1 else f"{1000 * seconds:.0f} ms"


def _scaled(value: float, units: Sequence[str]) -> str:
    """Three digits and a unit."""
    step = 0
    while value >= 999.5 and step < len(units) - 1:
        value /= 1000
        step += 1
    return f"{value:.3g} {units[step]}"
