# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""virtio-net for a PCI slot, in either of the two ways in which a machine can reach it.

``attach=vhost-user``: the machine keeps the card, and shares its rings. ``attach=vfio-user``: all
of the card is here, register by register.
"""

from __future__ import annotations

from vmwire.attach.vfio_user.nic import VfioUserNic
from vmwire.attach.vhost_user import VhostUserNic
from vmwire.errors import ConfigError
from vmwire.nic.options import VirtioNetDeviceOptions, VirtioNetSlotOptions


class VirtioNic:
    """A class of boxes whose members are of two classes (``vmwire.registry.BoxType``)."""

    OPTIONS = VirtioNetSlotOptions
    CLASSES = (VfioUserNic, VhostUserNic)

    def __call__(self, options: VirtioNetSlotOptions) -> VfioUserNic | VhostUserNic:
        """Make the box that the options ask for."""
        if options.attach == "vfio-user":
            return VfioUserNic(options)
        return VhostUserNic(options)


class VirtioMmioNic:
    """virtio-net for a place of virtio-mmio: a bench has such places, and no socket leads there."""

    OPTIONS = VirtioNetDeviceOptions
    CLASSES = ()

    def __call__(self, options: VirtioNetDeviceOptions) -> VfioUserNic:
        raise ConfigError(
            "virtio-net-device is for the bench machine; virtual machines have virtio-net-pci"
        )


VIRTIO_NIC = VirtioNic()
VIRTIO_MMIO_NIC = VirtioMmioNic()
