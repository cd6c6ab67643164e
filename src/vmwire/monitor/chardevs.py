# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Commands about chardevs for filters: ``chardev-add`` and ``chardev-remove``.

A chardev is reached when a filter uses it, not when it is added.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from vmwire import catalogue
from vmwire.errors import ConfigError
from vmwire.monitor.table import ANY, CommandError, CommandTable, needs
from vmwire.netdev.addresses import FdAddress, InetAddress, UnixAddress
from vmwire.netdev.chardev import SocketChardevOptions
from vmwire.options.objects import ObjectType
from vmwire.options.table import NotServedError, Table, entries_of
from vmwire.options.values import STRING, Where, is_id

if TYPE_CHECKING:
    from vmwire.monitor.monitor import Monitor

TABLE = CommandTable()
command = TABLE.command

ADDRESS = ObjectType(
    kinds={"inet": InetAddress, "unix": UnixAddress, "fd": FdAddress}, later=("vsock",)
)
SWITCHES = ("server", "wait", "reconnect", "reconnect-ms")


@command("chardev-add", {"id": needs(STRING), "backend": needs(ANY)})
def chardev_add(monitor: Monitor, id: str, backend: Any) -> None:
    """Describe a connection; a filter that names it makes it."""
    type, data = _branch("backend", backend)
    table = _table(type)
    if "addr" not in data:
        raise ConfigError("Parameter 'backend.data.addr' is missing")
    values = _address("backend.data.addr", data["addr"])
    for key, value in data.items():
        where = Where(f"backend.data.{key}")
        if key in SWITCHES:
            entry = table.entries[key]
            values[entry.field] = entry.option.type.read_json(where, value)
        elif key in table.later:
            raise ConfigError(f"'{key}' of {type} is not served by vmwire yet")
        elif key != "addr":
            raise ConfigError(f"Parameter '{where.key}' is unexpected")
    add(monitor, SocketChardevOptions(id=id, **values))


def _table(type: str) -> Table[Any]:
    try:
        return catalogue.find("chardev", type)
    except NotServedError:
        raise
    except ConfigError:
        raise ConfigError(f"Parameter 'type' does not accept value '{type}'") from None


def _branch(path: str, value: Any) -> tuple[str, dict[str, Any]]:
    """Type and data of a ``{"type": T, "data": {...}}``."""
    if not isinstance(value, dict):
        raise ConfigError(f"Invalid parameter type for '{path}', expected: object")
    if "type" not in value:
        raise ConfigError(f"Parameter '{path}.type' is missing")
    type = STRING.read_json(Where(f"{path}.type"), value["type"])
    data = value.get("data")
    if "data" not in value:
        raise ConfigError(f"Parameter '{path}.data' is missing")
    if not isinstance(data, dict):
        raise ConfigError(f"Invalid parameter type for '{path}.data', expected: object")
    for key in value:
        if key not in ("type", "data"):
            raise ConfigError(f"Parameter '{path}.{key}' is unexpected")
    return type, data


def _address(path: str, value: Any) -> dict[str, Any]:
    """A chardev's options that say the same as an address in QMP does."""
    type, data = _branch(path, value)
    inside = Where(f"{path}.data")
    address = ADDRESS.make(inside, ADDRESS.read_json(inside, {**data, "type": type}))
    fields = {each.name: getattr(address, each.name) for each in dataclasses.fields(address)}
    known = {each.name for each in dataclasses.fields(SocketChardevOptions)}
    for entry in entries_of(ADDRESS.kinds[type], None).values():
        if entry.field not in known and fields.pop(entry.field) != entry.default:
            raise ConfigError(f"'{entry.where.key}' of a chardev is not served by vmwire yet")
    return fields


def add(monitor: Monitor, options: SocketChardevOptions) -> None:
    """Add what ``options`` describe."""
    objects = monitor.network.objects
    if not is_id(options.id):
        raise ConfigError("Parameter 'id' expects an identifier")
    if options.id in objects.chardevs or options.id in objects.taken:
        raise CommandError(f"Chardev with id '{options.id}' already exists")
    options = monitor.complete(options)
    monitor.network.add(options)
    if monitor.journal is not None:
        monitor.journal.added("chardev", options)


@command("chardev-remove", {"id": needs(STRING)})
def chardev_remove(monitor: Monitor, id: str) -> None:
    """Forget a chardev that no filter uses."""
    monitor.network.remove_chardev(id)
    if monitor.journal is not None:
        monitor.journal.removed("chardev", id)
