# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A real QEMU with replaced cards shows the machine that the user typed: same cards, same slots,
same MAC addresses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.wrap import real_qemu
from tests.cli.wrap.fakes import config
from tests.guest import provision
from vmwire.cli import served
from vmwire.cli.wrap.decide import Wishes
from vmwire.cli.wrap.plan import Composition, Host, compose, decision
from vmwire.engine.host import NoStore

pytestmark = pytest.mark.peer

NET = "-netdev user,id=u"
CARD = "-device e1000,netdev=u"
PLAIN = f"{NET} {CARD}"
DISK = "driver=null-co,read-zeroes=on"

# Each line, and how many cards are replaced.
LINES = {
    "plain": (PLAIN, 1),
    "nodefaults": (f"-nodefaults {PLAIN}", 1),
    "q35": (f"-M q35 {PLAIN}", 1),
    "82544GC": (f"{NET} -device e1000-82544gc,netdev=u", 1),
    "82545EM": (f"{NET} -device e1000-82545em,netdev=u", 1),
    "alias": (f"{NET} -device e1000-82540em,netdev=u", 1),
    "address": (f"{NET} -device e1000,netdev=u,addr=0x10", 1),
    "slot and function": (
        "-device rtl8139,addr=5.0,multifunction=on "
        f"{NET} -device e1000,netdev=u,addr=5.1,multifunction=on",
        1,
    ),
    "all that a slot has": (
        f"{NET} -device e1000,netdev=u,id=n,bootindex=1,rombar=1,romsize=0x80000,"
        "multifunction=on,acpi-index=3",
        1,
    ),
    "no ROM": (f"{NET} -device e1000,netdev=u,rombar=0", 1),
    "no ROM file": (f"{NET} -device e1000,netdev=u,romfile=", 1),
    "behind a bridge": (
        f"-device pci-bridge,id=b,chassis_nr=1 {NET} -device e1000,netdev=u,bus=b",
        1,
    ),
    "behind a root port": (
        f"-M q35 -device pcie-root-port,id=r {NET} -device e1000,netdev=u,bus=r "
        "-device virtio-rng-pci",
        1,
    ),
    "cards behind it": (f"{PLAIN} -device virtio-rng-pci -device rtl8139 -device usb-ehci", 1),
    "cards before and behind": (
        f"-device virtio-rng-pci -device e1000 {PLAIN} -device rtl8139 -device virtio-balloon-pci",
        1,
    ),
    "an address that is taken by nobody yet": (
        f"{NET} -device e1000,netdev=u,addr=3 -device rtl8139 -device virtio-rng-pci",
        1,
    ),
    "a display among the cards": (f"-vga none {PLAIN} -device VGA -device rtl8139", 1),
    "a display on the other bus": (f"{PLAIN} -device isa-vga -device rtl8139", 1),
    "a display beside the usual one": (
        f"-vga std {PLAIN} -device bochs-display -device rtl8139",
        1,
    ),
    "-nic on q35": ("-M q35 -nic user,model=e1000 -device virtio-rng-pci", 1),
    "JSON": ("""-netdev user,id=u -device '{"driver":"e1000","netdev":"u","addr":48}'""", 1),
    "JSON before": (f"""-device '{{"driver":"rtl8139"}}' {PLAIN}""", 1),
    "JSON around": (
        f"""-device '{{"driver":"rtl8139"}}' {NET} -device '{{"driver":"e1000","netdev":"u"}}' """
        """-device '{"driver":"virtio-rng-pci"}' -device usb-ehci""",
        1,
    ),
    "a virtio disk": (f"{PLAIN} -drive if=virtio,{DISK} -drive if=virtio,{DISK},id=d", 1),
    "an IDE disk": (f"{PLAIN} -drive if=ide,{DISK}", 1),
    "two of them": (
        f"{PLAIN} -netdev user,id=v -device e1000-82545em,netdev=v -device rtl8139",
        2,
    ),
    "with a served virtio card": (
        f"{PLAIN} -netdev user,id=v -device rtl8139,netdev=v -device e1000",
        1,
    ),
    "given addresses": (
        f"-device rtl8139,mac=52:54:00:12:34:57 {PLAIN} -device rtl8139,mac=52:54:00:12:34:56 "
        "-device e1000",
        1,
    ),
    "nic": ("-nic user,model=e1000", 1),
    "nics": ("-nic user,model=rtl8139 -nic user,model=e1000 -device rtl8139", 1),
    "nic and cards": ("-nic user,model=e1000-82545em -device virtio-rng-pci -device e1000", 1),
    "globals": (f"-global e1000.rombar=0 -global e1000.init-vet=off {PLAIN}", 1),
    "set on a later card": (
        f"{PLAIN} -device rtl8139,id=r -set device.r.addr=9 -device e1000 "
        "-set device.r.mac=52:54:00:12:34:57",
        1,
    ),
    "set": (f"{NET} -device e1000,netdev=u,id=n -set device.n.addr=9 -device rtl8139", 1),
    "82574L": (f"{NET} -device e1000e,netdev=u", 1),
    "82574L on q35": (f"-M q35 {NET} -device e1000e,netdev=u -device virtio-rng-pci", 1),
    "82574L behind a root port": (
        f"-M q35 -device pcie-root-port,id=r {NET} -device e1000e,netdev=u,bus=r,bootindex=1 "
        "-device rtl8139",
        1,
    ),
    "82574L and all that it has": (
        f"{NET} -device e1000e,netdev=u,id=n,addr=9,subsys=0x1234,subsys_ven=0x5678,init-vet=off,"
        "disable_vnet_hdr=1,migrate-timadj=off,romsize=0x80000,x-max-bounce-buffer-size=8k",
        1,
    ),
    "82574L on an older machine": (f"-M pc-q35-6.0 {NET} -device e1000e,netdev=u", 1),
    "82574L as -nic": ("-M q35 -nic user,model=e1000e -device virtio-rng-pci", 1),
    "82574L beside an 82540EM": (
        f"{NET} -device e1000e,netdev=u -netdev user,id=v -device e1000,netdev=v -device rtl8139",
        2,
    ),
    "82574L with globals": (
        f"-global e1000e.rombar=0 -global e1000e.subsys=7 {NET} -device e1000e,netdev=u",
        1,
    ),
}


