# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""virtio-net as a card for a PCI slot: a family of ``vmwire.nic.pci_cards``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vmwire.bus.pci.chip import Slot
from vmwire.bus.pci.config import Description
from vmwire.bus.virtio import pci
from vmwire.bus.virtio.pci import Face, VirtioPci
from vmwire.nic.options import VirtioNetSlotOptions
from vmwire.nic.virtio_card import VirtioCard, config_size
from vmwire.wire.port import Port

ROM_WINDOW = 256 * 1024


class VirtioNetPci(VirtioPci):
    """The chip: a ``vmwire.bus.pci.chip.Chip``."""

    def __init__(self, slot: Slot, options: VirtioNetSlotOptions, face: Face) -> None:
        mac = options.mac or b"\x52\x54\x00" + slot.random(3)
        self.card = VirtioCard(slot.name, options, mac, slot.defer)
        super().__init__(slot, self.card, face)

    @property
    def on_filter_change(self) -> Callable[[], None]:
        """Told when the card lets others in, once until ``rx_filter`` is asked."""
        return self.card.on_filter_change

    @on_filter_change.setter
    def on_filter_change(self, told: Callable[[], None]) -> None:
        self.card.on_filter_change = told

    @property
    def port(self) -> Port:
        """The card's end of the wire."""
        return self.card.port

    @property
    def mac(self) -> bytes:
        """The address that the driver has given to the card, or its own."""
        return self.card.filter.mac

    def set_link(self, up: bool) -> None:
        """Plug or pull the cable at the card."""
        self.card.set_link(up)

    def announce(self) -> None:
        """Tell the network where the guest is."""
        self.card.announce()

    def rx_filter(self) -> Mapping[str, Any]:
        """What the card lets in, as QMP tells it."""
        return self.card.rx_filter()

    def stats(self) -> dict[str, object]:
        """Return counters as plain data."""
        return self.card.stats() | {"status": self.device.status}


def face_of(options: VirtioNetSlotOptions) -> Face:
    """How a card with these options shows itself."""
    legacy, modern = options.face
    return Face(
        legacy=legacy,
        modern=modern,
        vectors=options.msix_vectors,
        page_per_vq=options.page_per_vq,
        notify_ports=options.modern_pio_notify,
    )


def describe(options: VirtioNetSlotOptions) -> Description:
    """Return the card's configuration space."""
    return pci.describe(face_of(options), config_size(options), rom_size=ROM_WINDOW)


def factory(options: VirtioNetSlotOptions) -> Callable[[Slot], VirtioNetPci]:
    """Return what makes such a card in a slot. With no address given it gets one of QEMU's."""
    return lambda slot: VirtioNetPci(slot, options, face_of(options))
