# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Commands about netdevs, wires and what cards receive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from vmwire import catalogue
from vmwire.errors import ConfigError
from vmwire.graph import Member
from vmwire.monitor.announce import Schedule
from vmwire.monitor.table import (
    INT,
    CommandError,
    CommandTable,
    ListType,
    needs,
    not_found,
    takes,
)
from vmwire.options.syntax import JsonOptions
from vmwire.options.values import BOOL, STRING, is_id
from vmwire.registry import FiltersReception

if TYPE_CHECKING:
    from vmwire.monitor.monitor import Monitor

TABLE = CommandTable()
command = TABLE.command

NO_BACKENDS = ("nic", "none")
"""Names that QEMU's ``-netdev`` knows and that never are one."""

RxState = Literal["normal", "none", "all"]
RxFilterInfo = TypedDict(
    "RxFilterInfo",
    {
        "name": str,
        "promiscuous": bool,
        "multicast": RxState,
        "unicast": RxState,
        "vlan": RxState,
        "broadcast-allowed": bool,
        "multicast-overflow": bool,
        "unicast-overflow": bool,
        "main-mac": str,
        "vlan-table": list[int],
        "unicast-table": list[str],
        "multicast-table": list[str],
    },
)


@command("netdev_add", open_ended=True)
def netdev_add(monitor: Monitor, arguments: Mapping[str, Any]) -> None:
    """Add a netdev; nothing is joined to it yet (but to a hubport's hub)."""
    type, id = arguments.get("type"), arguments.get("id")
    if type in NO_BACKENDS and isinstance(id, str):
        raise ConfigError(f"network backend '{type}' is not compiled into this binary")
    options = catalogue.record_of("netdev", JsonOptions(dict(arguments), ""))
    if not is_id(options.id):
        raise ConfigError("Parameter 'id' expects an identifier")
    if options.id in monitor.network.netdevs:
        raise ConfigError(f"Duplicate ID '{options.id}'")
    monitor.network.add(options)
    if monitor.journal is not None:
        monitor.journal.added("netdev", options)


@command("netdev_del", {"id": needs(STRING)})
def netdev_del(monitor: Monitor, id: str) -> None:
    """Take a netdev away; a card that was joined to it loses its carrier."""
    if id not in monitor.network.netdevs:
        raise not_found(id)
    monitor.network.remove(id, kind="netdev")
    if monitor.journal is not None:
        monitor.journal.removed("netdev", id)


@command("set_link", {"name": needs(STRING), "up": needs(BOOL)})
def set_link(monitor: Monitor, name: str, up: bool) -> None:
    """Plug or pull the cable at a card or at a netdev."""
    network = monitor.network
    if name not in network.netdevs and name not in network.devices:
        raise not_found(name)
    network.set_link(name, up)
    if monitor.journal is not None:
        monitor.journal.link(name, up)


@command(
    "announce-self",
    {
        "initial": needs(INT),
        "max": needs(INT),
        "rounds": needs(INT),
        "step": needs(INT),
        "interfaces": takes(ListType(element=STRING)),
        "id": takes(STRING),
    },
)
def announce_self(
    monitor: Monitor,
    initial: int,
    max: int,
    rounds: int,
    step: int,
    interfaces: list[str] | None = None,
    id: str = "",
) -> None:
    """Have cards announce where they are (`vmwire.monitor.announce`)."""
    monitor.announcer.announce(Schedule(initial, max, rounds, step), interfaces, id)


@command("query-rx-filter", {"name": takes(STRING)}, returns=list[RxFilterInfo])
def query_rx_filter(monitor: Monitor, name: str | None = None) -> list[dict[str, Any]]:
    """Which frames a card takes, or all cards that can say so."""
    network = monitor.network
    if name is None:
        members = network.loop.call(lambda: list(network.devices.values()))
    else:
        members = [_card(monitor, name)]
    return network.loop.call(lambda: [info for each in members if (info := _rx_filter(each))])


def _card(monitor: Monitor, name: str) -> Member:
    network = monitor.network
    card = network.devices.get(name)
    if card is None and name in network.netdevs:
        raise CommandError(f"net client({name}) isn't a NIC")
    if card is None:
        raise CommandError(f"invalid net client name: {name}")
    if not isinstance(card.chip, FiltersReception):
        raise CommandError(f"net client({name}) doesn't support rx-filter querying")
    return card


def _rx_filter(card: Member) -> dict[str, Any] | None:
    chip = card.chip
    return {"name": card.id, **chip.rx_filter()} if isinstance(chip, FiltersReception) else None
