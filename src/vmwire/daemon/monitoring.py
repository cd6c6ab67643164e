# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The worker's monitor: what the control socket's commands mean in a daemon.

Cards that are added get a socket in the run directory, unless they name one. What was changed is
noted for the next worker, which does it again (`vmwire.monitor.journal`); the keeper keeps that.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vmwire.daemon import rundir
from vmwire.daemon.job import Job
from vmwire.errors import ConfigError
from vmwire.monitor.journal import Journal, replay
from vmwire.monitor.monitor import Monitor
from vmwire.monitor.table import Command
from vmwire.network import Network

Tell = Callable[[Mapping[str, Any]], object]
"""Sends the keeper a message."""


def monitor_of(
    network: Network,
    job: Job,
    tell: Tell,
    post: Callable[[Callable[[], None]], None],
    commands: Iterable[Command],
    *,
    on_trial: bool,
) -> Monitor:
    """Bring ``network`` to where the last worker's was, and make its monitor.

    ``quit`` is for a network that a person serves; one that a VM has ends with the VM.
    """
    replay(network, job.edits, strict=on_trial, restarts=job.restarts)

    def keep(edits: list[Any]) -> None:
        job.edits = edits
        tell({"edits": edits, "sockets": job.sockets})

    def end() -> None:
        monitor.tell("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
        tell({"quit": True})

    monitor = Monitor(
        network,
        end=end if job.foreground else None,
        extra={each.name: each for each in commands},
        post=post,
        complete=lambda options: completed(network, job, options),
        journal=Journal(job.edits, keep, job.restarts),
    )
    return monitor


def completed(network: Network, job: Job, options: Any) -> Any:
    """What a client wants added, as this process can have it."""
    if getattr(options, "fd", None) is not None:
        raise ConfigError("'fd' can't be passed to a network in a process of its own")
    for key in ("file", "path"):
        path = getattr(options, key, None)
        if path is not None and not getattr(options, "abstract", False):
            _check_absolute(key, path)
    return with_socket(network, job, options)


def _check_absolute(key: str, path: str) -> None:
    if not os.path.isabs(path):
        raise ConfigError(f"'{key}' expects a path from the root: this process is in no folder")


def with_socket(network: Network, job: Job, options: Any) -> Any:
    """A card with the id and the socket that it is reached at."""
    if not hasattr(options, "socket"):
        return options
    id = options.id or _free_id(network)
    path = os.path.abspath(options.socket or os.path.join(job.run_dir, f"{id}.sock"))
    rundir.check_socket_path(path)
    if os.path.lexists(path):
        raise ConfigError(f"The socket '{path}' exists already: is its network running?")
    if path not in job.sockets:
        job.sockets.append(path)
    return dataclasses.replace(options, id=id, socket=path)


def _free_id(network: Network) -> str:
    numbers = range(len(network.devices) + 1)
    return next(id for n in numbers if (id := f"nic{n}") not in network.devices)
