# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Commands about the monitor itself: version, name, commands, the human monitor, the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from vmwire.monitor import hmp
from vmwire.monitor.table import INT, Command, CommandTable, ListType, needs, takes
from vmwire.monitor.version import VERSION, VersionInfo
from vmwire.options.values import STRING

if TYPE_CHECKING:
    from vmwire.monitor.monitor import Monitor

TABLE = CommandTable()
command = TABLE.command

NEGOTIATE = "qmp_capabilities"
NEGOTIATION = Command(NEGOTIATE, lambda: None, {"enable": takes(ListType(element=STRING))})
"""What a conversation begins with (`vmwire.monitor.session`)."""


class CommandInfo(TypedDict):
    """A command's name."""

    name: str


class NameInfo(TypedDict, total=False):
    """The guest's name, if it has one."""

    name: str


@command("query-version", returns=VersionInfo)
def query_version(monitor: Monitor) -> VersionInfo:
    """Whose behaviour this is, and who answers."""
    return VERSION


@command("query-commands", returns=list[CommandInfo])
def query_commands(monitor: Monitor) -> list[CommandInfo]:
    """What there is here."""
    return [{"name": name} for name in (NEGOTIATE, *monitor.commands)]


@command("query-name", returns=NameInfo)
def query_name(monitor: Monitor) -> NameInfo:
    """What ``-name`` said."""
    return {} if monitor.name is None else {"name": monitor.name}


@command(
    "human-monitor-command",
    {"command-line": needs(STRING), "cpu-index": takes(INT)},
    returns=str,
)
def human_monitor_command(monitor: Monitor, command_line: str, cpu_index: int = 0) -> str:
    """A line of the human monitor, and what that says."""
    return hmp.execute(monitor, command_line)


@command("quit")
def quit(monitor: Monitor) -> None:
    """End it all."""
    assert monitor.end is not None
    monitor.end()
