# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A host with recorded answers: what QEMU 7.2 and 11.1 say to the probe, and a calm machine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from vmwire.cli.wrap import values
from vmwire.cli.wrap.decide import Wishes
from vmwire.cli.wrap.plan import Composition, Decision, Host, compose, decision
from vmwire.cli.wrap.probe import Abilities, ProbeError
from vmwire.cli.wrap.program import Program
from vmwire.options.syntax import parse

MIB = 1 << 20


def qemu_7_2() -> Abilities:
    return Abilities(
        vhost_user=True,
        reconnect="reconnect",
        msix_without_kvm=False,
        memfd=True,
        target="x86_64",
        default_machine="pc-i440fx-7.2",
        machines={
            "pc": "pc.ram",
            "pc-i440fx-7.2": "pc.ram",
            "pc-i440fx-4.2": "pc.ram",
            "q35": "pc.ram",
            "microvm": "microvm.ram",
            "none": "ram",
            "xenfv": "",
        },
    )


def qemu_11_1() -> Abilities:
    return Abilities(
        vhost_user=True,
        reconnect="reconnect-ms",
        msix_without_kvm=True,
        memfd=True,
        target="x86_64",
        default_machine="pc-i440fx-11.1",
        machines={"pc": "pc.ram", "pc-i440fx-11.1": "pc.ram", "q35": "pc.ram"},
        vfio_user=True,
        pci_drivers=["e1000", "e1000-82544gc", "e1000-82545em", "e1000e", "rtl8139",
                     "virtio-blk-pci", "virtio-net-pci", "virtio-rng-pci"],
    )  # fmt: skip


@dataclass
class FakeHost(Host):
    """Answers without looking; ``asked`` counts the questions that cost something."""

    known: Abilities = field(default_factory=qemu_11_1)
    fixed: tuple[str, ...] = ()
    folders: tuple[str, ...] = ("/dev/hugepages", "/dev/shm")
    limit: int | None = None
    config: str = ""
    kvm: bool = False
    roms: dict[str, bytes] = field(
        default_factory=lambda: {"efi-e1000.rom": b"a ROM", "efi-e1000e.rom": b"a ROM"}
    )
    models: dict[str, str] = field(default_factory=lambda: {"pc": "e1000", "q35": "e1000e"})
    """The card of a machine by itself, by the first part of the machine's name."""
    asked: list[str] = field(default_factory=list)

    def find(self, word: str) -> Program:
        self.asked.append("program")
        return Program(f"/usr/bin/{word}", (f"/usr/bin/{word}",), self.fixed)

    def abilities(self, found: Program) -> Abilities:
        self.asked.append("abilities")
        return self.known

    def default_ram_size(self, found: Program, known: Abilities, machine: str) -> int:
        self.asked.append(f"RAM of {machine}")
        return 128 * MIB

    def default_model(self, found: Program, known: Abilities, words: list[str]) -> str:
        self.asked.append(" ".join(words))
        return self.models.get(words[1].split("-")[0], "")

    def places(
        self, found: Program, known: Abilities, words: list[str], ids: list[str]
    ) -> dict[str, int]:
        """A machine whose first free slot is 3; the order of the words is that of the cards."""
        self.asked.append("places")
        pieces = [dict(item.partition("=")[::2] for item in word.split(",")) for word in words[1::2]
                  if "id=" in word]  # fmt: skip
        taken: dict[int, str] = {}
        for piece in pieces:
            slot, _, function = piece.get("addr", "").partition(".")
            free = next(number for number in range(24, 256, 8) if number not in taken)
            number = int(slot, 16) * 8 + int(function or "0", 16) if slot else free
            if number in taken:
                raise ProbeError("it gave no answer to qom-get")
            taken[number] = piece["id"]
        return {id: number for number, id in taken.items()}

    def data_folders(self, found: Program, known: Abilities) -> list[str]:
        self.asked.append("data folders")
        return ["/usr/share/qemu"]

    def rom(self, name: str, folders: Sequence[str]) -> bytes | None:
        return self.roms.get(name) if "/usr/share/qemu" in folders else None

    def kvm_usable(self) -> bool:
        return self.kvm

    def is_folder(self, path: str) -> bool:
        return path in self.folders

    def file_size_limit(self) -> int | None:
        return self.limit

    def user_config(self) -> str:
        return self.config


def decide(
    line: str,
    host: Host | None = None,
    keep: tuple[str, ...] = (),
    resume: bool = False,
    take: tuple[str, ...] = (),
) -> Decision:
    wishes = Wishes(keep, take, resume)
    return decision(["qemu-system-x86_64", *shlex.split(line)], wishes, host or FakeHost())


def reasons(line: str, host: Host | None = None, keep: tuple[str, ...] = ()) -> list[str | None]:
    """For each user-mode netdev: why it stays, or None."""
    return [verdict.reason for verdict in decide(line, host, keep).verdicts]


def composed(
    line: str,
    host: Host | None = None,
    keep: tuple[str, ...] = (),
    take: tuple[str, ...] = (),
) -> Composition:
    return compose(
        decide(line, host, keep, take=take),
        lambda name: f"/run/{name}.sock",
        lambda name: f"/run/{name}",
    )


def rewritten(line: str, host: Host | None = None, keep: tuple[str, ...] = ()) -> str:
    return shlex.join(composed(line, host, keep).command[1:])


def config(composition: Composition) -> dict[str, list[tuple[str, dict[str, str | list[str]]]]]:
    """The network's configuration: each member's type and what is said of it."""
    return {
        f"{kind}s": [_taken_apart(text, kind) for _, text in composition.config[f"{kind}s"]]
        for kind in ("netdev", "device")
    }


def _taken_apart(text: str, kind: str) -> tuple[str, dict[str, str | list[str]]]:
    selector = {"netdev": "type", "device": "driver"}[kind]
    read = values.plain(parse(text, selector))
    type = read.pop(selector)
    assert isinstance(type, str)
    return type, read
