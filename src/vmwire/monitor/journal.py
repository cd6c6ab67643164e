# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What was changed in a network since it was built, short enough to be done again.

A network that is built anew (after a crash, for an upgrade) starts from what it was started with;
the journal is what a monitor did to it since: members added, members removed, cables pulled. What
is undone leaves nothing behind, so it grows only with what there is.

    [["add", "device", "e1000,id=n1,..."], ["remove", "netdev", "u"], ["link", "n0", False]]
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Literal

from vmwire import catalogue
from vmwire.errors import ConfigError
from vmwire.network import Network
from vmwire.options.table import table_of

logger = logging.getLogger(__name__)

Edit = list[Any]
"""Plain data, as JSON has it."""
Kind = Literal["netdev", "device"]


class Journal:
    """The edits so far; ``on_change`` hears of each new state."""

    def __init__(self, edits: Iterable[Edit], on_change: Callable[[list[Edit]], None]) -> None:
        self.edits = list(edits)
        self._on_change = on_change

    def added(self, kind: Kind, options: Any) -> None:
        """A member was added."""
        self._append("add", kind, table_of(type(options)).to_text(options))

    def removed(self, kind: Kind, id: str) -> None:
        """A member was removed, and what was noted of it is over."""
        kept = [edit for edit in self.edits if not _adds(edit, kind, id)]
        was_ours = len(kept) < len(self.edits)
        self.edits = [edit for edit in kept if edit[:2] != ["link", id]]
        if was_ours:
            self._on_change(self.edits)
        else:
            self._append("remove", kind, id)

    def link(self, id: str, up: bool) -> None:
        """A cable was pulled or plugged."""
        self.edits = [edit for edit in self.edits if edit[:2] != ["link", id]]
        self._append("link", id, up)

    def _append(self, *edit: Any) -> None:
        self.edits.append(list(edit))
        self._on_change(self.edits)


def _adds(edit: Edit, kind: Kind, id: str) -> bool:
    return edit[:2] == ["add", kind] and catalogue.parse(kind, edit[2]).id == id


def replay(network: Network, edits: Iterable[Edit], *, strict: bool) -> None:
    """Do it all again. Where not ``strict``, what can't be done is logged and left out."""
    for edit in edits:
        try:
            _redo(network, edit)
        except (ConfigError, OSError) as error:
            if strict:
                raise
            logger.error("lost with the last worker: %s: %s", edit, error)


def _redo(network: Network, edit: Edit) -> None:
    what, *rest = edit
    if what == "add":
        kind, text = rest
        network.add(catalogue.parse(kind, text))
    elif what == "remove":
        kind, id = rest
        network.remove(id, kind=kind)
    else:
        id, up = rest
        network.set_link(id, up)
