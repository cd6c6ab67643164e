# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Which frames a virtio network card lets in (virtio 1.2, sections 5.1.6.5.1 to 5.1.6.5.3).

After a reset the card is promiscuous and knows no VLAN filter. In this order: a promiscuous card
takes everything; a tagged frame's VLAN must be let in; then the destination decides, by its kind
(broadcast, multicast, unicast), by modes for the whole kind and by tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmwire.options.values import format_mac

TABLE_ENTRIES = 64
"""Addresses that both tables hold together; a kind that doesn't fit is let in whole."""
VLANS = 4096
HEAD = 18
"""Bytes of a frame that are looked at: the addresses and a VLAN tag."""

_BROADCAST = b"\xff" * 6
_VLAN_TAG = b"\x81\x00"
_ADDRESS = 6

MODES = (
    "promiscuous", "all_multicast", "all_unicast", "no_multicast", "no_unicast", "no_broadcast",
)  # fmt: skip
"""By the number of the command that switches them."""


class RxFilter:
    """The filter's state. ``mac`` is the card's own address."""

    def __init__(self, mac: bytes) -> None:
        self.mac = mac
        self.reset(mac)

    def reset(self, mac: bytes) -> None:
        """As at power-on."""
        self.mac = mac
        self.modes = dict.fromkeys(MODES, False) | {"promiscuous": True}
        self.unicast: list[bytes] = []
        self.multicast: list[bytes] = []
        self.unicast_overflow = False
        self.multicast_overflow = False
        self.vlan_filter = False
        """Whether the driver said that it would name its VLANs."""
        self.vlans = set(range(VLANS))

    def begin(self, filters_vlans: bool) -> None:
        """A driver has come, which will name its VLANs or not."""
        self.vlan_filter = filters_vlans
        self.vlans = set() if filters_vlans else set(range(VLANS))

    @property
    def open(self) -> bool:
        """Whether everything passes."""
        return self.modes["promiscuous"]

    def wants(self, head: bytes) -> bool:
        """Whether a frame that begins with ``head`` passes."""
        modes = self.modes
        if modes["promiscuous"]:
            return True
        if (
            head[12:14] == _VLAN_TAG
            and int.from_bytes(head[14:16], "big") & 0xFFF not in self.vlans
        ):
            return False
        to = head[:_ADDRESS]
        if to == _BROADCAST:
            return not modes["no_broadcast"]
        if to[0] & 1:
            everyone = modes["all_multicast"] or self.multicast_overflow
            return not modes["no_multicast"] and (everyone or to in self.multicast)
        everyone = modes["all_unicast"] or self.unicast_overflow
        return not modes["no_unicast"] and (everyone or to == self.mac or to in self.unicast)

    def set_tables(self, unicast: list[bytes], multicast: list[bytes]) -> None:
        """Replace both tables."""
        self.unicast_overflow = len(unicast) > TABLE_ENTRIES
        self.unicast = [] if self.unicast_overflow else unicast
        room = TABLE_ENTRIES - len(self.unicast)
        self.multicast_overflow = len(multicast) > room
        self.multicast = [] if self.multicast_overflow else multicast

    def report(self) -> dict[str, Any]:
        """Return what QMP's ``query-rx-filter`` tells, but the name.

        ``broadcast-allowed`` says what it is called; QEMU's has it the wrong way round.
        """
        modes = self.modes
        return {
            "promiscuous": modes["promiscuous"],
            "multicast": _state(modes["no_multicast"], modes["all_multicast"]),
            "unicast": _state(modes["no_unicast"], modes["all_unicast"]),
            "vlan": "normal" if self.vlan_filter else "all",
            "broadcast-allowed": not modes["no_broadcast"],
            "multicast-overflow": self.multicast_overflow,
            "unicast-overflow": self.unicast_overflow,
            "main-mac": format_mac(self.mac),
            "vlan-table": sorted(self.vlans, reverse=True),
            "unicast-table": [format_mac(mac) for mac in reversed(self.unicast)],
            "multicast-table": [format_mac(mac) for mac in reversed(self.multicast)],
        }

    def save(self) -> dict[str, Any]:
        """Return the state as plain data."""
        vlans = sum(1 << vlan for vlan in self.vlans)
        return {
            "mac": self.mac,
            "modes": [self.modes[mode] for mode in MODES],
            "unicast": list(self.unicast),
            "multicast": list(self.multicast),
            "overflow": [self.unicast_overflow, self.multicast_overflow],
            "vlan filter": self.vlan_filter,
            "vlans": vlans.to_bytes(VLANS // 8, "little"),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on what ``save`` gave. ValueError if it isn't that."""
        try:
            addresses = [state["mac"], *state["unicast"], *state["multicast"]]
            if any(not isinstance(each, bytes) or len(each) != _ADDRESS for each in addresses):
                raise ValueError("an address that isn't one")
            self.mac = state["mac"]
            self.modes = {m: bool(on) for m, on in zip(MODES, state["modes"], strict=True)}
            self.unicast, self.multicast = list(state["unicast"]), list(state["multicast"])
            self.unicast_overflow, self.multicast_overflow = map(bool, state["overflow"])
            self.vlan_filter = bool(state["vlan filter"])
            vlans = int.from_bytes(state["vlans"], "little")
            self.vlans = {vlan for vlan in range(VLANS) if vlans >> vlan & 1}
        except (KeyError, TypeError) as error:
            raise ValueError(f"no state of a filter: {error!r}") from None


def _state(none: bool, everything: bool) -> str:
    return "none" if none else "all" if everything else "normal"
