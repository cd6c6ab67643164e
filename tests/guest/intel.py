# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Intel's cards, as a Linux guest knows them, and which of them are watched how often."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

DEVICES = {
    "e1000": "0x100e",
    "e1000-82544gc": "0x100c",
    "e1000-82545em": "0x100f",
    "e1000e": "0x10d3",
}
MODULES = {card: "e1000e" if card == "e1000e" else "e1000" for card in DEVICES}
"""Linux's driver of each."""
USUAL = ("e1000", "e1000e")


def loads_driver(card: str) -> str:
    """The kernel's parameter by which the guest loads the card's driver."""
    return f"vmwire.modules={MODULES[card]}"


def _with_usual(usual: tuple[str, ...], names: Iterable[str] = DEVICES) -> list[Any]:
    """Cards as parameters, of which these are in the usual run and the others in the long one."""
    return [pytest.param(name, marks=() if name in usual else pytest.mark.long) for name in names]


SIBLINGS_LONG = _with_usual(USUAL)
"""One card of each chip in the usual run, all of them in the long one: what differs between
siblings is little, and watched for all by the fast tests and by network boot."""
FIRST_USUAL = _with_usual(("e1000",))
E1000E_LONG = _with_usual(("e1000",), USUAL)
"""For what takes its time and is the same in all cards; the bench has it for each."""
FILTERING_VLANS = FIRST_USUAL[:-1]
"""Those whose driver keeps the card's VLAN filter on: e1000e switches it on, and off again with the
next word that it writes to the same register."""
