# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The table of requests: what a message of each may look like, and who serves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmwire.bus.protocol import ProtocolError
from vmwire.bus.virtio.vhost_user import Request

if TYPE_CHECKING:
    from vmwire.attach.vhost_user.backend import Backend
    from vmwire.attach.vhost_user.channel import Message

    Handler = Callable[[Backend, Message], bytes | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a request may look like, and who serves it."""

    handler: Handler
    smallest: int
    largest: int
    fds: int
    disturbs: bool
    """Whether rings that somebody else serves have to be back before it is."""

    def check(self, message: Message) -> None:
        """Raises ``ProtocolError`` for a message that doesn't look like that."""
        if not self.smallest <= message.header.size <= self.largest:
            raise ProtocolError(f"{message.header.size} bytes of payload")
        if len(message.fds) > self.fds:
            raise ProtocolError(f"{len(message.fds)} descriptors")


RULES: dict[int, Rule] = {}


def serves(
    request: Request,
    size: int = 0,
    *,
    largest: int | None = None,
    fds: int = 0,
    disturbs: bool = False,
) -> Callable[[Handler], Handler]:
    """Enter a handler into the table: payload bytes and the most descriptors it may have."""

    def enter(handler: Handler) -> Handler:
        RULES[request] = Rule(handler, size, size if largest is None else largest, fds, disturbs)
        return handler

    return enter
