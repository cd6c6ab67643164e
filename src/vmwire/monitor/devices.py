# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Commands about cards: which types there are, their properties, adding and removing them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from vmwire import catalogue
from vmwire.errors import ConfigError
from vmwire.graph import Member
from vmwire.monitor import qom
from vmwire.monitor.table import CommandError, CommandTable, needs, not_found, takes
from vmwire.options.syntax import JsonOptions
from vmwire.options.table import Option, Table
from vmwire.options.values import BOOL, STRING, is_id

if TYPE_CHECKING:
    from vmwire.monitor.monitor import Monitor

TABLE = CommandTable()
command = TABLE.command

PERIPHERAL = "/machine/peripheral/"
ANONYMOUS = "/machine/peripheral-anon/device"
ONLY_BUS = "pci.0"
ANY_PLACE = -1
"""What QEMU gives as the default of ``addr``."""


class _TypeInfo(TypedDict):
    name: str


class ObjectTypeInfo(_TypeInfo, total=False):
    """A type; ``abstract`` is there if it is true."""

    abstract: bool
    parent: str


class _PropertyInfo(TypedDict):
    name: str
    type: str


PropertyExtras = TypedDict(
    "PropertyExtras", {"description": str, "default-value": object}, total=False
)


class ObjectPropertyInfo(_PropertyInfo, PropertyExtras):
    """A property; the rest is there where there is something to say."""


@command(
    "qom-list-types",
    {"implements": takes(STRING), "abstract": takes(BOOL)},
    returns=list[ObjectTypeInfo],
)
def qom_list_types(
    monitor: Monitor, implements: str | None = None, abstract: bool = False
) -> list[ObjectTypeInfo]:
    """The types that vmwire has."""
    tree = qom.types(monitor.machine is not None)
    return [_type_info(each) for each in qom.listed(tree, implements, abstract)]


def _type_info(type: qom.QomType) -> ObjectTypeInfo:
    info: ObjectTypeInfo = {"name": type.name}
    if type.abstract:
        info["abstract"] = True
    if type.parent is not None:
        info["parent"] = type.parent
    return info


@command("device-list-properties", {"typename": needs(STRING)}, returns=list[ObjectPropertyInfo])
def device_list_properties(monitor: Monitor, typename: str) -> list[ObjectPropertyInfo]:
    """The properties that a card takes."""
    tables = {table.name: table for table in catalogue.tables(qom.DEVICE)}
    if typename in tables:
        served = monitor.machine is None
        return [
            _property_info(key, entry.option, entry.default)
            for key, entry in tables[typename].entries.items()
            if not entry.option.hidden and (served or not entry.option.ours)
        ]
    tree = qom.types(monitor.machine is not None)
    if typename not in tree:
        raise not_found(typename)
    if tree[typename].abstract or not qom.is_a(tree, typename, qom.DEVICE):
        raise ConfigError("Parameter 'typename' expects a non-abstract device type")
    return []


def _property_info(key: str, option: Option, default: Any) -> ObjectPropertyInfo:
    info: ObjectPropertyInfo = {"name": key, "type": option.type.name}
    if option.help or option.type.syntax:
        info["description"] = option.help or option.type.syntax
    if key == "addr":
        info["default-value"] = ANY_PLACE
    elif default is not None:
        info["default-value"] = default
    return info


@command("device_add", open_ended=True)
def device_add(monitor: Monitor, arguments: Mapping[str, Any]) -> None:
    """Add a card: into our machine, or behind a socket that machines come to."""
    table = _driver(monitor, arguments)
    bus = arguments.get("bus")
    if monitor.machine is not None and bus not in (None, ONLY_BUS):
        raise ConfigError(f"Bus '{bus}' not found")
    id = arguments.get("id")
    if isinstance(id, str) and id in monitor.network.devices:
        raise CommandError(f"Duplicate device ID '{id}'")
    if isinstance(id, str) and not is_id(id):
        raise CommandError(f"Invalid qdev ID '{id}'")
    options = table.from_options(JsonOptions(dict(arguments), ""))
    _check_free(monitor, table.name, options.netdev)
    added = monitor.network.add(monitor.complete(options))
    if monitor.journal is not None:
        monitor.journal.added("device", monitor.network.devices[added].options)


def _driver(monitor: Monitor, arguments: Mapping[str, Any]) -> Table[Any]:
    name = arguments.get("driver")
    if not isinstance(name, str):
        raise ConfigError("Parameter 'driver' is missing")
    tree = qom.types(monitor.machine is not None)
    if qom.is_a(tree, name, qom.DEVICE) and tree[name].abstract:
        raise ConfigError("Parameter 'driver' expects a non-abstract device type")
    return catalogue.find(qom.DEVICE, name)


def _check_free(monitor: Monitor, driver: str, netdev: str | None) -> None:
    """Say in QEMU's words (and no more) that a netdev has a card already."""
    network = monitor.network

    def is_free() -> bool:
        member = network.netdevs.get(netdev or "")
        return member is None or network.peer_of(member) is None

    if not network.loop.call(is_free):
        raise ConfigError(f"Property '{driver}.netdev' can't take value '{netdev}', it's in use")


@command("device_del", {"id": needs(STRING)})
def device_del(monitor: Monitor, id: str) -> None:
    """Remove a card. A machine's guest is asked, and DEVICE_DELETED tells when it has let go."""
    members = {member.id: member for member in monitor.network.devices.values()}
    found = [each for name, each in members.items() if id in (name, path_of(monitor, each))]
    if not found or (found[0].anonymous and id == found[0].id):
        raise not_found(id)
    (member,) = found
    deleted = told_of(monitor, member)
    if monitor.machine is not None:
        monitor.machine.unplug(member.id)
        monitor.leaving[member.id] = deleted
        return
    _check_alone(monitor, member)
    monitor.network.remove(member.id, kind="device")
    if monitor.journal is not None:
        monitor.journal.removed("device", member.id)
    for data in deleted:
        monitor.tell("DEVICE_DELETED", data)


def path_of(monitor: Monitor, member: Member) -> str:
    """Where a card stands in QEMU's tree of objects."""
    if not member.anonymous:
        return PERIPHERAL + member.id
    anonymous = [each for each in monitor.network.devices.values() if each.anonymous]
    return f"{ANONYMOUS}[{anonymous.index(member)}]"


def told_of(monitor: Monitor, member: Member) -> list[dict[str, Any]]:
    """What DEVICE_DELETED tells of a card; a virtio card is two devices."""
    path = path_of(monitor, member)
    card = {"path": path} if member.anonymous else {"device": member.id, "path": path}
    if member.type.startswith("virtio-net-pci"):
        return [{"path": f"{path}/virtio-backend"}, card]
    return [card]


def _check_alone(monitor: Monitor, member: Member) -> None:
    """A machine that is connected would end, or hang, if its card went away by itself."""
    stats = monitor.network.loop.call(member.box.stats)
    if stats.get("connected"):
        raise CommandError(f"Device '{member.id}' is in use by a machine: unplug it there first")
