# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""From a typed command to what is to be done: `decide` what to take, then `compose` the command.

Pure, given a `Host` that answers for QEMU and the machine: tests give recorded answers.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmwire.cli.wrap import (
    cards,
    cmdline,
    decide,
    hubs,
    macs,
    memory,
    places,
    probe,
    program,
    rewrite,
    rom,
    vlans,
)
from vmwire.cli.wrap.cmdline import CommandLine
from vmwire.cli.wrap.decide import Verdict, Wishes
from vmwire.cli.wrap.edits import Edits
from vmwire.cli.wrap.memory import CantShareError, RamFacts, Sharing
from vmwire.cli.wrap.probe import Abilities, ProbeError
from vmwire.cli.wrap.program import Program
from vmwire.cli.wrap.rewrite import Socket
from vmwire.cli.wrap.survey import Entry, Survey
from vmwire.cli.wrap.values import OFF, Values, text
from vmwire.errors import ConfigError

USER_CONFIGS = ("/etc/qemu/qemu.conf", "/usr/local/etc/qemu/qemu.conf")
NO_VFIO_USER = "this QEMU has no vfio-user-pci (there since 10.1), which its card needs"
_SECTION = re.compile(
    r"^\s*\[(chardev|device|global|machine|memory|netdev|net|nic|numa|object)\b", re.M
)


class Host:
    """What isn't on the command line: QEMU's abilities and this machine's state."""

    def find(self, word: str) -> Program:
        return program.find(word)

    def abilities(self, found: Program) -> Abilities:
        return probe.abilities(found)

    def default_ram_size(self, found: Program, known: Abilities, machine: str) -> int:
        return probe.default_ram_size(found, known, machine)

    def unserved(self, entry: Entry) -> str | None:
        from vmwire.cli.wrap import served

        return served.unserved(entry)

    def default_model(self, found: Program, known: Abilities, words: list[str]) -> str:
        return probe.default_model(found, known, words)

    def places(
        self, found: Program, known: Abilities, words: list[str], ids: list[str]
    ) -> dict[str, int]:
        return probe.places(found, known, words, ids)

    def data_folders(self, found: Program, known: Abilities) -> list[str]:
        return probe.data_folders(found, known)

    def rom(self, name: str, folders: Sequence[str]) -> bytes | None:
        return rom.find(name, folders)

    def unserved_card(self, driver: str, properties: Values) -> str | None:
        from vmwire.cli.wrap import replaced

        return replaced.unserved(driver, properties)

    def unserved_device(self, verdict: Verdict) -> str | None:
        from vmwire.cli.wrap import served

        return served.unserved_device(verdict)

    def kvm_usable(self) -> bool:
        return os.access("/dev/kvm", os.R_OK | os.W_OK)

    def is_folder(self, path: str) -> bool:
        return os.path.isdir(path)

    def file_size_limit(self) -> int | None:
        soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        return None if soft == resource.RLIM_INFINITY else soft

    def user_config(self) -> str:
        """The text of QEMU's own configuration files, which it reads unless told not to."""
        texts = []
        for path in USER_CONFIGS:
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    texts.append(file.read())
            except OSError:
                continue
        return "\n".join(texts)


@dataclass(slots=True)
class Decision:
    """What is taken from one command, and what else has to change for that."""

    command: list[str]
    survey: Survey | None
    verdicts: list[Verdict] = field(default_factory=list)
    reconnect: str = ""
    sharing: Sharing = field(default_factory=Sharing)
    without_msix: dict[int, list[str]] = field(default_factory=dict)
    pins: dict[int, str] = field(default_factory=dict)
    """Slots, by option index, of cards that would get another one."""
    empty_words: list[int] = field(default_factory=list)
    """Disks' options that have ``scsi=off``, which this QEMU no longer takes."""
    roms: dict[str, bytes] = field(default_factory=dict)
    """Copies of expansion ROMs, by the type of the card that they are made out to."""
    fault: str | None = None
    warnings: list[str] = field(default_factory=list)
    """What QEMU would say of what is taken."""

    @property
    def taken(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.taken]


@dataclass(slots=True)
class Composition:
    """The command to execute, the network's configuration, and files that QEMU needs."""

    command: list[str]
    config: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    fds: dict[str, int] = field(default_factory=dict)
    """Descriptors that the command names, by their names in the network's store."""


