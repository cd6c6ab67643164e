# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Commands about the machine: running or not, resets, what is on its bus, which machines there are.

They are there only where the machine is ours (`vmwire.monitor.machine`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

from vmwire.monitor.machine import PciFunctionView, PciRegion
from vmwire.monitor.pci_classes import class_name
from vmwire.monitor.table import CommandTable

if TYPE_CHECKING:
    from vmwire.monitor.monitor import Monitor

TABLE = CommandTable()
command = TABLE.command


class StatusInfo(TypedDict):
    """``running`` says whether cards take frames from the wire."""

    running: bool
    status: Literal["running", "paused"]


MachineInfo = TypedDict(
    "MachineInfo",
    {
        "name": str,
        "alias": str,
        "is-default": bool,
        "cpu-max": int,
        "hotpluggable-cpus": bool,
        "numa-mem-supported": bool,
        "deprecated": bool,
        "acpi": bool,
        "default-cpu-type": str,
        "default-ram-id": str,
    },
    total=False,
)

_COMMON: MachineInfo = {
    "cpu-max": 1,
    "hotpluggable-cpus": False,
    "numa-mem-supported": False,
    "deprecated": False,
}
MACHINES: list[MachineInfo] = [
    {"name": "pc", "is-default": True, **_COMMON, "acpi": True, "default-ram-id": "pc.ram"},
    {"name": "none", **_COMMON, "acpi": False, "default-ram-id": "ram"},
]


@command("query-status", returns=StatusInfo, on_machine=True)
def query_status(monitor: Monitor) -> StatusInfo:
    """Whether the machine runs."""
    running = monitor.the_machine.running
    return {"status": "running" if running else "paused", "running": running}


@command("stop", on_machine=True)
def stop(monitor: Monitor) -> None:
    """Pause: cards take no frames from the wire."""
    monitor.the_machine.stop()


@command("cont", on_machine=True)
def cont(monitor: Monitor) -> None:
    """Go on."""
    monitor.the_machine.cont()


@command("system_reset", on_machine=True)
def system_reset(monitor: Monitor) -> None:
    """Reset the machine; cards that wait to be unplugged go."""
    monitor.the_machine.reset()


@command("query-machines", returns=list[MachineInfo], on_machine=True)
def query_machines(monitor: Monitor) -> list[MachineInfo]:
    """The machines that ``-machine`` takes. None of them has a CPU."""
    return MACHINES


@command("query-pci", returns=list[dict[str, Any]], on_machine=True)
def query_pci(monitor: Monitor) -> list[dict[str, Any]]:
    """The PCI buses (one, or none) with their functions."""
    functions = monitor.the_machine.pci_functions()
    if not functions:
        return []
    return [{"bus": 0, "devices": [_function(each, shown_id(monitor, each)) for each in functions]}]


def shown_id(monitor: Monitor, function: PciFunctionView) -> str:
    """A function's id, if somebody gave it one."""
    member = monitor.network.devices.get(function.id)
    return "" if member is None or member.anonymous else function.id


def _function(function: PciFunctionView, id: str) -> dict[str, Any]:
    wiring = {"irq": function.irq_line} if function.irq_pin else {}
    return {
        "bus": 0,
        "slot": function.slot,
        "function": function.function,
        "class_info": {"class": function.class_code, "desc": class_name(function.class_code)},
        "id": {
            "device": function.device,
            "vendor": function.vendor,
            "subsystem": function.subsystem,
            "subsystem-vendor": function.subsystem_vendor,
        },
        **wiring,
        "irq_pin": function.irq_pin,
        "qdev_id": id,
        "regions": [_region(each) for each in function.regions],
    }


def _region(region: PciRegion) -> dict[str, Any]:
    memory = {"prefetch": region.prefetchable, "mem_type_64": region.wide}
    return {
        "bar": region.bar,
        "type": region.kind,
        "address": -1 if region.address is None else region.address,
        "size": region.size,
        **(memory if region.kind == "memory" else {}),
    }
