# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The worker: the process that is the network.

Forked from the keeper, it imports the stack, builds the network of its job, says *ready* (or why
not), and serves the control socket from its main thread while the engine runs in a thread of its
own. Everything it owns that must outlive it goes through the fd store.

An upgrade hands everything over to a worker of other code (`succession`): this one stands still,
puts its state into the store, and is killed, or told to go on.

It ends cleanly on SIGTERM. A keeper that is gone is replaced (see `keeper`); if that can't be, the
worker watches the VM's lifeline itself. An exception that ends the engine ends the process, at
once and with a traceback in the log: the keeper starts another.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from vmwire import configuration
from vmwire.daemon import keeper, log, process, rundir
from vmwire.daemon.channel import Channel
from vmwire.daemon.control_server import Calls, ControlServer
from vmwire.daemon.job import Handles, Job, failure_data
from vmwire.daemon.made import Made
from vmwire.daemon.monitoring import monitor_of
from vmwire.daemon.store import KeptFds, WorkerStore
from vmwire.engine.host import FdStore, NotNow
from vmwire.errors import ConfigError
from vmwire.filters.dump import path_of_worker
from vmwire.monitor.journal import removed
from vmwire.monitor.table import Command, ListType, needs
from vmwire.network import Network
from vmwire.options.values import STRING

logger = logging.getLogger(__name__)

RUNNING = "running"
CRASHED = 70
"""Exit status of a worker that hit a bug (EX_SOFTWARE)."""
BRIEF_KEEPER_S = 1.0
"""A new keeper that dies this young would go on dying: no other one is tried."""


Builder = Callable[[dict[str, Any], FdStore, int], Network]
"""Config, store, number of workers before this one -> a network that isn't started yet."""


def builder(job: Job) -> Builder:
    """The function that the job names."""
    module, _, name = job.builder.partition(":")
    found: Builder = getattr(import_module(module), name)
    return found


def rehearse(config: dict[str, Any]) -> None:
    """Import what ``build_network`` takes; ConfigError for what can't be had any more."""
    for type, values in config.get("netdevs", ()):
        configuration.rehearse("netdev", type, values)
    for type, values, *attach in config.get("devices", ()):
        configuration.rehearse("device", type, {**values, **(attach[0] if attach else {})})


@contextmanager
def or_without(store: FdStore, restarts: int) -> Iterator[None]:
    """Add what only listens. A machine that has lost a worker goes on without if need be."""
    try:
        yield
    except ConfigError as error:
        if not restarts or store.on_trial:
            raise
        logger.error("lost with the last worker: %s", error)


def build_network(config: dict[str, Any], store: FdStore, restarts: int) -> Network:
    network = Network(store=store)
    try:
        configuration.build(network, config)
        left = configuration.Left(config)
        for member, path in config.get("captures", ()):
            if left.has(member):
                with or_without(store, restarts):
                    network.capture(member, path_of_worker(path, restarts))
    except BaseException:
        network.close()
        raise
    return network


def main(
    job: Job,
    handles: Handles,
    channel: Channel,
    kept: KeptFds,
    build: Builder | None = None,
) -> int:
    """Be the worker; returns the process's exit status."""
    keeper.name_process("vmwire-worker")
    process.set_standard_streams(handles.log)
    os.umask(0o077)
    log.start(job.log_level)
    worker = Worker(job, handles, channel, kept)
    try:
        worker.prepare(build or builder(job))
        worker.start()
    except (ConfigError, OSError) as error:
        worker.close()
        channel.send({"failed": failure_data(error)})
        return 1
    worker.run()
    worker.close()
    return 0


