# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What vmwire's user-mode network says of a netdev's options, and the network's configuration.

The type's own table judges, so that prefix mode takes what the network can do and nothing else.
"""

from __future__ import annotations

from typing import Any

from vmwire.cli.wrap import values
from vmwire.cli.wrap.decide import NIC_KEYS, Verdict
from vmwire.cli.wrap.survey import Entry
from vmwire.errors import ConfigError
from vmwire.netdev.user.options import UserOptions
from vmwire.options.syntax import OptionList
from vmwire.options.table import table_of


def unserved(entry: Entry) -> str | None:
    """Why these options stay with QEMU: unknown to vmwire, not served yet, or wrong."""
    options = entry.option.options()
    if entry.option.name == "nic" and isinstance(options, OptionList):
        for key in NIC_KEYS:
            options.remove(key)
        if "id" not in options:
            options.add("id", "unnamed")
    try:
        return table_of(UserOptions).from_options(options).unanswered()
    except ConfigError as error:
        return error.message


def configuration(verdict: Verdict, socket_path: str, mac: str | None) -> tuple[Any, Any]:
    """A netdev's and its card's part of the network's configuration, as plain data.

    ``mac`` is the address that a replaced card gets where the user gives none.
    """
    entries = table_of(UserOptions).entries
    netdev: dict[str, str | list[str]] = {}
    for key in verdict.entry.values:
        if key in entries:
            several = values.every(verdict.entry.values, key)
            netdev[entries[key].field] = several if entries[key].option.repeated else several[-1]
    netdev["id"] = verdict.id
    assert verdict.attach is not None
    device = _of_card(verdict, mac)
    card = verdict.card
    device["id"] = card.id if card and card.id else f"{verdict.id}.card"
    device["netdev"] = verdict.id
    return ["user", netdev], [
        verdict.attach.drivers[verdict.driver],
        device,
        {"socket": socket_path},
    ]


def _of_card(verdict: Verdict, mac: str | None) -> dict[str, str]:
    """What the card that is served must know: all of it, or the half that QEMU hasn't got."""
    if verdict.replaced:
        from vmwire.cli.wrap import replaced  # with a card's table, which others don't need

        return replaced.card_values(verdict, mac)
    given = (verdict.card or verdict.entry).get("mac")
    return {"mac": given} if given else {}
