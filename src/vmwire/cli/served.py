# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A network made of options as they were typed: the worker's half of serve mode.

The command has checked what each option says by itself; here the stack is imported and the parts
are put together, which finds the rest: ids that are missing or taken, ports in use. Errors carry
the option as it was typed, in QEMU's form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vmwire import catalogue, configuration, registry
from vmwire.daemon.worker import or_without
from vmwire.engine.host import FdStore
from vmwire.filters.dump import path_of_worker
from vmwire.graph import Kind
from vmwire.network import Network
from vmwire.options.table import naming, table_of


def build(config: Mapping[str, Any], store: FdStore, restarts: int) -> Network:
    """The network of ``config``, as `vmwire.cli.serve` makes it; not started.

    Lists under the names ``netdevs``, ``devices``, ``chardevs`` and ``filters`` are of
    ``[typed, text]``, where ``typed`` is what the user wrote and ``text`` the same with everything
    decided; ``links`` are of ``[id, id]``, ``captures`` of ``[id, path]``. What an older version
    didn't write isn't there.
    """
    network = Network(store=store)
    left = configuration.Left(config)
    try:
        for typed, text in config.get("chardevs", ()):
            with naming(f"-chardev {typed}"):
                _add(network.add_chardev, left.of("chardev", _values("chardev", text)))
        for typed, text in config["netdevs"]:
            with naming(_option("netdev", typed)):
                _add(network.add_netdev, left.of("netdev", _values("netdev", text)))
        for typed, text in config["devices"]:
            with naming(_option("device", typed)):
                _add(network.add_nic, left.of("device", _values("device", text)))
        for one, other in config.get("links", ()):
            if left.has(one) and left.has(other):
                network.connect(one, other)
        for typed, text in config.get("filters", ()):
            with naming(_option("object", typed)):
                filter = left.of("filter", _values("object", text))
                if filter is None or "file" not in filter:
                    _add(network.add_filter, filter)
                    continue
                filter["file"] = path_of_worker(filter["file"], restarts)
                with or_without(store, restarts):
                    _add(network.add_filter, filter)
        for member, path in config["captures"]:
            if left.has(member):
                with naming(f"--capture {member}={path}"), or_without(store, restarts):
                    network.capture(member, path_of_worker(path, restarts))
    except BaseException:
        network.close()
        raise
    return network


def rehearse(config: Mapping[str, Any]) -> None:
    """Import what ``build`` takes; ConfigError for what can't be had any more."""
    kinds: tuple[Kind, ...] = ("netdev", "device")
    for kind in kinds:
        for typed, text in config[f"{kind}s"]:
            with naming(_option(kind, typed)):
                values = _values(kind, text)
                configuration.rehearse(kind, values.pop("type"), values)
    for typed, text in config.get("filters", ()):
        with naming(_option("object", typed)):
            registry.load_filter(_values("object", text)["type"])


def _add(add: Callable[..., str], values: dict[str, Any] | None) -> None:
    if values is not None:
        add(values.pop("type"), **values)


def _option(kind: str, typed: str) -> str:
    """An option in full: one that was typed as ``-net`` or ``-nic`` is noted with its name."""
    return typed if typed.startswith(("-net ", "-nic ")) else f"-{kind} {typed}"


def _values(kind: str, text: str) -> dict[str, Any]:
    """The type and the values of an option, for the methods of `Network`."""
    record = catalogue.parse(kind, text)
    fields = {each.name: getattr(record, each.name) for each in dataclasses.fields(record)}
    given = {name: value for name, value in fields.items() if value is not None}
    return {"type": table_of(type(record)).name, **given}