def decision(command: Sequence[str], wishes: Wishes, host: Host) -> Decision:
    """Decide what of ``command`` (program and words) is taken."""
    left: dict[int, str] = {}
    while True:  # each turn leaves a VLAN more to QEMU
        attempt = _Attempt(command, wishes, host, left)
        decided = _decided(attempt)
        staying = vlans.staying(decided.verdicts)
        if not staying:
            decided.verdicts += vlans.left_to_qemu(attempt.line, left)
            if decided.taken:
                decided.warnings += vlans.warnings(attempt.line, left)
            return decided
        left |= staying


@dataclass(slots=True)
class _Attempt:
    """One turn of a decision: ``left`` are VLANs that stay with QEMU, and why."""

    command: Sequence[str]
    wishes: Wishes
    host: Host
    left: dict[int, str]
    line: CommandLine = field(init=False)
    """As it was typed, with what a script puts in front."""
    model: str | None = None
    """The machine's own choice of a card, once it is known."""

    def __post_init__(self) -> None:
        self.line = cmdline.parse(self.command[1:])


def _decided(attempt: _Attempt) -> Decision:
    command, host = attempt.command, attempt.host
    decided = _judged(attempt)
    if not decided.taken:
        return decided
    try:
        found = host.find(command[0])
        if found.fixed:
            before, line = cmdline.parse(found.fixed, fixed=True), attempt.line
            attempt.line = CommandLine([*before.options, *line.options], before.fault or line.fault)
            decided = _judged(attempt)
        if any(verdict.awaits_model for verdict in decided.verdicts):
            attempt.model = _default_model(decided, found, host)
            decided = _judged(attempt)
        if decided.taken:
            _ask_qemu(decided, found, host)
    except program.UnknownProgramError as error:
        decide.stay(decided.verdicts, str(error))
    except ProbeError as error:
        decide.stay(decided.verdicts, f"{command[0]}: {error}")
    except OSError as error:
        decide.stay(decided.verdicts, f"{command[0]}: {error.strerror}")
    return decided


def _default_model(decided: Decision, found: Program, host: Host) -> str:
    """The card that the machine has where none is named; empty if it has none."""
    assert decided.survey is not None
    known = host.abilities(found)
    if known.target not in decide.TARGETS:
        return ""
    survey = decided.survey
    words = ["-machine", text(survey.machine, "type") or known.default_machine, "-net", "nic"]
    if any(option.typed.endswith(vlans.USUAL) for option in survey.line.options):
        words += ["-net", "user"]  # has this QEMU such a network at all?
    try:
        return host.default_model(found, known, words)
    except ProbeError:  # such a machine doesn't start with this alone
        return ""


def _judged(attempt: _Attempt) -> Decision:
    command, wishes, host = attempt.command, attempt.wishes, attempt.host
    line = vlans.modernised(attempt.line, attempt.left)
    try:
        survey = Survey(line, attempt.model)
    except ConfigError as error:
        return Decision(list(command), None, fault=str(error))
    decided = Decision(list(command), survey, decide.candidates(survey))
    decide.judge(survey, decided.verdicts, wishes, host)
    if decided.taken and not line.has("no-user-config") and _SECTION.search(host.user_config()):
        decide.stay(decided.verdicts, "QEMU's own configuration file describes the machine")
    # By this everything is imported, too, before there is a folder that could be left behind.
    for verdict in decided.taken:
        if verdict.attach is not None:
            verdict.reason = host.unserved_device(verdict)
    hubs.spread(survey, decided.verdicts)
    return decided


def _ask_qemu(decided: Decision, found: Program, host: Host) -> None:
    """Question 3: can this QEMU do it, and can the RAM be shared?"""
    survey, verdicts = decided.survey, decided.verdicts
    assert survey is not None
    _ask_about_cards(decided, survey, found, host)
    hubs.spread(survey, verdicts)


