# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What vmwire's own tables say of a netdev's options, and the network's configuration.

The type's own table judges, so that prefix mode takes what the netdev can do and nothing else. The
configuration is that of serve mode (`vmwire.cli.served`): option texts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vmwire import catalogue
from vmwire.cli.claims import claimed_text
from vmwire.cli.wrap.decide import NIC_KEYS, Verdict
from vmwire.cli.wrap.settings import own_properties
from vmwire.cli.wrap.survey import Entry
from vmwire.cli.wrap.values import text
from vmwire.errors import ConfigError
from vmwire.options.syntax import Item, OptionList

UNNAMED = "unnamed"
CALL_AGAIN_MS = 100
OTHERS = ("object", "chardev")
"""Options whose whole argument is what vmwire's own option of that name takes."""


def unserved(entry: Entry) -> str | None:
    """Why these options stay with QEMU: unknown to vmwire, not served yet, or wrong."""
    try:
        record = _other(entry) if entry.option.name in OTHERS else _record(entry, UNNAMED)
    except ConfigError as error:
        return error.message
    unanswered = getattr(record, "unanswered", None)
    return None if unanswered is None else str(unanswered() or "") or None


def other_text(entry: Entry) -> tuple[str, dict[str, int]]:
    """A filter or a chardev for a process in another folder, and its descriptors."""
    record = _other(entry)
    if entry.option.name == "chardev" and _calls_once(record):
        record = replace(record, reconnect=None, reconnect_ms=CALL_AGAIN_MS)
    return claimed_text(record)


def _calls_once(chardev: Any) -> bool:
    """Whether it finds nobody if its peer is a chardev that QEMU, or a later filter, opens."""
    again = chardev.reconnect or chardev.reconnect_ms
    return not (chardev.server or chardev.fd is not None or again)


def _other(entry: Entry) -> Any:
    return catalogue.parse(entry.option.name, entry.option.argument)


def netdev_text(verdict: Verdict) -> tuple[str, dict[str, int]]:
    """A netdev for a process in another folder, and the descriptors that it needs there."""
    return claimed_text(_record(verdict.entry, verdict.id))


def device_text(verdict: Verdict, socket_path: str, mac: str | None) -> str:
    """The card. ``mac`` is the address that a replaced one gets where the user gives none."""
    assert verdict.attach is not None
    values = _of_card(verdict, mac)
    card = verdict.card
    values["id"] = card.id if card and card.id else f"{verdict.id}.card"
    found = catalogue.find("device", verdict.attach.drivers[verdict.driver])
    values |= {"netdev": verdict.id, "socket": socket_path}
    return found.to_text(found.from_kwargs(**values))


def _record(entry: Entry, id: str) -> Any:
    """The netdev's record; ``id`` is for a ``-nic`` without one. Raises ``ConfigError``."""
    options = entry.option.options()
    if entry.option.name == "nic" and isinstance(options, OptionList):
        for key in NIC_KEYS:
            options.remove(key)
        if "id" not in options:
            options.add("id", id)
        if "type" not in options:
            options.items.insert(0, Item.implied("type", entry.type))
    return catalogue.parse("netdev", str(options))


def unserved_device(verdict: Verdict) -> str | None:
    """Why a card stays with QEMU although its properties are served: their values aren't."""
    try:
        device_text(verdict, "/", None)
    except ConfigError as error:
        return error.message
    return None


def _of_card(verdict: Verdict, mac: str | None) -> dict[str, str]:
    """What the card that is served must know: all of it, or the half that QEMU hasn't got."""
    if verdict.replaced:
        from vmwire.cli.wrap import replaced  # with a card's table, which others don't need

        return replaced.card_values(verdict, mac)
    given = text(own_properties(verdict.card or verdict.entry), "mac")
    return {"mac": given} if given else {}
