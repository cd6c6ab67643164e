# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The PHY of the 82574, reached over MDIC (data sheet, sections 5 and 9).

Registers 0 to 15 are those of IEEE 802.3. Behind register 22, which chooses a page, 16 to 31 are
there once for each page. Page 0 holds the specific control and status; the others hold what sets up
analogue parts that we don't have: they keep what is written, through resets too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from vmwire.nic.e1000.phy import Phy

PAGE = 22
FIRST_PAGED = 16
PAGES = frozenset((*range(1, 8), 768, 769, 776, 800))
"""Those that hold something, besides page 0."""

ID2 = 0x0CB1


class PagedPhy(Phy):
    """The transceiver, pages and all."""

    RESETS: ClassVar[Mapping[int, int]] = {
        0: 0x1140, 1: 0x794D, 2: 0x0141, 4: 0x0DE1, 5: 0x07E0, 6: 0x0004, 7: 0x2001, 9: 0x0F00,
        10: 0x3C00, 15: 0x3000, 16: 0x3360, 17: 0xAC08,
    }  # fmt: skip

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.pages: dict[int, int] = {}
        """By page * 32 + register."""
        super().__init__(ID2, *arguments, **options)

    def read(self, number: int) -> int:
        """Read one register of the chosen page."""
        page = self.registers[PAGE]
        if number < FIRST_PAGED or number == PAGE or not page:
            return self.registers[number]
        return self.pages.get(page * 32 + number, 0)

    def write(self, number: int, value: int) -> None:
        """Write one register of the chosen page."""
        page = self.registers[PAGE]
        if number < FIRST_PAGED or number == PAGE or not page:
            super().write(number, value)
        elif page in PAGES:
            self.pages[page * 32 + number] = value

    def reset(self, carrier: bool) -> None:
        """Power on."""
        self.pages.clear()
        super().reset(carrier)

    # State

    def save(self) -> dict[str, Any]:
        """Return registers, pages and where the link is."""
        return super().save() | {"pages": [list(pair) for pair in self.pages.items()]}

    def restore(self, state: Mapping[str, Any], carrier: bool) -> None:
        """Take on what ``save`` gave. ValueError if it can't be."""
        pages = {int(place): int(value) & 0xFFFF for place, value in state["pages"]}
        if not all(place >> 5 in PAGES and place & 31 >= FIRST_PAGED for place in pages):
            raise ValueError("not a PHY's pages")
        super().restore(state, carrier)
        self.pages = pages
