# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Filters by QEMU's options, and chardevs for them and for netdevs: ``-object``, ``-chardev``.

Everything here runs in the engine's thread; ``Network`` has the verbs for others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vmwire import catalogue, registry
from vmwire.engine.host import Host
from vmwire.errors import ConfigError, NotThereError
from vmwire.filters.line import Line
from vmwire.filters.options import FilterOptions
from vmwire.filters.selective import Selective
from vmwire.graph import Filter, Member
from vmwire.netdev.chardev import SocketChardevOptions
from vmwire.options.table import table_of
from vmwire.registry import HasChardevs

Values = Mapping[str, Any]


class FilterObjects:
    """Adds to ``filters``, and to the rows of filters of ``netdevs``."""

    def __init__(
        self, host: Host, netdevs: Mapping[str, Member], filters: dict[str, Filter]
    ) -> None:
        self.chardevs: dict[str, SocketChardevOptions] = {}
        self.taken: set[str] = set()
        """Ids of chardevs that are not for the network."""
        self._host = host
        self._netdevs = netdevs
        self._filters = filters

    def add_chardev(self, backend: str, values: Values) -> None:
        """Keep a chardev for the filter or netdev that will use it."""
        options = catalogue.find("chardev", backend).from_kwargs(**values)
        if options.id in self.chardevs or options.id in self.taken:
            raise ConfigError(f"Duplicate ID '{options.id}' for chardev")
        if not isinstance(options, SocketChardevOptions):
            raise ConfigError(f"chardev '{backend}' is not for networks")
        options.source()  # says what a network can't have
        self.chardevs[options.id] = options

    def remove_chardev(self, id: str) -> None:
        """Forget a chardev that nobody uses."""
        if self.is_used(id):
            raise ConfigError(f"Chardev '{id}' is busy")
        if id not in self.chardevs:
            raise ConfigError(f"Chardev '{id}' not found")
        del self.chardevs[id]

    def is_used(self, id: str) -> bool:
        """Whether somebody has this chardev."""
        users: list[Filter | Member] = [*self._filters.values(), *self._netdevs.values()]
        return id in self.taken or any(
            id in each.options.chardevs() for each in users if isinstance(each.options, HasChardevs)
        )

    def for_netdev(self, id: str) -> SocketChardevOptions:
        """The chardev that a new netdev names."""
        if id not in self.chardevs and id not in self.taken:
            raise ConfigError(f'chardev "{id}" not found')
        if self.is_used(id):
            raise ConfigError(f"chardev '{id}' is already in use")
        return self.chardevs[id]

    def add_filter(self, type: str, values: Values, row: Sequence[str] = ()) -> None:
        """Make a filter and put it into the row; or leave everything as it was.

        ``row``: ids in the order in which they are to stand, if not its options say where.
        """
        found = registry.load_filter(type)
        if found is None:
            catalogue.find("object", type)  # says which mistake it is
            raise ConfigError(f"object '{type}' is not served by vmwire yet")
        options: FilterOptions = registry.record(found, type, values)
        if options.id in self._filters:
            raise ConfigError(f"Duplicate ID '{options.id}' for object")
        member = self._netdevs.get(options.netdev)
        if member is None:
            raise ConfigError("Parameter 'netdev' expects a network backend id")
        ids = [each.id for each in member.filters]
        at = _place_in(row, options.id, ids) if row else options.place(ids)
        box = found(options, self._host, self._make_line)
        try:
            box.open(self._host)
        except BaseException:
            box.close()
            raise
        added = self._filters[options.id] = Filter(options.id, type, box, member, options)
        member.insert(added, at)

    def change(self, id: str, key: str, value: Any) -> None:
        """Give an option of a filter another value: a text, or one of its type."""
        found = self._filters.get(id)
        if found is None or not isinstance(found.box, Selective):
            raise ConfigError(f"object '{id}' not found")
        entry = table_of(type(found.options)).entries.get(key)
        if entry is None:
            raise ConfigError(f"Property '{found.type}.{key}' not found")
        if entry.field not in found.box.CHANGEABLE:
            raise ConfigError(
                f"Property '{found.type}.{key}' is fixed while the object is there: "
                "delete it and add it anew"
            )
        about = entry.option.type
        made = about.make(entry.where, about.read_python(entry.where, value))
        dataclasses.replace(found.options, **{entry.field: made})  # is refused if it can't be
        found.box.change(entry.field, made)

    def _make_line(self, id: str, with_header: bool, way: str = "") -> Line:
        if self.is_used(id):
            raise ConfigError(f"chardev '{id}' is already in use")
        options = self.chardevs.get(id)
        if options is None:
            raise NotThereError(f"{way}Device '{id}' not found")
        return Line(id, options.source(), with_header)


def _place_in(row: Sequence[str], id: str, present: Sequence[str]) -> int:
    """Where ``id`` goes among those that are ``present``, so that they stand as in ``row``.

    >>> _place_in(["a", "gone", "new", "b"], "new", ["a", "b"])
    1
    """
    before = row[: row.index(id)]
    return max((present.index(each) + 1 for each in before if each in present), default=0)
