# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A command line as the decision looks at it: each argument read once, the machine put together.

QEMU merges all ``-machine`` options into one, and all ``-m`` into one: the last value of a key
wins, whichever option it stood in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from vmwire.cli.wrap import values
from vmwire.cli.wrap.cmdline import QUESTIONS, CommandLine, Option, names
from vmwire.cli.wrap.values import OFF, ON, Values
from vmwire.options.syntax import HELP_WORDS, OptionList

_READ = names("M accel chardev device global icount m machine net netdev nic numa object run-with")


@dataclass(slots=True, frozen=True)
class Entry:
    """One option of interest, read."""

    index: int
    option: Option
    values: Values

    @property
    def type(self) -> str:
        """The value of the implied key: a netdev's or object's type, a device's driver."""
        for key in ("type", "driver", "qom-type", "accel", "backend"):
            if value := values.text(self.values, key):
                return value
        return "user" if self.option.name == "nic" else ""

    @property
    def id(self) -> str | None:
        several = values.every(self.values, "id")
        return several[0] if several else None

    @property
    def makes_card(self) -> bool:
        """Whether it is the card that names a netdev."""
        return self.option.name == "device" or (self.option.name == "net" and self.type == "nic")

    @property
    def is_json(self) -> bool:
        return self.option.argument.startswith("{")

    def get(self, key: str) -> str | None:
        return values.text(self.values, key)

    def is_on(self, key: str) -> bool:
        return self.get(key) in ON

    def is_off(self, key: str) -> bool:
        return self.get(key) in OFF


class Survey:
    """All entries by option name. Raises ConfigError for JSON that QEMU would refuse.

    ``default_model`` is the machine's own choice of a card, as far as it is known.
    """

    def __init__(self, line: CommandLine, default_model: str | None = None) -> None:
        self.line = line
        self.default_model = default_model
        self.entries = [
            Entry(index, option, values.plain(option.options()))
            for index, option in enumerate(line.options)
            if option.name in _READ
        ]
        self.asks_help = any(_asks_help(option) for option in line.options)

    @property
    def is_question(self) -> bool:
        """Whether QEMU only answers and ends."""
        return self.asks_help or self.line.has(*QUESTIONS)

    def named(self, *names: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.option.name in names]

    @cached_property
    def machine(self) -> Values:
        return self._merged("machine", "M")

    @cached_property
    def ram(self) -> Values:
        return self._merged("m")

    def _merged(self, *names: str) -> Values:
        merged: Values = {}
        for entry in self.named(*names):
            for key in entry.values:
                merged[key] = entry.get(key) or ""
        return merged

    @cached_property
    def accelerators(self) -> list[str]:
        """In the order in which QEMU tries them; empty: its own choice."""
        if self.line.has("enable-kvm"):
            return ["kvm"]
        listed = [entry.type for entry in self.named("accel")]
        return listed or [
            name for name in (values.text(self.machine, "accel") or "").split(":") if name
        ]

    def objects(self, prefix: str) -> list[Entry]:
        return [entry for entry in self.named("object") if entry.type.startswith(prefix)]


def _asks_help(option: Option) -> bool:
    """``-device help``, ``-cpu ?``, ``-device e1000,help``: QEMU answers and ends."""
    if option.argument in HELP_WORDS:
        return True
    if option.name not in _READ or not option.argument:
        return False
    read = option.options()
    return isinstance(read, OptionList) and read.wants_help
