# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Filters by QEMU's options, and the chardevs that they use: ``-object filter-…``, ``-chardev``.

Everything here runs in the engine's thread; ``Network`` has the verbs for others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from vmwire import catalogue, registry
from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.filters.chardev import SocketChardevOptions
from vmwire.filters.line import Line
from vmwire.filters.options import STATUS, FilterOptions
from vmwire.filters.selective import Selective
from vmwire.graph import Filter, Member
from vmwire.options.values import Where

Values = Mapping[str, Any]


class FilterObjects:
    """Adds to ``filters``, and to the rows of filters of ``netdevs``."""

    def __init__(
        self, host: Host, netdevs: Mapping[str, Member], filters: dict[str, Filter]
    ) -> None:
        self.chardevs: dict[str, SocketChardevOptions] = {}
        self._host = host
        self._netdevs = netdevs
        self._filters = filters

    def add_chardev(self, backend: str, values: Values) -> None:
        """Keep a chardev for the filter that will use it."""
        options = catalogue.find("chardev", backend).from_kwargs(**values)
        if options.id in self.chardevs:
            raise ConfigError(f"Duplicate ID '{options.id}' for chardev")
        self.chardevs[options.id] = options

    def add_filter(self, type: str, values: Values) -> None:
        """Make a filter and put it into the row; or leave everything as it was."""
        found = registry.load_filter(type)
        if found is None:
            catalogue.find("object", type)  # says which mistake it is
            raise ConfigError(f"object '{type}' is not served by vmwire yet")
        options: FilterOptions = registry.record(found, type, values)
        if options.id in self._filters:
            raise ConfigError(f"Duplicate ID '{options.id}' for filter")
        member = self._netdevs.get(options.netdev)
        if member is None:
            raise ConfigError("Parameter 'netdev' expects a network backend id")
        at = options.place([each.id for each in member.filters])
        box = found(options, self._host, self._make_line)
        try:
            box.open(self._host)
        except BaseException:
            box.close()
            raise
        added = self._filters[options.id] = Filter(options.id, type, box, member, options)
        member.insert(added, at)

    def set_status(self, id: str, status: str) -> None:
        """Switch a filter on or off."""
        found = self._filters.get(id)
        if found is None or not isinstance(found.box, Selective):
            raise ConfigError(f"object '{id}' not found")
        found.box.set_status(cast(str, STATUS.make(Where("status"), status)))

    def _make_line(self, id: str, with_header: bool) -> Line:
        options = self.chardevs.get(id)
        if options is None:
            raise ConfigError(f"Device '{id}' not found")
        if any(id in f.options.chardevs() for f in self._filters.values() if f.options):
            raise ConfigError(f"Device '{id}' is in use")
        return Line(id, options.source(), with_header)
