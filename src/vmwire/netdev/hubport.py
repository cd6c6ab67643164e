# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A place at a hub: ``-netdev hubport,id=ID,hubid=N[,netdev=NETDEV]``.

This is how several cards share one netdev. Each card, and the netdev that they share, is joined to
a hubport of its own; hubports with the same ``hubid`` hear each other. With ``netdev=`` the
hubport is joined to that netdev at once, otherwise to the card that names it.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmwire.engine.host import Host
from vmwire.options.table import option, record
from vmwire.options.values import IDENTIFIER, INT32, STRING
from vmwire.wire.hub import Hub
from vmwire.wire.port import stats


@record("netdev", "hubport")
@dataclass(slots=True, kw_only=True)
class HubportOptions:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)
    hubid: int = option(INT32, required=True)
    netdev: str | None = option(STRING)


class HubportNetdev:
    """One port of ``hub``, in the shape of a netdev."""

    OPTIONS = HubportOptions

    def __init__(self, options: HubportOptions, hub: Hub) -> None:
        self.hub = hub
        self.port = hub.add_port(options.id)

    def open(self, host: Host) -> None:
        """Acquire nothing: a hub lives in memory."""

    def close(self) -> None:
        """Give the place at the hub back."""
        self.hub.remove_port(self.port)

    def stats(self) -> dict[str, object]:
        """Return the counters as plain data."""
        return stats(self.port)
