# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A network from plain data, as one process gives it to another.

{"chardevs": [[backend, {...}], ...], "netdevs": [[type, {...}], ...],
 "devices": [[type, {...}, {attach ...}], ...]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmwire import registry
from vmwire.errors import ConfigError
from vmwire.graph import Kind
from vmwire.netdev.hubport import HubportOptions
from vmwire.network import Network

Values = Mapping[str, Any]


def build(network: Network, config: Values) -> None:
    """Add what ``config`` lists, all of it or nothing."""
    network.loop.call(lambda: _build(network, config))


def _build(network: Network, config: Values) -> None:
    made: list[tuple[Kind, str]] = []
    chardevs: list[str] = []
    try:
        for type, values in config.get("chardevs", ()):
            chardevs.append(network.add_chardev(type, **values))
        for type, values in config.get("netdevs", ()):
            made.append(("netdev", _add_netdev(network, type, values)))
        for type, values, *attach in config.get("devices", ()):
            made.append(("device", _add_device(network, type, values, *attach)))
    except BaseException:
        if not network.host.store.on_trial:
            for kind, id in reversed(made):
                network.remove(id, kind=kind)
            for id in chardevs:
                network.remove_chardev(id)
        raise


def _add_netdev(network: Network, type: str, values: Values) -> str:
    try:
        if values.get("id") is None:
            raise ConfigError("Parameter 'id' is missing")
        return network.add_netdev(type, **values)
    except ConfigError as error:
        raise _named(error, f"-netdev {type}", values) from None


def _add_device(network: Network, type: str, values: Values, attach: Values | None = None) -> str:
    try:
        return network.add_nic(type, **values, **(attach or {}))
    except ConfigError as error:
        raise _named(error, f"-device {type}", values) from None


def _named(error: ConfigError, start: str, values: Values) -> ConfigError:
    """The error with the option in front that it is about."""
    shown = [f"{key}={values[key]}" for key in ("id", "netdev") if values.get(key)]
    return ConfigError(error.message, ",".join([start, *shown]))


def rehearse(kind: Kind, type: str, values: Values) -> None:
    """Make a box as ``add_netdev`` and ``add_nic`` do, and forget it: nothing is opened.

    Has everything imported that it takes. Raises ConfigError as they do.
    """
    known = registry.NETDEVS if kind == "netdev" else registry.DEVICES
    found = registry.load(known, type)
    if found is None:
        raise ConfigError(f"there is no {kind} of type '{type}'")
    options = registry.record(found, type, {**values, "id": values.get("id") or "rehearsal"})
    if not isinstance(options, HubportOptions):  # which is made of its hub, too
        found(options)