class Worker:
    """The main thread's loop, and what it watches."""

    def __init__(
        self,
        job: Job,
        handles: Handles,
        channel: Channel,
        kept: KeptFds,
        on_trial: bool = False,
    ) -> None:
        self.job = job
        self.handles = handles
        self._channel = channel
        self._keeper_pid: int | None = None  # None: the keeper is our parent, not our child
        self._keeper_born = 0.0
        self._store = WorkerStore(channel, kept, on_trial, Made(job.run_dir))
        self._network: Network | None = None
        self._control: ControlServer | None = None
        self._started = time.time()
        self._selector = selectors.DefaultSelector()
        self._ending = False
        self._calls = Calls(self._selector)
        self._quiet = False
        self._upgrade_state = ""
        # Ctrl-C reaches everybody in the terminal's foreground; there the keeper decides.
        self._signals = process.StopSignals([signal.SIGINT, signal.SIGHUP])

    def prepare(self, build: Builder) -> None:
        """Open everything; nothing moves yet."""
        threading.excepthook = _on_thread_crash  # the engine's failure comes out of its wait()
        config = {**self.job.config, "removed": removed(self.job.edits)}
        self._network = build(config, self._store, self.job.restarts)
        path = os.path.join(self.job.run_dir, rundir.CONTROL)
        monitor = monitor_of(
            self._network,
            self.job,
            lambda message: self._channel.send(dict(message)),
            self._calls.post,
            self._commands(),
            on_trial=self._store.on_trial,
        )
        self._control = ControlServer(self._selector, self._store, path, monitor)

    def start(self) -> None:
        """Make the network stand, then say so."""
        assert self._network is not None
        self._store.on_trial = False
        self._network.start()
        self._watch_network()
        self._watch(self._signals, self._end)
        self._watch(self._channel, self._on_keeper)
        self._channel.send({"ready": {"pid": os.getpid()}})
        logger.info("the network stands (worker %d)", self.job.restarts + 1)

    def _watch_network(self) -> None:
        assert self._network is not None
        threading.Thread(target=self._network.wait, name="vmwire-watch", daemon=True).start()

    def run(self) -> None:
        while not self._ending:
            for key, _ in self._selector.select():
                key.data()

    def close(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._network is not None:
            self._network.close()
        self._calls.close()

    def _watch(self, source: Any, handler: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, handler)

    def _end(self) -> None:
        self._ending = True

    # Commands of the control socket that only a daemon has

    def _commands(self) -> list[Command]:
        code = {"python": needs(STRING), "path": needs(ListType(element=STRING))}
        return [
            Command("stats", lambda monitor: self._stats(), {}, dict[str, Any]),
            Command("upgrade", lambda monitor, **code: self._upgrade(**code), code),
        ]

    def _stats(self) -> dict[str, Any]:
        assert self._network is not None
        return {
            "pid": os.getpid(),
            "started": self._started,
            "restarts": self.job.restarts,
            "upgrades": self.job.upgrades,
            "upgrade": self._upgrade_state,
            **self._network.stats(),
        }

    def _upgrade(self, python: str, path: list[str]) -> None:
        """Begin an upgrade to the code that ``path`` leads the interpreter ``python`` to.

        It is over when another process answers ``stats``, or ``upgrade`` of that says why not.
        """
        if not path:
            raise ConfigError("'path' is a list of folders, at least one")
        if self._upgrade_state == RUNNING:
            raise ConfigError("an upgrade is under way already")
        if not self._channel.send({"upgrade": {"python": python, "path": path}}):
            raise ConfigError("this network has lost its keeper")
        self._upgrade_state = RUNNING

    def _stand_still(self) -> None:
        assert self._network is not None
        try:
            self._network.hand_over()
        except (NotNow, OSError, ValueError) as error:
            self._network.go_on()
            self._watch_network()
            self._channel.send({"not now": str(error)})
            return
        self._quiet = True
        self._channel.send({"quiet": True})

    def _go_on(self, reason: str) -> None:
        assert self._network is not None
        self._upgrade_state = f"failed: {reason}"
        if self._quiet:
            self._quiet = False
            self._network.go_on()
            self._watch_network()

    # The keeper

    def _on_keeper(self) -> None:
        received = self._channel.receive()
        if received is None:
            self._go_on_without_it()
        elif "quiesce" in received[0]:
            self._stand_still()
        elif "resume" in received[0]:
            self._go_on(received[0]["resume"])

    def _go_on_without_it(self) -> None:
        if self._upgrade_state == RUNNING:
            self._go_on("the keeper was lost")
        self._selector.unregister(self._channel)
        self._channel.close()
        if self.job.foreground:
            logger.error("the process in the foreground was killed: ending")
            self._end_alone()
            return
        if self._keeper_pid is not None:
            os.waitpid(self._keeper_pid, 0)
        logger.warning("the keeper is gone")
        if time.monotonic() - self._keeper_born < BRIEF_KEEPER_S:
            self._go_on_alone("the last one did not live long enough")
            return
        try:
            self._channel, self._keeper_pid = keeper.spawn_adopter()
        except OSError as error:
            self._go_on_alone(str(error))
            return
        self._keeper_born = time.monotonic()
        keeper.send_adoption(self._channel, self.job, self.handles)
        self._store.move_to(self._channel)
        self._watch(self._channel, self._on_keeper)

    def _go_on_alone(self, reason: str) -> None:
        logger.error("going on without a keeper: %s", reason)
        if self.handles.lifeline is not None:
            self._watch(self.handles.lifeline, self._end_alone)

    def _end_alone(self) -> None:
        """End, and tidy up in the keeper's place."""
        rundir.remove(self.job.run_dir, self.job.sockets)
        self._end()


def _on_thread_crash(arguments: threading.ExceptHookArgs) -> None:
    sys.excepthook(arguments.exc_type, arguments.exc_value or Exception(), arguments.exc_traceback)
    os._exit(CRASHED)