def _ask_about_cards(decided: Decision, survey: Survey, found: Program, host: Host) -> None:
    verdicts = decided.verdicts
    known = host.abilities(found)
    if not known.vhost_user:
        decide.stay(verdicts, "this QEMU has no vhost-user", cards.VHOST_USER)
    if not known.vfio_user:
        decide.stay(verdicts, NO_VFIO_USER, cards.VFIO_USER)
    hubs.spread(survey, verdicts)
    if known.target not in decide.TARGETS:
        return decide.stay(verdicts, f"the target '{known.target}' is not served")
    if not known.msix_without_kvm and not _has_kernel_interrupts(decided.command[0], survey, host):
        decided.without_msix = rewrite.without_msix(survey, verdicts)
    if known.vfio_user:
        decided.empty_words = [each.index for each in survey.named("device") if _is_empty(each)]
    if any(verdict.replaced for verdict in verdicts):
        _take_on_defaults(survey, verdicts, known)
        _find_places(decided, found, known, host)
        _find_roms(decided, found, known, host)
    if not decided.taken:
        return None
    machine = text(survey.machine, "type") or known.default_machine
    facts = RamFacts(
        machines=known.machines,
        machine=machine,
        memfd=known.memfd,
        default_size=lambda: host.default_ram_size(found, known, machine),
        file_size_limit=host.file_size_limit(),
        is_folder=host.is_folder,
    )
    try:
        decided.sharing = memory.share(survey, facts)
    except CantShareError as error:
        return decide.stay(verdicts, f"RAM can't be shared: {error}")
    decided.reconnect = known.reconnect
    return None


def _has_kernel_interrupts(word: str, survey: Survey, host: Host) -> bool:
    """Whether KVM certainly runs the guest and routes its MSIs."""
    accelerators = survey.accelerators
    if not accelerators and os.path.basename(word).endswith("kvm"):
        accelerators = ["kvm"]  # QEMU under such a name tries it first
    if accelerators[:1] != ["kvm"] or not host.kvm_usable():
        return False
    settings = [survey.machine, *(entry.values for entry in survey.named("accel"))]
    return not any(
        text(each, key) in OFF for each in settings for key in ("kernel-irqchip", "kernel_irqchip")
    )


def _is_empty(device: Entry) -> bool:
    """Whether it says ``scsi=off`` of a disk: all that a QEMU with vfio-user has, said or not."""
    is_disk = device.type.startswith("virtio-blk")
    return is_disk and device.is_off("scsi") and not device.option.fixed


def _take_on_defaults(survey: Survey, verdicts: list[Verdict], known: Abilities) -> None:
    """What an older machine has its cards have, where nothing else is said."""
    from vmwire.cli.wrap import replaced

    machine = text(survey.machine, "type") or known.default_machine
    for verdict in [each for each in verdicts if each.replaced]:
        assert verdict.attach is not None
        types = {"pci-device", verdict.attach.drivers[verdict.driver]}
        defaults: Values = {
            name: value for type, name, value in known.defaults.get(machine, ()) if type in types
        }
        verdict.properties = defaults | verdict.properties
        if reason := replaced.unserved(verdict.driver, verdict.properties):
            verdict.reason = f"with the machine '{machine}': {reason}"


def _find_places(decided: Decision, found: Program, known: Abilities, host: Host) -> None:
    """Keep all cards where they are, although some are replaced; or replace none."""
    survey = decided.survey
    assert survey is not None
    facts = places.Facts(
        pci_drivers=known.pci_drivers,
        machine=text(survey.machine, "type") or known.default_machine,
        ask=lambda words, ids: host.places(found, known, words, ids),
        movable=_movable(decided),
    )
    replaced = [verdict for verdict in decided.verdicts if verdict.replaced]
    try:
        decided.pins = places.pins(
            survey, {_made_by(verdict): verdict.properties for verdict in replaced}, facts
        )
    except places.UnclearError as error:
        decide.stay(replaced, f"{error} (addr= on each card tells the slots)")
    except ProbeError as error:
        decide.stay(replaced, f"the cards' slots can't be known: {error}")
    if fixed := rewrite.moves_a_fixed_address(survey, decided.verdicts):
        decide.stay(replaced, fixed)


def _movable(decided: Decision) -> dict[int, Verdict]:
    """The options ``-nic`` and ``-net nic`` whose cards QEMU keeps, and nobody else has written."""
    found = {_made_by(each): each for each in decided.taken if each.has_card and not each.replaced}
    assert decided.survey is not None
    options = decided.survey.line.options
    return {
        index: verdict
        for index, verdict in found.items()
        if options[index].name in ("nic", "net") and not options[index].fixed
    }


def _find_roms(decided: Decision, found: Program, known: Abilities, host: Host) -> None:
    """Default expansion ROMs that have to be made out to another card than the file's own."""
    from vmwire.cli.wrap import replaced

    survey = decided.survey
    assert survey is not None
    for verdict in [each for each in decided.verdicts if each.replaced]:
        name, device = replaced.default_rom(verdict) or ("", None)
        if device is None:
            continue
        folders = [option.argument for _, option in survey.line.named("L")]
        image = host.rom(name, [*folders, *host.data_folders(found, known)])
        if image is None:
            verdict.reason = f"its expansion ROM '{name}' is not found"
        else:
            decided.roms[verdict.driver] = rom.made_out_to(image, device)


