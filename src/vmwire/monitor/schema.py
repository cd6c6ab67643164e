# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``query-qmp-schema``: the commands and events that there are, with their types.

All of it comes from what is declared anyway: the tables of commands and of options, the types of
results. The form is QEMU's: a flat list of entities, which name each other; names of types that are
no builtin mean nothing (here: numbers). What an option takes from JSON is its type there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args, get_origin, get_type_hints

from vmwire import catalogue
from vmwire.monitor.basics import NEGOTIATION
from vmwire.monitor.table import Command, CommandTable, ListType
from vmwire.options.objects import ObjectType
from vmwire.options.table import KINDS, Entry, entries_of
from vmwire.options.values import ChoiceType, ValueType

if TYPE_CHECKING:
    from vmwire.monitor.monitor import Monitor

TABLE = CommandTable()
command = TABLE.command

Entity = dict[str, Any]
BUILTINS = {"str": "string", "int": "int", "bool": "boolean", "any": "value"}
"""Names, and what JSON calls them."""
JSON_TYPES = {"string": "str", "integer": "int", "boolean": "bool", "value": "any"}
PYTHON_TYPES = {str: "str", int: "int", bool: "bool", object: "any", Any: "any"}
UNIONS = {"netdev_add": "netdev", "object-add": "object"}
"""Commands whose arguments are the options of a kind."""


class _Shutdown(TypedDict):
    guest: bool
    reason: Literal["guest-reset", "host-qmp-quit", "host-qmp-system-reset"]


class _Deleted(TypedDict):
    path: str


class DeviceDeleted(_Deleted, total=False):
    """``device`` is there if the card has an id."""

    device: str


NETDEV_ID = TypedDict("NETDEV_ID", {"netdev-id": str})


class StreamConnected(NETDEV_ID):
    """``addr`` is a socket's address."""

    addr: dict[str, Any]


VHOST_USER_CONNECTED = TypedDict("VHOST_USER_CONNECTED", {"netdev-id": str, "chardev-id": str})


class _FilterChanged(TypedDict):
    path: str


class FilterChanged(_FilterChanged, total=False):
    """``name`` is the card's id."""

    name: str


EVENTS: Mapping[str, Any] = {
    "DEVICE_DELETED": DeviceDeleted,
    "NETDEV_STREAM_CONNECTED": StreamConnected,
    "NETDEV_STREAM_DISCONNECTED": NETDEV_ID,
    "NETDEV_VHOST_USER_CONNECTED": VHOST_USER_CONNECTED,
    "NETDEV_VHOST_USER_DISCONNECTED": NETDEV_ID,
    "NIC_RX_FILTER_CHANGED": FilterChanged,
    "SHUTDOWN": _Shutdown,
}
MACHINE_EVENTS: Mapping[str, Any] = {"RESET": _Shutdown, "RESUME": None, "STOP": None}


class Schema:
    """Gathers entities; each kind of type once."""

    def __init__(self) -> None:
        self.entities: list[Entity] = []
        self._names: dict[str, str] = {}

    def add_command(self, each: Command) -> None:
        """Describe a command with all that it mentions."""
        told = {"arg-type": self._arguments(each), "ret-type": self._of_python(each.returns)}
        self.entities.append({"name": each.name, "meta-type": "command", **told})

    def add_event(self, name: str, data: Any) -> None:
        """Describe an event."""
        told = {"arg-type": self._of_python(data)}
        self.entities.append({"name": name, "meta-type": "event", **told})

    def _arguments(self, each: Command) -> str:
        if each.name in UNIONS:
            return self._union(UNIONS[each.name])
        if each.open_ended:  # of a card: what it takes is told by device-list-properties
            told = [("driver", "str", True), ("bus", "str", False), ("id", "str", False)]
            return self._object(told)
        arguments = each.arguments.items()
        return self._object([(key, self._of_value(a.type), a.required) for key, a in arguments])

    def _union(self, kind: str) -> str:
        """Options of a kind: the type's name selects the rest."""
        tables = {table.name: table for table in catalogue.tables(kind)}
        selector = KINDS[kind].selector
        common = [(selector, self._enum(tables), True), ("id", "str", True)]
        rest = {name: self._record(table.entries, {"id"}) for name, table in tables.items()}
        return self._object(common, selector, rest)

    def _record(self, entries: Mapping[str, Entry], without: Iterable[str] = ()) -> str:
        return self._object(
            [
                (key, self._of_option(entry), entry.option.required)
                for key, entry in entries.items()
                if key not in without
            ]
        )

    def _of_option(self, entry: Entry) -> str:
        type = self._of_value(entry.option.type)
        return self._array(self._object([("str", type, True)])) if entry.option.repeated else type

    def _of_value(self, type: ValueType) -> str:
        if isinstance(type, ListType):
            return self._array(self._of_value(type.element))
        if isinstance(type, ChoiceType):
            return self._enum(type.words)
        if isinstance(type, ObjectType):
            kinds = {name: entries_of(each, None) for name, each in type.kinds.items()}
            rest = {name: self._record(entries) for name, entries in kinds.items()}
            return self._object([("type", self._enum(kinds), True)], "type", rest)
        return self._builtin(JSON_TYPES[type.json])

    def _of_python(self, type: Any) -> str:
        """The type of a result."""
        if type is None:
            return self._object([])
        if get_origin(type) is list:
            return self._array(self._of_python(get_args(type)[0]))
        if get_origin(type) is Literal:
            return self._enum(get_args(type))
        required = getattr(type, "__required_keys__", None)
        if required is None:
            return self._builtin(PYTHON_TYPES.get(type, "any"))
        hints = get_type_hints(type).items()
        return self._object([(key, self._of_python(hint), key in required) for key, hint in hints])

    # Entities

    def _builtin(self, name: str) -> str:
        return self._named(name, {"meta-type": "builtin", "json-type": BUILTINS[name]})

    def _array(self, element: str) -> str:
        return self._named(f"[{element}]", {"meta-type": "array", "element-type": element})

    def _enum(self, words: Iterable[str]) -> str:
        values = list(words)
        members = [{"name": word} for word in values]
        return self._named("", {"meta-type": "enum", "members": members, "values": values})

    def _object(
        self,
        members: Iterable[tuple[str, str, bool]],
        tag: str | None = None,
        variants: Mapping[str, str] | None = None,
    ) -> str:
        told: Entity = {
            "meta-type": "object",
            "members": [
                {"name": name, "type": type, **({} if required else {"default": None})}
                for name, type, required in members
            ],
        }
        for each in told["members"]:
            if each["type"] in BUILTINS:
                self._builtin(each["type"])
        if tag is not None:
            listed = (variants or {}).items()
            told |= {"tag": tag, "variants": [{"case": n, "type": type} for n, type in listed]}
        return self._named("", told)

    def _named(self, name: str, entity: Entity) -> str:
        """The name of what is such an entity."""
        key = name + json.dumps(entity)
        if key not in self._names:
            self._names[key] = name or str(len(self._names))
            self.entities.append({"name": self._names[key], **entity})
        return self._names[key]


@command("query-qmp-schema", returns=list[object])
def query_qmp_schema(monitor: Monitor) -> list[Entity]:
    """What can be asked here, and what is told."""
    schema = Schema()
    for each in (NEGOTIATION, *monitor.commands.values()):
        schema.add_command(each)
    events = {**EVENTS, **(MACHINE_EVENTS if monitor.machine else {})}
    for name, data in events.items():
        schema.add_event(name, data)
    return schema.entities
