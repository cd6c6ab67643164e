# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``vmwire --explain``: what is taken, what stays and why, what is lost, and the exact command."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from vmwire.catalogue import MODULES, NICS_OF_LATER
from vmwire.cli.wrap.decide import Verdict
from vmwire.cli.wrap.plan import NO_VFIO_USER, Composition, Decision
from vmwire.cli.wrap.survey import Survey
from vmwire.cli.wrap.values import text
from vmwire.cli.wrap.vlans import USUAL
from vmwire.nic.declared import ALIASES

NETWORK_CARDS = frozenset((*MODULES["device"], *ALIASES, *NICS_OF_LATER))


def explanation(decided: Decision, composed: Composition | None) -> str:
    """The whole text; without a composition, the command is executed as it was typed."""
    parts = ["\n".join(_verdict_lines(decided))]
    if composed is not None:
        parts.append("\n".join(["What changes besides:", *_bullets(changes(decided))]))
        parts.append("\n".join(["What is lost:", *_bullets(losses(decided))]))
    command = composed.command if composed else decided.command
    title = "The command:" if composed else "The command, unchanged:"
    parts.append(f"{title}\n{shlex.join(command)}")
    return "\n\n".join(parts) + "\n"


def summary(decided: Decision) -> list[tuple[str, str]]:
    """Level and one line a netdev, for the log; what a newer QEMU would have is a warning."""
    return [
        (
            "warning" if verdict.reason == NO_VFIO_USER else "info",
            f"{_name(verdict)}: {_outcome(verdict)}",
        )
        for verdict in decided.verdicts
    ]


def _verdict_lines(decided: Decision) -> Iterator[str]:
    if decided.fault:
        yield f"Nothing is taken: {decided.fault}"
    elif not decided.verdicts:
        yield "Nothing to take: no -netdev, no -nic and no -net."
    for verdict in decided.verdicts:
        yield f"{_name(verdict)}: {_outcome(verdict)}"
    if decided.survey is not None:
        yield from _card_lines(decided.survey, decided.verdicts)


def _card_lines(survey: Survey, verdicts: list[Verdict]) -> Iterator[str]:
    """One for each ``-device`` that is a network's card, or names a netdev."""
    owners = {verdict.card.index: verdict for verdict in verdicts if verdict.card}
    for entry in survey.named("device"):
        netdev = entry.get("netdev")
        if netdev is None and entry.type not in NETWORK_CARDS:
            continue
        name = " ".join(["-device", entry.type, *([entry.id] if entry.id else [])])
        yield f"{name}: {_card_outcome(netdev, owners.get(entry.index))}"


def _card_outcome(netdev: str | None, owner: Verdict | None) -> str:
    if netdev is None:
        return "stays with QEMU: it has no netdev"
    if owner is None:
        return f"stays with QEMU, by itself on '{netdev}'"
    if not owner.taken:
        return f"stays with QEMU, as its netdev '{netdev}' does"
    if owner.replaced:
        return f"served with '{netdev}'; a vfio-user-pci stands for it in QEMU"
    return f"QEMU keeps it; what it moves is served with '{netdev}'"


def _name(verdict: Verdict) -> str:
    option = verdict.entry.option
    usual = USUAL if option.typed.endswith(USUAL) else ""
    name = "net" if option.vlan is not None else option.name
    return f"-{name} {verdict.id or verdict.entry.type}{usual}"


def _outcome(verdict: Verdict) -> str:
    if verdict.taken and verdict.attach is None:
        return "taken, with its hub"
    if verdict.taken:
        assert verdict.attach is not None
        return f"taken, {verdict.driver} is served over {verdict.attach.name}"
    return f"stays with QEMU: {verdict.reason}"


def _bullets(lines: Iterator[str]) -> Iterator[str]:
    return (f"- {line}" for line in lines)


def changes(decided: Decision) -> Iterator[str]:
    """What else is different for QEMU."""
    for verdict in decided.taken:
        if verdict.replaced:
            yield f"a vfio-user-pci in the same slot stands for {verdict.driver} of {verdict.id}"
    if any(verdict.replaced for verdict in decided.taken):
        yield "other cards are told the slot and MAC address that they would have had, if need be"
    yield "the guest's RAM is shared memory (KSM doesn't merge it)"
    if decided.sharing.edits:
        yield "memory options are changed in place for that"
    if decided.empty_words:
        yield "scsi=off of a virtio disk is left out, which newer QEMUs refuse and do anyway"
    if decided.without_msix:
        yield (
            "the cards get vectors=0 (no MSI-X): this QEMU crashes without KVM when a guest uses "
            "MSI-X with vhost-user"
        )


def losses(decided: Decision) -> Iterator[str]:
    """What worked with QEMU's own network and doesn't with vmwire's."""
    survey = decided.survey
    assert survey is not None
    if any(verdict.attach and not verdict.replaced for verdict in decided.taken):
        yield (
            "savevm and migration work, but a state saved with vmwire's network loads only where "
            "the network is vmwire's again: with -loadvm or -incoming, say so by vmwire --resume"
        )
    if any(verdict.replaced for verdict in decided.taken):
        yield (
            "savevm and migration: QEMU lets them pass, but a card behind vfio-user is not in the "
            "state: where that is loaded, the guest has no network until it is reset"
        )
        yield "QEMU's monitor: set_link, info network and rx-filter don't know the replaced cards"
    if any(verdict.entry.type == "user" for verdict in decided.taken):
        yield "QEMU's monitor: info usernet, hostfwd_add and hostfwd_remove find no user netdevs"
        yield "IPv6: guests get none from user netdevs yet"
    if any(verdict.filters for verdict in decided.taken):
        yield "QEMU's monitor: object_del and qom-set don't reach the filters"
    if text(survey.ram, "maxmem"):
        yield "memory plugged in later must have share=on, or the network can't reach it"
    if any(_confined(decided)):
        yield (
            f"{', '.join(_confined(decided))}: if the network's process dies, QEMU can't reach its "
            "socket again, and the VM is without network until it ends"
        )


def _confined(decided: Decision) -> Iterator[str]:
    """The options after which no path leads QEMU to its socket."""
    survey = decided.survey
    assert survey is not None
    if survey.line.has("chroot"):
        yield "-chroot"
    if any("chroot" in entry.values for entry in survey.named("run-with")):
        yield "-run-with chroot="
