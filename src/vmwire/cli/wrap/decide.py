# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Which netdevs of a command line vmwire serves, and why it leaves the others.

The contract: no command that starts without vmwire may fail, or mean something else, with it. So a
netdev is *taken* only if everything that refers to it is understood and served; in every doubt it
*stays* with QEMU, unchanged. Three questions, from cheap to dear:

1. the whole line: does anything in it fix the card's or the RAM's shape from outside (a saved
   state to load, a config file), or end QEMU before it runs?
2. each netdev: its own options, exactly one card that is served (or a hub: `hubs`), nothing else
   that names it;
3. QEMU and the RAM (`probe`, `memory`): asked only if something is left to take.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from vmwire.catalogue import MODULES
from vmwire.cli.wrap import cards, chardevs, fast_paths, settings
from vmwire.cli.wrap.cards import Attach
from vmwire.cli.wrap.survey import Entry, Survey
from vmwire.cli.wrap.values import Values, text

# Targets whose cards are served: little-endian ones (a legacy virtio card has its guest's byte
# order, and vhost-user can't say which that is).
TARGETS = frozenset(("x86_64", "i386", "aarch64", "arm", "riscv64", "riscv32", "loongarch64"))

NO_NETWORK_OF_OURS = frozenset(("none", "xenpv", "xenfv", "x-remote"))

IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9\-._]*")

# Of ``-nic``, what goes to the card; the rest is the netdev's.
NIC_KEYS = ("model", "mac")


class Judge(Protocol):
    """What vmwire's own option tables say; each answer is why something stays with QEMU."""

    def unserved(self, entry: Entry) -> str | None:
        """The options of a netdev, an object or a chardev."""

    def unserved_card(self, driver: str, properties: Values) -> str | None:
        """The properties of a card that is replaced."""


@dataclass(slots=True, frozen=True)
class Wishes:
    """What the user says to vmwire about the command."""

    keep: Collection[str] = ()
    """Ids of netdevs and cards that are left to QEMU."""
    take: Collection[str] = ()
    """Ids of those that are to be served although QEMU's way is as fast."""
    resume: bool = False
    """The state that ``-loadvm`` or ``-incoming`` loads was saved with vmwire's network."""


@dataclass(slots=True)
class Verdict:
    """One ``-netdev`` or ``-nic`` of a type that is served. Taken, unless there is a reason."""

    entry: Entry
    id: str
    """The netdev's id; one made up here for a ``-nic`` without."""
    driver: str = ""
    attach: Attach | None = None
    properties: Values = field(default_factory=dict)
    """A replaced card's properties, with what ``-global`` and ``-set`` say of it."""
    card: Entry | None = None
    """The ``-device``; None for ``-nic``, which is both, and where there is a hub instead."""
    filters: list[Entry] = field(default_factory=list)
    """Each ``-object filter-...`` before it."""
    chardevs: list[Entry] = field(default_factory=list)
    """Each ``-chardev`` that it or one of its filters uses."""
    reason: str | None = None

    @property
    def taken(self) -> bool:
        return self.reason is None

    @property
    def is_nic(self) -> bool:
        return self.entry.option.name == "nic"

    @property
    def is_hubport(self) -> bool:
        return self.entry.type == "hubport"

    @property
    def has_card(self) -> bool:
        """Whether a card is joined to it, and not a hub."""
        return self.is_nic or self.card is not None

    @property
    def awaits_model(self) -> bool:
        """Whether its card is the machine's own choice, which isn't known yet."""
        return self.taken and self.has_card and self.attach is None

    @property
    def names(self) -> set[str]:
        """What the user may call it: its own id and the card's."""
        return {each for each in (self.id, self.card and self.card.id) if each}

    @property
    def replaced(self) -> bool:
        """Whether it is taken, and another device stands for the card in QEMU."""
        return self.taken and self.attach is not None and self.attach.replaces_card


def candidates(survey: Survey) -> list[Verdict]:
    """Every netdev in the new spellings, in order."""
    found: list[Verdict] = []
    taken_ids = {entry.id for entry in survey.entries}
    for entry in survey.named("netdev", "nic"):
        if entry.type == "none":
            continue
        identifier = entry.id
        if identifier is None and entry.option.name == "nic":
            numbers = (f"vmwire-nic{n}" for n in range(len(survey.entries) + 1))
            identifier = next(name for name in numbers if name not in taken_ids)
            taken_ids.add(identifier)
        found.append(Verdict(entry, identifier or ""))
    return found


