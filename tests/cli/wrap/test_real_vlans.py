# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A real QEMU in front of whose ``-net`` stands vmwire shows the same cards in the same slots, with
the same addresses, as without."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.wrap import real_qemu
from tests.cli.wrap.fakes import config
from tests.guest import provision
from vmwire.cli import served
from vmwire.cli.wrap.decide import Verdict, Wishes
from vmwire.cli.wrap.plan import Composition, Decision, Host, compose, decision
from vmwire.engine.host import NoStore

pytestmark = pytest.mark.peer

QUESTIONS = ("info pci", "info network", "info memory_size_summary")
VIRTIO = "-net nic,model=virtio"

# Lines, and how each is asked of a QEMU that knows no VLAN (the same, if that isn't said).
KEPT = {
    "a pair": (f"{VIRTIO} -net user", ""),
    "all of a card": (
        "-vga none -net nic,model=virtio,macaddr=52:54:0:1:2:3,addr=7,vectors=0,vlan=2,name=n "
        "-net user,vlan=2,name=u -device virtio-rng-pci",
        "-vga none -net nic,model=virtio,macaddr=52:54:0:1:2:3,addr=7,vectors=0 "
        "-net user -device virtio-rng-pci",
    ),
    "two on a hub, among others": (
        f"-device virtio-rng-pci {VIRTIO} -net user {VIRTIO}-net-pci-non-transitional "
        "-device rtl8139 -nic user,model=virtio",
        "",
    ),
    "with a netdev": (f"-netdev user,id=u {VIRTIO},netdev=u,macaddr=7 -device rtl8139", ""),
}
REPLACED = {
    "nothing": ("", ""),
    "nothing on q35": ("-M q35", ""),
    "nothing but cards": ("-device rtl8139 -device virtio-rng-pci -drive if=virtio,"
                          "driver=null-co,read-zeroes=on", ""),
    "a pair": ("-net nic -net user", ""),
    "a dump": (
        "-net nic,model=e1000-82545em,vlan=1,addr=9 -net user,vlan=1 -net dump,vlan=1",
        "-net nic,model=e1000-82545em,addr=9 -net user",
    ),
    "cards before and behind": (
        "-M q35 -device rtl8139 -net nic -net nic,model=virtio,vectors=2 -net user -device e1000 "
        "-nic user,model=e1000 -nic user,model=virtio -device virtio-rng-pci",
        "",
    ),
    "its own card": ("-M q35 -nic user,mac=52:54:00:12:34:57 -nic model=virtio -nic none", ""),
    "two networks": (
        "-net nic,vlan=1 -net user,vlan=1 -net nic,model=virtio -net user -net nic",
        "-net nic -net user -net nic,model=virtio -net user -net nic",
    ),
}  # fmt: skip


def compared(qemu: str, line: str, reference: str, folder: Path) -> Decision:
    typed = [qemu, "-m", "96", *shlex.split(line)]
    decided, composed = both(typed, folder)
    before = real_qemu.ask([qemu, "-m", "96", *shlex.split(reference or line)], QUESTIONS)
    assert before.status == 0, before.stderr
    with served.build(composed.config | {"captures": []}, NoStore(), 0):
        after = real_qemu.ask(composed.command, QUESTIONS)
    assert after.status == 0, after.stderr
    with_msix = not decided.without_msix
    assert real_qemu.slots(after, with_msix) == real_qemu.slots(before, with_msix)
    assert real_qemu.ram(after) == real_qemu.ram(before)
    ours = [
        str(card["mac"])
        for verdict, (_, card) in zip(
            _with_cards(decided), config(composed)["devices"], strict=True
        )
        if verdict.replaced
    ]
    assert sorted(ours + addresses(after)) == sorted(addresses(before))
    assert complaints(after) <= complaints(before)
    return decided


def complaints(run: real_qemu.Run) -> set[str]:
    """What QEMU says of others than cards without a netdev, of which it is silent by default."""
    return {line for line in run.stderr.splitlines() if not line.endswith("has no peer")}


def both(typed: list[str], folder: Path) -> tuple[Decision, Composition]:
    decided = decision(typed, Wishes(), Host())
    assert decided.taken and decided.verdicts == decided.taken, decided.verdicts
    composed = compose(
        decided, lambda name: str(folder / f"{name}.sock"), lambda name: str(folder / name)
    )
    for path, content in composed.files.items():
        Path(path).write_bytes(content)
    return decided, composed


def _with_cards(decided: Decision) -> list[Verdict]:
    return [verdict for verdict in decided.taken if verdict.has_card]


def addresses(run: real_qemu.Run) -> list[str]:
    """Of all cards that QEMU itself has."""
    return re.findall(r"type=nic,.*macaddr=(\S+)", run.answers["info network"])


@pytest.mark.parametrize("find", [provision.qemu_oldest, provision.qemu_newest])
@pytest.mark.parametrize(("line", "reference"), KEPT.values(), ids=KEPT.keys())
def test_cards_that_qemu_keeps(
    find: Callable[[], str], line: str, reference: str, tmp_path: Path
) -> None:
    compared(find(), line, reference, tmp_path)


@pytest.mark.parametrize(("line", "reference"), REPLACED.values(), ids=REPLACED.keys())
def test_cards_that_are_replaced(
    line: str, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a dump's default file is put into the current folder
    decided = compared(provision.qemu_newest(), line, reference, tmp_path)
    assert any(verdict.replaced for verdict in decided.taken)
