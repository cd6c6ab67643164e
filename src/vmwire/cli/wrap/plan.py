# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""From a typed command to what is to be done: `decide` what to take, then `compose` the command.

Pure, given a `Host` that answers for QEMU and the machine: tests give recorded answers.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmwire.cli.wrap import cmdline, decide, memory, probe, program, rewrite
from vmwire.cli.wrap.cmdline import CommandLine
from vmwire.cli.wrap.decide import Verdict, Wishes
from vmwire.cli.wrap.memory import CantShareError, RamFacts, Sharing
from vmwire.cli.wrap.probe import Abilities, ProbeError
from vmwire.cli.wrap.program import Program
from vmwire.cli.wrap.rewrite import Socket
from vmwire.cli.wrap.survey import Entry, Survey
from vmwire.cli.wrap.values import OFF, text
from vmwire.errors import ConfigError

USER_CONFIGS = ("/etc/qemu/qemu.conf", "/usr/local/etc/qemu/qemu.conf")
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
    fault: str | None = None

    @property
    def taken(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.taken]


@dataclass(slots=True)
class Composition:
    """The command to execute and the network's configuration."""

    command: list[str]
    config: dict[str, Any]


def decision(command: Sequence[str], wishes: Wishes, host: Host) -> Decision:
    """Decide what of ``command`` (program and words) is taken."""
    line = cmdline.parse(command[1:])
    decided = _judged(command, line, wishes, host)
    if not decided.taken:
        return decided
    try:
        found = host.find(command[0])
        if found.fixed:
            before = cmdline.parse(found.fixed, fixed=True)
            line = CommandLine([*before.options, *line.options], before.fault or line.fault)
            decided = _judged(command, line, wishes, host)
        if decided.taken:
            _ask_qemu(decided, found, host)
    except program.UnknownProgramError as error:
        decide.stay(decided.verdicts, str(error))
    except ProbeError as error:
        decide.stay(decided.verdicts, f"{command[0]}: {error}")
    except OSError as error:
        decide.stay(decided.verdicts, f"{command[0]}: {error.strerror}")
    return decided


def _judged(command: Sequence[str], line: CommandLine, wishes: Wishes, host: Host) -> Decision:
    try:
        survey = Survey(line)
    except ConfigError as error:
        return Decision(list(command), None, fault=str(error))
    decided = Decision(list(command), survey, decide.candidates(survey))
    decide.judge(survey, decided.verdicts, wishes, host.unserved)
    if decided.taken and not line.has("no-user-config") and _SECTION.search(host.user_config()):
        decide.stay(decided.verdicts, "QEMU's own configuration file describes the machine")
    return decided


def _ask_qemu(decided: Decision, found: Program, host: Host) -> None:
    """Question 3: can this QEMU do it, and can the RAM be shared?"""
    survey, verdicts = decided.survey, decided.verdicts
    assert survey is not None
    known = host.abilities(found)
    if not known.vhost_user:
        return decide.stay(verdicts, "this QEMU has no vhost-user")
    if known.target not in decide.TARGETS:
        return decide.stay(verdicts, f"the target '{known.target}' is not served")
    if not known.msix_without_kvm and not _has_kernel_interrupts(decided.command[0], survey, host):
        decided.without_msix = rewrite.without_msix(survey, verdicts)
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


def compose(decided: Decision, socket_path: Callable[[str], str]) -> Composition:
    """The rewritten command; ``socket_path`` gives each taken card a place for its socket."""
    from vmwire.cli.wrap import served

    survey = decided.survey
    assert survey is not None
    edits = {**decided.without_msix, **decided.sharing.edits}
    config: dict[str, list[Any]] = {"netdevs": [], "devices": []}
    for verdict in decided.taken:
        path = socket_path(verdict.id)
        socket = Socket(rewrite.chardev_id(survey, verdict), path)
        edits[verdict.entry.index] = rewrite.replacement(verdict, socket, decided.reconnect)
        netdev, device = served.configuration(verdict, path)
        config["netdevs"].append(netdev)
        config["devices"].append(device)
    words = rewrite.insert(survey.line, decided.sharing.words, edits)
    return Composition([decided.command[0], *words], config)
