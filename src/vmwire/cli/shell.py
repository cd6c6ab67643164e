# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``vmwire shell [-netdev user,...] [--address A/LENGTH] [--mtu N] [-- COMMAND...]``

Runs a command (by default your shell) in a network namespace behind the user-mode network, as root
or not. The interface is addressed as DHCP would do it, and names are resolved by the network.

As in prefix mode this very process becomes the command, so its pid, terminal, job control, signals
and exit status are the command's own. Beside it, detached, are the keeper and the worker of the
network; they go when the command and all of its children are gone, however that came. Who is not
root is root inside, and nobody outside (user_namespaces(7)).

    -netdev user,...      the network, with QEMU's options (default: user,id=net0)
    --address A/LENGTH    the address (default: the network's first lease)
    --mtu N               the MTU on both sides (default: the network's)
    --capture FILE        record the traffic as pcap
    --log FILE, --log-level LEVEL
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field
from typing import Any

from vmwire import catalogue
from vmwire.attach import namespace
from vmwire.attach.namespace import Guest, Interface, parse_address
from vmwire.daemon import launch
from vmwire.errors import ConfigError
from vmwire.netdev.user.options import MAX_MTU, MIN_MTU, UserOptions
from vmwire.netdev.user.plan import dotted
from vmwire.options.table import table_of

VALUE_OPTIONS = ("netdev", "address", "mtu", "capture", "log", "log-level")
GUEST_ID = "guest"
NOT_FOUND = 127
NOT_EXECUTABLE = 126


@dataclass(slots=True)
class Arguments:
    """The command line."""

    given: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)


def main(argv: list[str]) -> int:
    """Become the command; returns only when that can't be, with the exit status."""
    if argv[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        arguments = read(argv)
        options = network_options(arguments)
        lifeline = launch_network(arguments, options)
    except ConfigError as error:
        print(f"vmwire: {error}", file=sys.stderr)
        return 1
    try:
        return become(arguments.command or [os.environ.get("SHELL") or "/bin/sh"])
    finally:
        os.close(lifeline)


# --- the command line ---------------------------------------------------------------------------


def read(argv: list[str]) -> Arguments:
    """Take the words apart; the command starts behind ``--`` or at the first word without dash."""
    arguments = Arguments()
    words = list(argv)
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word == "--":
            break
        name, has_value, value = word.lstrip("-").partition("=")
        if name not in VALUE_OPTIONS:
            raise ConfigError("invalid option (vmwire shell --help shows what there is)", word)
        if name in arguments.given:
            raise ConfigError("may be given once", word)
        if not has_value:
            if not words:
                raise ConfigError("requires an argument", word)
            value = words.pop(0)
        arguments.given[name] = value
    arguments.command = words
    if "address" in arguments.given:
        try:
            parse_address(arguments.given["address"])
        except ValueError as error:
            raise ConfigError(str(error), "--address") from None
    return arguments


def network_options(arguments: Arguments) -> UserOptions:
    """The network's options, with the MTU of the command line."""
    text = arguments.given.get("netdev", "user")
    type, _, rest = text.partition(",")
    if not any(item.startswith("id=") for item in rest.split(",")):
        text = ",".join(filter(None, [type, "id=net0", rest]))
    options = catalogue.parse("netdev", text)
    if not isinstance(options, UserOptions):
        raise ConfigError("the namespace takes a user network: -netdev user,...", f"-netdev {text}")
    if not options.ipv4_on:
        raise ConfigError("the namespace takes IPv4, which is off", f"-netdev {text}")
    if "mtu" in arguments.given:
        options.mtu = _mtu(arguments.given["mtu"])
    return options


def _mtu(text: str) -> int:
    if not (text.isascii() and text.isdigit() and MIN_MTU <= int(text) <= MAX_MTU):
        raise ConfigError(f"expects a number from {MIN_MTU} to {MAX_MTU}", f"--mtu {text}")
    return int(text)


def interface(options: UserOptions, address: str | None) -> Interface:
    """What the namespace's interface is given: what DHCP would say."""
    plan = options.plan()
    search = [*options.dnssearch]
    if options.domainname and options.domainname not in search:
        search.insert(0, options.domainname)
    return Interface(
        address=address or _lease(plan.first_lease, plan.mask),
        gateway=None if plan.restrict else dotted(plan.gateway),
        mtu=plan.mtu,
        nameservers=[] if plan.restrict else [dotted(plan.dns)],
        search=search,
    )


def _lease(address: bytes, mask: bytes) -> str:
    bits = f"{int.from_bytes(mask, 'big'):032b}".rstrip("0")
    if "0" in bits:
        raise ConfigError("a namespace's network can't have a mask with holes; --address sets one")
    return f"{dotted(address)}/{len(bits)}"


# --- becoming the command -----------------------------------------------------------------------


def launch_network(arguments: Arguments, options: UserOptions) -> int:
    """Make the namespace and start the network beside it; enter, and return the lifeline."""
    given = interface(options, arguments.given.get("address"))
    lifelines: list[int] = []
    guest = namespace.create(
        given, lambda guest: lifelines.append(_start_network(arguments, options, guest))
    )
    guest.enter()
    guest.close()
    return lifelines[0]


def _start_network(arguments: Arguments, options: UserOptions, guest: Guest) -> int:
    given = arguments.given
    capture = given.get("capture")
    config: dict[str, Any] = {
        "netdevs": [["user", _values(options)]],
        "devices": [["netns", {"id": GUEST_ID, "netdev": options.id}]],
        "captures": [[options.id, os.path.abspath(capture)]] if capture else [],
    }
    return launch.start_detached(
        config,
        log_file=given.get("log"),
        log_level=given.get("log-level", "info"),
        mode="shell",
        vm_pid=os.getpid(),
        fds={f"{GUEST_ID}.tap": guest.tap},
    )


def _values(options: UserOptions) -> dict[str, Any]:
    """The options as the config has them: texts by name, lists where they may be repeated."""
    table = table_of(UserOptions)
    written = table.to_options(options)
    return {
        key.replace("-", "_"): (
            written.get_all(key) if table.entries[key].option.repeated else written.get(key)
        )
        for key in written.keys()  # noqa: SIM118
        if key in table.entries
    }


def become(command: list[str]) -> int:
    """Execute the command; the exit status of a shell's kind if that can't be."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and that would be inherited
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"vmwire: {command[0]}: {error.strerror}", file=sys.stderr)
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
