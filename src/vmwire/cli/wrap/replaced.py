# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A card that another device stands for in QEMU: which of its properties go where.

The card's own table judges, so that prefix mode takes what the card can do and nothing else.
"""

from __future__ import annotations

from typing import Any

from vmwire import catalogue
from vmwire.cli.wrap import values
from vmwire.cli.wrap.decide import Verdict
from vmwire.cli.wrap.values import Values
from vmwire.errors import ConfigError
from vmwire.nic.options import VirtioNetSlotOptions
from vmwire.nic.pci_options import PciNicOptions, slot_keys, slot_properties
from vmwire.options.table import table_of


def unserved(driver: str, properties: Values) -> str | None:
    """Why a card with these properties stays with QEMU."""
    try:
        _record(driver, properties)
    except ConfigError as error:
        return error.message
    return None


def card_values(verdict: Verdict, mac: str | None) -> dict[str, str]:
    """What isn't the slot's alone; ``mac`` is the address where the user gives none."""
    record = _record(verdict.driver, verdict.properties)
    entries = table_of(type(record)).entries
    the_slots = set(slot_keys(type(record))) - set(getattr(record, "SHOWN", ()))
    found = {
        entries[key].field: values.text(verdict.properties, key) or ""
        for key in verdict.properties
        if key not in the_slots
    }
    return found if mac is None else found | {"mac": mac}


def slot(verdict: Verdict) -> dict[str, Any]:
    """The properties, as JSON values, of the device that stands for the card."""
    return slot_properties(_record(verdict.driver, verdict.properties))


def default_rom(verdict: Verdict) -> tuple[str, int | None] | None:
    """The file of the expansion ROM that QEMU gives to the card, and the device id that it gets.

    None if the user says which there is. The device that stands for the card has none by itself.
    """
    record = _record(verdict.driver, verdict.properties)
    if record.romfile is not None or record.rombar == 0:
        return None
    return record.ROM_FILE, record.ROM_DEVICE


def _record(driver: str, properties: Values) -> PciNicOptions | VirtioNetSlotOptions:
    """The card's record; ConfigError if it can't be such a card."""
    given = {name: values.text(properties, name) for name in properties}
    record = catalogue.find("device", driver).from_kwargs(**given)
    assert isinstance(record, PciNicOptions | VirtioNetSlotOptions)
    return record
