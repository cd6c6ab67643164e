# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""One ring of a vhost-user connection, as far as the front end has described it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from vmwire.bus.virtio.split import SplitQueue
from vmwire.bus.virtio.vhost_user import Request, RingAddresses


@dataclass(slots=True, eq=False)
class Ring:
    """What is known of one ring. Descriptors are ours; -1 is none."""

    index: int
    size: int = 0
    base: int = 0
    addresses: RingAddresses | None = None
    fds: dict[Request, int] = field(default_factory=dict)
    queue: SplitQueue | None = None
    enabled: bool = False
    handed: bool = False
    """Whether somebody else serves it; there is no ``queue`` then."""
    lead: int = 0
    """How far the position was ahead of the used index when the ring started; it stays so."""

    @property
    def runs(self) -> bool:
        """Whether anybody serves it."""
        return self.queue is not None or self.handed

    def notify(self) -> None:
        """Wake the driver, if it wants to be woken at all."""
        self.signal(Request.SET_VRING_CALL)

    def signal(self, which: Request) -> None:
        """Signal one of the ring's descriptors."""
        fd = self.fds.get(which)
        if fd is not None:
            try:
                os.eventfd_write(fd, 1)
            except BlockingIOError:
                pass  # 2**64 - 2 signals that nobody fetched: it will be seen
