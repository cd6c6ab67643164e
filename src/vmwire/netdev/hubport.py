# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A place at a hub: ``-netdev hubport,id=ID,hubid=N[,netdev=NETDEV][,switch=on]``.

This is how several cards share one netdev. Each card, and the netdev that they share, is joined to
a hubport of its own; hubports with the same ``hubid`` hear each other. With ``netdev=`` the
hubport is joined to that netdev at once, otherwise to the card that names it.

The first port decides what the hub is: with ``switch=on`` one that learns who is where
(``vmwire.wire.switch``), otherwise one that sends everything to all. Later ports say the same or
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.options.table import option, record
from vmwire.options.values import BOOL, IDENTIFIER, INT32, STRING
from vmwire.wire.hub import Hub
from vmwire.wire.port import stats
from vmwire.wire.switch import Switch


@record("netdev", "hubport")
@dataclass(slots=True, kw_only=True)
class HubportOptions:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)
    hubid: int = option(INT32, required=True)
    netdev: str | None = option(STRING)
    switch: bool | None = option(
        BOOL, ours=True, help="on/off, a hub that learns who is where; its first port decides"
    )

    def hub(self, now: Callable[[], float]) -> Hub:
        """Make the hub that this port is the first of."""
        name = f"hub{self.hubid}"
        return Switch(name, now) if self.switch else Hub(name, now)

    def check(self, hub: Hub) -> None:
        """See that what this port says of its hub is so; ``ConfigError``."""
        if self.switch is not None and self.switch != isinstance(hub, Switch):
            is_one, word = ("is one", "on") if isinstance(hub, Switch) else ("is none", "off")
            raise ConfigError(
                f"Parameter 'switch' expects '{word}': hub {self.hubid} {is_one} already"
            )


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
