# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The monitor of one network: which commands there are, who listens, and what happens.

It is pure: `vmwire.monitor.session` turns a client's bytes into commands of it, and whoever owns
the sockets moves the bytes. Everything here is called in one thread, which is the engine's where a
machine of ours runs, and the worker's main thread in a daemon (`Network`'s methods hand their work
to the engine). Only ``on_network_event`` comes from the engine's thread: see ``post``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from vmwire.errors import ConfigError, NotThereError
from vmwire.monitor import basics, chardevs, devices, machine_commands, netdevs, objects, schema
from vmwire.monitor.announce import Announcer
from vmwire.monitor.journal import Journal
from vmwire.monitor.machine import Machine
from vmwire.monitor.table import DEVICE_NOT_FOUND, Command, CommandError, merged
from vmwire.network import Network

DEVICE_DELETED = "DEVICE_DELETED"

EventSink = Callable[[dict[str, Any]], None]

COMMANDS = merged(
    (
        basics.TABLE,
        netdevs.TABLE,
        devices.TABLE,
        objects.TABLE,
        chardevs.TABLE,
        machine_commands.TABLE,
        schema.TABLE,
    )
)


def at_once(function: Callable[[], None]) -> None:
    """Call it now: for a monitor that lives in the engine's thread."""
    function()


class Monitor:
    """See the module.

    ``machine``: what a machine of ours adds. ``end``: how to end it all, where a client may.
    ``extra``: further commands. ``post``: brings a call from the engine's thread to the monitor's.
    ``complete``: gives a new device what its place decides (a socket, say). ``journal``: told of
    what commands change.
    """

    def __init__(
        self,
        network: Network,
        machine: Machine | None = None,
        *,
        end: Callable[[], None] | None = None,
        extra: Mapping[str, Command] | None = None,
        post: Callable[[Callable[[], None]], None] = at_once,
        complete: Callable[[Any], Any] = lambda options: options,
        journal: Journal | None = None,
        name: str | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.network = network
        self.machine = machine
        self.end = machine.quit if machine is not None else end
        self.complete = complete
        self.journal = journal
        self.name = name
        """What ``-name`` gave."""
        self.announcer = Announcer(network)
        self.listeners: list[EventSink] = []
        self.leaving: dict[str, list[dict[str, Any]]] = {}
        """Cards whose guest was asked to let go, and what DEVICE_DELETED will tell of each."""
        self._now = now
        self._post = post
        self.commands = {name: each for name, each in COMMANDS.items() if self._has(each)} | dict(
            extra or {}
        )
        network.on_event = self._on_network_event
        if machine is not None:
            machine.on_event = self._on_machine_event

    def _has(self, command: Command) -> bool:
        if command.name == "quit":
            return self.end is not None
        return self.machine is not None or not command.on_machine

    def execute(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Carry a command out. Raises `CommandError`."""
        command = self.commands.get(name)
        if command is None:
            raise CommandError(f"The command {name} has not been found", "CommandNotFound")
        try:
            result = command.run(self, **command.read(arguments))
        except NotThereError as error:
            raise CommandError(error.message, DEVICE_NOT_FOUND) from error
        except ConfigError as error:
            raise CommandError(error.message) from error
        except OSError as error:
            raise CommandError(str(error)) from error
        return {} if result is None else result

    @property
    def the_machine(self) -> Machine:
        """The machine, for commands that are there only with one."""
        assert self.machine is not None
        return self.machine

    # Events

    def tell(self, event: str, data: Mapping[str, Any]) -> None:
        """Tell everybody who listens."""
        seconds, fraction = divmod(self._now(), 1)
        message: dict[str, Any] = {
            "timestamp": {"seconds": int(seconds), "microseconds": int(fraction * 1_000_000)},
            "event": event,
        }
        if data:
            message["data"] = dict(data)
        for listener in self.listeners[:]:
            listener(message)

    def _on_machine_event(self, event: str, data: Mapping[str, Any]) -> None:
        told = [data]
        if event == DEVICE_DELETED:
            told = [*self.leaving.pop(data["device"], told)]
        for each in told:
            self.tell(event, each)

    def _on_network_event(self, event: str, data: Mapping[str, Any]) -> None:
        self._post(lambda: self.tell(event, data))
