# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The words that take a netdev's place: a socket chardev and a vhost-user netdev of the same id.

They stand where the netdev stood and the card's own words stay, so order, slots and ids are as
before. A ``-nic`` stays a ``-nic``, which keeps the slot that QEMU gives it.

One exception (see `probe`): where QEMU's MSI-X path is unsafe, ``vectors=0`` is added to the card.
The card of a ``-nic`` never has MSI-X (so on 7.2 and 11.1, whatever ``-global`` says).
"""

from __future__ import annotations

from dataclasses import dataclass

from vmwire.cli.wrap import cards, values
from vmwire.cli.wrap.cmdline import CommandLine
from vmwire.cli.wrap.decide import Verdict, globals_of
from vmwire.cli.wrap.survey import Entry, Survey
from vmwire.options.syntax import JsonOptions, escape

RECONNECT = {"reconnect-ms": "reconnect-ms=100", "reconnect": "reconnect=1"}
"""The shortest time between two attempts that each spelling allows, within reason."""


@dataclass(slots=True, frozen=True)
class Socket:
    """Where QEMU finds the back end of one card."""

    chardev: str
    path: str


def chardev_id(survey: Survey, verdict: Verdict) -> str:
    """A chardev id that nobody else has."""
    used = {option.options().first("id") for _, option in survey.line.named("chardev")}
    name = verdict.id if verdict.id.startswith("vmwire-") else f"vmwire-{verdict.id}"
    while name in used:
        name += "_"
    return name


def replacement(verdict: Verdict, socket: Socket, reconnect: str) -> list[str]:
    """The words instead of ``-netdev user,...`` or ``-nic user,...``."""
    again = f",{RECONNECT[reconnect]}" if reconnect else ""
    chardev = f"socket,id={socket.chardev},path={escape(socket.path)}{again}"
    option = verdict.entry.option.words[0]
    if not verdict.is_nic:
        netdev = f"vhost-user,id={verdict.id},chardev={socket.chardev}"
    else:
        kept = [
            f",{key}={escape(value)}"
            for key in ("id", *_NIC_KEPT)
            for value in values.every(verdict.entry.values, key)
        ]
        netdev = f"vhost-user,chardev={socket.chardev}{''.join(kept)}"
    return ["-chardev", chardev, option, netdev]


_NIC_KEPT = ("model", "mac")


def without_msix(survey: Survey, verdicts: list[Verdict]) -> dict[int, list[str]]:
    """Changed cards, so that no taken card has MSI-X; those that must keep it stay with QEMU."""
    edits: dict[int, list[str]] = {}
    for verdict in verdicts:
        if not verdict.taken or verdict.card is None or verdict.driver == cards.WITHOUT_MSIX:
            continue
        verdict.reason = _vectors_reason(survey, verdict.card)
        if verdict.taken and values.text(verdict.card.values, "vectors") is None:
            options = verdict.card.option.options()
            if isinstance(options, JsonOptions):
                options.add("vectors", 0)
            else:
                options.add("vectors", "0")
            edits[verdict.card.index] = [verdict.card.option.words[0], str(options)]
    return edits


def _vectors_reason(survey: Survey, card: Entry) -> str | None:
    """Why ``vectors=0`` can't be had for a card; None if it can."""
    unsafe = "this QEMU crashes with vhost-user and MSI-X without KVM, and"
    for driver, name, value in globals_of(survey):
        if name == "vectors" and value != "0" and driver.startswith(cards.FAMILY):
            return f"{unsafe} -global {driver}.vectors={value} asks for MSI-X"
    if cards.wants_vectors(card.values):
        return f"{unsafe} its card asks for MSI-X with vectors="
    if card.option.fixed:
        return f"{unsafe} its card is set by the program itself"
    return None


def insert(line: CommandLine, words: list[str], edits: dict[int, list[str]]) -> list[str]:
    """The whole line with ``words`` in front of the first option that changed."""
    if words:
        first = min(edits)
        edits = {**edits, first: [*words, *edits[first]]}
    return line.words(edits)
