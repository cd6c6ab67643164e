# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""An upgrade, the successor's half: a fresh process becomes the worker (see `succession`).

It imports everything first, while the network still runs. Then it is given the store, opens the
network on trial, and waits to be started. If it fails it just ends: whatever it has opened is the
old worker's, too, and must not be given back.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from importlib import import_module
from typing import Any, NoReturn

from vmwire.daemon import keeper, log, process, worker
from vmwire.daemon.channel import Channel
from vmwire.daemon.job import Handles, Job, failure_data
from vmwire.daemon.store import KeptFds
from vmwire.daemon.succession import VERSION
from vmwire.daemon.worker import Worker
from vmwire.errors import ConfigError

DYING_S = 0.5
"""How long a worker that was killed may take to be dead."""


def main(fd: int) -> int:
    """The new process's main; returns only as a worker that has ended."""
    channel = Channel.adopt(fd)
    try:
        successor = _open(channel)
    except BaseException as error:  # the last frame of this process: say why, and end as it is
        _say(channel, error)
        sys.excepthook(*sys.exc_info())
        _end()
    successor.start()
    successor.run()
    successor.close()
    return 0


def _say(channel: Channel, error: BaseException) -> None:
    if isinstance(error, ConfigError | OSError):
        told = failure_data(error)
    else:
        told = failure_data(ConfigError(f"{type(error).__name__}: {error}"))
    with contextlib.suppress(OSError):
        channel.send({"failed": told})


def _end() -> NoReturn:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(1)


def _open(channel: Channel) -> Worker:
    """Everything up to the moment at which it is started."""
    job, handles = _receive_job(channel)
    keeper.name_process("vmwire-worker")
    process.set_standard_streams(handles.log)
    os.umask(0o077)
    log.start(job.log_level)
    build = worker.builder(job)
    _rehearse(job)
    channel.send({"prepared": True})
    job, kept, old = _receive_store(channel)
    job.upgrades += 1
    successor = Worker(job, handles, channel, kept, on_trial=True)
    successor.prepare(build)
    channel.send({"opened": True})
    _await_start(channel, old)
    return successor


def _receive(channel: Channel) -> tuple[dict[str, Any], list[int]]:
    received = channel.receive()
    if received is None:
        _end()
    return received


def _receive_job(channel: Channel) -> tuple[Job, Handles]:
    message, fds = _receive(channel)
    if message.get("version") != VERSION:
        raise ConfigError(f"version {message.get('version')} of handing over is not known here")
    named = dict(zip(message["handles"], fds, strict=True))
    return Job.from_data(message["job"]), Handles(**named)


def _rehearse(job: Job) -> None:
    """Import what the job takes, so that it doesn't have to be done while the network waits."""
    module = import_module(job.builder.partition(":")[0])
    module.rehearse(job.config)


def _receive_store(channel: Channel) -> tuple[Job, KeptFds, int]:
    """The job as it is by now, what the worker has put down, and the worker's pidfd."""
    kept = KeptFds()
    while True:
        message, fds = _receive(channel)
        if "open" in message:
            return Job.from_data(message["open"]), kept, fds[0]
        kept.put(message["keep"], fds[0])


def _await_start(channel: Channel, old: int) -> None:
    """Wait for the keeper's word. Without a keeper somebody has to serve on, but only one."""
    received = channel.receive()
    if received is None and not select.select([old], [], [], DYING_S)[0]:
        _end()
    os.close(old)
