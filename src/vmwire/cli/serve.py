# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Serve mode: ``vmwire -netdev user,id=u -device virtio-net-pci,netdev=u``, without a VM.

The command is the keeper of its network (see `vmwire.daemon.keeper`), in the foreground: it prints
how to reach each card, and ends with SIGTERM, SIGINT or SIGHUP, all of which are clean ends (exit
status 0). A network that can't be had is one line on standard error and exit status 1.

    -netdev help, -netdev TYPE,help, -device help, -device TYPE,help, -net nic,model=help
    -net nic|TYPE|dump[,vlan=N][,...], -nic TYPE[,model=CARD][,mac=MAC][,...]    QEMU's older words
    -object filter-TYPE,id=F,netdev=ID,...      QEMU's filters (docs/filters.md)
    -chardev socket,id=C,...                    connections that filters use
    --capture ID=FILE     record what passes at a netdev or card, as pcap
    --socket-dir DIR      put the sockets there (the user's umask says who may connect)
    --pidfile FILE        write our pid when the network stands; removed at the end
    --log FILE            where the log goes (default: standard error)
    --log-level LEVEL     error, warning, info or debug (default: info; for the terminal, warning)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vmwire import catalogue
from vmwire.cli import capture_option, recipes
from vmwire.cli.claims import claimed_text
from vmwire.cli.recipes import Card
from vmwire.daemon import keeper, launch, logfile
from vmwire.daemon.channel import Message
from vmwire.daemon.job import Handles, Job, failure_error
from vmwire.daemon.notify import PidFile, sd_notify
from vmwire.daemon.rundir import RunDir
from vmwire.daemon.store import KeptFds
from vmwire.errors import ConfigError
from vmwire.options.old_spellings import Asked, Modern, modern
from vmwire.options.syntax import parse
from vmwire.options.table import KINDS, naming, table_of

DEFAULT_MAC = bytes.fromhex("525400123456")
"""QEMU's for its first card; each further one counts up, so that VMs on one network differ."""
DEFAULT_MODEL = "virtio-net-pci"
"""The card of a ``-net nic`` or ``-nic`` that doesn't say which: any machine has this one."""
REPEATED = ("net", "nic", "netdev", "device", "object", "chardev", "capture")
VALUE_OPTIONS = (*REPEATED, "socket-dir", "pidfile", "log", "log-level")


@dataclass(slots=True)
class Arguments:
    """The command line, in order."""

    net: list[str] = field(default_factory=list)
    nic: list[str] = field(default_factory=list)
    netdev: list[str] = field(default_factory=list)
    device: list[str] = field(default_factory=list)
    object: list[str] = field(default_factory=list)
    chardev: list[str] = field(default_factory=list)
    capture: list[str] = field(default_factory=list)
    single: dict[str, str] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)
    """Members that are joined with each other."""


def main(argv: list[str]) -> int:
    """Serve what ``argv`` (without the command's name) asks for; returns the exit status."""
    return run(argv, read)


def run(argv: list[str], read: Callable[[list[str]], Arguments]) -> int:
    """Serve what ``read`` finds in ``argv``; complain in one line if that can't be."""
    try:
        arguments = read(argv)
        shown = help_wanted(arguments)
        if shown is None:
            return serve(arguments)
    except ConfigError as error:
        complain(str(error))
        return 1
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))
        return 1
    print(shown)
    return 0


def complain(text: str) -> None:
    print(f"vmwire: {text}", file=sys.stderr)


# --- the command line ---------------------------------------------------------------------------


def read(argv: list[str]) -> Arguments:
    """Take the words apart; one dash or two, as QEMU has it, and ``--option=value`` too."""
    arguments = Arguments()
    words = iter(argv)
    for word in words:
        name, has_value, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or name not in VALUE_OPTIONS:
            raise ConfigError("invalid option (vmwire --help shows what there is)", word)
        if not has_value:
            value = next(words, "")
            if not value:
                raise ConfigError("requires an argument", word)
        if name in REPEATED:
            getattr(arguments, name).append(value)
        elif name in arguments.single:
            raise ConfigError("may be given once", f"--{name}")
        else:
            arguments.single[name] = value
    return arguments


def help_wanted(arguments: Arguments) -> str | None:
    """What to print if some option asks for help."""
    kinds = ("net", "nic", "device", "netdev", "object", "chardev")
    return catalogue.help_wanted(
        (kind, text) for kind in kinds for text in getattr(arguments, kind)
    )


# --- the network --------------------------------------------------------------------------------


@dataclass(slots=True)
class Plan:
    """What is to be served."""

    config: dict[str, Any]
    """The worker's (`vmwire.cli.served`)."""
    cards: list[Card]
    """As they are printed."""
    fds: dict[str, int]
    """Descriptors that the caller opened, by their names in the fd store."""


