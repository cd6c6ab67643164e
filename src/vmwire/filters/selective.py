# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What filter objects have in common: which way they look, and that they can be switched off."""

from __future__ import annotations

from typing import Any, Protocol

from vmwire.engine.host import Host
from vmwire.filters.line import Line
from vmwire.filters.options import FilterOptions
from vmwire.wire.port import Port
from vmwire.wire.through import Through


class MakeLine(Protocol):
    """Makes lines."""

    def __call__(self, id: str, with_header: bool, way: str = "") -> Line:
        """A line of a chardev's id, with or without virtio headers. ``ConfigError``, which names
        the ``way`` (``IN ``, ``OUT ``) if there is no such chardev."""


class Selective(Through):
    """A box that acts on one queue or both while its status is on, and is not there otherwise."""

    options: FilterOptions
    CHANGEABLE: tuple[str, ...] = ("queue", "status")
    """The options that ``change`` takes."""

    def open(self, host: Host) -> None:
        """Begin to look for peers, if there are any; ``ConfigError``."""

    def takes(self, out: Port) -> bool:
        """Whether it acts on what is to leave by ``out``. The netdev is on the right."""
        options = self.options
        if options.status == "off":
            return False
        return options.queue in ("all", "rx" if out is self.right else "tx")

    def change(self, field: str, value: Any) -> None:
        """Give one of the ``CHANGEABLE`` options another value, which is right."""
        setattr(self.options, field, value)
        self.mirror()
