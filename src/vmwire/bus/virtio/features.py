# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Virtio's feature bits as masks, with their names in the specification.

Virtio 1.2, sections 6 (all devices), 5.1.3 (network), and the vhost-user protocol for the two that
never reach a guest (VHOST_F_LOG_ALL, VHOST_USER_F_PROTOCOL_FEATURES).
"""

from __future__ import annotations

VIRTIO_NET_F_CSUM = 1 << 0  # the device completes checksums of frames from the driver
VIRTIO_NET_F_GUEST_CSUM = 1 << 1  # the driver takes frames with checksums still to be completed
VIRTIO_NET_F_CTRL_GUEST_OFFLOADS = 1 << 2
VIRTIO_NET_F_MTU = 1 << 3
VIRTIO_NET_F_MAC = 1 << 5
VIRTIO_NET_F_GUEST_TSO4 = 1 << 7
VIRTIO_NET_F_GUEST_TSO6 = 1 << 8
VIRTIO_NET_F_GUEST_ECN = 1 << 9
VIRTIO_NET_F_GUEST_UFO = 1 << 10
VIRTIO_NET_F_HOST_TSO4 = 1 << 11
VIRTIO_NET_F_HOST_TSO6 = 1 << 12
VIRTIO_NET_F_HOST_ECN = 1 << 13
VIRTIO_NET_F_HOST_UFO = 1 << 14
VIRTIO_NET_F_MRG_RXBUF = 1 << 15
VIRTIO_NET_F_STATUS = 1 << 16
VIRTIO_NET_F_CTRL_VQ = 1 << 17
VIRTIO_NET_F_CTRL_RX = 1 << 18
VIRTIO_NET_F_CTRL_VLAN = 1 << 19
VIRTIO_NET_F_CTRL_RX_EXTRA = 1 << 20
VIRTIO_NET_F_GUEST_ANNOUNCE = 1 << 21
VIRTIO_NET_F_MQ = 1 << 22
VIRTIO_NET_F_CTRL_MAC_ADDR = 1 << 23
VIRTIO_F_NOTIFY_ON_EMPTY = 1 << 24  # legacy only
VHOST_F_LOG_ALL = 1 << 26
VIRTIO_F_ANY_LAYOUT = 1 << 27
VIRTIO_RING_F_INDIRECT_DESC = 1 << 28
VIRTIO_RING_F_EVENT_IDX = 1 << 29
VHOST_USER_F_PROTOCOL_FEATURES = 1 << 30
VIRTIO_F_BAD_FEATURE = 1 << 30  # offered to legacy drivers: one that takes it takes anything
VIRTIO_F_VERSION_1 = 1 << 32
VIRTIO_F_RING_PACKED = 1 << 34
VIRTIO_F_IN_ORDER = 1 << 35
VIRTIO_F_RING_RESET = 1 << 40
VIRTIO_NET_F_GUEST_USO4 = 1 << 54
VIRTIO_NET_F_GUEST_USO6 = 1 << 55
VIRTIO_NET_F_HOST_USO = 1 << 56
VIRTIO_NET_F_SPEED_DUPLEX = 1 << 63

_NAMES: dict[int, str] = {
    mask: name.removeprefix("VIRTIO_").removeprefix("NET_F_").removeprefix("F_").lower()
    for name, mask in list(globals().items())
    if name.startswith(("VIRTIO_", "VHOST_"))
}


def names(features: int) -> list[str]:
    """Name the bits that are set, lowest first; those without a name by their number.

    >>> names(VIRTIO_NET_F_CSUM | VIRTIO_F_VERSION_1)
    ['csum', 'version_1']
    """
    masks = (1 << bit for bit in range(features.bit_length()) if features >> bit & 1)
    return [_NAMES.get(mask, f"bit_{mask.bit_length() - 1}") for mask in masks]