def plan(arguments: Arguments, run_dir: RunDir) -> Plan:
    """Decide everything that a worker needs to know."""
    fds: dict[str, int] = {}
    old = in_todays_words(arguments)
    netdevs = [claim("netdev", each, fds) for each in _asked("netdev", arguments, old.netdevs)]
    chardevs = [claim("chardev", each, fds) for each in _asked("chardev", arguments)]
    filters = [claim("object", each, fds) for each in _asked("object", arguments, old.objects)]
    cards, devices = [], []
    for number, each in enumerate([*old.devices, *_asked("device", arguments)]):
        asked = _parsed("device", each)
        id = asked.id or f"nic{number}"
        with naming(each.typed):
            path = (
                run_dir.claim_socket(os.path.abspath(asked.socket))
                if asked.socket
                else run_dir.socket_path(id)
            )
        mac = asked.mac or DEFAULT_MAC[:5] + bytes([DEFAULT_MAC[5] + number & 0xFF])
        card = replace(asked, id=id, mac=mac, socket=path)
        devices.append([_noted("device", each), table_of(type(card)).to_text(card)])
        cards.append(Card(id, path, asked.netdev or "", replace(card, id=asked.id)))
    captures = [capture_option.read(text) for text in arguments.capture]
    for warning in old.warnings:
        complain(f"warning: {warning}")
    config = {
        "netdevs": netdevs,
        "devices": devices,
        "chardevs": chardevs,
        "filters": filters,
        "links": arguments.links,
        "captures": captures,
    }
    return Plan(config, cards, fds)


def in_todays_words(arguments: Arguments) -> Modern:
    """What ``-net`` and ``-nic`` ask for."""
    old = arguments.net, arguments.nic
    return modern(*old, arguments.netdev, DEFAULT_MODEL, catalogue.nic_models())


def _asked(kind: str, arguments: Arguments, before: Sequence[Asked] = ()) -> list[Asked]:
    """All options of a kind, as they were typed."""
    return [*before, *(Asked(text, f"-{kind} {text}") for text in getattr(arguments, kind))]


def _parsed(kind: str, asked: Asked) -> Any:
    with naming(asked.typed):
        return catalogue.record_of(kind, parse(asked.text, KINDS[kind].selector))


def claim(kind: str, asked: Asked, fds: dict[str, int]) -> list[str]:
    """An option, as it was typed and for a process of its own; descriptors that go there with it
    join ``fds``."""
    record = _parsed(kind, asked)
    with naming(asked.typed):
        there, given = claimed_text(record)
    fds.update(given)
    return [_noted(kind, asked), there]


def _noted(kind: str, asked: Asked) -> str:
    """How it was typed, as the worker's configuration has it: a different option with its name."""
    return asked.typed.removeprefix(f"-{kind} ")


def serve(arguments: Arguments) -> int:
    """Run until told to end."""
    if not any((arguments.netdev, arguments.device, arguments.net, arguments.nic)):
        raise ConfigError("nothing to serve: there is no -netdev and no -device")
    given = arguments.single
    log_path = given.get("log")
    level = logfile.check_level(given.get("log-level", "info" if log_path else "warning"))
    log = logfile.open_log(log_path) if log_path else os.dup(2)
    pid_file = PidFile(given["pidfile"]) if "pidfile" in given else None
    try:
        run_dir = launch.prepare_run_dir(given.get("socket-dir"))
        try:
            if pid_file is not None:
                pid_file.write_down(run_dir.path)
            planned = plan(arguments, run_dir)
            launch.describe(run_dir, "serve", os.path.abspath(log_path) if log_path else None)
            job = Job(
                planned.config,
                run_dir.path,
                run_dir.owned_sockets,
                level,
                foreground=True,
                builder="vmwire.cli.served:build",
            )
            handles = Handles(log, run_dir.lock_fd)
            return _keep(job, handles, planned, pid_file, "socket-dir" in given)
        finally:
            run_dir.remove()
            os.close(run_dir.lock_fd)
    finally:
        if pid_file is not None:
            pid_file.remove()
        os.close(log)


def _keep(job: Job, handles: Handles, planned: Plan, pid_file: PidFile | None, shared: bool) -> int:
    kept = KeptFds()
    for name, fd in planned.fds.items():
        kept.put(name, fd)

    def on_report(message: Message) -> None:
        if "failed" in message:
            raise failure_error(message["failed"])
        if shared:
            open_to_others([card.socket for card in planned.cards])
        if pid_file is not None:
            pid_file.write()
        announce(planned.cards)
        sd_notify("READY=1")

    return keeper.Keeper(job, handles, kept, on_report, pid_file=pid_file).run()


def open_to_others(sockets: list[str]) -> None:
    """Sockets in a folder of the user's have the mode that the user's other new files have."""
    umask = os.umask(0)
    os.umask(umask)
    for path in sockets:
        os.chmod(path, 0o777 & ~umask)


def announce(cards: list[Card]) -> None:
    """Print how to reach the cards; a reader who left misses something, the network does not."""
    reachable = [card for card in cards if os.path.exists(card.socket)]
    try:
        if reachable:
            print(recipes.text(reachable))
        print("The network stands. Ctrl-C ends it.", flush=True)
    except BrokenPipeError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