def _made_by(verdict: Verdict) -> int:
    """The option that makes the card."""
    return (verdict.card or verdict.entry).index


def compose(
    decided: Decision, socket_path: Callable[[str], str], file_path: Callable[[str], str]
) -> Composition:
    """The rewritten command; ``socket_path`` gives each taken card a place for its socket, and
    ``file_path`` one to each file."""
    from vmwire.cli.wrap import served

    survey = decided.survey
    assert survey is not None
    edits = Edits(survey.line, {**decided.without_msix, **decided.sharing.edits})
    addresses = macs.assigned(survey)
    files = {driver: file_path(f"{driver}.rom") for driver in decided.roms}
    config: dict[str, list[Any]] = {"netdevs": [], "devices": []}
    fds: dict[str, int] = {}
    for verdict in decided.taken:
        netdev, named = served.netdev_text(verdict)
        config["netdevs"].append([verdict.entry.option.noted, netdev])
        fds |= named
        if not verdict.has_card:
            edits.replace(verdict.entry.index, [])
            continue
        path = socket_path(verdict.id)
        if verdict.replaced:
            slot = _slot(decided, verdict, files.get(verdict.driver))
            rewrite.stand_in(survey, verdict, slot, path, edits)
        else:
            socket = Socket(rewrite.chardev_id(survey, verdict), path)
            device = _as_device(decided, verdict, addresses)
            words = rewrite.replacement(verdict, socket, decided.reconnect, device)
            edits.replace(verdict.entry.index, words)
            if device and verdict.card is not None:
                edits.replace(verdict.card.index, device)
        card = served.device_text(verdict, path, addresses.get(_made_by(verdict)))
        config["devices"].append([(verdict.card or verdict.entry).option.noted, card])
    _pin(decided, edits)
    for index in decided.empty_words:
        edits.remove_property(index, "scsi")
    edits.put_first(decided.sharing.words)
    for kind, others in _others(decided).items():
        config[kind] = []
        for each in others:
            text, named = served.other_text(each)
            config[kind].append([each.option.noted, text])
            fds |= named
            edits.replace(each.index, [])
    written = {files[driver]: image for driver, image in decided.roms.items()}
    return Composition([decided.command[0], *edits.words()], config, written, fds)


def _as_device(decided: Decision, verdict: Verdict, addresses: Mapping[int, str]) -> list[str]:
    """The words for a ``-nic`` or ``-net nic`` whose card would be in another slot by itself."""
    index = _made_by(verdict)
    if index not in decided.pins or index not in _movable(decided):
        return []
    return rewrite.as_device(verdict, decided.pins[index], addresses.get(index))


def _others(decided: Decision) -> dict[str, list[Entry]]:
    """What goes with the netdevs, in order."""
    return {
        "chardevs": sorted((c for v in decided.taken for c in v.chardevs), key=lambda e: e.index),
        "filters": sorted((f for v in decided.taken for f in v.filters), key=lambda e: e.index),
    }


def _slot(decided: Decision, verdict: Verdict, rom_file: str | None) -> dict[str, Any]:
    """What the device that stands for the card is told; ``rom_file`` is a ROM made out to it."""
    from vmwire.cli.wrap import replaced

    properties = replaced.slot(verdict)
    if (default := replaced.default_rom(verdict)) is not None:
        properties["romfile"] = rom_file or default[0]
    if (address := decided.pins.get(_made_by(verdict))) is not None:
        properties["addr"] = address
    return properties


def _pin(decided: Decision, edits: Edits) -> None:
    """What else QEMU must be told, since it makes fewer cards and in another order."""
    survey = decided.survey
    assert survey is not None
    gone = [verdict for verdict in decided.taken if verdict.replaced or not verdict.has_card]
    if gone and not survey.line.has("nodefaults"):
        edits.put_before(min(verdict.entry.index for verdict in gone), ["-nic", "none"])
    own = {_made_by(verdict) for verdict in gone if verdict.replaced}
    if not own:
        return
    own |= decided.pins.keys() & _movable(decided).keys()  # they have all that they need
    disks = places.disks(survey)
    for index, address in decided.pins.items():
        if index in disks:
            rewrite.place_disk(survey, index, disks[index], address, edits)
        elif index not in own:
            edits.add_property(index, "addr", address)
    rewrite.pin_addresses(survey, own, edits)
