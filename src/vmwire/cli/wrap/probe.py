# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a QEMU can do, asked of QEMU itself, by feature.

One run without a machine (``-machine none``) answers over QMP, in 0.13 s. The answers are kept in
``$XDG_CACHE_HOME/vmwire``, one small file a binary, and count as long as the binary's path, time,
size and inode stay: then asking costs a millisecond. Without a cache folder each start asks.

What is asked, and why:

* Does ``netdev_add`` know vhost-user? With an absent chardev a QEMU that does complains about the
  chardev. (The schema lists the type even where it is compiled out.)
* Which of ``reconnect`` (seconds) and ``reconnect-ms`` (since 9.2; later the only one) do socket
  chardevs take? Told by the members in ``query-qmp-schema``.
* Is the MSI-X path safe without KVM? 7.2 dereferences a null pointer in its interrupt code when a
  guest enables MSI-X on a vhost-user card and there are no kernel interrupt routes (TCG, or KVM
  with ``kernel-irqchip=off``). No schema member came with the repair, so the proof is a younger
  one: ``reconnect-ms``. A QEMU without it counts as unsafe; being wrong costs MSI-X under TCG,
  nothing else.
* Does ``device-list-properties`` know ``vfio-user-pci``, and has it a ``socket``?
* Which types are PCI cards?
* Is there ``memory-backend-memfd``? Which machines take ``memory-backend=`` (those that name a
  default RAM region), which is the default machine, and what is the target?

The RAM size of a machine without ``-m`` is in no answer: a second run with that machine, stopped,
tells it; this too is kept. So is where cards without an address of their own are, and which card
a machine has where none is named.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from vmwire.cli.wrap.program import Program

GENERATION = 3
"""Raised when an answer's meaning changes: kept answers of another generation don't count."""

PATIENCE_S = 10.0
PLACES_KEPT = 32
ABSENT = "vmwire-absent"


@dataclass(slots=True)
class Abilities:
    """The answers. ``machines`` maps each name and alias to its RAM region ("" = none)."""

    vhost_user: bool
    reconnect: str
    msix_without_kvm: bool
    memfd: bool
    target: str
    default_machine: str
    machines: dict[str, str]
    vfio_user: bool = False
    pci_drivers: list[str] = field(default_factory=list)
    places: dict[str, dict[str, int]] = field(default_factory=dict)
    """By the words that make a machine, where its cards are (see `places`)."""
    data_folders: list[str] = field(default_factory=list)
    ram_sizes: dict[str, int] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    """By the words that make a machine with a card, which one that is."""
    defaults: dict[str, list[list[str]]] = field(default_factory=dict)
    """By machine: type, property and value where it makes PCI cards another default."""


class ProbeError(Exception):
    """QEMU didn't answer as expected; the message says how."""


def abilities(program: Program) -> Abilities:
    """What this QEMU can do, from the cache if that still counts."""
    kept = _load(program)
    if kept is not None:
        return kept
    found = _judge(_ask(program, _bare("none"), _QUESTIONS))
    _store(program, found)
    return found


def default_ram_size(program: Program, known: Abilities, machine: str) -> int:
    """How much RAM the machine has where ``-m`` doesn't say."""
    if machine not in known.ram_sizes:
        answers = _ask(program, _bare(machine), {"size": ("query-memory-size-summary", {})})
        summary = answers["size"]
        if not isinstance(summary, dict) or "base-memory" not in summary:
            raise ProbeError("its default RAM size can't be asked")
        known.ram_sizes[machine] = int(summary["base-memory"])
        _store(program, known)
    return known.ram_sizes[machine]


def places(program: Program, known: Abilities, words: list[str], ids: list[str]) -> dict[str, int]:
    """Where the cards of these ids are (8 * slot + function), on the machine of these words."""
    key = "\0".join(words)
    if key not in known.places:
        questions: Questions = {
            id: ("qom-get", {"path": f"/machine/peripheral/{id}", "property": "addr"}) for id in ids
        }
        answers = _ask(program, words, questions)
        found = {id: answers[id] for id in ids}
        if not all(isinstance(number, int) for number in found.values()):
            raise ProbeError("where its cards are can't be asked")
        kept = list(known.places.items())[1 - PLACES_KEPT :]
        known.places = {**dict(kept), key: found}
        _store(program, known)
    return known.places[key]


def default_model(program: Program, known: Abilities, words: list[str]) -> str:
    """The card that QEMU makes of the ``-net nic`` in these words; empty if it makes none."""
    key = "\0".join(words)
    if key not in known.models:
        network: Questions = {
            "network": ("human-monitor-command", {"command-line": "info network"})
        }
        answer = _ask(program, [*words, "-nodefaults"], network)["network"]
        match = re.search(r"type=nic,model=([\w.-]+)", str(answer))
        known.models[key] = match[1] if match else ""
        _store(program, known)
    return known.models[key]


def data_folders(program: Program, known: Abilities) -> list[str]:
    """Where QEMU looks for firmware and ROMs by itself."""
    if not known.data_folders:
        known.data_folders = _run([*program.command, "-L", "help"], program, "").split("\n")
        _store(program, known)
    return known.data_folders


# --- asking -----------------------------------------------------------------------------------

Questions = dict[str, tuple[str, dict[str, Any]]]
"""Commands and their arguments, each under a name of our own."""

_QUESTIONS: Questions = {
    "schema": ("query-qmp-schema", {}),
    "machines": ("query-machines", {}),
    "defaults": ("query-machines", {"compat-props": True}),  # an error before QEMU 9.1
    "target": ("query-target", {}),
    "memory": ("qom-list-types", {"implements": "memory-backend"}),
    "pci": ("qom-list-types", {"implements": "pci-device"}),
    "vfio-user": ("device-list-properties", {"typename": "vfio-user-pci"}),
    "vhost-user": ("netdev_add", {"type": "vhost-user", "id": "vmwire-probe", "chardev": ABSENT}),
}


