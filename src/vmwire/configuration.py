# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A network from plain data, as one process gives it to another.

The keys are ``chardevs``, ``netdevs`` and ``devices``, each a list of ``[type, {option: value}]``
(a device may have a third element: how it is attached), and ``removed``, of ``[kind, id]``.

What was removed since is left out, because somebody else may have its port or path by now.
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


class Left:
    """What is left of a configuration whose ``removed`` is gone."""

    def __init__(self, config: Values) -> None:
        self._gone = {(kind, id) for kind, id in config.get("removed", ())}

    def of(self, kind: str, values: Values) -> dict[str, Any] | None:
        """The options of a netdev, device, chardev or filter as it is now; None if it is gone.

        Who was joined to a netdev that is gone is joined to nothing; its filters went with it.
        """
        if (kind, values.get("id")) in self._gone:
            return None
        if ("netdev", values.get("netdev")) not in self._gone:
            return dict(values)
        if kind == "filter":
            return None
        return {key: value for key, value in values.items() if key != "netdev"}

    def has(self, id: str) -> bool:
        """Whether no netdev and no device of this id is gone."""
        return self._gone.isdisjoint((("netdev", id), ("device", id)))


def build(network: Network, config: Values) -> None:
    """Add what ``config`` lists, all of it or nothing."""
    network.loop.call(lambda: _build(network, config))


def _build(network: Network, config: Values) -> None:
    left = Left(config)
    made: list[tuple[Kind, str]] = []
    chardevs: list[str] = []
    try:
        for type, values in config.get("chardevs", ()):
            if (now := left.of("chardev", values)) is not None:
                chardevs.append(network.add_chardev(type, **now))
        for type, values in config.get("netdevs", ()):
            if (now := left.of("netdev", values)) is not None:
                made.append(("netdev", _add_netdev(network, type, now)))
        for type, values, *attach in config.get("devices", ()):
            if (now := left.of("device", values)) is not None:
                made.append(("device", _add_device(network, type, now, *attach)))
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
