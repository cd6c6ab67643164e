# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a box that owns host resources is handed when it opens: the loop and the fd store.

The *fd store* is where descriptors live that must outlast a crash of this process: listening
sockets, and whatever else would be missed. A box asks the store first (``take``), makes what isn't
there, and leaves a copy (``keep``). With no keeper behind it the store forgets everything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from vmwire.engine.loop import Loop


class FdStore(Protocol):
    """Descriptors kept by name in another process."""

    def take(self, name: str) -> int | None:
        """Return a descriptor of our own for what was kept as ``name``, or None."""

    def keep(self, name: str, fd: int) -> None:
        """Have a copy of ``fd`` kept as ``name``; replaces an earlier one."""

    def drop(self, name: str) -> None:
        """Let the copy go. Harmless when there is none."""


class NoStore:
    """The store of a network with no keeper: nothing is ever kept."""

    def take(self, name: str) -> int | None:
        return None

    def keep(self, name: str, fd: int) -> None:
        pass

    def drop(self, name: str) -> None:
        pass


@dataclass(slots=True)
class Host:
    """The host's side of an engine."""

    loop: Loop
    store: FdStore = field(default_factory=NoStore)
