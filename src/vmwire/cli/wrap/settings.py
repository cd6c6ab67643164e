# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What is said of a card elsewhere than on its own option: ``-global`` and ``-set``.

QEMU's order: a ``-global`` of the card's type or of one that it is made from comes first, the
card's own properties outweigh it, and a ``-set`` changes those, in the order of the command line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from vmwire.cli.wrap.cmdline import Option
from vmwire.cli.wrap.survey import Entry, Survey
from vmwire.cli.wrap.values import Values, text
from vmwire.options.old_spellings import parse_nic_mac
from vmwire.options.values import format_mac


def globals_of(survey: Survey) -> Iterator[tuple[str, str, str]]:
    """Driver, property and value of each ``-global``, in either spelling."""
    for entry in survey.named("global"):
        if driver := entry.get("driver"):
            yield driver, entry.get("property") or "", entry.get("value") or ""
            continue
        driver, _, rest = entry.option.argument.partition(".")
        name, _, value = rest.partition("=")
        yield driver, name, value


def sets_of(survey: Survey, card: Entry | None) -> list[Option]:
    """Each ``-set`` that changes this card. A card in JSON can't be changed by one."""
    return [option for _, option in indexed_sets_of(survey, card)]


def indexed_sets_of(survey: Survey, card: Entry | None) -> list[tuple[int, Option]]:
    if card is None or card.id is None or card.is_json:
        return []
    start = f"device.{card.id}."
    return [each for each in survey.line.named("set") if each[1].argument.startswith(start)]


def effective(survey: Survey, card: Entry, types: Collection[str]) -> Values:
    """All properties of a card. ``types`` are its own type and those that it is made from."""
    found: Values = {name: value for type, name, value in globals_of(survey) if type in types}
    found.update(own_properties(card))
    for option in sets_of(survey, card):
        name, _, value = option.argument.split(".", 2)[2].partition("=")
        found[name] = value
    return found


def own_properties(card: Entry) -> Values:
    """What stands on the card's own option. Of ``-nic`` and ``-net nic``, little is the card's.

    A QEMU in which cards can be replaced doesn't heed the ``addr=`` of a ``-net nic`` (11.1).
    """
    if card.option.name != "device":
        mac = card.get("macaddr" if card.option.name == "net" else "mac")
        return {"mac": _plain_mac(mac)} if mac else {}
    found: Values = {key: card.get(key) or "" for key in card.values if key not in ("driver", "id")}
    if card.id is not None:
        found["id"] = card.id
    number = card.option.options().get("addr")
    if isinstance(number, int) and number >= 0:  # as text it would be the slot alone
        found["addr"] = f"{number >> 3:x}.{number & 7:x}"
    return found


def _plain_mac(text: str) -> str:
    """An address as ``-device`` has it; one that QEMU refuses stays as it is."""
    try:
        return format_mac(parse_nic_mac(text))
    except ValueError:
        return text


def address_of(values: Values) -> str | None:
    """The slot that the user asks for; None where QEMU finds one."""
    address = text(values, "addr")
    return None if address in (None, "-1") else address
