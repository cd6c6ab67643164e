# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The tree of objects that ``qom-list``, ``qom-get`` and ``qom-set`` walk, as far as vmwire has it.

    /objects/ID                what object-add made: filters
    /chardevs/ID               chardevs for filters
    /machine/peripheral/ID     cards

It is made anew for each command, of the network as it is. A path without a slash in front names
the one object whose path ends so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vmwire.options.table import Entry, table_of

if TYPE_CHECKING:
    from vmwire.monitor.monitor import Monitor

CONTAINER = "container"
TYPE = "type"
STRING_TYPES = ("str", "NetfilterInsert")
"""What tables call types that QEMU's filters show as strings."""


class AmbiguousError(Exception):
    """A path names several objects."""


@dataclass(slots=True)
class Node:
    """An object: its children, or the record that it was made of."""

    type: str = CONTAINER
    children: dict[str, Node] = field(default_factory=dict)
    options: Any = None

    @property
    def entries(self) -> dict[str, Entry]:
        """Its properties, but for ``type`` and its name."""
        if self.options is None:
            return {}
        entries = table_of(type(self.options)).entries
        return {key: entry for key, entry in entries.items() if key != "id"}

    def properties(self) -> Iterator[tuple[str, str]]:
        """Names and types of all properties; children are some."""
        yield TYPE, "string"
        for name, child in self.children.items():
            yield name, f"child<{child.type}>"
        for key, entry in self.entries.items():
            name = entry.option.type.name
            of_object = entry.where.device is None
            yield key, "string" if of_object and name in STRING_TYPES else name

    def value(self, key: str) -> Any:
        """A property's value as JSON has it; KeyError."""
        if key == TYPE:
            return self.type
        entry = self.entries[key]
        value = getattr(self.options, entry.field)
        if value is None:
            return ""
        return value if isinstance(value, str | int) else entry.option.type.show(value)


def tree(monitor: Monitor) -> Node:
    """The root. In the engine's thread."""
    network = monitor.network
    filters = [each for each in network.filters.values() if each.options is not None]
    cards = [each for each in network.devices.values() if not each.anonymous]
    peripheral = Node(children={each.id: Node(each.type, {}, each.options) for each in cards})
    objects = {each.id: Node(each.type, {}, each.options) for each in filters}
    chardevs = {id: Node("chardev-socket") for id in network.objects.chardevs}
    return Node(
        children={
            "machine": Node("machine", {"peripheral": peripheral}),
            "objects": Node(children=objects),
            "chardevs": Node(children=chardevs),
        }
    )


def find(root: Node, path: str) -> Node | None:
    """The object that a path names, whole or by its end; None, or AmbiguousError."""
    parts = [part for part in path.split("/") if part]
    if path.startswith("/"):
        return _walk(root, parts)
    found = [node for start in _all(root) if (node := _walk(start, parts)) is not None]
    if len(found) > 1:
        raise AmbiguousError
    return found[0] if found else None


def _walk(node: Node, parts: list[str]) -> Node | None:
    for part in parts:
        if part not in node.children:
            return None
        node = node.children[part]
    return node


def _all(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children.values():
        yield from _all(child)