def compose_for(line: str, folder: Path) -> tuple[list[str], Composition, int]:
    typed = [provision.qemu_newest(), "-m", "96", *shlex.split(line)]
    decided = decision(typed, Wishes(), Host())
    assert decided.taken, [verdict.reason for verdict in decided.verdicts]
    composed = compose(
        decided, lambda name: str(folder / f"{name}.sock"), lambda name: str(folder / name)
    )
    for path, content in composed.files.items():
        Path(path).write_bytes(content)
    return typed, composed, sum(verdict.replaced for verdict in decided.verdicts)


def addresses(run: real_qemu.Run) -> list[str]:
    """Of all cards that QEMU itself has, in the order of its numbers."""
    return re.findall(r"type=nic,.*macaddr=(\S+)", run.answers["info network"])


def unnumbered(text: str) -> set[str]:
    """Warnings, without the numbers that QEMU gives to cards without an id."""
    return {re.sub(r"\.\d+", "", line) for line in text.splitlines()}


@pytest.mark.parametrize(("line", "replaced"), LINES.values(), ids=LINES.keys())
def test_slots_and_addresses_stay(line: str, replaced: int, tmp_path: Path) -> None:
    typed, composed, count = compose_for(line, tmp_path)
    assert count == replaced
    before = real_qemu.ask(typed)
    assert before.status == 0, before.stderr
    with served.build(composed.config | {"captures": []}, NoStore(), 0):
        after = real_qemu.ask(composed.command)
    assert after.status == 0, after.stderr
    assert after.answers["info pci"] == before.answers["info pci"]
    assert real_qemu.ram(after) == real_qemu.ram(before)
    assert real_qemu.ram_is_shared(after)
    ours = [card["mac"] for _, card in config(composed)["devices"]]
    assert sorted([*addresses(after), *ours]) == sorted(addresses(before))
    assert "vfio-user-pci" in after.answers["info qtree"]
    assert unnumbered(after.stderr) <= unnumbered(before.stderr)
