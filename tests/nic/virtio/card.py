# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A virtio network card on the bench behind any of its transports, with its driver."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vmwire.bench import mmio
from vmwire.bench.cards import Nic
from vmwire.bench.machine import Bench
from vmwire.bench.mmio import MmioNic
from vmwire.bench.virtio_mmio import Mmio
from vmwire.bench.virtio_net import VirtioNetDriver
from vmwire.bench.virtio_pci import LegacyPci, ModernPci
from vmwire.bus.virtio.device import VirtioDevice
from vmwire.nic.virtio import VirtioNetPci
from vmwire.nic.virtio_card import VirtioCard
from vmwire.options.values import parse_mac

MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("525500020202")
BROADCAST = b"\xff" * 6
SLOT = 4

TRANSPORTS = (
    "modern", "modern-msix", "legacy", "legacy-msix", "non-transitional", "mmio-1", "mmio-2",
)  # fmt: skip
MODERN = ("modern", "modern-msix", "non-transitional", "mmio-2")


def frame(to: bytes = MAC, payload: bytes = b"", tag: bytes = b"", length: int = 60) -> bytes:
    """An Ethernet frame of ``length`` bytes or what the payload needs."""
    return (to + OTHER + tag + b"\x88\xb5" + payload).ljust(length, b"\0")


@dataclass
class Card:
    """One card and its driver."""

    pc: Bench
    nic: Nic | MmioNic
    driver: VirtioNetDriver
    pair_count: int = 1
    filter_changes: list[None] = field(default_factory=list)

    @property
    def card(self) -> VirtioCard:
        if isinstance(self.nic, MmioNic):
            return self.nic.card
        assert isinstance(self.nic.function.chip, VirtioNetPci)
        return self.nic.function.chip.card

    @property
    def device(self) -> VirtioDevice:
        if isinstance(self.nic, MmioNic):
            return self.nic.chip.device
        assert isinstance(self.nic.function.chip, VirtioNetPci)
        return self.nic.function.chip.device

    @property
    def wire(self) -> Any:
        return self.nic.wire

    def reload(self) -> None:
        """As if the card's process had ended and another had gone on."""
        if isinstance(self.nic, MmioNic):
            self.nic.reload()
        else:
            self.pc.reload(self.nic)

    def interrupts(self) -> int:
        """How often the card has woken the driver."""
        if isinstance(self.nic, MmioNic):
            return self.nic.edges
        return self.nic.irq.edges + len(self.nic.irq.messages)

    def set_link(self, up: bool) -> None:
        if isinstance(self.nic, MmioNic):
            self.nic.set_link(up)
        else:
            self.nic.function.set_link(up)
            self.pc.settle()

    def gets(self, *frames: bytes) -> list[bytes]:
        """Put frames on the wire; those that the driver got."""
        self.wire.send(list(frames))
        return [data for data, _ in self.driver.receive()]


def make(
    pc: Bench, transport: str, *, driver: dict[str, Any] | None = None, **options: Any
) -> Card:
    """Put such a card in; its driver isn't started."""
    options.setdefault("mac", MAC)
    if isinstance(options["mac"], str):
        options["mac"] = parse_mac(options["mac"])
    words = driver or {}
    if transport.startswith("mmio"):
        place = mmio.plug(pc, force_legacy=transport == "mmio-1", **options)
        return Card(pc, place, VirtioNetDriver(pc, Mmio(pc, place.base), **words))
    name = "virtio-net-pci" + ("-non-transitional" if transport == "non-transitional" else "")
    nic = pc.plug(name, addr=SLOT, **options)
    registers = LegacyPci if transport.startswith("legacy") else ModernPci
    msix = transport.endswith("msix")
    return Card(pc, nic, VirtioNetDriver(pc, registers(pc, SLOT, msix=msix), **words))
