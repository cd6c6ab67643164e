# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A tap on a bridge of the host's: ``-netdev bridge,id=ID[,br=BRIDGE][,helper=HELPER]``.

Whoever may administer the host's network needs no helper (``bridge_helper``).
"""

from __future__ import annotations

from dataclasses import dataclass

from vmwire.netdev.bridge_helper import DEFAULT_BRIDGE, tap_on_bridge
from vmwire.netdev.host_tap import HostTap
from vmwire.options.table import option, record
from vmwire.options.values import IDENTIFIER, STRING


@record("netdev", "bridge")
@dataclass(slots=True, kw_only=True)
class BridgeOptions:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)
    br: str = option(STRING, default=DEFAULT_BRIDGE, help="the host's bridge")
    helper: str | None = option(STRING, help="program that makes a tap on a bridge")


class BridgeNetdev(HostTap):
    """The box."""

    OPTIONS = BridgeOptions

    def __init__(self, options: BridgeOptions) -> None:
        super().__init__(options.id)
        self._options = options

    def _make(self) -> list[int]:
        return [tap_on_bridge(self._options.br, self._options.helper)]
