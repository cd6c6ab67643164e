# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Commands about objects: filters that come, go and change while the network runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from vmwire import catalogue
from vmwire.errors import ConfigError
from vmwire.monitor.object_tree import TYPE, AmbiguousError, Node, find, tree
from vmwire.monitor.table import ANY, CommandError, CommandTable, needs, not_found
from vmwire.options.syntax import JsonOptions
from vmwire.options.values import STRING, Where, is_id

if TYPE_CHECKING:
    from vmwire.monitor.monitor import Monitor

TABLE = CommandTable()
command = TABLE.command

QOM_TYPE = "qom-type"


class ObjectPropertyInfo(TypedDict):
    """A property; children are some."""

    name: str
    type: str


@command("object-add", open_ended=True)
def object_add(monitor: Monitor, arguments: Mapping[str, Any]) -> None:
    """Make a filter and put it before its netdev."""
    for key in (QOM_TYPE, "id"):
        if key not in arguments:
            raise ConfigError(f"Parameter '{key}' is missing")
        STRING.read_json(Where(key), arguments[key])
    add(monitor, catalogue.record_of("object", JsonOptions(dict(arguments), "")))


def add(monitor: Monitor, options: Any) -> None:
    """Make the object that ``options`` describe."""
    network = monitor.network
    if not is_id(options.id):
        raise ConfigError("Parameter 'id' expects an identifier")
    if options.id in network.filters:
        raise CommandError(
            f"attempt to add duplicate property '{options.id}' to object (type 'container')"
        )
    network.add(monitor.complete(options))
    if monitor.journal is not None:
        monitor.journal.filter_added(network.filters[options.id])


@command("object-del", {"id": needs(STRING)})
def object_del(monitor: Monitor, id: str) -> None:
    """Take a filter out of the line."""
    found = monitor.network.filters.get(id)
    if found is None or found.options is None:
        raise ConfigError(f"object '{id}' not found")
    monitor.network.remove(id, kind="filter")
    if monitor.journal is not None:
        monitor.journal.removed("filter", id)


@command("qom-list", {"path": needs(STRING)}, returns=list[ObjectPropertyInfo])
def qom_list(monitor: Monitor, path: str) -> list[ObjectPropertyInfo]:
    """What properties an object has; those of a container are its members."""
    try:
        node = _node(monitor, path)
    except AmbiguousError:
        raise CommandError(f"Path '{path}' is ambiguous") from None
    return [{"name": name, "type": type} for name, type in node.properties()]


@command("qom-get", {"path": needs(STRING), "property": needs(STRING)}, returns=object)
def qom_get(monitor: Monitor, path: str, property: str) -> Any:
    """A property's value."""
    node = _the_node(monitor, path)
    try:
        return node.value(property)
    except KeyError:
        raise _no_property(node, property) from None


@command("qom-set", {"path": needs(STRING), "property": needs(STRING), "value": needs(ANY)})
def qom_set(monitor: Monitor, path: str, property: str, value: Any) -> None:
    """Change a filter: ``status``, ``queue`` and what else may change while it is there."""
    node = _the_node(monitor, path)
    entry = node.entries.get(property)
    if entry is not None and entry.where.device is None:
        value = entry.option.type.read_json(entry.where, value)
    change(monitor, node, path, property, value)


def set_by_text(monitor: Monitor, path: str, property: str, text: str) -> None:
    """The same with a value as it is typed."""
    change(monitor, _the_node(monitor, path), path, property, text)


def change(monitor: Monitor, node: Node, path: str, property: str, value: Any) -> None:
    """Give an object's property a value."""
    entry = node.entries.get(property)
    if property == TYPE:
        raise CommandError(f"Property '{node.type}.{TYPE}' is not writable")
    if entry is None:
        raise _no_property(node, property)
    id = path.rpartition("/")[2]
    if entry.where.device is not None:
        raise CommandError(
            f"Attempt to set property '{property}' on device '{id}' (type '{node.type}') "
            "after it was realized"
        )
    monitor.network.change_filter(id, property, value)
    if monitor.journal is not None:
        now = getattr(node.options, entry.field)
        monitor.journal.changed(id, property, entry.option.type.show(now))


def _no_property(node: Node, name: str) -> ConfigError:
    return ConfigError(f"Property '{node.type}.{name}' not found")


def _node(monitor: Monitor, path: str) -> Node:
    node = monitor.network.loop.call(lambda: find(tree(monitor), path))
    if node is None:
        raise not_found(path)
    return node


def _the_node(monitor: Monitor, path: str) -> Node:
    """The same where QEMU says no more of a path that names several."""
    try:
        return _node(monitor, path)
    except AmbiguousError:
        raise not_found(path) from None
