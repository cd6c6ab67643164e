# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The human monitor: lines in, text out, as QEMU words it. So far what shows network and bus.

Lines of an answer end in CR LF, as they do over ``human-monitor-command``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmwire import catalogue
from vmwire.errors import ConfigError
from vmwire.graph import Filter, Member
from vmwire.monitor import chardevs, objects
from vmwire.monitor.machine import PciFunctionView, PciRegion
from vmwire.monitor.machine_commands import shown_id
from vmwire.monitor.pci_classes import class_name
from vmwire.monitor.table import CommandError
from vmwire.netdev.hubport import HubportNetdev
from vmwire.options.table import table_of
from vmwire.options.values import BOOL, format_mac
from vmwire.registry import DescribesItself, HasAddress

if TYPE_CHECKING:
    from vmwire.monitor.monitor import Monitor


FILTER_PROPERTIES = ("position", "status", "insert", "netdev", "queue")
"""What every filter has, in the order in which QEMU shows it."""


@dataclass(frozen=True, slots=True)
class Line:
    """A command: what ``help`` says of it, and what carries it out.

    ``run`` gets the monitor and as many words as ``words`` says; with ``rest`` the last of them is
    all of the line. The first ``needed`` must be there (all, if it doesn't say).
    """

    help: str
    run: Callable[..., list[str]]
    on_machine: bool = False
    words: int = 0
    rest: bool = False
    syntax: str = ""
    needed: int | None = None
    switches: tuple[str, ...] = ()
    """Words with a dash that may stand in front; they are handed over by name."""


def execute(monitor: Monitor, text: str) -> str:
    """Carry out one line."""
    lines = _execute(monitor, text)
    return "".join(f"{line}\r\n" for line in lines)


def _execute(monitor: Monitor, text: str) -> list[str]:
    words = text.split()
    if not words:
        return []
    if words[0] in ("help", "?"):
        return _help(monitor, words[1:])
    if words == ["info"]:
        return _help(monitor, words)
    size = 2 if words[0] == "info" else 1
    name = " ".join(words[:size])
    found = _lines(monitor).get(name)
    if found is None:
        return [f"unknown command: '{name}'"]
    switches = [word for word in words[size : size + 1] if word in found.switches]
    size += len(switches)
    given = text.split(maxsplit=size + found.words - 1)[size:] if found.rest else words[size:]
    fault = _fault(found, given)
    if fault:
        return [f"{words[size - 1 - len(switches)]}: {fault}", f'Try "help {name}" for more '
                "information"]  # fmt: skip
    return _run(found, monitor, given, [switch.strip("-") for switch in switches])


def _fault(line: Line, given: list[str]) -> str:
    """What is wrong with the number of words."""
    if len(given) < (line.words if line.needed is None else line.needed):
        return "string expected"
    return "extraneous characters at the end of line" if len(given) > line.words else ""


def _run(line: Line, monitor: Monitor, words: list[str], switches: list[str]) -> list[str]:
    try:
        return line.run(monitor, *words, **dict.fromkeys(switches, True))
    except CommandError as error:
        return [f"Error: {error}"]
    except ConfigError as error:
        return [f"Error: {error.message}"]
    except OSError as error:
        return [f"Error: {error}"]


def _help(monitor: Monitor, words: list[str]) -> list[str]:
    start = " ".join(words)
    lines = _lines(monitor)
    return [
        f"{name} {each.syntax} -- {each.help}"
        for name, each in lines.items()
        if name.startswith(start)
    ]


def _lines(monitor: Monitor) -> dict[str, Line]:
    has_machine = monitor.machine is not None
    return {name: each for name, each in LINES.items() if has_machine or not each.on_machine}


# --- info network -------------------------------------------------------------------------------


def info_network(monitor: Monitor) -> list[str]:
    """Hubs with who is at their ports, then the other cards with their netdevs."""
    return monitor.network.loop.call(lambda: _network(monitor))


def _network(monitor: Monitor) -> list[str]:
    network = monitor.network
    lines, at_hubs = _hubs(monitor)
    members = [*network.netdevs.values(), *network.devices.values()]
    for member in sorted(members, key=lambda each: each.number):
        peer = network.peer_of(member)
        if member in at_hubs or (member.kind == "netdev" and peer is not None):
            continue
        lines.append(_client(member))
        if peer is not None:
            lines.append(f" \\ {_client(peer)}")
            lines += _filters(peer)
        lines += _filters(member)
    return lines


def _hubs(monitor: Monitor) -> tuple[list[str], set[Member]]:
    """The lines about hubs, newest first, and whom they are about."""
    network = monitor.network
    lines: list[str] = []
    seen: set[Member] = set()
    for number, hub in reversed(network.hubs.items()):
        lines.append(f"hub {number}")
        for member in reversed(network.netdevs.values()):
            if isinstance(member.box, HubportNetdev) and member.box.hub is hub:
                peer = network.peer_of(member)
                lines.append(f" \\ {member.id}" + (f": {_client(peer)}" if peer else ""))
                lines += _filters(member) + (_filters(peer) if peer else [])
                seen |= {member, peer} if peer else {member}
    return lines, seen