def judge(survey: Survey, verdicts: list[Verdict], wishes: Wishes, judge: Judge) -> None:
    """Questions 1 and 2: give a reason to each verdict that has one."""
    whole = next(_reasons_of_the_line(survey, wishes), None)
    for verdict in verdicts:
        verdict.reason = whole or next(_reasons_of_one(survey, verdict, wishes, judge), None)


def stay(verdicts: list[Verdict], reason: str, attach: Attach | None = None) -> None:
    """Nothing can be taken (with cards of that kind), for a reason that isn't a single netdev's."""
    for verdict in verdicts:
        if attach is None or verdict.attach is attach:
            verdict.reason = verdict.reason or reason


# --- 1: the whole line ------------------------------------------------------------------------


def _reasons_of_the_line(survey: Survey, wishes: Wishes) -> Iterator[str]:
    line = survey.line
    if line.fault:
        yield line.fault
    if survey.is_question:
        yield "QEMU is only asked for help"
    for name, why in {**_FORBIDDING, **({} if wishes.resume else _STATES)}.items():
        if line.has(name):
            yield f"-{name} is given: {why}"
    machine = text(survey.machine, "type")
    if machine in NO_NETWORK_OF_OURS:
        yield f"the machine '{machine}' is not served"
    for accelerator in survey.accelerators:
        if accelerator in ("qtest", "xen"):
            yield f"the accelerator '{accelerator}' is not served"
    for entry in survey.named("icount"):
        if "rr" in entry.values:
            yield "-icount rr= records or replays, which a network outside QEMU can't be part of"
    for entry in survey.named("device"):
        if not entry.is_off("failover") and (
            entry.get("failover") or entry.get("failover_pair_id")
        ):
            yield "a failover pair is given"


_FORBIDDING = {
    "readconfig": "what it holds is not on the command line",
    "only-migratable": "a network outside QEMU does not migrate with it",
    "preconfig": "the machine is described later, over QMP",
    "qtest": "the machine is driven by a test",
    "xen-attach": "a Xen machine is not served",
    "xen-domid": "a Xen machine is not served",
}

# A virtio-net card's state says which features its back end has, so it loads only where they are
# the same.
_STATES = {
    "incoming": "its state may come from QEMU's network (--resume, if it comes from vmwire's)",
    "loadvm": "its state may be that of QEMU's network (--resume, if it is that of vmwire's)",
}

# --- 2: each netdev ---------------------------------------------------------------------------


def _reasons_of_one(
    survey: Survey, verdict: Verdict, wishes: Wishes, judge: Judge
) -> Iterator[str]:
    if verdict.entry.option.fixed:
        yield "the program itself sets it"
    if not IDENTIFIER.fullmatch(verdict.id):
        yield "it has no usable id"
    if sum(entry.id == verdict.id for entry in survey.named("netdev", "nic")) > 1:
        yield "its id is given twice"
    if verdict.entry.type not in MODULES["netdev"]:
        yield f"netdevs of type '{verdict.entry.type}' are not served"
    users = [
        entry
        for entry in survey.entries
        if entry.index != verdict.entry.index and entry.get("netdev") == verdict.id
    ]
    verdict.filters = [user for user in users if user.type in MODULES["object"]]
    if verdict.is_nic:
        yield from _model_reasons(survey, verdict, verdict.entry)
    else:
        yield from _user_reasons(
            survey, verdict, [user for user in users if user not in verdict.filters]
        )
    if not verdict.names.isdisjoint(wishes.keep):
        yield "--keep"
    yield from _speed_reasons(verdict, wishes)
    if reason := judge.unserved(verdict.entry):
        yield reason
    for each in verdict.filters:
        yield from _filter_reasons(each, judge)
    yield from _chardev_reasons(survey, verdict, judge)
    if verdict.attach is not None and verdict.attach.replaces_card:
        yield from _replaced_reasons(survey, verdict, judge)
    elif verdict.attach is not None:
        yield from _kept_reasons(survey, verdict)
    yield from _setting_reasons(survey, verdict)


def _model_reasons(survey: Survey, verdict: Verdict, card: Entry) -> Iterator[str]:
    """The card of a ``-nic`` or ``-net nic``; the machine's own choice may not be known yet."""
    model = card.get("model") or survey.default_model
    if model is None:
        return
    verdict.attach = cards.attach_of_model(model)
    if verdict.attach is not None:
        verdict.driver = verdict.attach.models[model]
    elif model:
        yield _not_served(model)
    else:
        yield "which card is the machine's default model can't be told"


