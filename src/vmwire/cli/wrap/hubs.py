# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Netdevs that hang together by a hub: all of them are taken, or none.

A ``-netdev hubport,id=H,hubid=N`` is joined to the card that names it, or by ``netdev=`` to another
netdev; all with the same number hear each other. A hub that was half QEMU's would be two hubs.
``-net`` puts what it makes on the hub of its VLAN (`vlans`).
"""

from __future__ import annotations

from collections.abc import Iterator

from vmwire.cli.wrap.decide import Verdict
from vmwire.cli.wrap.survey import Entry, Survey
from vmwire.cli.wrap.vlans import numbers_left
from vmwire.options.values import parse_int


def spread(survey: Survey, verdicts: list[Verdict]) -> None:
    """Let who stays with QEMU keep everybody there who hangs together with it."""
    _count_strangers(survey, verdicts)
    for group in _groups(verdicts):
        staying = next((each for each in group if not each.taken), None)
        if staying is None:
            continue
        for each in group:
            if each.taken:
                each.reason = f"'{staying.id}' on its hub stays ({staying.reason})"


def _count_strangers(survey: Survey, verdicts: list[Verdict]) -> None:
    known = {each.id for each in verdicts}
    with_net = numbers_left(survey)
    for verdict in verdicts:
        if not verdict.taken or not verdict.is_hubport:
            continue
        other = verdict.entry.get("netdev")
        if _number(verdict.entry) in with_net:
            verdict.reason = "-net puts others on its hub"
        elif other is not None and other not in known:
            verdict.reason = f"its netdev '{other}' stays"


def _groups(verdicts: list[Verdict]) -> Iterator[list[Verdict]]:
    """The verdicts that hang together, in order."""
    left = list(verdicts)
    while left:
        group = [left.pop(0)]
        names = set(_names(group[0].entry, group[0].id))
        while near := [each for each in left if not names.isdisjoint(_names(each.entry, each.id))]:
            for each in near:
                names.update(_names(each.entry, each.id))
                left.remove(each)
            group += near
        yield group


def _names(entry: Entry, id: str) -> Iterator[str]:
    """What makes it hang together with another."""
    yield f"netdev {id}"
    if entry.type == "hubport":
        yield f"hub {_number(entry)}"
        if (netdev := entry.get("netdev")) is not None:
            yield f"netdev {netdev}"


def _number(entry: Entry) -> int | None:
    """The hub's number; None if it is none, which keeps the netdev with QEMU anyway."""
    try:
        return parse_int(entry.get("hubid") or "")
    except ValueError:
        return None
