# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What is changed in a command line: options replaced, put before another, given properties."""

from __future__ import annotations

from collections.abc import Mapping

from vmwire.cli.wrap.cmdline import IMPLIED, CommandLine
from vmwire.options.syntax import parse


class Edits:
    """Changes by option index; the line itself stays as it was typed."""

    def __init__(self, line: CommandLine, replaced: Mapping[int, list[str]] | None = None) -> None:
        self.line = line
        self._replaced = dict(replaced or {})
        self._before: dict[int, list[str]] = {}

    def replace(self, index: int, words: list[str]) -> None:
        self._replaced[index] = words

    def put_before(self, index: int, words: list[str]) -> None:
        """After what was put there earlier."""
        self._before.setdefault(index, []).extend(words)

    def put_first(self, words: list[str]) -> None:
        """In front of the first option that changes."""
        if words:
            first = min([*self._replaced, *self._before])
            self._before[first] = [*words, *self._before.get(first, [])]

    def add_property(self, index: int, key: str, value: str) -> None:
        """One more ``key=value`` for what stands there by now."""
        option = self.line.options[index]
        *start, argument = self._replaced.get(index, option.words)
        options = parse(argument, IMPLIED.get(option.name))
        options.add(key, value)
        self._replaced[index] = [*start, str(options)]

    def remove_property(self, index: int, key: str) -> None:
        """Without every ``key=`` in what stands there by now."""
        option = self.line.options[index]
        *start, argument = self._replaced.get(index, option.words)
        options = parse(argument, IMPLIED.get(option.name))
        options.remove(key)
        self._replaced[index] = [*start, str(options)]

    def words(self) -> list[str]:
        """The changed line."""
        changed = dict(self._replaced)
        for index, words in self._before.items():
            changed[index] = [*words, *changed.get(index, self.line.options[index].words)]
        return self.line.words(changed)
