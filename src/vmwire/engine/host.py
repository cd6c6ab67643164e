# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a box that owns host resources is handed when it opens: the loop and the fd store.

The *fd store* is where descriptors live that must outlast a crash of this process: listening
sockets, and whatever else would be missed. A box asks the store first (``take``), makes what isn't
there, and leaves a copy (``keep``). With no keeper behind it the store forgets everything.

A network can be handed over to another process while it runs. The boxes that have something to hand
over (``HandsOver``) put it into the store; their successors find it there when they open. Until the
last of them has opened, all of them are *on trial*: the old process stands by and goes on if one
fails. So a box on trial takes on everything or raises, and touches nothing that both share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from vmwire.engine.loop import Loop


class FdStore(Protocol):
    """Descriptors kept by name in another process."""

    on_trial: bool
    """Whether a running process has handed over what is here, and would take it back."""

    def take(self, name: str) -> int | None:
        """Return a descriptor of our own for what was kept as ``name``, or None."""

    def keep(self, name: str, fd: int) -> None:
        """Have a copy of ``fd`` kept as ``name``; replaces an earlier one."""

    def drop(self, name: str) -> None:
        """Let the copy go. Harmless when there is none."""


class NoStore:
    """The store of a network with no keeper: nothing is ever kept."""

    on_trial = False

    def take(self, name: str) -> int | None:
        return None

    def keep(self, name: str, fd: int) -> None:
        pass

    def drop(self, name: str) -> None:
        pass


class NotNow(Exception):
    """A box can't be handed over at this moment: it should be asked again a little later."""


@runtime_checkable
class HandsOver(Protocol):
    """A box that has more to hand over than what it always keeps in the store."""

    def hand_over(self) -> None:
        """Put down everything for a successor; the loop stands still. Raises ``NotNow``."""

    def go_on(self) -> None:
        """Nobody took over: undo what ``hand_over`` did that wasn't only putting down."""


EventSink = Callable[[str, Mapping[str, Any]], None]


def _ignore(event: str, data: Mapping[str, Any]) -> None:
    """Nobody listens."""


@dataclass(slots=True)
class Host:
    """The host's side of an engine."""

    loop: Loop
    store: FdStore = field(default_factory=NoStore)
    emit: EventSink = _ignore
    """Takes an event's name and its data, as QMP has them."""
