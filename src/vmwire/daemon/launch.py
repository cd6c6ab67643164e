# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Starting a network beside a VM that is about to be executed in this very process.

    run_dir = prepare_run_dir()
    socket = run_dir.socket_path("net0")            # for the VM's command line and the config
    lifeline = start_detached(config, run_dir=run_dir)
    os.execvp(...)                                  # the VM inherits the lifeline

Imports nothing of the stack: what is imported here delays the VM's start and stays in the keeper.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import sys
import time
from collections.abc import Mapping
from typing import Any

from vmwire.daemon import keeper, logfile, process, rundir
from vmwire.daemon.channel import Message
from vmwire.daemon.job import Handles, Job, failure_error
from vmwire.daemon.rundir import RunDir
from vmwire.daemon.store import KeptFds

START_TIMEOUT_S = 20.0
LIFELINE_FD = 100
"""The lifeline gets a number from here on: shell scripts between us and the VM use low ones."""


def prepare_run_dir(socket_dir: str | None = None, name: str | None = None) -> RunDir:
    """The private directory of a network to come; ``socket_path`` of it gives the sockets' paths.

    Belongs to the network as soon as that is started; until then, ``remove`` it when giving up.
    """
    return rundir.create(name, socket_dir)


def start_detached(
    config: dict[str, Any],
    *,
    run_dir: RunDir | None = None,
    socket_dir: str | None = None,
    log_file: str | None = None,
    log_level: str = "info",
    mode: str = "prefix",
    vm_pid: int | None = None,
    fds: Mapping[str, int] | None = None,
    builder: str | None = None,
) -> int:
    """Start the network of ``config``, detached, and wait until its sockets stand.

    Returns the *lifeline*: a descriptor to be inherited by the VM, and by nothing that may outlive
    it. The network ends when its last copy is closed. With ``vm_pid`` (the pid that the VM will
    have, usually our own) it also waits for the end of that process: for VMs behind a command that
    closes descriptors it doesn't know.

    ``fds`` go into the fd store under their names; they stay open here. ``builder`` says who makes
    the network of the config (`job.Job`).

    Raises `ConfigError` or ``OSError`` if the network can't be had; nothing of it is left then,
    the run directory included.
    """
    run_dir = run_dir or prepare_run_dir(socket_dir)
    try:
        job = Job(config, run_dir.path, run_dir.owned_sockets, log_level)
        job.builder = builder or job.builder
        return _start(job, run_dir, log_file, mode, vm_pid, fds or {})
    except BaseException:
        run_dir.remove()
        raise
    finally:
        os.close(run_dir.lock_fd)


def _start(
    job: Job,
    run_dir: RunDir,
    log_file: str | None,
    mode: str,
    vm_pid: int | None,
    fds: Mapping[str, int],
) -> int:
    logfile.check_level(job.log_level)
    log_path = os.path.abspath(log_file) if log_file else run_dir.file(rundir.LOG)
    log = logfile.open_log(log_path)
    opened = [log]
    try:
        lifeline, vm_end = os.pipe()
        describe(run_dir, mode, log_path, lifeline=os.fstat(lifeline).st_ino)
        opened += [lifeline]
        report, report_end = os.pipe()
        opened += [report, report_end]
        vm = os.pidfd_open(vm_pid) if vm_pid is not None else None
        opened += [vm] if vm is not None else []
        handles = Handles(log, run_dir.lock_fd, lifeline, vm)
        process.detach(lambda: _keeper_main(job, handles, fds, report_end))
        os.close(opened.pop(opened.index(report_end)))
        try:
            _await_report(report)
        except BaseException:
            os.close(vm_end)
            raise
    finally:
        for fd in opened:
            os.close(fd)
    return _for_the_vm(vm_end)


def describe(run_dir: RunDir, mode: str, log: str | None, lifeline: int | None = None) -> None:
    """Leave behind what `vmwire list` tells about an instance that it can't ask."""
    run_dir.describe(
        {
            "mode": mode,
            "pid": os.getpid(),
            "command": sys.argv,
            "started": time.time(),
            "lifeline": lifeline,
            "log": log,
        }
    )


def _for_the_vm(fd: int) -> int:
    """Inheritable, and out of the way of scripts' own redirections."""
    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD, LIFELINE_FD)
    except OSError:  # few descriptors are allowed here: a low one will do
        os.set_inheritable(fd, True)
        return fd
    os.close(fd)
    return high


def _await_report(report: int) -> None:
    """Read the keeper's one line."""
    line = b""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not line.endswith(b"\n"):
        wait = deadline - time.monotonic()
        if wait <= 0 or not select.select([report], [], [], wait)[0]:
            raise TimeoutError(f"the network did not start within {START_TIMEOUT_S:.0f} s")
        data = os.read(report, 65536)
        if not data:
            raise OSError("the network ended at its start")
        line += data
    message = json.loads(line)
    if "failed" in message:
        raise failure_error(message["failed"])


def _keeper_main(job: Job, handles: Handles, fds: Mapping[str, int], report: int) -> int:
    """The detached process: let go of everything that is the VM's, then keep."""
    keeper.name_process("vmwire-keeper")
    process.reset_signals()
    process.close_all_but([*handles.fds(), *fds.values(), report])
    process.set_standard_streams(handles.log)
    os.umask(0o077)
    os.chdir("/")
    kept = KeptFds()
    for name, fd in fds.items():
        kept.put(name, fd)

    def on_report(message: Message) -> None:
        with contextlib.suppress(BrokenPipeError):  # killed meanwhile: the lifeline tells us
            os.write(report, json.dumps(message).encode() + b"\n")
        os.close(report)

    return keeper.Keeper(job, handles, kept, on_report).run()
