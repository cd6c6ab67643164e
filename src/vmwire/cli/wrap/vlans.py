# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``-net`` in a command line, and the network that QEMU has where nothing is said of networks.

A command is decided on with its VLANs in today's words (`vmwire.options.old_spellings`), for which
everything else here is made. A VLAN is taken as a whole or stays as it was typed: who of it has to
stay is known only after the decision, so that is made again without those VLANs (`staying`).

What comes of a ``-net nic`` is a ``-net nic`` still, with a ``netdev=``. A card that QEMU keeps
stays in its place among QEMU's cards by that, with its address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from vmwire.cli.wrap import values
from vmwire.cli.wrap.cmdline import CommandLine, Option
from vmwire.cli.wrap.decide import Verdict
from vmwire.cli.wrap.survey import Entry, Survey
from vmwire.errors import ConfigError
from vmwire.options.old_spellings import DEFAULT, Member, Vlan, hub_numbers, ids_of, read_vlans
from vmwire.options.syntax import OptionList
from vmwire.options.values import parse_int

USUAL = " (QEMU's usual network)"
ON_ITS_HUB = " on its hub stays ("
_SAID = ("net", "netdev", "nic", "nodefaults")


def modernised(line: CommandLine, left: Mapping[int, str]) -> CommandLine:
    """The line with all VLANs in today's words but those that are ``left`` to QEMU."""
    line = _with_default(line, left)
    changes: dict[int, list[Option]] = {}
    for vlan in _vlans(line):
        if vlan.number not in left and _why_not(line, vlan) is None:
            changes |= _in_todays_words(line, vlan)
    options = [new for index, old in enumerate(line.options) for new in changes.get(index, [old])]
    return CommandLine(options, line.fault)


def staying(verdicts: Iterable[Verdict]) -> dict[int, str]:
    """VLANs of which something stays, and why."""
    found: dict[int, str] = {}
    for verdict in verdicts:
        vlan = verdict.entry.option.vlan
        if vlan is None or verdict.reason is None:
            continue
        if vlan not in found or ON_ITS_HUB in found[vlan]:
            found[vlan] = verdict.reason
    return found


def left_to_qemu(line: CommandLine, left: Mapping[int, str]) -> Iterator[Verdict]:
    """What is said of the back ends that stay (or of the cards where there is none)."""
    line = _with_default(line, {})
    for vlan in _vlans(line):
        reason = left.get(vlan.number) or _why_not(line, vlan)
        if reason is not None:
            for member in vlan.backends or vlan.nics:
                yield Verdict(_entry(line, member), member.id, reason=reason)


def warnings(line: CommandLine, left: Mapping[int, str]) -> Iterator[str]:
    """What QEMU would say of the VLANs that are taken."""
    joined = hub_numbers(_netdevs(line))
    for vlan in _vlans(line):
        if vlan.number not in left and _why_not(line, vlan) is None:
            yield from vlan.warnings(vlan.number in joined)


def numbers_left(survey: Survey) -> set[int]:
    """The hubs on which QEMU puts something by ``-net``."""
    alone = [entry for entry in survey.named("net") if entry.type != "none"]
    found = set()
    for entry in alone:
        if entry.get("netdev") is None or entry.type != "nic":
            try:
                found.add(parse_int(entry.get("vlan") or "0"))
            except ValueError:
                continue  # QEMU refuses it
    return found


def _with_default(line: CommandLine, left: Mapping[int, str]) -> CommandLine:
    """The line, and what QEMU adds to it by itself unless that is left to it."""
    if line.has(*_SAID) or line.fault or 0 in left:
        return line
    added = [Option("net", ("-net", each), typed=f"-net {each}{USUAL}") for each in DEFAULT]
    return CommandLine([*line.options, *added])


def _vlans(line: CommandLine) -> list[Vlan]:
    """All VLANs; none if QEMU will refuse one of the options."""
    nets = [(index, option.argument) for index, option in line.named("net")]
    try:
        return read_vlans(nets, ids_of(_netdevs(line)))
    except ConfigError:
        return []


def _netdevs(line: CommandLine) -> list[str]:
    return [option.argument for _, option in line.named("netdev", "nic")]


def _why_not(line: CommandLine, vlan: Vlan) -> str | None:
    """Why a VLAN isn't put into today's words at all.

    One that leads nowhere is nothing to serve, unless its words are too old for most QEMUs.
    """
    if not vlan.backends and not _is_old(line, vlan):
        return "nothing of the host's is on its VLAN"
    if not vlan.nics and not _is_old(line, vlan):
        return "no card is on its VLAN"
    if any(line.options[member.place].fixed for member in vlan.members):
        return "the program itself sets a part of its VLAN"
    changes = (option for _, option in line.named("set") if option.argument.startswith("net."))
    return next((f"{option} changes a part of a VLAN" for option in changes), None)


def _is_old(line: CommandLine, vlan: Vlan) -> bool:
    """Whether QEMU hasn't known such words for long."""
    several = [line.options[member.place].options() for member in vlan.members]
    return any(
        "vlan" in options or "name" in options or options.get("type") == "dump"
        for options in several
    )


def _in_todays_words(line: CommandLine, vlan: Vlan) -> dict[int, list[Option]]:
    modern = vlan.modern(vlan.number in hub_numbers(_netdevs(line)))
    found: dict[int, list[Option]] = {}
    for place, several in modern.items():
        old = line.options[place]
        typed = old.typed or f"-net {old.argument}"
        found[place] = [
            replace(old, name=name, words=(f"-{name}", text), typed=typed, vlan=vlan.number)
            for name, text in several
        ]
    return {place: [_without_name(each) for each in several] for place, several in found.items()}


def _without_name(option: Option) -> Option:
    """QEMU has no ``name=`` for a card any more."""
    if option.name != "net":
        return option
    options = option.options()
    assert isinstance(options, OptionList)
    options.remove("name")
    return replace(option, words=(option.words[0], str(options)))


def _entry(line: CommandLine, member: Member) -> Entry:
    option = line.options[member.place]
    return Entry(member.place, option, values.plain(option.options()))
