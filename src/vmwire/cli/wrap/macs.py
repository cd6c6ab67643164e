# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The MAC address that a card has where nobody gives it one.

QEMU's rule (watched on 7.2 and 11.1): 52:54:00:12:34:56 to :fe, the first whose last byte no card
has that was made before; an address that is given counts from when its card is made, if it starts
with 52:54:00:12:34. Cards are made in this order: all ``-nic``, all ``-net nic``, each ``-device``
as it was typed, those in JSON after the others.

When a card is replaced it has to have the same address as before, and so have those that QEMU
would number after it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from vmwire.cli.wrap import cards
from vmwire.cli.wrap.cmdline import names
from vmwire.cli.wrap.settings import effective, own_properties
from vmwire.cli.wrap.survey import Entry, Survey
from vmwire.cli.wrap.values import text
from vmwire.options.values import format_mac, parse_mac

START = bytes.fromhex("5254001234")
NUMBERS = range(0x56, 0xFF)
UNSET = bytes(6)

# Cards of QEMU's that are not served, with the first letters that tell a family.
_OTHER_CARDS = names(
    "igb rocker rtl8139 sungem tulip vmxnet3 usb-net xen-net-device virtio-net-ccw"
)
_FAMILIES = ("e1000", "i825", "i828", "ne2k_", "pcnet", "virtio-net-")


def assigned(survey: Survey, without: Collection[int] = ()) -> dict[int, str]:
    """For each card without an address of its own, by its option's index, the one that it gets.

    ``without`` are the options whose cards QEMU doesn't make.
    """
    used: set[int] = set()
    found: dict[int, str] = {}
    for entry in _in_order(survey):
        if entry.index in without:
            continue
        given = _given(survey, entry)
        if given == UNSET:
            number = next((each for each in NUMBERS if each not in used), None)
            if number is None:
                continue
            used.add(number)
            found[entry.index] = format_mac(START + bytes([number]))
        elif given is not None and given[:5] == START:
            used.add(given[5])
    return found


def is_card(entry: Entry) -> bool:
    """Whether a ``-device`` is a network card, as far as can be told."""
    known = cards.attach_of(entry.type) is not None or entry.type in _OTHER_CARDS
    return known or entry.type.startswith(_FAMILIES) or bool({"netdev", "mac"} & set(entry.values))


def _in_order(survey: Survey) -> Iterator[Entry]:
    yield from (entry for entry in survey.named("nic") if entry.type != "none")
    yield from (entry for entry in survey.named("net") if entry.type == "nic")
    made = [entry for entry in survey.named("device") if is_card(entry)]
    yield from sorted(made, key=lambda entry: entry.is_json)


def _given(survey: Survey, entry: Entry) -> bytes | None:
    """The address that the user gives; all zero if none. None if QEMU refuses it."""
    if entry.option.name == "device":
        typed = text(effective(survey, entry, (entry.type,)), "mac")
    else:
        typed = text(own_properties(entry), "mac")
    if typed is None:
        return UNSET
    try:
        return parse_mac(typed)
    except ValueError:
        return None
