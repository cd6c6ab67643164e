# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The words that take the place of what is taken.

*vhost-user*: instead of the netdev stand a socket chardev and a vhost-user netdev of the same id;
the card's own words stay, so order, slots and ids are as before. A ``-nic`` stays a ``-nic``, which
keeps the slot that QEMU gives it. One exception (see `probe`): where QEMU's MSI-X path is unsafe,
``vectors=0`` is added to the card. The card of a ``-nic`` never has MSI-X (so on 7.2 and 11.1,
whatever ``-global`` says).

*vfio-user*: the netdev goes, and a ``vfio-user-pci`` in JSON takes the card's place, with the
properties of the slot (`vmwire.nic.pci_options`). What would shift by that, slots and addresses of
other cards, is pinned (`places`, `macs`). Where the first netdev was stands ``-nic none``: without
any network option QEMU would make a card of its own.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmwire.cli.wrap import cards, macs, values
from vmwire.cli.wrap.decide import Verdict
from vmwire.cli.wrap.edits import Edits
from vmwire.cli.wrap.settings import globals_of, indexed_sets_of, own_properties
from vmwire.cli.wrap.survey import Entry, Survey
from vmwire.options.syntax import JsonOptions, OptionList, escape

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


def replacement(
    verdict: Verdict, socket: Socket, reconnect: str, device: Sequence[str] = ()
) -> list[str]:
    """The words instead of ``-netdev user,...`` or ``-nic user,...``.

    ``device`` are those that make the card of a ``-nic``, if it isn't to be made as one.
    """
    again = f",{RECONNECT[reconnect]}" if reconnect else ""
    chardev = f"socket,id={socket.chardev},path={escape(socket.path)}{again}"
    option = verdict.entry.option.words[0]
    if verdict.is_nic and device:
        netdev = f"vhost-user,id={verdict.id},chardev={socket.chardev}"
        return ["-chardev", chardev, "-netdev", netdev, *device]
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


def as_device(verdict: Verdict, address: str, mac: str | None) -> list[str]:
    """The card of a ``-nic`` or ``-net nic`` as a ``-device``, which can have an address.

    ``mac`` is the one that it has by QEMU's numbers, if it has none of its own.
    """
    card = verdict.card or verdict.entry
    items = {"netdev": verdict.id, **own_properties(card)}
    if mac is not None:
        items["mac"] = mac
    vectors = "0" if verdict.is_nic else card.get("vectors")
    if vectors is not None:
        items["vectors"] = vectors
    items["addr"] = address
    texts = "".join(f",{key}={escape(str(value))}" for key, value in items.items())
    return ["-device", verdict.driver + texts]


_NIC_KEPT = ("model", "mac")


def without_msix(survey: Survey, verdicts: list[Verdict]) -> dict[int, list[str]]:
    """Changed cards, so that no taken card has MSI-X; those that must keep it stay with QEMU."""
    edits: dict[int, list[str]] = {}
    for verdict in verdicts:
        if verdict.attach is not cards.VHOST_USER or verdict.driver == cards.WITHOUT_MSIX:
            continue
        if not verdict.taken or verdict.card is None:
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
        if name == "vectors" and value != "0" and driver.startswith(cards.VHOST_USER.parents):
            return f"{unsafe} -global {driver}.vectors={value} asks for MSI-X"
    if cards.wants_vectors(card.values):
        return f"{unsafe} its card asks for MSI-X with vectors="
    if card.option.fixed:
        return f"{unsafe} its card is set by the program itself"
    return None


def stand_in(
    survey: Survey,
    verdict: Verdict,
    properties: Mapping[str, Any],
    path: str,
    edits: Edits,
) -> None:
    """Let a ``vfio-user-pci`` stand for the card; ``properties`` are its slot's.

    It is put before every card in JSON, because QEMU makes those after all others.
    """
    own = verdict.card or verdict.entry
    name = verdict.card.id if verdict.card else None
    device: dict[str, Any] = {"driver": "vfio-user-pci"}
    if name is not None:
        device["id"] = name
    device |= {**properties, "socket": {"type": "unix", "path": path}}
    words = ["-device", json.dumps(device, separators=(",", ":"), ensure_ascii=False)]
    edits.replace(verdict.entry.index, [])
    for index, _ in indexed_sets_of(survey, verdict.card):
        edits.replace(index, [])
    in_json = [each.index for each in survey.named("device") if each.is_json]
    if own.is_json or not in_json or in_json[0] > own.index:
        edits.replace(own.index, words)
    else:
        edits.replace(own.index, [])
        edits.put_before(in_json[0], words)


def place_disk(survey: Survey, index: int, drive: str, address: str, edits: Edits) -> None:
    """``-drive if=virtio`` in two parts, as QEMU itself takes it, of which one takes an address."""
    option = survey.line.options[index]
    options = option.options()
    assert isinstance(options, OptionList)
    options.set("if", "none")
    if "id" not in options:
        options.add("id", drive)
    disk = f"virtio-blk,drive={escape(drive)},addr={address}"
    edits.replace(index, [option.words[0], str(options), "-device", disk])


def pin_addresses(survey: Survey, gone: Collection[int], edits: Edits) -> None:
    """Give their MAC address to the cards that would get another, without those that are gone."""
    for index, address in _moving(survey, gone).items():
        name = survey.line.options[index].name
        edits.add_property(index, "macaddr" if name == "net" else "mac", address)


def moves_a_fixed_address(survey: Survey, verdicts: list[Verdict]) -> str | None:
    """Why no card can be replaced: another's MAC address would change, and can't be written."""
    gone = {(verdict.card or verdict.entry).index for verdict in verdicts if verdict.replaced}
    options = (survey.line.options[index] for index in _moving(survey, gone))
    fixed = next((option for option in options if option.fixed), None)
    return f"the program itself sets {fixed}, whose MAC address would change" if fixed else None


def _moving(survey: Survey, gone: Collection[int]) -> dict[int, str]:
    """The cards that QEMU would number otherwise, with the address that they have."""
    before, after = macs.assigned(survey), macs.assigned(survey, without=gone)
    return {index: before[index] for index in after if after[index] != before[index]}