def _client(member: Member) -> str:
    if member.kind == "device":
        mac = member.chip.mac if isinstance(member.chip, HasAddress) else member.mac
        shown = format_mac(mac or bytes(6))
        return f"{member.id}: index=0,type=nic,model={member.type},macaddr={shown}"
    more = f",{member.box.info}" if isinstance(member.box, DescribesItself) else ""
    return f"{member.id}: index=0,type={member.type}{more}"


def _filters(member: Member) -> list[str]:
    if not member.filters:
        return []
    return [
        "filters:",
        *(f"  - {each.id}: type={each.type}{_about(each)}" for each in member.filters),
    ]


def _about(filter: Filter) -> str:
    """A filter's properties, its own first."""
    if filter.options is None:
        return ""
    table = table_of(type(filter.options))
    own = [key for key in table.entries if key not in (*FILTER_PROPERTIES, "id")]
    own.sort(key=lambda key: table.entries[key].option.type is not BOOL)
    text = ""
    for key in [*own, *FILTER_PROPERTIES]:
        value = getattr(filter.options, table.entries[key].field)
        shown = json.dumps(value) if isinstance(value, bool) else value
        text += f",{key}={'' if value is None else shown}"
    return text


# --- info pci -----------------------------------------------------------------------------------


def info_pci(monitor: Monitor) -> list[str]:
    """Each function with its ids, interrupt and BARs."""
    lines: list[str] = []
    for function in monitor.the_machine.pci_functions():
        lines += _function(function, shown_id(monitor, function))
    return lines


def _function(function: PciFunctionView, id: str) -> list[str]:
    ids = f"{function.vendor:04x}:{function.device:04x}"
    lines = [
        f"  Bus  0, device {function.slot:3d}, function {function.function}:",
        f"    {class_name(function.class_code)}: PCI device {ids}",
    ]
    if function.subsystem_vendor or function.subsystem:
        owner = f"{function.subsystem_vendor:04x}:{function.subsystem:04x}"
        lines.append(f"      PCI subsystem {owner}")
    if function.irq_pin:
        pin = "ABCD"[function.irq_pin - 1 & 3]
        lines.append(f"      IRQ {function.irq_line}, pin {pin}")
    return [*lines, *(f"      {_region(each)}" for each in function.regions), f'      id "{id}"']


def _region(region: PciRegion) -> str:
    if region.kind == "io":
        kind = "I/O"
    else:
        prefetchable = " prefetchable" if region.prefetchable else ""
        kind = f"{64 if region.wide else 32} bit{prefetchable} memory"
    if region.address is None:
        return f"BAR{region.bar}: {kind} (not mapped)"
    digits = 4 if region.kind == "io" else 8
    last = region.address + region.size - 1
    return f"BAR{region.bar}: {kind} at 0x{region.address:0{digits}x} [0x{last:0{digits}x}]"


# --- objects and chardevs -----------------------------------------------------------------------


def object_add(monitor: Monitor, text: str) -> list[str]:
    """Make a filter of what ``-object`` takes."""
    objects.add(monitor, catalogue.parse("object", text))
    return []


def object_del(monitor: Monitor, id: str) -> list[str]:
    """Take a filter away."""
    objects.object_del(monitor, id)
    return []


def qom_list(monitor: Monitor, path: str | None = None) -> list[str]:
    """Properties with their types."""
    if path is None:
        return ["/"]
    return [f"{each['name']} ({each['type']})" for each in objects.qom_list(monitor, path)]


def qom_get(monitor: Monitor, path: str, name: str) -> list[str]:
    """A property's value, as JSON."""
    return [json.dumps(objects.qom_get(monitor, path, name))]


def qom_set(monitor: Monitor, path: str, name: str, value: str, *, j: bool = False) -> list[str]:
    """Change a filter."""
    if not j:
        objects.set_by_text(monitor, path, name, value)
        return []
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        raise ConfigError("JSON parse error, invalid value") from None
    objects.qom_set(monitor, path, name, read)
    return []


def chardev_add(monitor: Monitor, text: str) -> list[str]:
    """Describe a connection, as ``-chardev`` does."""
    chardevs.add(monitor, catalogue.parse("chardev", text))
    return []


def chardev_remove(monitor: Monitor, id: str) -> list[str]:
    """Forget a connection that no filter uses."""
    chardevs.chardev_remove(monitor, id)
    return []


LINES = {
    "chardev-add": Line("add chardev", chardev_add, words=1, rest=True, syntax="args"),
    "chardev-remove": Line("remove chardev", chardev_remove, words=1, syntax="id"),
    "info network": Line("show the network state", info_network),
    "info pci": Line("show PCI info", info_pci, on_machine=True),
    "object_add": Line(
        "create QOM object",
        object_add,
        words=1,
        rest=True,
        syntax="[qom-type=]type,id=str[,prop=value][,...]",
    ),
    "object_del": Line("destroy QOM object", object_del, words=1, syntax="id"),
    "qom-get": Line("print QOM property", qom_get, words=2, syntax="path property"),
    "qom-list": Line("list QOM properties", qom_list, words=1, needed=0, syntax="path"),
    "qom-set": Line(
        "set QOM property.\r\n\t\t\t-j: the value is specified in json format.",
        qom_set,
        words=3,
        rest=True,
        syntax="[-j] path property value",
        switches=("-j",),
    ),
}
