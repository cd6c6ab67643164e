# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The PCI network cards that are served over vfio-user, as boxes of a network."""

from __future__ import annotations

from vmwire.attach.vfio_user.server import CardServer
from vmwire.nic import e1000e_options  # noqa: F401 - a record is found once it is declared
from vmwire.nic.options import VirtioNetSlotOptions
from vmwire.nic.pci_cards import card_of
from vmwire.nic.pci_options import PciNicOptions


class VfioUserNic(CardServer):
    """A card that a machine reaches through the Unix socket ``options.socket``.

    >>> from vmwire.engine.host import Host
    >>> from vmwire.engine.loop import Loop
    >>> from vmwire.nic.pci_options import E1000Options
    >>> nic = VfioUserNic(E1000Options(id="n0", socket="/tmp/vmwire-example.sock"))
    >>> nic.open(Host(Loop()))
    >>> nic.close()
    """

    OPTIONS = PciNicOptions

    def __init__(self, options: PciNicOptions | VirtioNetSlotOptions) -> None:
        self.options = options
        card = card_of(options)
        assert card is not None, "a card is registered and not in FAMILIES"
        super().__init__(options.id or options.driver, options.socket, *card)
