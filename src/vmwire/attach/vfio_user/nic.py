# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The PCI network cards that are served over vfio-user, as boxes of a network."""

from __future__ import annotations

from vmwire.attach.vfio_user.server import CardServer
from vmwire.nic.e1000 import DESCRIPTIONS, factory
from vmwire.nic.pci_options import E1000FamilyOptions, PciNicOptions


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

    def __init__(self, options: E1000FamilyOptions) -> None:
        self.options = options
        driver = options.driver
        super().__init__(
            options.id or driver, options.socket, DESCRIPTIONS[driver], factory(options)
        )
