# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Prefix mode: ``vmwire [--explain] [--keep ID] [--take ID] ... qemu-system-x86_64 ...``.

The network is started beside this process, which then becomes QEMU (`execute`): pid, terminal,
inherited descriptors and exit status are those that QEMU would have without vmwire.

What can't be had is not allowed to cost the user their VM. If the network can't be started for a
reason of this machine's (no run directory, no memory), QEMU runs with its own network and one line
on stderr says so. A reason of the user's (a port in use, a socket folder that isn't one) ends the
command, as it would have ended QEMU.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field

from vmwire.cli import capture_option
from vmwire.cli.wrap import confined
from vmwire.cli.wrap.decide import Wishes
from vmwire.cli.wrap.execute import execute
from vmwire.cli.wrap.explain import explanation, summary
from vmwire.cli.wrap.plan import Composition, Decision, Host, compose, decision
from vmwire.daemon import launch, logfile, rundir
from vmwire.errors import ConfigError

_SOCKET_NAME_MAX = 32


@dataclass(slots=True)
class Settings:
    """vmwire's own options."""

    explain: bool = False
    keep: list[str] = field(default_factory=list)
    take: list[str] = field(default_factory=list)
    resume: bool = False
    capture: list[str] = field(default_factory=list)
    log_file: str | None = None
    log_level: str = "info"
    socket_dir: str | None = None


def main(settings: Settings, command: list[str]) -> int:
    """Run ``command`` with vmwire's network. Returns only with ``--explain``."""
    if os.environ.get("VMWIRE") == "off":
        decided = Decision(command, None, fault="VMWIRE=off")
    else:
        decided = decision(command, _wishes(settings), Host())
        _check_ids(settings, decided)
    captures = _captures(settings, decided)
    if settings.explain:
        return _explain(decided, settings)
    if not decided.taken:
        return execute(_without(decided, settings))
    for warning in decided.warnings:
        print(f"vmwire: warning: {warning}", file=sys.stderr)
    return execute(_with_network(decided, settings, captures))


def _wishes(settings: Settings) -> Wishes:
    """Who is to be recorded is to be served, too."""
    recorded = [capture_option.read(text)[0] for text in settings.capture]
    return Wishes(settings.keep, [*settings.take, *recorded], settings.resume)


def _check_ids(settings: Settings, decided: Decision) -> None:
    """What the user asks for by name must be there, and be done.

    QEMU itself tells of JSON that can't be read, and answers questions (``-version``).
    """
    if decided.survey is None or decided.survey.is_question:
        return
    for option, wanted in (("--keep", settings.keep), ("--take", settings.take)):
        for name in wanted:
            _check_id(f"{option} {name}", name, option == "--take", decided)


def _check_id(typed: str, name: str, taken: bool, decided: Decision) -> None:
    found = [verdict for verdict in decided.verdicts if name in verdict.names]
    if not found:
        raise ConfigError("there is no netdev and no card of a netdev with that id", typed)
    for verdict in found:
        if taken and verdict.reason is not None:
            raise ConfigError(f"it stays with QEMU: {verdict.reason}", typed)


def _captures(settings: Settings, decided: Decision) -> list[list[str]]:
    """What is to be recorded. A netdev that stays with QEMU can't be."""
    taken = {verdict.id for verdict in decided.taken}
    found = [capture_option.read(text) for text in settings.capture]
    for (id, _), text in zip(found, settings.capture, strict=True):
        if id not in taken:
            raise ConfigError(f"vmwire does not serve a netdev '{id}'", f"--capture {text}")
    return found


def _explain(decided: Decision, settings: Settings) -> int:
    folder = settings.socket_dir or os.path.join(rundir.base_path(), str(os.getpid()))
    short = _Names()
    composed = None
    if decided.taken:
        composed = compose(
            decided,
            lambda name: os.path.join(folder, f"{short(name)}.sock"),
            lambda name: os.path.join(folder, name),
        )
    sys.stdout.write(explanation(decided, composed))
    return 0


def _without(decided: Decision, settings: Settings) -> list[str]:
    """Nothing is taken: the typed command. The reasons go to a log that the user named."""
    if settings.log_file is not None:
        _log_summary(decided, settings.log_file)
    return decided.command


def _with_network(decided: Decision, settings: Settings, captures: list[list[str]]) -> list[str]:
    """Start the network; the command to execute."""
    assert decided.survey is not None
    owner = confined.later_user(decided.survey)
    try:
        run_dir, composed = _prepared(decided, settings, owner is not None)
    except (ConfigError, OSError) as error:
        return _give_up(decided, settings, error)
    try:
        launch.start_detached(
            composed.config | {"captures": captures},
            run_dir=run_dir,
            log_file=settings.log_file,
            log_level=settings.log_level,
            vm_pid=os.getpid(),
            fds=composed.fds,
            builder="vmwire.cli.served:build",
        )
        if owner is not None:
            confined.hand_over(run_dir.owned_sockets, owner)
    except OSError as error:
        return _give_up(decided, settings, error)
    return composed.command


def _prepared(
    decided: Decision, settings: Settings, reachable: bool
) -> tuple[rundir.RunDir, Composition]:
    """The run directory with the sockets' places, and the command that names them."""
    socket_dir = settings.socket_dir
    if socket_dir is None and reachable:
        socket_dir = rundir.make_reachable_dir()
    run_dir = launch.prepare_run_dir(socket_dir)
    short = _Names()
    try:
        composed = compose(decided, lambda name: run_dir.socket_path(short(name)), run_dir.file)
        for path, content in composed.files.items():
            with open(path, "wb") as file:
                file.write(content)
        _log_summary(decided, settings.log_file or run_dir.file(rundir.LOG))
    except BaseException:
        run_dir.remove()
        raise
    return run_dir, composed


def _give_up(decided: Decision, settings: Settings, error: ConfigError | OSError) -> list[str]:
    if isinstance(error, ConfigError) and (settings.socket_dir or settings.log_file):
        raise error
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    print(f"vmwire: {reason}; QEMU's own network is used", file=sys.stderr)
    return decided.command


class _Names:
    """Sockets' names: the netdev's id, cut where it is so long that the path wouldn't fit."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, name: str) -> str:
        self._count += 1
        return name if len(name) <= _SOCKET_NAME_MAX else f"{name[:16]}-{self._count}"


def _log_summary(decided: Decision, path: str) -> None:
    fd = logfile.open_log(path)
    try:
        for level, line in summary(decided):
            logfile.write_line(fd, level, "vmwire", line)
    finally:
        os.close(fd)