def _bare(machine: str) -> list[str]:
    return ["-machine", machine, "-nodefaults"]


def _ask(program: Program, machine: list[str], questions: Questions) -> dict[str, Any]:
    """Run QEMU once and put the questions; an error is an answer too (its description)."""
    lines: list[dict[str, Any]] = [{"execute": "qmp_capabilities"}]
    lines += [
        {"execute": command, "arguments": arguments, "id": name}
        for name, (command, arguments) in questions.items()
    ]
    lines.append({"execute": "quit"})
    command = [*program.command, *_data_folders(program.fixed)]
    command += [*machine, "-S", "-no-user-config"]
    command += ["-display", "none", "-qmp", "stdio"]
    answers = _answers(_run(command, program, "\n".join(map(json.dumps, lines)) + "\n"))
    missing = [command for name, (command, _) in questions.items() if name not in answers]
    if missing:
        raise ProbeError(f"it gave no answer to {missing[0]}")
    return answers


def _run(command: list[str], program: Program, text: str) -> str:
    """What a run of QEMU prints, given ``text``."""
    import subprocess  # rarely needed: most starts find the answers kept

    try:
        run = subprocess.run(
            command,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE_S,
            check=False,
            text=True,
            env={**os.environ, **program.environment},
        )
    except (OSError, subprocess.SubprocessError, UnicodeError) as error:
        raise ProbeError(f"it can't be asked what it can do ({error})") from error
    return run.stdout


def _data_folders(fixed: tuple[str, ...]) -> list[str]:
    """The wrapper's ``-L`` folders; none of its other options has a place in a probe."""
    return [
        word for name, folder in pairwise(fixed) if name in ("-L", "--L") for word in (name, folder)
    ]


def _answers(text: str) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for line in text.splitlines():
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict) and "id" in message:
            answer = message.get("return", message.get("error", {}))
            answers[str(message["id"])] = answer
    return answers


# --- judging ----------------------------------------------------------------------------------


def _judge(answers: dict[str, Any]) -> Abilities:
    try:
        reconnect = _reconnect(answers["schema"])
        machines, default = _machines(answers["machines"])
        return Abilities(
            vhost_user=ABSENT in str(answers["vhost-user"].get("desc", "")),
            reconnect=reconnect,
            msix_without_kvm=reconnect == "reconnect-ms",
            memfd=any(each["name"] == "memory-backend-memfd" for each in answers["memory"]),
            vfio_user=_has_socket(answers["vfio-user"]),
            pci_drivers=sorted(each["name"] for each in answers["pci"]),
            target=str(answers["target"]["arch"]),
            default_machine=default,
            machines=machines,
            defaults=_defaults(answers["defaults"], {each["name"] for each in answers["pci"]}),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ProbeError(f"its answers can't be understood ({error!r})") from error


def _has_socket(properties: list[dict[str, Any]] | dict[str, Any]) -> bool:
    """Whether a device's properties are those of a vfio-user client; an error is no list."""
    return isinstance(properties, list) and any(each["name"] == "socket" for each in properties)


def _reconnect(schema: list[dict[str, Any]]) -> str:
    """The name of the option by which a socket chardev connects again; empty if there is none."""
    for entry in schema:
        names = {member["name"] for member in entry.get("members", ()) if "name" in member}
        if {"addr", "telnet", "websocket"} <= names:
            return next((name for name in ("reconnect-ms", "reconnect") if name in names), "")
    return ""


def _machines(listed: list[dict[str, Any]]) -> tuple[dict[str, str], str]:
    regions: dict[str, str] = {}
    default = ""
    for machine in listed:
        for name in (machine["name"], machine.get("alias")):
            if name:
                regions[name] = machine.get("default-ram-id", "")
        if machine.get("is-default"):
            default = machine["name"]
    return regions, default


def _defaults(listed: list[dict[str, Any]] | dict[str, Any], pci: set[str]) -> dict[str, Any]:
    if not isinstance(listed, list):
        return {}
    types = pci | {"pci-device"}
    found = {
        machine["name"]: [
            [each["qom-type"], each["property"], each["value"]]
            for each in machine.get("compat-props", ())
            if each["qom-type"] in types
        ]
        for machine in listed
    }
    return {name: some for name, some in found.items() if some}


# --- keeping ----------------------------------------------------------------------------------


def _key(program: Program) -> list[Any]:
    status = os.stat(program.binary)
    return [
        GENERATION,
        program.binary,
        status.st_mtime_ns,
        status.st_size,
        status.st_ino,
        list(program.command),
    ]


def _place(program: Program) -> str | None:
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        home = os.environ.get("HOME", "")
        if not os.path.isabs(home):
            return None
        cache = os.path.join(home, ".cache")
    name = program.binary.replace("%", "%%").replace("/", "%")[-200:]
    return os.path.join(cache, "vmwire", f"qemu{name}.json")


def _load(program: Program) -> Abilities | None:
    place = _place(program)
    if place is None:
        return None
    try:
        with open(place, encoding="utf-8") as file:
            kept = json.load(file)
        return Abilities(**kept["abilities"]) if kept["key"] == _key(program) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none, damaged, or another version's: ask again


def _store(program: Program, found: Abilities) -> None:
    place = _place(program)
    if place is None:
        return
    draft = f"{place}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
        with open(draft, "w", encoding="utf-8") as file:
            json.dump({"key": _key(program), "abilities": asdict(found)}, file)
        os.replace(draft, place)
    except OSError:
        return  # a cache that can't be kept costs time, nothing else
