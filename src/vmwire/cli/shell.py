# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``vmwire shell [-netdev TYPE,...] [--address A/LENGTH] [--mtu N] [-- COMMAND...]``

Runs a command (by default your shell) in a network namespace behind the user-mode network or any
other, as root or not. Behind a user network the interface is addressed as DHCP would do it, and
names are resolved by the network; elsewhere it has the address that is given, or none.

As in prefix mode this very process becomes the command, so its pid, terminal, job control, signals
and exit status are the command's own. Beside it, detached, are the keeper and the worker of the
network; they go when the command and all of its children are gone, however that came. Who is not
root is root inside, and nobody outside (user_namespaces(7)).

    -netdev TYPE,...      a network, with QEMU's options (default: user,id=net0); several are
                          eth0, eth1 and so on, but for those that a hubport joins
    -net TYPE[,vlan=N],...  QEMU's older word: all of one VLAN are behind one interface
    -chardev socket,...   a connection for a netdev that needs one (vhost-user)
    --address A/LENGTH    the address (default: a user network's first lease); once for each network
    --mtu N               the MTU on both sides (default: the network's)
    --capture FILE        record the traffic as pcap
    --log FILE, --log-level LEVEL
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field, replace
from typing import Any

from vmwire import catalogue
from vmwire.attach import namespace
from vmwire.attach.namespace import Guest, Interface, parse_address
from vmwire.cli.claims import claimed
from vmwire.daemon import launch
from vmwire.errors import ConfigError
from vmwire.netdev.hubport import HubportOptions
from vmwire.netdev.user.options import MAX_MTU, MIN_MTU, UserOptions
from vmwire.netdev.user.plan import dotted
from vmwire.options.old_spellings import (
    Asked,
    Member,
    NicOptions,
    hub_numbers,
    ids_of,
    read_vlans,
)
from vmwire.options.syntax import nest, parse
from vmwire.options.table import KINDS, naming, table_of

VALUE_OPTIONS = ("net", "netdev", "chardev", "address", "mtu", "capture", "log", "log-level")
GUEST_ID = "guest"
NOT_FOUND = 127
NOT_EXECUTABLE = 126


@dataclass(slots=True)
class Arguments:
    """The command line."""

    given: dict[str, str] = field(default_factory=dict)
    netdevs: list[str] = field(default_factory=list)
    nets: list[str] = field(default_factory=list)
    chardevs: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Network:
    """What is to stand beside the command."""

    netdevs: list[list[Any]]
    """As the worker's config has them: type and values."""
    chardevs: list[list[Any]]
    """The same of chardevs."""
    fds: dict[str, int]
    """Descriptors that the caller opened, by their names in the fd store."""
    interfaces: list[tuple[str, Interface]]
    """Netdevs by id, and what the interface behind each is given."""


def main(argv: list[str]) -> int:
    """Become the command; returns only when that can't be, with the exit status."""
    if argv[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        arguments = read(argv)
        lifeline = launch_network(arguments, plan(arguments))
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
        if not has_value:
            if not words:
                raise ConfigError("requires an argument", word)
            value = words.pop(0)
        if name == "netdev":
            arguments.netdevs.append(value)
        elif name == "net":
            arguments.nets.append(value)
        elif name == "chardev":
            arguments.chardevs.append(value)
        elif name == "address":
            arguments.addresses.append(_address(value))
        elif name in arguments.given:
            raise ConfigError("may be given once", word)
        else:
            arguments.given[name] = value
    arguments.command = words
    return arguments


def _address(text: str) -> str:
    try:
        return parse_address(text)
    except ValueError as error:
        raise ConfigError(str(error), "--address") from None


def plan(arguments: Arguments) -> Network:
    """Judge the netdevs, and decide which interface is behind which."""
    mtu = _mtu(arguments.given["mtu"]) if "mtu" in arguments.given else None
    network = Network([], [], {}, [])
    for text in arguments.chardevs:
        _take(catalogue.parse("chardev", text), network, network.chardevs)
    old = behind_interfaces(arguments.nets, arguments.netdevs)
    texts = arguments.netdevs or ([] if arguments.nets else ["user"])
    asked = [_parse(text, number) for number, text in enumerate(texts)]
    asked += [_record(each.text, each.typed) for each in old]
    joined = {each.netdev for each in asked if isinstance(each, HubportOptions)}
    addresses = iter(arguments.addresses)
    for options in asked:
        if isinstance(options, UserOptions) and mtu is not None:
            options.mtu = mtu
        there = _take(options, network, network.netdevs)
        if options.id not in joined and getattr(options, "netdev", None) is None:
            name = f"eth{len(network.interfaces)}"
            given = _interface(there, name, next(addresses, None), mtu)
            network.interfaces.append((options.id, given))
    if next(addresses, None) is not None:
        raise ConfigError("more addresses than interfaces", "--address")
    if not network.interfaces:
        raise ConfigError("no netdev is left for the namespace: give it a hubport of its own")
    return network


def _take(options: Any, network: Network, members: list[list[Any]]) -> Any:
    """Add options to ``members`` as they read in the network's process, and return those."""
    there, fds = claimed(options)
    network.fds |= fds
    members.append([table_of(type(there)).name, _values(there)])
    return there


def behind_interfaces(nets: list[str], netdevs: list[str]) -> list[Asked]:
    """``-net`` in today's words: an interface of the namespace's is what a card is elsewhere."""
    found: list[Asked] = []
    for vlan in read_vlans(list(enumerate(nets)), ids_of(netdevs)):
        for member in vlan.members:
            if not member.is_backend:
                words = "a namespace has an interface on each VLAN, no cards, and --capture FILE"
                raise ConfigError(words, f"-net {member.text}")
        vlan.members.append(Member(len(nets), "nic", "", vlan.number, nic=NicOptions()))
        for place, several in vlan.modern(vlan.number in hub_numbers(netdevs)).items():
            typed = f"-net {[*nets, 'nic'][place]}"
            found += [Asked(text, typed) for name, text in several if name == "netdev"]
    return found


def _parse(text: str, number: int) -> Any:
    """A netdev's options; who gives no id gets one."""
    type, _, rest = text.partition(",")
    if not text.startswith("{") and not any(item.startswith("id=") for item in rest.split(",")):
        text = ",".join(filter(None, [type, f"id=net{number}", rest]))
    return _record(text, f"-netdev {text}")


def _record(text: str, typed: str) -> Any:
    with naming(typed):
        options = catalogue.record_of("netdev", parse(text, KINDS["netdev"].selector))
        if isinstance(options, UserOptions) and not options.ipv4_on:
            raise ConfigError("the namespace takes IPv4, which is off")
    return options


def _interface(options: Any, name: str, address: str | None, mtu: int | None) -> Interface:
    if isinstance(options, UserOptions):
        return replace(interface(options, address), name=name)
    return Interface(name=name, address=address, mtu=mtu)


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


def launch_network(arguments: Arguments, network: Network) -> int:
    """Make the namespace and start the network beside it; enter, and return the lifeline."""
    first, *further = [given for _, given in network.interfaces]
    lifelines: list[int] = []
    guest = namespace.create(
        first,
        lambda guest: lifelines.append(_start_network(arguments, network, guest)),
        further,
    )
    guest.enter()
    guest.close()
    return lifelines[0]


def _start_network(arguments: Arguments, network: Network, guest: Guest) -> int:
    given = arguments.given
    capture = given.get("capture")
    first = network.interfaces[0][0]
    cards = [f"{GUEST_ID}{number or ''}" for number in range(len(network.interfaces))]
    behind = zip(cards, network.interfaces, strict=True)
    taps = zip(cards, [guest.tap, *guest.further], strict=True)
    config: dict[str, Any] = {
        "chardevs": network.chardevs,
        "netdevs": network.netdevs,
        "devices": [["netns", {"id": card, "netdev": id}] for card, (id, _) in behind],
        "captures": [[first, os.path.abspath(capture)]] if capture else [],
    }
    return launch.start_detached(
        config,
        log_file=given.get("log"),
        log_level=given.get("log-level", "info"),
        mode="shell",
        vm_pid=os.getpid(),
        fds={**network.fds, **{f"{card}.tap": tap for card, tap in taps}},
    )


def _values(options: Any) -> dict[str, Any]:
    """The options as the config has them: texts by name, lists where they may be repeated."""
    table = table_of(type(options))
    written = table.to_options(options)
    if table.nested:
        members = nest(written)
        return {key.replace("-", "_"): value for key, value in members.items() if key != "type"}
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
