# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What was changed in a network since it was built, short enough to be done again.

A network that is built anew (after a crash, for an upgrade) starts from what it was started with;
the journal is what a monitor did to it since: members and filters added and removed, cables pulled,
filters changed. What is undone leaves nothing behind, so it grows only with what there is.

    [["add", "device", "e1000,id=n1,..."], ["remove", "netdev", "u"], ["link", "n0", False],
     ["filter", "filter-dump,id=d,...", ["d", "b"], 0], ["set", "d", "status", "off"]]

A filter's place is noted as its row (ids, head first) when it was added, since those that its
``position`` names may leave; and the number of workers that there had been, because a dump that
goes on after a crash goes on in another file.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vmwire import catalogue
from vmwire.errors import ConfigError
from vmwire.filters.dump import path_of_worker
from vmwire.filters.options import DumpOptions
from vmwire.graph import Filter, Kind
from vmwire.network import Network
from vmwire.options.table import table_of

logger = logging.getLogger(__name__)

Edit = list[Any]
"""Plain data, as JSON has it."""


class Journal:
    """The edits so far; ``on_change`` hears of each new state. ``restarts``: how many workers there
    were before this one."""

    def __init__(
        self,
        edits: Iterable[Edit],
        on_change: Callable[[list[Edit]], None],
        restarts: int = 0,
    ) -> None:
        self.edits = list(edits)
        self._on_change = on_change
        self._restarts = restarts

    def added(self, kind: str, options: Any) -> None:
        """A netdev, device or chardev was added."""
        self._append("add", kind, table_of(type(options)).to_text(options))

    def filter_added(self, filter: Filter) -> None:
        """A filter was put in."""
        text = table_of(type(filter.options)).to_text(filter.options)
        row = [each.id for each in filter.member.filters]
        self._append("filter", text, row, self._restarts)

    def removed(self, kind: str, id: str) -> None:
        """Something was removed, and what was noted of it is over."""
        kept = [edit for edit in self.edits if not _adds(edit, kind, id)]
        was_ours = len(kept) < len(self.edits)
        about = "set" if kind == "filter" else "link"
        self.edits = [edit for edit in kept if edit[:2] != [about, id]]
        if kind == "netdev":
            self._netdev_left(id)
        if was_ours:
            self._on_change(self.edits)
        else:
            self._append("remove", kind, id)

    def _netdev_left(self, id: str) -> None:
        """Filters went with it; who was joined to it is joined to nothing."""
        gone = [e for edit in self.edits if (e := _filter_before(edit, id)) is not None]
        self.edits = [
            _parted(edit, id)
            for edit in self.edits
            if _filter_before(edit, id) is None and not (edit[0] == "set" and edit[1] in gone)
        ]

    def link(self, id: str, up: bool) -> None:
        """A cable was pulled or plugged."""
        self.edits = [edit for edit in self.edits if edit[:2] != ["link", id]]
        self._append("link", id, up)

    def changed(self, id: str, key: str, text: str) -> None:
        """A filter's option has another value."""
        self.edits = [edit for edit in self.edits if edit[:3] != ["set", id, key]]
        self._append("set", id, key, text)

    def _append(self, *edit: Any) -> None:
        self.edits.append(list(edit))
        self._on_change(self.edits)


def _adds(edit: Edit, kind: str, id: str) -> bool:
    if edit[0] == "filter":
        return kind == "filter" and catalogue.parse("object", edit[1]).id == id
    return edit[:2] == ["add", kind] and catalogue.parse(kind, edit[2]).id == id


def _filter_before(edit: Edit, netdev: str) -> str | None:
    """The id of the filter that the edit puts before a netdev."""
    if edit[0] != "filter":
        return None
    options = catalogue.parse("object", edit[1])
    return str(options.id) if options.netdev == netdev else None


def _parted(edit: Edit, netdev: str) -> Edit:
    """The edit, with a card or hub port that was joined to ``netdev`` joined to nothing."""
    if edit[0] != "add":
        return edit
    options = catalogue.parse(edit[1], edit[2])
    if getattr(options, "netdev", None) != netdev:
        return edit
    alone = dataclasses.replace(options, netdev=None)
    return [*edit[:2], table_of(type(alone)).to_text(alone)]


def removed(edits: Iterable[Edit]) -> list[list[str]]:
    """Kinds and ids of what the network was built of, and that is gone."""
    return [edit[1:] for edit in edits if edit[0] == "remove"]


def replay(network: Network, edits: Iterable[Edit], *, strict: bool, restarts: int = 0) -> None:
    """Do it all again. Where not ``strict``, what can't be done is logged and left out."""
    for edit in edits:
        try:
            _redo(network, edit, restarts)
        except (ConfigError, OSError) as error:
            if strict:
                raise
            logger.error("lost with the last worker: %s: %s", edit, error)


def _redo(network: Network, edit: Edit, restarts: int) -> None:
    what, *rest = edit
    if what == "add":
        kind, text = rest
        network.add(catalogue.parse(kind, text))
    elif what == "filter":
        text, row, born = rest
        options = catalogue.parse("object", text)
        if isinstance(options, DumpOptions) and restarts != born:
            options.file = path_of_worker(options.file, restarts)
        network.add(options, row=row)
    elif what == "set":
        network.change_filter(*rest)
    elif what == "remove":
        _remove_again(network, *rest)
    else:
        id, up = rest
        network.set_link(id, up)


def _remove_again(network: Network, kind: str, id: str) -> None:
    """It may have been left out when the network was built (``removed``)."""
    if kind == "chardev":
        if id in network.objects.chardevs:
            network.remove_chardev(id)
        return
    members: dict[Kind, Mapping[str, object]] = {
        "netdev": network.netdevs, "device": network.devices, "filter": network.filters,
    }  # fmt: skip
    for of, there in members.items():
        if kind == of and id in there:
            network.remove(id, kind=of)