def _filter_reasons(entry: Entry, judge: Judge) -> Iterator[str]:
    if entry.option.fixed:
        yield f"the program itself sets {entry.option}"
    if reason := judge.unserved(entry):
        yield f"{entry.option}: {reason}"


def _speed_reasons(verdict: Verdict, wishes: Wishes) -> Iterator[str]:
    """Nothing gets slower by vmwire, unless something asks for it."""
    on_a_hub = verdict.entry.option.vlan is not None  # whose frames QEMU moves by itself
    if verdict.attach is not cards.VHOST_USER or verdict.filters or on_a_hub:
        return
    mover = fast_paths.mover(verdict.entry)
    if mover is not None and verdict.names.isdisjoint(wishes.take):
        yield f"{mover} moves its frames past QEMU (--take {verdict.id} serves it all the same)"


def _chardev_reasons(survey: Survey, verdict: Verdict, judge: Judge) -> Iterator[str]:
    users = [verdict.entry, *verdict.filters]
    verdict.chardevs = chardevs.used_by(survey, users)
    yield from chardevs.reasons(survey, users, judge.unserved)


def _user_reasons(survey: Survey, verdict: Verdict, users: list[Entry]) -> Iterator[str]:
    """Whoever uses the netdev: one card, or one place at a hub."""
    for user in users:
        if not user.makes_card and user.type != "hubport":
            yield f"{user.option} refers to it"
    on_a_hub = verdict.is_hubport and verdict.entry.get("netdev") is not None
    if not users and not on_a_hub:
        yield "no card refers to it"
    elif len(users) + on_a_hub > 1:
        yield "several cards refer to it"
    elif users and users[0].option.name == "net":
        verdict.card = users[0]
        yield from _model_reasons(survey, verdict, users[0])
    elif users and users[0].makes_card:
        yield from _card_reasons(verdict, users[0])


def _card_reasons(verdict: Verdict, card: Entry) -> Iterator[str]:
    verdict.card = card
    verdict.driver = card.type
    verdict.attach = cards.attach_of(verdict.driver, card.get("attach"))
    if verdict.attach is None:
        yield _not_served(verdict.driver)


def _not_served(card: str) -> str:
    return f"the card is {card or 'unnamed'}, only virtio-net and e1000 cards are served"


def _kept_reasons(survey: Survey, verdict: Verdict) -> Iterator[str]:
    """QEMU keeps the card: nothing may be asked of it that the back end hasn't got."""
    assert verdict.attach is not None
    is_device = verdict.card is not None and verdict.card.option.name == "device"
    if verdict.card and is_device and (reason := cards.unserved_values(verdict.card.values)):
        yield reason
    for driver, name, value in settings.globals_of(survey):
        if driver.startswith(verdict.attach.parents) and (
            reason := cards.unserved_property(name, value)
        ):
            yield f"-global {driver}.{name}: {reason}"
    for option in settings.sets_of(survey, verdict.card):
        yield f"{option} changes its card"


def _replaced_reasons(survey: Survey, verdict: Verdict, judge: Judge) -> Iterator[str]:
    """The card goes: all that is said of it must be known, and within reach."""
    assert verdict.attach is not None
    for name in _STATES:
        if survey.line.has(name):
            yield f"-{name} is given: there is no saved state of a card behind vfio-user"
    if verdict.card and verdict.card.option.fixed:
        yield "its card is set by the program itself"
    if any(option.fixed for option in settings.sets_of(survey, verdict.card)):
        yield "its card is changed by the program itself"
    types = cards.types_of(verdict.attach, verdict.driver)
    verdict.properties = settings.effective(survey, verdict.card or verdict.entry, types)
    if reason := judge.unserved_card(verdict.driver, verdict.properties):
        yield reason


def _setting_reasons(survey: Survey, verdict: Verdict) -> Iterator[str]:
    """``-set`` reaches netdevs, their cards in older words, and the machine."""
    for _, option in survey.line.named("set"):
        group, _, rest = option.argument.partition(".")
        identifier = rest.partition(".")[0]
        if group in ("netdev", "nic", "net") and identifier in verdict.names:
            yield f"{option} changes it"
        if group in ("object", "machine", "memory", "numa"):
            yield f"{option} changes the machine"
