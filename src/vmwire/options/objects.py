# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Options that are objects: ``addr.type=inet,addr.host=...``, or ``"addr": {...}`` in JSON.

Which kind of object it is says its member ``type``; the other members are declared, as those of a
record are, in one dataclass for each kind.

>>> from vmwire.options.table import option
>>> from vmwire.options.values import BOOL, STRING
>>> @dataclass
... class Box:
...     path: str = option(STRING, required=True)
...     tight: bool = option(BOOL, default=True)
>>> place = ObjectType(kinds={"box": Box})
>>> read = place.read(Where("addr"), {"type": "box", "path": "/x", "tight": "off"})
>>> place.make(Where("addr"), read)
Box(path='/x', tight=False)
>>> place.items("addr", Box("/x"))
[('addr.type', 'box'), ('addr.path', '/x')]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vmwire.errors import ConfigError
from vmwire.options.table import Entry, NotServedError, Option, entries_of
from vmwire.options.values import ValueType, Where

Read = Callable[[ValueType, Where, Any], Any]
SELECTOR = "type"


@dataclass(slots=True, frozen=True)
class _Shape:
    """An object whose members have the right shapes."""

    kind: str
    members: dict[str, Any]


@dataclass(slots=True, frozen=True)
class ObjectType(ValueType):
    """An object of one of ``kinds``; ``later`` are QEMU's that vmwire doesn't serve yet."""

    name: str = "object"
    json: str = "object"
    kinds: Mapping[str, type[Any]] = field(default_factory=dict)
    later: tuple[str, ...] = ()

    def read(self, where: Where, value: Any) -> Any:
        return self._read(where, value, lambda type, member, text: type.read(member, text))

    def read_json(self, where: Where, value: Any) -> Any:
        return self._read(where, value, lambda type, member, json: type.read_json(member, json))

    def read_python(self, where: Where, value: Any) -> Any:
        if isinstance(value, tuple(self.kinds.values())):
            return value
        return self._read(where, value, lambda type, member, one: type.read_python(member, one))

    def _read(self, where: Where, value: Any, read: Read) -> _Shape:
        if not isinstance(value, dict):
            raise ConfigError(f"Invalid parameter type for '{where.key}', expected: object")
        kind = self._kind(where, value)
        members, shapes = self._entries(kind), {}
        for key, entry in members.items():
            if key in value:
                shapes[key] = read(entry.option.type, _inside(where, key), value[key])
            elif entry.option.required:
                raise ConfigError(f"Parameter '{where.key}.{key}' is missing")
        for key in value:
            if key not in members and key != SELECTOR:
                raise ConfigError(f"Parameter '{where.key}.{key}' is unexpected")
        return _Shape(kind, shapes)

    def _kind(self, where: Where, value: dict[str, Any]) -> str:
        kind = value.get(SELECTOR)
        if kind is None:
            raise ConfigError(f"Parameter '{where.key}.{SELECTOR}' is missing")
        if not isinstance(kind, str):
            raise ConfigError(
                f"Invalid parameter type for '{where.key}.{SELECTOR}', expected: string"
            )
        if kind in self.later:
            raise NotServedError(f"{where.key}.{SELECTOR}={kind} is not served by vmwire yet")
        if kind not in self.kinds:
            raise ConfigError(f"Parameter '{SELECTOR}' does not accept value '{kind}'")
        return kind

    def _entries(self, kind: str) -> dict[str, Entry]:
        return entries_of(self.kinds[kind], None)

    def make(self, where: Where, shape: Any) -> Any:
        if not isinstance(shape, _Shape):
            return shape  # a caller from Python gave the object itself
        entries = self._entries(shape.kind)
        return self.kinds[shape.kind](
            **{
                entries[key].field: entries[key].option.type.make(_inside(where, key), member)
                for key, member in shape.members.items()
            }
        )

    def items(self, key: str, value: Any) -> list[tuple[str, str]]:
        kind = next(name for name, made in self.kinds.items() if type(value) is made)
        texts = [(f"{key}.{SELECTOR}", kind)]
        for name, entry in self._entries(kind).items():
            member = getattr(value, entry.field)
            if member != entry.default:
                texts += entry.option.type.items(f"{key}.{name}", member)
        return texts

    def members(self) -> list[tuple[str, Any]]:
        about = Option(ValueType(), help="|".join(self.kinds))
        listed = [(SELECTOR, Entry(SELECTOR, about, Where(SELECTOR), None))]
        return listed + [member for kind in self.kinds for member in self._entries(kind).items()]


def _inside(where: Where, key: str) -> Where:
    return Where(f"{where.key}.{key}", where.device)
