# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The declared table of commands: names, arguments with their types, results.

A command is declared once, beside the function that carries it out:

    @command("set_link", {"name": needs(STRING), "up": needs(BOOL)})
    def set_link(monitor: Monitor, name: str, up: bool) -> None: ...

Checking arguments, the list that ``query-commands`` gives, and whatever wants to describe the
commands to others come from that. Types are those of options (`vmwire.options.values`). An argument
``command-line`` is handed over as ``command_line``. A result of None is an empty object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vmwire.errors import ConfigError
from vmwire.options.values import IntType, ValueType, Where

INT = IntType("int64", bits=64)
DEVICE_NOT_FOUND = "DeviceNotFound"


class CommandError(Exception):
    """A request that can't be answered; ``kind`` is the class that QMP gives it."""

    def __init__(self, text: str, kind: str = "GenericError") -> None:
        super().__init__(text)
        self.kind = kind


def not_found(id: str) -> CommandError:
    """The error for a device or netdev that there isn't."""
    return CommandError(f"Device '{id}' not found", DEVICE_NOT_FOUND)


@dataclass(slots=True, frozen=True)
class ListType(ValueType):
    """A list of values of one type."""

    name: str = "list"
    json: str = "array"
    python: type = list
    element: ValueType = ValueType()  # noqa: RUF009 (frozen)

    def read_json(self, where: Where, value: Any) -> Any:
        listed = ValueType.read_json(self, where, value)
        return [
            self.element.read_json(Where(f"{where.key}[{index}]"), each)
            for index, each in enumerate(listed)
        ]


@dataclass(slots=True, frozen=True)
class AnyType(ValueType):
    """Any value; who takes it judges it."""

    name: str = "any"
    json: str = "value"

    def read_json(self, where: Where, value: Any) -> Any:
        return value


ANY = AnyType()


@dataclass(frozen=True, slots=True)
class Argument:
    """What a command takes under one name."""

    type: ValueType
    required: bool = True


def needs(type: ValueType) -> Argument:
    """An argument that must be there."""
    return Argument(type)


def takes(type: ValueType) -> Argument:
    """An argument that may be there."""
    return Argument(type, required=False)


@dataclass(frozen=True, slots=True)
class Command:
    """One command. ``run`` gets the monitor and the arguments by name.

    ``open_ended``: it judges its arguments itself, and gets all of them as one mapping (options of
    netdevs and devices have tables of their own). ``on_machine``: only where there is a machine.
    """

    name: str
    run: Callable[..., Any]
    arguments: Mapping[str, Argument]
    returns: Any = None
    open_ended: bool = False
    on_machine: bool = False

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check what was given; return what ``run`` takes. ConfigError in QEMU's words."""
        if self.open_ended:
            return {"arguments": given}
        values = {}
        for key, argument in self.arguments.items():
            if key in given:
                name = key.replace("-", "_")
                values[name] = argument.type.read_json(Where(key), given[key])
            elif argument.required:
                raise ConfigError(f"Parameter '{key}' is missing")
        for key in given:
            if key not in self.arguments:
                raise ConfigError(f"Parameter '{key}' is unexpected")
        return values


class CommandTable:
    """Commands by name, filled by its decorator ``command``."""

    def __init__(self) -> None:
        self.commands: dict[str, Command] = {}

    def command(
        self,
        name: str,
        arguments: Mapping[str, Argument] | None = None,
        *,
        returns: Any = None,
        open_ended: bool = False,
        on_machine: bool = False,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Declare the function below as the command ``name``; see `Command`."""

        def declare(run: Callable[..., Any]) -> Callable[..., Any]:
            if name in self.commands:
                raise ValueError(f"the command {name} is declared twice")
            self.commands[name] = Command(
                name, run, arguments or {}, returns, open_ended, on_machine
            )
            return run

        return declare


def merged(tables: Iterable[CommandTable]) -> dict[str, Command]:
    """The commands of several tables."""
    return {name: each for table in tables for name, each in table.commands.items()}
