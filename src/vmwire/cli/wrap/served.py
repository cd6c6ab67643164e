# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What vmwire's own types say of a netdev's and a card's options, and the network's configuration.

The types' own tables judge, so that prefix mode takes what they can do and nothing else.
"""

from __future__ import annotations

from typing import Any

from vmwire.cli.wrap import values
from vmwire.cli.wrap.decide import NIC_KEYS, Verdict
from vmwire.cli.wrap.survey import Entry
from vmwire.cli.wrap.values import Values
from vmwire.errors import ConfigError
from vmwire.netdev.user.options import UserOptions
from vmwire.nic.pci_options import PciNicOptions, slot_keys, slot_properties
from vmwire.options import table
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


def card_record(driver: str, properties: Values) -> PciNicOptions:
    """The record of a card that is replaced; ConfigError if it isn't served like this."""
    given = {name: values.text(properties, name) for name in properties}
    record = table.find("device", driver).from_kwargs(**given)
    assert isinstance(record, PciNicOptions)
    return record


def unserved_card(driver: str, properties: Values) -> str | None:
    """Why a card with these properties stays with QEMU."""
    try:
        card_record(driver, properties)
    except ConfigError as error:
        return error.message
    return None


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
    device = _replaced(verdict, mac) if verdict.attach.replaces_card else _kept(verdict)
    card = verdict.card
    device["id"] = card.id if card and card.id else f"{verdict.id}.card"
    device["netdev"] = verdict.id
    return ["user", netdev], [
        verdict.attach.drivers[verdict.driver],
        device,
        {"socket": socket_path},
    ]


def _kept(verdict: Verdict) -> dict[str, str]:
    """Of a card that QEMU keeps, what the other half of it must know."""
    mac = (verdict.card or verdict.entry).get("mac")
    return {"mac": mac} if mac else {}


def _replaced(verdict: Verdict, mac: str | None) -> dict[str, str]:
    """Of a card that is served whole, all that isn't its slot's."""
    record = card_record(verdict.driver, verdict.properties)
    entries = table_of(type(record)).entries
    slot = slot_keys(type(record))
    found = {
        entries[key].field: values.text(verdict.properties, key) or ""
        for key in verdict.properties
        if key not in slot
    }
    if mac is not None:
        found["mac"] = mac
    return found


def slot(verdict: Verdict) -> dict[str, Any]:
    """The properties, as JSON values, of the device that stands for the card in QEMU."""
    return slot_properties(card_record(verdict.driver, verdict.properties))


def default_rom(verdict: Verdict) -> tuple[str, int | None] | None:
    """The file of the expansion ROM that QEMU gives to the card, and the device id that it gets.

    None if the user says which there is. The device that stands for the card has none by itself.
    """
    record = card_record(verdict.driver, verdict.properties)
    if record.romfile is not None or record.rombar == 0:
        return None
    return record.ROM_FILE, record.ROM_DEVICE
